import type { PciFunction } from '../pci/function.js';
import type { MmapArea } from '../pci/raw-function.js';
import type { DmaMapRequest } from './dma-space.js';
import type { FeatureRequest, FeatureResult } from './features.js';
import type { DeviceInfo, HotResetInfo, IrqInfo, RegionInfo } from './info.js';
import type { HotResetRequest, VfioDeviceOps } from './ops.js';
import type { IoeventfdRequest, SetIrqsRequest } from './triggers.js';

/**
 * One opened device, in this thread: the kernel's device fd. Methods are the ops of the device's table, checked and
 * bound: see {@link VfioDeviceOps} for what each does and throws. Region offsets are bytes within the region. Synchronous
 * where the ops are. After {@link close} every call is EBADF (`ERR_VFIO_CLOSED`), and what it was given is let go of.
 */
export interface VfioDevice {
  readonly function: PciFunction;
  /** Ops name of the driver. */
  readonly name: string;
  getInfo(): DeviceInfo;
  getRegionInfo(index: number): RegionInfo;
  getIrqInfo(index: number): IrqInfo;
  getHotResetInfo(): HotResetInfo;
  read(region: number, offset: number, data: Uint8Array): number;
  write(region: number, offset: number, data: Uint8Array): number | Promise<number>;
  mmapArea(region: number, offset: number, length: number): MmapArea;
  setIrqs(request: SetIrqsRequest): number;
  ioeventfd(request: IoeventfdRequest): void;
  reset(): void | Promise<void>;
  hotReset(request: HotResetRequest): void | Promise<void>;
  deviceFeature(request: FeatureRequest): FeatureResult | Promise<FeatureResult>;
  dmaMap(request: DmaMapRequest): void;
  dmaUnmap(iova: bigint, size: bigint): void | Promise<void>;
  /** Idempotent; the last close of a device shuts it down. */
  close(): void | Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

type Promised<F> = F extends (...args: infer A) => infer R ? (...args: A) => Promise<Awaited<R>> : F;

/** The same methods over any distance: a socket's other end, or a local device through an adapter. */
export type VfioDeviceClient = {
  readonly [K in Exclude<keyof VfioDevice, 'function' | typeof Symbol.asyncDispose>]: Promised<VfioDevice[K]>;
} & { [Symbol.asyncDispose](): Promise<void> };

/** What a server serves: opens the device for each client that comes. */
export interface VfioDeviceProvider {
  readonly function: PciFunction;
  /** Ops name of the driver that will serve. */
  readonly name: string;
  open(options?: OpenOptions): Promise<VfioDevice>;
}

export interface OpenOptions {
  /** UUID of the VF token, 36 characters or 16 bytes. */
  readonly vfToken?: string | Uint8Array;
}
