import { VfioError } from '@vfio/uapi';
import type { PciFunction } from '../pci/function.js';
import type { MmapArea } from '../pci/raw-function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import type { DmaMapRequest } from './dma-space.js';
import type { FeatureRequest, FeatureResult } from './features.js';
import type { DeviceInfo, HotResetInfo, IrqInfo, RegionInfo } from './info.js';
import { isPromise, type MaybePromise, tracked } from './maybe-promise.js';
import type { HotResetRequest, VfioDeviceOps } from './ops.js';
import type { IoeventfdRequest, SetIrqsRequest } from './triggers.js';
import type { VfioDevice } from './vfio-device.js';

/**
 * One opening of a device: its ops, bound, with the arguments checked that no op can make sense of. Ops that may take time
 * run one after the other over all handles of a device.
 */
export class OpenedDevice implements VfioDevice {
  readonly function: PciFunction;
  readonly name: string;
  readonly #dev: VfioPciCoreDevice;
  readonly #ops: VfioDeviceOps;
  readonly #onClose: () => Promise<void>;
  #closing: Promise<void> | undefined;

  constructor(dev: VfioPciCoreDevice, onClose: () => Promise<void>) {
    this.#dev = dev;
    this.#ops = dev.ops;
    this.#onClose = onClose;
    this.function = dev.fn;
    this.name = dev.name;
  }

  getInfo(): DeviceInfo {
    this.#check('getInfo');
    return this.#ops.getInfo(this.#dev);
  }

  getRegionInfo(index: number): RegionInfo {
    this.#check('getRegionInfo');
    if (!isIndex(index)) throw this.#badIndex('getRegionInfo', 'region', index);
    return this.#ops.getRegionInfo(this.#dev, index);
  }

  getIrqInfo(index: number): IrqInfo {
    this.#check('getIrqInfo');
    if (!isIndex(index)) throw this.#badIndex('getIrqInfo', 'interrupt', index);
    return this.#ops.getIrqInfo(this.#dev, index);
  }

  getHotResetInfo(): HotResetInfo {
    this.#check('getHotResetInfo');
    return this.#ops.getHotResetInfo(this.#dev);
  }

  read(region: number, offset: number, data: Uint8Array): number {
    if (this.#closing !== undefined) throw this.#closed('read');
    if (!isIndex(region) || !isOffset(offset)) throw this.#badAccess('read', region, offset);
    return this.#ops.read(this.#dev, region, offset, data);
  }

  write(region: number, offset: number, data: Uint8Array): number | Promise<number> {
    if (this.#closing !== undefined) throw this.#closed('write');
    if (!isIndex(region) || !isOffset(offset)) throw this.#badAccess('write', region, offset);
    const dev = this.#dev;
    if (dev.pending !== undefined) return this.#writeInTurn(region, offset, data);
    const result = this.#ops.write(dev, region, offset, data);
    return typeof result === 'number' ? result : this.#track(result);
  }

  /** Apart from {@link write}: a function that holds a closure makes a context for it at each call. */
  #writeInTurn(region: number, offset: number, data: Uint8Array): number | Promise<number> {
    return this.#inTurn(() => this.#ops.write(this.#dev, region, offset, data));
  }

  mmapArea(region: number, offset: number, length: number): MmapArea {
    this.#check('mmapArea');
    if (!isIndex(region) || !isOffset(offset) || !isOffset(length)) throw this.#badAccess('mmapArea', region, offset);
    return this.#ops.mmapArea(this.#dev, region, offset, length);
  }

  setIrqs(request: SetIrqsRequest): number {
    if (this.#closing !== undefined) {
      for (const trigger of request.triggers ?? []) trigger?.release();
      throw this.#closed('setIrqs');
    }
    return this.#ops.setIrqs(this.#dev, request);
  }

  ioeventfd(request: IoeventfdRequest): void {
    if (this.#closing !== undefined) {
      request.trigger?.release();
      throw this.#closed('ioeventfd');
    }
    this.#ops.ioeventfd(this.#dev, request);
  }

  reset(): void | Promise<void> {
    this.#check('reset');
    return this.#inTurn(() => this.#ops.reset(this.#dev));
  }

  hotReset(request: HotResetRequest): void | Promise<void> {
    this.#check('hotReset');
    return this.#inTurn(() => this.#ops.hotReset(this.#dev, request));
  }

  deviceFeature(request: FeatureRequest): FeatureResult | Promise<FeatureResult> {
    if (this.#closing !== undefined) {
      releaseFeatureTrigger(request);
      throw this.#closed('deviceFeature');
    }
    return this.#inTurn(() => this.#ops.deviceFeature(this.#dev, request));
  }

  dmaMap(request: DmaMapRequest): void {
    if (this.#closing !== undefined) {
      request.release?.();
      throw this.#closed('dmaMap');
    }
    this.#ops.dmaMap(this.#dev, request);
  }

  dmaUnmap(iova: bigint, size: bigint): void | Promise<void> {
    this.#check('dmaUnmap');
    return this.#inTurn(() => this.#ops.dmaUnmap(this.#dev, iova, size));
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    while (this.#dev.pending !== undefined) await this.#dev.pending;
    await this.#onClose();
  }

  /** Runs an op that may take time after those that run already; at once where there is none. */
  #inTurn<T>(work: () => MaybePromise<T>): MaybePromise<T> {
    const before = this.#dev.pending;
    const result = before === undefined ? work() : before.then(work);
    return isPromise(result) ? this.#track(result) : result;
  }

  #track<T>(result: Promise<T>): Promise<T> {
    const dev = this.#dev;
    const { returned, settled } = tracked(result, () => {
      if (dev.pending === settled) dev.pending = undefined;
    });
    dev.pending = settled;
    return returned;
  }

  #check(op: string): void {
    if (this.#closing !== undefined) throw this.#closed(op);
  }

  #closed(op: string): VfioError {
    return new VfioError('ERR_VFIO_CLOSED', 'this handle of the device is closed', {
      errno: 'EBADF',
      op,
      device: this.#dev.fn.address,
    });
  }

  #badIndex(op: string, what: string, index: number): VfioError {
    return this.#dev.error('EINVAL', op, `${what} index ${index}: must be a number from 0`);
  }

  #badAccess(op: string, region: number, offset: number): VfioError {
    return this.#dev.error(
      'EINVAL',
      op,
      `region ${region} at ${offset}: index and offset must be whole numbers from 0`,
    );
  }
}

function isIndex(index: number): boolean {
  return index >>> 0 === index;
}

function isOffset(offset: number): boolean {
  return offset >= 0 && Number.isSafeInteger(offset);
}

/** A trigger inside a feature's data belongs to the device, also where the call fails. */
function releaseFeatureTrigger(request: FeatureRequest): void {
  const value = request.value as { trigger?: { release?: () => void } | null } | null | undefined;
  value?.trigger?.release?.();
}
