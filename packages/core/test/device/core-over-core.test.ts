import {
  VFIO_DEVICE_FEATURE_GET as GET,
  VFIO_DEVICE_FEATURE_SET as SET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_REGION_INFO_CAP_TYPE,
} from '@vfio/uapi';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import {
  type AllocOptions,
  type DevRegionOps,
  functionOverDevice,
  type VfioDevice,
  type VfioOpsFactory,
  type VfioPciCoreDevice,
  vfioPciCoreAllocDevice,
  vfioPciCoreRegisterDevice,
  vfioPciCoreSriovConfigure,
  vfioPciCoreUnregisterDevice,
} from '../../src/index.js';
import { EXP_AT, FakeFunction, type FakeFunctionOptions, FakeHost, ioBar, memoryBar } from './fake-function.js';
import {
  CountingTrigger,
  enableMemory,
  errnoOf,
  errnoOfAsync,
  leastGarbage,
  opened,
  plainOps,
  readBytes,
  rig,
} from './helpers.js';
import { STATE, ToyMigration } from './toy-migration.js';

const OPTIONS = (): FakeFunctionOptions => ({
  bars: {
    0: memoryBar(0x4000),
    1: ioBar(0x40),
    2: memoryBar(0x1000, { is64Bit: true }),
    4: memoryBar(0x100, { start: 0xfe00_0080 }),
  },
  msiVectors: 4,
  msixVectors: 4,
  exp: true,
  pm: true,
});

async function stacked(
  options: FakeFunctionOptions = OPTIONS(),
  ops: VfioOpsFactory = plainOps,
  lowerOps: VfioOpsFactory = plainOps,
  alloc: AllocOptions = {},
) {
  const lower = await rig(options, lowerOps);
  const warnings: string[] = [];
  const upper = vfioPciCoreAllocDevice(functionOverDevice(lower.dev), ops, {
    warn: (text) => warnings.push(text),
    ...alloc,
  });
  await vfioPciCoreRegisterDevice(upper);
  return { lower: lower.dev, fn: lower.fn, upper, device: await upper.open(), warnings };
}

function regionOps(): DevRegionOps {
  return {
    read(_dev, region, _offset, data) {
      data.fill(region.subtype);
      return data.length;
    },
    write: (_dev, _region, _offset, data) => data.length,
    mmap: (dev) => {
      throw dev.error('ENODEV', 'mmap', 'nothing to map');
    },
  };
}

type Step =
  | { kind: 'read'; region: number; offset: number; length: number }
  | { kind: 'write'; region: number; offset: number; bytes: number[] }
  | { kind: 'info'; index: number }
  | { kind: 'irqInfo'; index: number }
  | { kind: 'irqs'; index: number; flags: number; start: number; count: number }
  | { kind: 'mmap'; region: number; offset: number; length: number }
  | { kind: 'feature'; flags: number }
  | { kind: 'reset' };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    kind: fc.constant('read' as const),
    region: fc.nat(10),
    offset: fc.oneof(fc.nat(0x110), fc.nat(0x4010)),
    length: fc.nat(20),
  }),
  fc.record({
    kind: fc.constant('write' as const),
    region: fc.nat(10),
    offset: fc.oneof(fc.nat(0x110), fc.nat(0x4010)),
    bytes: fc.array(fc.nat(255), { maxLength: 9 }),
  }),
  fc.record({ kind: fc.constant('info' as const), index: fc.nat(11) }),
  fc.record({ kind: fc.constant('irqInfo' as const), index: fc.nat(6) }),
  fc.record({
    kind: fc.constant('irqs' as const),
    index: fc.nat(5),
    flags: fc.constantFrom(0x21, 0x24, 0x09, 0x11, 0x22, 0x23, 0x61),
    start: fc.nat(3),
    count: fc.nat(3),
  }),
  fc.record({
    kind: fc.constant('mmap' as const),
    region: fc.nat(9),
    offset: fc.constantFrom(0, 0x1000, 0x800, 0x4000),
    length: fc.constantFrom(0, 0x100, 0x1000, 0x4000),
  }),
  fc.record({
    kind: fc.constant('feature' as const),
    flags: fc.tuple(fc.nat(14), fc.nat(7)).map(([index, ops]) => index | (ops << 16)),
  }),
  fc.record({ kind: fc.constant('reset' as const) }),
);

