import type { SharedMemory } from '../pci/raw-function.js';

/** VFIO_IOMMU_MAP_DMA / vfio-user DMA_MAP: `size` bytes of memory at `iova`. */
export interface DmaMapRequest {
  readonly iova: bigint;
  readonly size: bigint;
  readonly readable: boolean;
  readonly writable: boolean;
  /** The memory; undefined: it is reached only through {@link remote}. */
  readonly memory: SharedMemory | undefined;
  /** Reaches memory that is not mapped here. @default the space's {@link DmaSpace.remote} */
  readonly remote?: RemoteDma;
  /** Called once when the mapping is gone and no view of it is held: unmaps, closes the descriptor. Also when the map call fails. */
  release?(): void;
}

/** Reaches memory that is not mapped here: vfio-user DMA_READ and DMA_WRITE. */
export interface RemoteDma {
  read(iova: number, into: Uint8Array): Promise<void>;
  write(iova: number, from: Uint8Array): Promise<void>;
  /** The same above 2^53. Absent: such memory cannot be reached (EFAULT). */
  readBig?(iova: bigint, into: Uint8Array): Promise<void>;
  writeBig?(iova: bigint, from: Uint8Array): Promise<void>;
}

/** A range of guest memory that cannot go away while it is held. Only pinned memory goes to asynchronous I/O. */
export interface PinnedView {
  readonly bytes: Uint8Array;
  /** Idempotent. A writable view counts as dirty until released. */
  release(): void;
}

/**
 * A device's address space: what its DMA can reach. Addresses are numbers below 2^53 on the data path; `map` and
 * `unmap` take bigint and check wrap-around.
 */
export interface DmaSpace {
  /** @throws EINVAL (zero size, wrap-around, no access), EEXIST (overlap), ENOSPC (number of maps). */
  map(request: DmaMapRequest): void;
  /** Removes the mapping that is exactly this range. Waits (promise) while a pinned view of it is held.
   * @throws ENOENT where there is none, EBUSY where pins are held beyond the deadline. */
  unmap(iova: bigint, size: bigint): void | Promise<void>;
  /** Removes every mapping. */
  unmapAll(): void | Promise<void>;
  /** Copies from memory; a promise only where a part is reached remotely.
   * @throws EFAULT where a part is not mapped or not readable; nothing is copied then. */
  read(iova: number, into: Uint8Array): void | Promise<void>;
  /** Copies to memory and logs it as dirty. @throws EFAULT as for read. */
  write(iova: number, from: Uint8Array): void | Promise<void>;
  /** The bytes themselves, where the range is in one local mapping; undefined where it is remote or spans mappings.
   * To be used at once: never kept over an await. A writable view is logged as dirty now. @throws EFAULT where not mapped. */
  view(iova: number, length: number, writable: boolean): Uint8Array | undefined;
  /** @throws EFAULT where not mapped, EOPNOTSUPP where not in one local mapping. */
  pin(iova: number, length: number, writable: boolean): PinnedView;
  /** {@link read} and {@link write} at any 64-bit address; slower. */
  readBig(iova: bigint, into: Uint8Array): void | Promise<void>;
  writeBig(iova: bigint, from: Uint8Array): void | Promise<void>;
  /** Calls the handler when a mapping is about to go, while it can still be reached: time to end I/O on it and to release
   * pins. The result unregisters it. A handler must not throw. */
  onUnmap(handler: (iova: bigint, size: bigint) => void): () => void;
  /** Where mappings without memory and without a `remote` of their own are reached. */
  remote: RemoteDma | undefined;
}
