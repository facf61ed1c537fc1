import type { MmapArea } from '../pci/raw-function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import type { DmaMapRequest } from './dma-space.js';
import type { FeatureRequest, FeatureResult } from './features.js';
import type { DeviceInfo, HotResetInfo, IrqInfo, RegionInfo } from './info.js';
import type { IoeventfdRequest, SetIrqsRequest } from './triggers.js';

/** The version of this table's contract; a driver built for another number is refused at registration. */
export const VFIO_OPS_API = 1;

/** Asks for a hot reset: the devices that the caller owns, in place of the kernel's group descriptors. */
export interface HotResetRequest {
  readonly flags: number;
  /** Addresses of the functions that the caller has open; every affected one must be among them. */
  readonly owned: readonly string[];
}

/**
 * The flat table of a driver: the kernel's `vfio_device_ops`. A driver fills it from the base's table and replaces what
 * it changes, so a reader sees the variant at one glance:
 *
 * ```ts
 * ops: (core) => ({ ...core, name: 'nvme-vfio-pci', openDevice, closeDevice })
 * ```
 *
 * **Guarantees** to each op: it runs in the device's one thread; `init` first and `release` last; `openDevice` before
 * and `closeDevice` after every other op except `match`, `matchTokenUuid` and `request`; never two at once of those that
 * may return promises. Ops that return no promise must not block. An op throws `VfioError` with the kernel's errno and
 * leaves the state as it was.
 */
export interface VfioDeviceOps {
  /** Ops name, `mlx5-vfio-pci`: neither the package nor the driver name. */
  readonly name: string;
  /** {@link VFIO_OPS_API} of the core that the driver was written for. */
  readonly api: number;
  /** Attaches capabilities, regions, migration and log ops, before registration. */
  init(dev: VfioPciCoreDevice): void;
  release(dev: VfioPciCoreDevice): void;
  /** First open. A failure undoes what it did. */
  openDevice(dev: VfioPciCoreDevice): void | Promise<void>;
  /** Last close; must not fail. */
  closeDevice(dev: VfioPciCoreDevice): void | Promise<void>;
  getInfo(dev: VfioPciCoreDevice): DeviceInfo;
  getRegionInfo(dev: VfioPciCoreDevice, index: number): RegionInfo;
  getIrqInfo(dev: VfioPciCoreDevice, index: number): IrqInfo;
  getHotResetInfo(dev: VfioPciCoreDevice): HotResetInfo;
  /** Reads into `data` from `offset` in a region; returns bytes done (fewer at the region's end). */
  read(dev: VfioPciCoreDevice, region: number, offset: number, data: Uint8Array): number;
  /** Writes; a promise only where config space resets the function or changes its power. */
  write(dev: VfioPciCoreDevice, region: number, offset: number, data: Uint8Array): number | Promise<number>;
  /** The memory behind a range that may be mapped. @throws EINVAL where it may not, EBUSY where it could not be reserved. */
  mmapArea(dev: VfioPciCoreDevice, region: number, offset: number, length: number): MmapArea;
  /** Returns 0, or the positive number of vectors that can be had where fewer than asked are there. */
  setIrqs(dev: VfioPciCoreDevice, request: SetIrqsRequest): number;
  ioeventfd(dev: VfioPciCoreDevice, request: IoeventfdRequest): void;
  reset(dev: VfioPciCoreDevice): void | Promise<void>;
  hotReset(dev: VfioPciCoreDevice, request: HotResetRequest): void | Promise<void>;
  deviceFeature(dev: VfioPciCoreDevice, request: FeatureRequest): FeatureResult | Promise<FeatureResult>;
  /** The device is wanted back; called again and again (count from 0) until the user closes it. */
  request(dev: VfioPciCoreDevice, count: number): void;
  /** Whether a string of GROUP_GET_DEVICE_FD (address and options) names this device. @throws EINVAL, EACCES for a bad option or token. */
  match(dev: VfioPciCoreDevice, name: string): boolean;
  /** Checks the VF token of a caller. @throws EINVAL, EACCES. */
  matchTokenUuid(dev: VfioPciCoreDevice, uuid: Uint8Array | undefined): void;
  dmaMap(dev: VfioPciCoreDevice, request: DmaMapRequest): void;
  dmaUnmap(dev: VfioPciCoreDevice, iova: bigint, size: bigint): void | Promise<void>;
}

/** What a driver registers: its table as a function of the base's. */
export type VfioOpsFactory = (base: VfioDeviceOps) => VfioDeviceOps;