/** What a step gives: values or the errno. */
async function perform(device: VfioDevice, now: Step): Promise<unknown> {
  switch (now.kind) {
    case 'read': {
      const data = new Uint8Array(now.length);
      const done = device.read(now.region, now.offset, data);
      return [done, ...data];
    }
    case 'write':
      return device.write(now.region, now.offset, Uint8Array.from(now.bytes));
    case 'info':
      return device.getRegionInfo(now.index);
    case 'irqInfo':
      return device.getIrqInfo(now.index);
    case 'irqs': {
      const triggers = Array.from({ length: now.count }, () => new CountingTrigger());
      return device.setIrqs({ ...now, triggers, bools: new Uint8Array(now.count).fill(1) });
    }
    case 'mmap': {
      const { offset, size, memory } = device.mmapArea(now.region, now.offset, now.length);
      return [offset, size, memory.bytes.length, memory.fdOffset];
    }
    case 'feature':
      return device.deviceFeature({ flags: now.flags });
    case 'reset':
      return device.reset();
  }
}

async function outcome(device: VfioDevice, now: Step): Promise<unknown> {
  let value: unknown;
  const errno = await errnoOfAsync(async () => {
    value = await perform(device, now);
  });
  return errno === 'none' ? value : errno;
}

describe('core over core', () => {
  test('answers as through one: any calls give the same values, errnos and hardware', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
        const one = await opened(OPTIONS());
        const two = await stacked();
        await enableMemory(one.device);
        await enableMemory(two.device);
        expect(two.device.getInfo()).toEqual(one.device.getInfo());
        for (const now of steps) {
          expect(await outcome(two.device, now), JSON.stringify(now)).toEqual(await outcome(one.device, now));
        }
        expect(Buffer.compare(two.fn.config.bytes, one.fn.config.bytes)).toBe(0);
        expect(Buffer.compare(two.fn.bars[0]!.space.bytes, one.fn.bars[0]!.space.bytes)).toBe(0);
        await one.device.close();
        await two.device.close();
        expect(Buffer.compare(two.fn.config.bytes, one.fn.config.bytes)).toBe(0);
        expect(two.lower.openCount).toBe(0);
      }),
      { numRuns: 100 },
    );
  }, 60_000);

  test('hands interrupts, ioeventfds and DMA through', async () => {
    const { device, fn, lower } = await stacked();
    await enableMemory(device);
    const trigger = new CountingTrigger();
    device.setIrqs({ index: 2, flags: 0x24, start: 1, count: 1, triggers: [trigger] });
    fn.interrupts.fire(1);
    expect(trigger.signals).toBe(1);
    const kick = new CountingTrigger();
    device.ioeventfd({ region: 0, offset: 4, width: 1, data: 7n, trigger: kick });
    kick.signal();
    expect(fn.bars[0]!.space.bytes[4]).toBe(7);
    const bytes = new Uint8Array(4096);
    const release = vi.fn();
    device.dmaMap({
      iova: 0n,
      size: 4096n,
      readable: true,
      writable: true,
      memory: { bytes, fd: undefined, fdOffset: 0 },
      release,
    });
    fn.dma?.write(8, Uint8Array.of(3));
    expect(bytes[8]).toBe(3);
    await device.dmaUnmap(0n, 4096n);
    expect(release).toHaveBeenCalledTimes(1);
    expect(lower.dmaSpace.mappings).toBe(0);
    await device.close();
    expect([trigger.releases, kick.releases]).toEqual([1, 1]);
  });

  test('gives drivers guest memory through their own DMA space; a mapping that one side refuses is on neither', async () => {
    const { device, upper, lower } = await stacked();
    const release = vi.fn();
    const map = (iova: bigint, size: bigint) =>
      device.dmaMap({
        iova,
        size,
        readable: true,
        writable: true,
        memory: { bytes: new Uint8Array(8192).fill(6), fd: undefined, fdOffset: 0 },
        release,
      });
    map(0x1000n, 0x1000n);
    const data = new Uint8Array(1);
    upper.dmaSpace.read(0x1000, data);
    expect(data[0]).toBe(6);
    expect(errnoOf(() => map(0x1800n, 0x1000n))).toBe('EEXIST');
    expect(release).toHaveBeenCalledTimes(1);
    upper.dmaSpace.map({ iova: 0x8000n, size: 0x1000n, readable: true, writable: true, memory: undefined });
    expect(errnoOf(() => map(0x8000n, 0x1000n))).toBe('EEXIST');
    expect(release).toHaveBeenCalledTimes(2);
    expect([upper.dmaSpace.mappings, lower.dmaSpace.mappings]).toEqual([2, 1]);
    upper.dmaSpace.unmap(0x8000n, 0x1000n);
    await device.close();
    expect(release).toHaveBeenCalledTimes(3);
    expect([upper.dmaSpace.mappings, lower.dmaSpace.mappings]).toEqual([0, 0]);
  });

  test("appends a driver's regions to those of the base, and its capabilities", async () => {
    const lowerOps: VfioOpsFactory = (core) => ({
      ...core,
      name: 'lower',
      async openDevice(dev) {
        await core.openDevice(dev);
        dev.registerDevRegion({ type: 1, subtype: 1, size: 4096, flags: 1, ops: regionOps() });
      },
      init(dev) {
        core.init(dev);
        dev.addInfoCap({ id: 5, version: 1, data: Uint8Array.of(5) });
      },
    });
    const upperOps: VfioOpsFactory = (core) => ({
      ...core,
      name: 'upper',
      init(dev) {
        core.init(dev);
        dev.addInfoCap({ id: 6, version: 1, data: Uint8Array.of(6) });
        dev.registerDevRegion({ type: 1, subtype: 2, size: 4096, flags: 7, ops: regionOps() });
      },
    });
    const { device, upper } = await stacked(OPTIONS(), upperOps, lowerOps);
    expect(device.getInfo()).toMatchObject({ numRegions: 11, caps: [{ id: 5 }, { id: 6 }] });
    expect(readBytes(device, 9, 0, 1)).toEqual([1]);
    expect(readBytes(device, 10, 0, 1)).toEqual([2]);
    expect(device.write(10, 0, Uint8Array.of(1))).toBe(1);
    expect(device.getRegionInfo(10).caps).toEqual([{ id: VFIO_REGION_INFO_CAP_TYPE, version: 1, type: 1, subtype: 2 }]);
    expect(upper.regionIndex(upper.regions[0]!)).toBe(10);
    expect(errnoOf(() => device.mmapArea(10, 0, 4096))).toBe('ENODEV');
    for (const index of [11, 12]) {
      expect(errnoOf(() => device.getRegionInfo(index))).toBe('EINVAL');
      expect(errnoOf(() => device.read(index, 0, new Uint8Array(1)))).toBe('EINVAL');
      expect(errnoOf(() => device.write(index, 0, new Uint8Array(1)))).toBe('EINVAL');
      expect(errnoOf(() => device.mmapArea(index, 0, 4096))).toBe('EINVAL');
    }
    await device.close();
  });

  test("forgets what a driver's open registered when it closes", async () => {
    const { device, upper } = await stacked(OPTIONS(), (core) => ({
      ...core,
      name: 'upper',
      async openDevice(dev) {
        await core.openDevice(dev);
        dev.registerDevRegion({ type: 1, subtype: 2, size: 4096, flags: 1, ops: regionOps() });
      },
    }));
    await device.close();
    expect(upper.regions).toHaveLength(0);
    const again = await upper.open();
    expect(again.getInfo().numRegions).toBe(10);
    await again.close();
  });

  test('gives each user a function that was reset: what the last one stopped runs for the next', async () => {
    const toy = new ToyMigration(7);
    const { device, upper } = await stacked(OPTIONS(), toy.factory);
    await device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | SET, value: { state: STATE.STOP } });
    await device.close();
    const again = await upper.open();
    expect(again.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | GET })).toMatchObject({
      state: STATE.RUNNING,
    });
    await again.close();
  });

  test('runs a driver with migration on a base without: its features, its reset', async () => {
    const toy = new ToyMigration(7);
    const { device, fn } = await stacked(OPTIONS(), toy.factory);
    fn.resetScope = { kind: 'bus', functions: () => [fn], tryReset() {} };
    const state = () =>
      (device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | GET }) as { state: number }).state;
    const stop = () =>
      device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | SET, value: { state: STATE.STOP } });
    expect(device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIGRATION | GET })).toEqual({ flags: 7 });
    for (const reset of [
      () => device.reset(),
      () => device.hotReset({ flags: 0, owned: [fn.address] }),
      () => device.write(7, EXP_AT + 8, Uint8Array.of(0x10, 0x80)),
      () => device.write(7, EXP_AT + 9, Uint8Array.of(0x80)),
    ]) {
      stop();
      expect(state()).toBe(STATE.STOP);
      await reset();
      expect(state()).toBe(STATE.RUNNING);
    }
    stop();
    await device.write(7, EXP_AT + 8, Uint8Array.of(0x90, 0x00));
    expect(state(), 'another bit').toBe(STATE.STOP);
    expect(
      errnoOf(() => device.deviceFeature({ flags: 6 | SET })),
      'the base writes memory unseen',
    ).toBe('ENOTTY');
    await device.close();
  });

  test('knows that a function without FLR is not reset by its bit', async () => {
    const toy = new ToyMigration(7);
    const { device, fn, upper } = await stacked(OPTIONS(), toy.factory);
    await device.close();
    fn.config.put(EXP_AT + 4, 4, 0x8000);
    fn.config.seal();
    const again = await upper.open();
    again.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | SET, value: { state: STATE.STOP } });
    await again.write(7, EXP_AT + 8, Uint8Array.of(0x10, 0x80));
    expect(toy.state).toBe(STATE.STOP);
    await again.close();
  });

  test("passes a migratable base's features to a driver without its own", async () => {
    const toy = new ToyMigration(1);
    const { device } = await stacked(OPTIONS(), plainOps, toy.factory);
    expect(device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIGRATION | GET })).toEqual({ flags: 1 });
    device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | SET, value: { state: STATE.STOP } });
    expect(toy.state).toBe(STATE.STOP);
    await device.close();
  });

  test('fails to open where the base does, and can be tried again', async () => {
    const { fn, upper, device } = await stacked();
    await device.close();
    fn.resetError = 'EAGAIN';
    expect(await errnoOfAsync(() => upper.open())).toBe('EAGAIN');
    fn.resetError = undefined;
    await (await upper.open()).close();
  });

  test('asks the user of the upper device to let go when either is taken away', async () => {
    for (const which of ['upper', 'lower'] as const) {
      const made = await stacked();
      const trigger = new CountingTrigger();
      made.device.setIrqs({ index: 4, flags: 0x24, start: 0, count: 1, triggers: [trigger] });
      const dev: VfioPciCoreDevice = made[which];
      const gone = vfioPciCoreUnregisterDevice(dev, { requestIntervalMs: 2 });
      await vi.waitFor(() => expect(trigger.signals).toBeGreaterThan(1));
      await made.device.close();
      await gone;
      expect(dev.registered).toBe(false);
    }
    const silent = await stacked();
    const gone = vfioPciCoreUnregisterDevice(silent.upper, { requestIntervalMs: 1 });
    await silent.device.close();
    await gone;
    expect(silent.warnings.filter((warning) => warning.includes('no REQ trigger'))).toHaveLength(1);
  });

  test('hands the VF token down', async () => {
    const host = new FakeHost();
    const pf = new FakeFunction(host, { address: '0000:01:00.0' });
    pf.sriov = { totalVfs: 1, numVfs: 0, driversAutoprobe: true, enable() {}, disable() {} };
    const pfDev = vfioPciCoreAllocDevice(pf, plainOps);
    await vfioPciCoreRegisterDevice(pfDev);
    await vfioPciCoreSriovConfigure(pfDev, 1);
    const vf = vfioPciCoreAllocDevice(new FakeFunction(host, { address: '0000:01:00.1', physfn: pf }), plainOps);
    await vfioPciCoreRegisterDevice(vf);
    const upper = vfioPciCoreAllocDevice(functionOverDevice(vf), plainOps);
    await vfioPciCoreRegisterDevice(upper);
    expect(await errnoOfAsync(() => upper.open())).toBe('EACCES');
    const device = await upper.open({ vfToken: pfDev.vf.token! });
    await device.close();
    expect(await errnoOfAsync(() => upper.open()), 'not remembered').toBe('EACCES');
  });

  test('leaves migration to the device below where that migrates, and says so; logging goes with it', async () => {
    const [above, below] = [new ToyMigration(7), new ToyMigration(3)];
    const { device, warnings } = await stacked(OPTIONS(), above.factory, below.factory);
    expect(warnings).toEqual([expect.stringContaining('migrates itself')]);
    expect(await device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIGRATION | GET })).toEqual({ flags: 3 });
    await device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | SET, value: { state: STATE.STOP } });
    expect([above.arcs, below.arcs]).toEqual([[], ['2>5', '5>1']]);
    await device.reset();
    expect(await device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | GET })).toEqual({
      state: STATE.RUNNING,
    });
    await device.close();
  });

  test('tells which condition its own driver misses where nobody migrates', async () => {
    const { device, warnings } = await stacked(OPTIONS(), (core) => ({
      ...core,
      name: 'picky',
      init(dev) {
        core.init(dev);
        dev.whyNotMigratable = 'the moon is full';
      },
    }));
    const ask = () => device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIGRATION | GET });
    expect(errnoOf(ask)).toBe('ENOTTY');
    expect(ask).toThrow(/the moon is full/);
    expect(warnings).toEqual([]);
    await device.close();
  });

  test('has no hardware for a driver that looks for it', async () => {
    const { upper, device } = await stacked();
    expect(errnoOf(() => upper.raw)).toBe('EINVAL');
    await device.close();
  });
});

test.each([
  ['a BAR', 0, 0],
  ['config space', 7, 0x0c],
])('register accesses of %s through both make no garbage', async (_name, region, offset) => {
  const { device, fn } = await stacked();
  await enableMemory(device);
  const { space } = fn.bars[0]!;
  space.read = (at) => at;
  space.write = () => {};
  const data = new Uint8Array(4);
  const garbage = leastGarbage(() => {
    for (let i = 0; i < 40_000; i++) {
      device.read(region, offset, data);
      device.write(region, offset, data);
    }
  });
  // One object for each access would be more than 1 MB.
  expect(garbage).toBeLessThan(200_000);
});
