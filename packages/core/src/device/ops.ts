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
  /** Gives up what `init` took; the device is never used again. Must not fail. */
  release(dev: VfioPciCoreDevice): void;
  /** First open. A failure undoes what it did. */
  openDevice(dev: VfioPciCoreDevice): void | Promise<void>;
  /** Last close; must not fail. */
  closeDevice(dev: VfioPciCoreDevice): void | Promise<void>;
  /** Flags, numbers of regions and interrupts, capabilities. */
  getInfo(dev: VfioPciCoreDevice): DeviceInfo;
  /** A region by index, VFIO_PCI_*_REGION_INDEX or a device region's from 9; size 0 for one that is empty.
   * @throws EINVAL where there is none. */
  getRegionInfo(dev: VfioPciCoreDevice, index: number): RegionInfo;
  /** An interrupt type by index, VFIO_PCI_*_IRQ_INDEX; count 0 for one that the function does not have. @throws EINVAL */
  getIrqInfo(dev: VfioPciCoreDevice, index: number): IrqInfo;
  /** The functions that a hot reset takes with it. @throws ENODEV without a slot or bus reset, EPERM without a group. */
  getHotResetInfo(dev: VfioPciCoreDevice): HotResetInfo;
  /** Reads into `data` from `offset`, in bytes within the region; returns bytes done (fewer at the region's end).
   * @throws EINVAL (no such region, past its end), EFAULT (config space out of range), EIO (memory decode off, asleep),
   *   EBUSY, ENOMEM, ENODEV (the BAR could not be had at open). */
  read(dev: VfioPciCoreDevice, region: number, offset: number, data: Uint8Array): number;
  /** Writes `data` likewise; a promise only where config space resets the function or changes its power.
   * @throws as `read`; EINVAL for the ROM. */
  write(dev: VfioPciCoreDevice, region: number, offset: number, data: Uint8Array): number | Promise<number>;
  /** The memory behind a range that may be mapped. @throws EINVAL where it may not, EBUSY where it could not be reserved. */
  mmapArea(dev: VfioPciCoreDevice, region: number, offset: number, length: number): MmapArea;
  /** Sets, masks, unmasks or signals interrupts. Returns 0, or the positive number of vectors that can be had where fewer
   * than asked are there. The triggers are the device's from the call on, also when it fails.
   * @throws EINVAL, ENOTTY (no such action for the index), EBUSY, ENODEV, ERANGE. */
  setIrqs(dev: VfioPciCoreDevice, request: SetIrqsRequest): number;
  /** Stores to a BAR at each signal of the trigger, or ends that. @throws EINVAL, EEXIST, ENODEV, ENOSPC, the BAR's error. */
  ioeventfd(dev: VfioPciCoreDevice, request: IoeventfdRequest): void;
  /** Resets the function alone. @throws EINVAL where that does not work, EAGAIN where a lock is contended. */
  reset(dev: VfioPciCoreDevice): void | Promise<void>;
  /** Resets the slot or bus. @throws EINVAL, ENODEV, EBUSY, EAGAIN. */
  hotReset(dev: VfioPciCoreDevice, request: HotResetRequest): void | Promise<void>;
  /** VFIO_DEVICE_FEATURE. @throws EINVAL (flags, data), ENOTTY (no such feature), and what the feature says. */
  deviceFeature(dev: VfioPciCoreDevice, request: FeatureRequest): FeatureResult | Promise<FeatureResult>;
  /** The device is wanted back; called again and again (count from 0) until the user closes it. */
  request(dev: VfioPciCoreDevice, count: number): void;
  /** Whether a string of GROUP_GET_DEVICE_FD (address and options) names this device. @throws EINVAL, EACCES for a bad option or token. */
  match(dev: VfioPciCoreDevice, name: string): boolean;
  /** Checks the VF token of a caller. @throws EINVAL, EACCES. */
  matchTokenUuid(dev: VfioPciCoreDevice, uuid: Uint8Array | undefined): void;
  /** Lets the function's DMA reach memory; `request.release` is called also when this fails.
   * @throws EINVAL, EEXIST (overlap), ENOSPC. */
  dmaMap(dev: VfioPciCoreDevice, request: DmaMapRequest): void;
  /** Takes a mapping back, exactly as it was made; bytes. A promise while views of it are held. @throws EINVAL, ENOENT, EBUSY */
  dmaUnmap(dev: VfioPciCoreDevice, iova: bigint, size: bigint): void | Promise<void>;
}

/** What a driver registers: its table as a function of the base's. */
export type VfioOpsFactory = (base: VfioDeviceOps) => VfioDeviceOps;
