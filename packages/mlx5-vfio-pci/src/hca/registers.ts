import type { VfioDevice } from '@vfio/core';
import { VFIO_PCI_BAR0_REGION_INDEX } from '@vfio/uapi';

/** Offsets in BAR 0: the initialization segment, then user access regions of a page each. */
export const REG = {
  FW_REV: 0x0,
  CMDIF_REV: 0x4,
  CMDQ_ADDRESS_HIGH: 0x10,
  CMDQ_ADDRESS_LOW: 0x14,
  COMMAND_DOORBELL: 0x18,
  INITIALIZING: 0x1fc,
  HEALTH_SEVERITY: 0x238,
  HEALTH_SYNDROME: 0x23c,
  COMMAND_EXEC_TIMEOUT: 0xffc,
  HEALTH_COUNTER: 0x1010,
} as const;

/** Big-endian dwords of BAR 0. */
export class Registers {
  readonly #device: VfioDevice;
  readonly #bytes = new Uint8Array(4);
  readonly #view = new DataView(this.#bytes.buffer);

  constructor(device: VfioDevice) {
    this.#device = device;
  }

  read(offset: number): number {
    this.#device.read(VFIO_PCI_BAR0_REGION_INDEX, offset, this.#bytes);
    return this.#view.getUint32(0);
  }

  async write(offset: number, value: number): Promise<void> {
    this.#view.setUint32(0, value >>> 0);
    await this.#device.write(VFIO_PCI_BAR0_REGION_INDEX, offset, this.#bytes);
  }
}
