import type {
  DeviceInfo,
  DmaMapRequest,
  EventTrigger,
  FeatureRequest,
  IrqInfo,
  MmapArea,
  PciFunction,
  RegionInfo,
  SetIrqsRequest,
  VfioDevice,
  VfioDeviceProvider,
} from '@vfio/core';
import { EmulatedPciHost } from '@vfio/emulated';
import { errnoError } from '@vfio/uapi';

/** What a test can replace of a {@link FakeDevice}. */
export interface FakeOps {
  read?(region: number, offset: number, data: Uint8Array): number;
  write?(region: number, offset: number, data: Uint8Array): number | Promise<number>;
  reset?(): void | Promise<void>;
  deviceFeature?(request: FeatureRequest): unknown;
  setIrqs?(request: SetIrqsRequest): number;
  dmaMap?(request: DmaMapRequest): void;
  dmaUnmap?(iova: bigint, size: bigint): void | Promise<void>;
  mmapArea?(region: number, offset: number, length: number): MmapArea;
  open?(): Promise<void>;
  close?(): void | Promise<void>;
  regions?: readonly Partial<RegionInfo>[];
  irqs?: readonly number[];
  flags?: number;
}

/**
 * A device that does what a test says, for behaviour that a real one has no reason to show. Region 0 is 4 KiB of memory
 * unless the test replaces read and write. What was called stands in `calls`.
 */
export class FakeDevice implements VfioDevice, VfioDeviceProvider {
  readonly function: PciFunction;
  readonly name = 'fake';
  readonly calls: string[] = [];
  readonly memory = new Uint8Array(4096);
  readonly maps = new Map<bigint, DmaMapRequest>();
  readonly triggers = new Map<string, EventTrigger>();
  ops: FakeOps;
  opens = 0;
  closes = 0;

  constructor(ops: FakeOps = {}) {
    this.ops = ops;
    this.function = new EmulatedPciHost().add({
      address: '0000:00:01.0',
      model: (ctx) => {
        ctx.identity({ vendor: 1, device: 2, subvendor: 0, subdevice: 0, class: 0, revision: 0 });
        return {};
      },
    });
  }

  async open(): Promise<VfioDevice> {
    await this.ops.open?.();
    this.opens++;
    return this;
  }

  getInfo(): DeviceInfo {
    return { flags: this.ops.flags ?? 3, numRegions: 9, numIrqs: 5, caps: [] };
  }

  getRegionInfo(index: number): RegionInfo {
    if (index > 8) throw errnoError('EINVAL', `region ${index}`);
    const size = index === 0 ? 4096 : 0;
    return { index, flags: size > 0 ? 3 : 0, size, offset: 0, caps: [], ...this.ops.regions?.[index] };
  }

  getIrqInfo(index: number): IrqInfo {
    const counts = this.ops.irqs ?? [1, 1, 8, 1, 1];
    const count = counts[index];
    if (count === undefined) throw errnoError('EINVAL', `index ${index}`);
    return { index, flags: index === 0 ? 7 : 1, count };
  }

  getHotResetInfo(): never {
    throw errnoError('ENODEV', 'none');
  }

  read(region: number, offset: number, data: Uint8Array): number {
    if (this.ops.read !== undefined) return this.ops.read(region, offset, data);
    const info = this.getRegionInfo(region);
    if (offset >= info.size) throw errnoError('EINVAL', `offset ${offset}`);
    const count = Math.min(data.length, info.size - offset);
    data.set(this.memory.subarray(offset, offset + count));
    return count;
  }

  write(region: number, offset: number, data: Uint8Array): number | Promise<number> {
    this.calls.push(`write ${region} ${offset} ${Buffer.from(data).toString('hex')}`);
    if (this.ops.write !== undefined) return this.ops.write(region, offset, data);
    const info = this.getRegionInfo(region);
    if (offset >= info.size) throw errnoError('EINVAL', `offset ${offset}`);
    this.memory.set(data.subarray(0, info.size - offset), offset);
    return Math.min(data.length, info.size - offset);
  }

  mmapArea(region: number, offset: number, length: number): MmapArea {
    if (this.ops.mmapArea === undefined) throw errnoError('EINVAL', 'no memory');
    return this.ops.mmapArea(region, offset, length);
  }

  setIrqs(request: SetIrqsRequest): number {
    const { flags, index, start, count, bools, triggers } = request;
    const what =
      bools !== undefined ? ` [${[...bools]}]` : triggers ? ` (${triggers.map((t) => (t ? 'fd' : '-'))})` : '';
    this.calls.push(`irqs 0x${flags.toString(16)} ${index} ${start}+${count}${what}`);
    if (this.ops.setIrqs !== undefined) return this.ops.setIrqs(request);
    for (const [at, trigger] of (triggers ?? []).entries()) {
      const key = `${flags} ${index} ${start + at}`;
      this.triggers.get(key)?.release();
      this.triggers.delete(key);
      if (trigger !== null) this.triggers.set(key, trigger);
    }
    return 0;
  }

  ioeventfd(): void {
    throw errnoError('ENOTTY', 'none');
  }

  reset(): void | Promise<void> {
    this.calls.push('reset');
    return this.ops.reset?.();
  }

  hotReset(): void {
    throw errnoError('ENOTTY', 'none');
  }

  deviceFeature(request: FeatureRequest): unknown {
    if (this.ops.deviceFeature === undefined) throw errnoError('ENOTTY', 'no features');
    return this.ops.deviceFeature(request);
  }

  dmaMap(request: DmaMapRequest): void {
    try {
      this.ops.dmaMap?.(request);
    } catch (error) {
      request.release?.();
      throw error;
    }
    this.maps.set(request.iova, request);
  }

  dmaUnmap(iova: bigint, size: bigint): void | Promise<void> {
    this.calls.push(`unmap ${iova}+${size}`);
    const wait = this.ops.dmaUnmap?.(iova, size);
    const done = () => {
      this.maps.get(iova)?.release?.();
      this.maps.delete(iova);
    };
    if (wait !== undefined) return wait.then(done);
    done();
  }

  async close(): Promise<void> {
    await this.ops.close?.();
    this.closes++;
    for (const trigger of this.triggers.values()) trigger.release();
    this.triggers.clear();
    for (const map of this.maps.values()) map.release?.();
    this.maps.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** A promise and what settles it. */
export function deferred<T = void>() {
  let resolve: (value: T) => void = () => {};
  let reject: (error: unknown) => void = () => {};
  const promise = new Promise<T>((a, b) => {
    resolve = a;
    reject = b;
  });
  return { promise, resolve, reject };
}
