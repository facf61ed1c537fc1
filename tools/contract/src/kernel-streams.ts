import type { MigrationData, VfioDeviceClient } from '@vfio/core';
import { errnoError } from '@vfio/uapi';
import { streams } from './faulty-client.js';

/** The records of the kernel's mlx5 driver: 16 bytes of length (u64), flags (u32) and tag (u32), then the payload. */
const HEADER = 16;
const OPTIONAL = 1;
const KNOWN = [0, 1];

/** Takes a stream in pieces and gives what of it the kernel's driver has use for, by its own rule for records. */
class KernelRecords {
  #header: number[] = [];
  #left = 0;
  #isSkipped = false;

  take(bytes: Uint8Array): Uint8Array {
    const kept: number[] = [];
    for (const byte of bytes) {
      if (this.#left > 0) {
        this.#left--;
        if (!this.#isSkipped) kept.push(byte);
        continue;
      }
      this.#header.push(byte);
      if (this.#header.length === HEADER) kept.push(...this.#begin());
    }
    return Uint8Array.from(kept);
  }

  #begin(): number[] {
    const header = this.#header;
    this.#header = [];
    const view = new DataView(Uint8Array.from(header).buffer);
    this.#left = Number(view.getBigUint64(0, true));
    this.#isSkipped = !KNOWN.includes(view.getUint32(12, true));
    if (this.#isSkipped && (view.getUint32(8, true) & OPTIONAL) === 0)
      throw errnoError('EOPNOTSUPP', 'a record that must be understood');
    return this.#isSkipped ? [] : header;
  }
}

/**
 * A device whose streams are what the kernel's driver writes, and which takes of a stream what that reads: as if the driver
 * were the kernel's.
 */
export const withKernelStreams: (device: VfioDeviceClient) => VfioDeviceClient = streams((data: MigrationData) => {
  const records = new KernelRecords();
  let waiting: Uint8Array = new Uint8Array(0);
  return {
    async read(into) {
      while (waiting.length === 0) {
        const part = new Uint8Array(into.length);
        const count = await data.read(part);
        if (count === 0) return 0;
        waiting = records.take(part.subarray(0, count));
      }
      const part = waiting.subarray(0, into.length);
      into.set(part);
      waiting = waiting.subarray(part.length);
      return part.length;
    },
    async write(from) {
      const part = records.take(from);
      if (part.length > 0) await data.write(part);
      return from.length;
    },
  };
});
