import type { DmaMapRequest, DmaSpace, PinnedView, RemoteDma } from '@vfio/core';
import { errnoError, hex } from '@vfio/uapi';

/** Guest memory for device tests: one mapping from `base`, local, or reached by promises as messages would. */
export class MemorySpace implements DmaSpace {
  readonly bytes: Uint8Array;
  readonly view32: DataView;
  readonly base: number;
  readonly #isRemote: boolean;
  /** What the device did, for tests of order. */
  readonly log: string[] = [];
  remote: RemoteDma | undefined;

  constructor(size: number, options: { base?: number; remote?: boolean } = {}) {
    this.bytes = new Uint8Array(size);
    this.view32 = new DataView(this.bytes.buffer);
    this.base = options.base ?? 0;
    this.#isRemote = options.remote ?? false;
  }

  map(_request: DmaMapRequest): void {
    throw errnoError('EOPNOTSUPP', 'one fixed mapping');
  }

  unmap(): void {
    throw errnoError('ENOENT', 'one fixed mapping');
  }

  unmapAll(): void {}

  #range(iova: number, length: number): Uint8Array {
    const at = iova - this.base;
    if (at < 0 || at + length > this.bytes.length) throw errnoError('EFAULT', `${hex(iova)}+${length}: not mapped`);
    return this.bytes.subarray(at, at + length);
  }

  read(iova: number, into: Uint8Array): void | Promise<void> {
    if (this.#isRemote) return Promise.resolve().then(() => into.set(this.#range(iova, into.length)));
    into.set(this.#range(iova, into.length));
  }

  write(iova: number, from: Uint8Array): void | Promise<void> {
    this.log.push(`write ${hex(iova)}+${from.length}`);
    if (this.#isRemote) {
      const copy = from.slice();
      return Promise.resolve().then(() => this.#range(iova, copy.length).set(copy));
    }
    this.#range(iova, from.length).set(from);
  }

  view(iova: number, length: number): Uint8Array | undefined {
    const range = this.#range(iova, length);
    return this.#isRemote ? undefined : range;
  }

  pin(iova: number, length: number): PinnedView {
    return { bytes: this.#range(iova, length), release: () => {} };
  }
}
