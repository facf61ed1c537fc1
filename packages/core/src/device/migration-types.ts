import type { IovaRange, PrecopyInfo } from '@vfio/uapi';

export type { IovaRange, PrecopyInfo } from '@vfio/uapi';

/** The save or resume stream of a migration: the kernel's data fd. */
export interface MigrationData {
  /** Next bytes of the state into `into`. Returns how many; 0 is the end in STOP_COPY.
   * @throws ENOMSG idle in PRE_COPY, ENODEV session ended, EINVAL on a resume stream. */
  read(into: Uint8Array): number | Promise<number>;
  /** Takes state bytes, all of them. @throws ENODEV session ended, EINVAL on a save stream. */
  write(from: Uint8Array): number | Promise<number>;
  /** VFIO_MIG_GET_PRECOPY_INFO. @throws EINVAL outside PRE_COPY and PRE_COPY_P2P. */
  precopyInfo(): PrecopyInfo | Promise<PrecopyInfo>;
  /** Ends the session; idempotent. */
  close(): void;
}

/** Optional ability of a device, attached in `init`. All three are mandatory once one is there. */
export interface VfioMigrationOps<D> {
  /** One arc of the state machine; returns the data stream where the arc opens one. */
  setState(dev: D, next: number): MigrationData | undefined | Promise<MigrationData | undefined>;
  getState(dev: D): number;
  /** Upper estimate of the STOP_COPY bytes. */
  getDataSize(dev: D): bigint | Promise<bigint>;
}

/** Optional ability of a device: its own dirty tracking in place of the DMA space's. */
export interface VfioLogOps<D> {
  /** Starts; returns the page size that is really tracked. @throws EINVAL while started. */
  logStart(dev: D, ranges: readonly IovaRange[], pageSize: bigint): bigint | Promise<bigint>;
  /** Stops; tolerated while stopped. */
  logStop(dev: D): void | Promise<void>;
  /** Reports and clears a range: calls `dirty` for each dirty piece. @throws EINVAL while stopped. */
  logReadAndClear(dev: D, range: IovaRange, dirty: (iova: bigint, length: bigint) => void): void | Promise<void>;
}
