import type { DeviceInfo, HotResetInfo, IrqInfo, RegionInfo } from '../info.js';
import type { FeatureRequest } from './feature.js';
import type { Ioeventfd } from './ioeventfd.js';
import type { AttachIommufdPt, BindIommufd, DetachIommufdPt } from './iommufd.js';
import type { IrqSet } from './irq-set.js';

/**
 * A device as its ioctls show it, typed: what {@link dispatchIoctl} calls, and what {@link ioctlDevice} is. Descriptors are
 * numbers. Methods throw VfioError with the kernel's errno for what only the device can know; what the bytes and the
 * device's counts can tell was checked before.
 */
export interface IoctlTarget {
  getInfo(): DeviceInfo;
  /** @param index Below `numRegions`. */
  getRegionInfo(index: number): RegionInfo;
  /** @param index Below `numIrqs`. */
  getIrqInfo(index: number): IrqInfo;
  /** Returns 0, or the positive number of vectors that can be had where fewer than asked are there. */
  setIrqs(set: IrqSet): number;
  reset(): void | Promise<void>;
  /** @throws VfioError ENODEV: neither a slot nor a bus reset is possible. */
  getHotResetInfo(): HotResetInfo;
  /** @param groupFds None where the device was opened through its own node. */
  hotReset(groupFds: readonly number[]): void | Promise<void>;
  ioeventfd(call: Ioeventfd): void;
  /**
   * `value` and the result are as `FeatureValues` has them. Called with PROBE first: answered by success alone, or ENOTTY for
   * a feature that the device does not have, EINVAL for an operation that the feature does not have.
   */
  deviceFeature(request: FeatureRequest): unknown;
  /** Returns the device id. Absent: the device cannot be opened through its own node. */
  bindIommufd?(call: BindIommufd): number;
  /** Returns the id of what was attached. */
  attachIommufdPt?(call: AttachIommufdPt): number;
  detachIommufdPt?(call: DetachIommufdPt): void;
}

/** VFIO_MIG_GET_PRECOPY_INFO. */
export interface PrecopyInfo {
  /** VFIO_PRECOPY_INFO_REINIT or 0. */
  readonly flags: number;
  readonly initialBytes: bigint;
  readonly dirtyBytes: bigint;
}

/** The data descriptor of a migration, as its one ioctl shows it. */
export interface MigrationDataTarget {
  /** @throws VfioError EINVAL: not in a PRE_COPY state. */
  precopyInfo(): PrecopyInfo | Promise<PrecopyInfo>;
}
