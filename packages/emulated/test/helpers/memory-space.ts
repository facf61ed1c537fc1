import { GuestMemory } from '@vfio/core';

/** Guest memory for device tests: one mapping from `base`, local, or reached by promises as messages would. */
export class MemorySpace extends GuestMemory {
  readonly bytes: Uint8Array;
  readonly view32: DataView;
  readonly base: number;
  /** What the device wrote, for tests of order. */
  readonly log: string[] = [];

  constructor(size: number, options: { base?: number; remote?: boolean } = {}) {
    super({});
    this.bytes = new Uint8Array(size);
    this.view32 = new DataView(this.bytes.buffer);
    this.base = options.base ?? 0;
    const { bytes, base } = this;
    this.map({
      iova: BigInt(base),
      size: BigInt(size),
      readable: true,
      writable: true,
      memory: options.remote === true ? undefined : { bytes, fd: undefined, fdOffset: 0 },
      remote: {
        read: async (iova, into) => {
          await Promise.resolve();
          into.set(bytes.subarray(iova - base, iova - base + into.length));
        },
        write: async (iova, from) => {
          const copy = from.slice();
          await Promise.resolve();
          bytes.set(copy, iova - base);
        },
      },
    });
  }

  override write(iova: number, from: Uint8Array): void | Promise<void> {
    this.log.push(`write 0x${iova.toString(16)}+${from.length}`);
    return super.write(iova, from);
  }
}
