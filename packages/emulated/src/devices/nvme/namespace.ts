import { errnoError } from '@vfio/uapi';
import { type BlockStore, SparseMemoryStore } from './store.js';
import { WriteCache } from './write-cache.js';

/** What a namespace is like. */
export interface NvmeNamespaceOptions {
  /** Bytes; a multiple of 4096. */
  readonly size: number;
  /** Bytes of a logical block: 512 (default) or 4096. */
  readonly blockSize?: 512 | 4096;
  /** Default: memory, of which only what was written is allocated. */
  readonly store?: BlockStore;
  /** IEEE extended unique identifier; one is made from the namespace id where it is not given. */
  readonly eui64?: bigint;
}

/** Logical block formats that a namespace can have, by index: log2 of the block's bytes. */
export const LBA_FORMATS = [9, 12] as const;

/** A namespace: blocks behind a volatile write cache. */
export class NvmeNamespace {
  readonly nsid: number;
  readonly size: number;
  readonly eui64: bigint;
  readonly store: BlockStore;
  readonly cache: WriteCache;
  /** Index into {@link LBA_FORMATS}. */
  format: number;

  /** @throws EINVAL. */
  constructor(nsid: number, options: NvmeNamespaceOptions, cacheSize: number) {
    const { size, blockSize = 512 } = options;
    if (!Number.isSafeInteger(size) || size <= 0 || size % 4096 !== 0)
      throw errnoError('EINVAL', `namespace ${nsid} of ${size} bytes: a positive multiple of 4096 is allowed`);
    if (blockSize !== 512 && blockSize !== 4096)
      throw errnoError('EINVAL', `namespace ${nsid} with blocks of ${blockSize} bytes: 512 and 4096 are allowed`);
    this.nsid = nsid;
    this.size = size;
    this.format = blockSize === 512 ? 0 : 1;
    // The OUI 52:54:00 is for virtual devices; the rest tells namespaces of one host apart.
    this.eui64 = options.eui64 ?? 0x5254000000000000n + BigInt(nsid);
    this.store = options.store ?? new SparseMemoryStore();
    this.cache = new WriteCache(this.store, cacheSize);
  }

  get blockShift(): number {
    return LBA_FORMATS[this.format] ?? 9;
  }

  /** Logical blocks. */
  get blocks(): number {
    return this.size / 2 ** this.blockShift;
  }

  /** Everything reads as zeros, in blocks of another size perhaps. */
  reformat(format: number): void {
    this.cache.discard(0, this.size);
    this.format = format;
  }
}
