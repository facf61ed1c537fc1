import type { VfioDeviceOps, VfioPciCoreDevice } from '@vfio/core';
import {
  PCI_CAP_ID_PM,
  PCI_CAPABILITY_LIST,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_MEMORY,
  PCI_PM_CTRL,
  PCI_PM_CTRL_STATE_MASK,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '@vfio/uapi';

/** As many capabilities as fit behind the header, so that a chain that loops ends. */
const MAX_CAPS = 48;

/** Config space of one function, as its user sees it. */
export class Config {
  readonly #dev: VfioPciCoreDevice;
  readonly #base: VfioDeviceOps;

  constructor(dev: VfioPciCoreDevice, base: VfioDeviceOps) {
    this.#dev = dev;
    this.#base = base;
  }

  get command(): number {
    return this.#read(PCI_COMMAND, 2);
  }

  async setCommand(value: number): Promise<void> {
    await this.#write(PCI_COMMAND, value);
  }

  /**
   * Makes the function's registers answer, whatever its last user left: nothing that it was told to do reaches memory
   * any more and no line is asserted, then power state D0 and memory decode.
   */
  async quiesce(): Promise<void> {
    await this.#leaveLowPower();
    await this.setCommand(PCI_COMMAND_INTX_DISABLE);
    const control = this.#powerControl();
    if (control !== 0) {
      const value = this.#read(control, 2);
      if ((value & PCI_PM_CTRL_STATE_MASK) !== 0) await this.#write(control, value & ~PCI_PM_CTRL_STATE_MASK);
    }
    await this.setCommand(PCI_COMMAND_INTX_DISABLE | PCI_COMMAND_MEMORY);
  }

  /** In low power the function falls asleep after each access, and may forget what it was told. */
  async #leaveLowPower(): Promise<void> {
    try {
      const flags = VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | VFIO_DEVICE_FEATURE_SET;
      await this.#base.deviceFeature(this.#dev, { flags });
    } catch {
      // A base without the feature has nobody who entered it.
    }
  }

  /** Offset of PMCSR; 0 where there is no power management. */
  #powerControl(): number {
    if ((this.#read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST) === 0) return 0;
    let at = this.#read(PCI_CAPABILITY_LIST, 1) & ~3;
    for (let n = 0; n < MAX_CAPS && at >= 0x40; n++) {
      if (this.#read(at, 1) === PCI_CAP_ID_PM) return at + PCI_PM_CTRL;
      at = this.#read(at + 1, 1) & ~3;
    }
    return 0;
  }

  #read(offset: number, width: 1 | 2): number {
    const bytes = new Uint8Array(2);
    this.#base.read(this.#dev, VFIO_PCI_CONFIG_REGION_INDEX, offset, bytes.subarray(0, width));
    return (bytes[0] ?? 0) | ((bytes[1] ?? 0) << 8);
  }

  async #write(offset: number, value: number): Promise<void> {
    const bytes = Uint8Array.of(value & 0xff, value >>> 8);
    await this.#base.write(this.#dev, VFIO_PCI_CONFIG_REGION_INDEX, offset, bytes);
  }
}
