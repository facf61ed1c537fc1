import type { VfioDeviceClient } from '@vfio/core';

/** What a demo program needs of a device, however far away: its registers, memory that it can reach, its interrupts. */
export interface ProgramContext {
  readonly device: VfioDeviceClient;
  /** Memory shared with the device. */
  readonly memory: Uint8Array;
  /** Where the device finds {@link memory}. */
  readonly iova: number;
  /** Settles when the interrupt came; each settles one wait. */
  waitInterrupt(): Promise<void>;
}

/** 32-bit registers of one region, little-endian. */
export class Registers {
  readonly #device: VfioDeviceClient;
  readonly #region: number;

  constructor(device: VfioDeviceClient, region: number) {
    this.#device = device;
    this.#region = region;
  }

  async read32(offset: number): Promise<number> {
    const bytes = new Uint8Array(4);
    await this.#device.read(this.#region, offset, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  async write32(offset: number, value: number): Promise<void> {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value >>> 0, true);
    await this.#device.write(this.#region, offset, bytes);
  }

  /** A 64-bit register as two halves, low first, as drivers without 64-bit stores do. */
  async write64(offset: number, value: number): Promise<void> {
    await this.write32(offset, value % 2 ** 32);
    await this.write32(offset + 4, Math.floor(value / 2 ** 32));
  }

  /** Sets and clears bits of the COMMAND register and the like. */
  async update16(offset: number, set: number, clear = 0): Promise<void> {
    const bytes = new Uint8Array(2);
    await this.#device.read(this.#region, offset, bytes);
    const view = new DataView(bytes.buffer);
    view.setUint16(0, (view.getUint16(0, true) & ~clear) | set, true);
    await this.#device.write(this.#region, offset, bytes);
  }
}
