import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import {
  type MigrationData,
  type VfioDevice,
  type VfioPciCoreDevice,
  vfioPciCoreAerResetDone,
  vfioPciCoreAllocDevice,
  vfioPciCoreRegisterDevice,
} from '../../src/index.js';
import { EXP_AT, FakeFunction, FakeHost } from './fake-function.js';
import { enableMemory, errnoOf, errnoOfAsync, opened } from './helpers.js';
import { STATE, ToyMigration } from './toy-migration.js';

const GET = VFIO_DEVICE_FEATURE_GET;
const SET = VFIO_DEVICE_FEATURE_SET;
const PROBE = VFIO_DEVICE_FEATURE_PROBE;
const ALL = 7;

async function toyDevice(flags = ALL) {
  const toy = new ToyMigration(flags);
  const rig = await opened({ exp: true }, toy.factory);
  return { toy, ...rig };
}

type SetResult = { state: number; data: MigrationData | undefined };

function setState(device: VfioDevice, state: number): SetResult | Promise<SetResult> {
  return device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | SET, value: { state } }) as SetResult;
}

function getState(device: VfioDevice): number {
  return (device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | GET }) as { state: number }).state;
}

describe('migration features', () => {
  test('tell the flags, the state and the data size', async () => {
    const { device } = await toyDevice();
    expect(device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIGRATION | GET })).toEqual({ flags: ALL });
    expect(getState(device)).toBe(STATE.RUNNING);
    expect(device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_DATA_SIZE | GET })).toEqual({
      stopCopyLength: 0x1234n,
    });
  });

  test.each([
    ['MIGRATION with SET', VFIO_DEVICE_FEATURE_MIGRATION | SET, 'EINVAL'],
    ['MIGRATION with neither', VFIO_DEVICE_FEATURE_MIGRATION, 'EINVAL'],
    ['MIGRATION probed for GET', VFIO_DEVICE_FEATURE_MIGRATION | GET | PROBE, 'none'],
    ['MIGRATION probed for SET', VFIO_DEVICE_FEATURE_MIGRATION | SET | PROBE, 'EINVAL'],
    ['MIG_DEVICE_STATE probed for both', VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | GET | SET | PROBE, 'none'],
    ['MIG_DEVICE_STATE with both', VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | GET | SET, 'EINVAL'],
    ['MIG_DEVICE_STATE without a state', VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | SET, 'EINVAL'],
    ['MIG_DATA_SIZE with SET', VFIO_DEVICE_FEATURE_MIG_DATA_SIZE | SET, 'EINVAL'],
    ['MIG_PRECOPY_INFOv2 with GET', VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 | GET, 'EINVAL'],
    ['MIG_PRECOPY_INFOv2 probed', VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 | SET | PROBE, 'none'],
  ])('%s gives %s', async (_name, flags, errno) => {
    const { device } = await toyDevice();
    expect(errnoOf(() => device.deviceFeature({ flags }))).toBe(errno);
  });

  test('of a device without migration are ENOTTY, PROBE included; MIG_PRECOPY_INFOv2 is EINVAL', async () => {
    const { device } = await opened();
    for (const feature of [
      VFIO_DEVICE_FEATURE_MIGRATION,
      VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
      VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
      VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
    ]) {
      expect(errnoOf(() => device.deviceFeature({ flags: feature | GET }))).toBe('ENOTTY');
      expect(errnoOf(() => device.deviceFeature({ flags: feature | GET | SET | PROBE }))).toBe('ENOTTY');
    }
    const precopy = VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 | SET;
    expect(errnoOf(() => device.deviceFeature({ flags: precopy }))).toBe('EINVAL');
    expect(errnoOf(() => device.deviceFeature({ flags: precopy | PROBE }))).toBe('EINVAL');
  });

  test('MIG_PRECOPY_INFOv2 of a device without PRE_COPY is EINVAL, PROBE included', async () => {
    const { device } = await toyDevice(3);
    const flags = VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 | SET;
    expect(errnoOf(() => device.deviceFeature({ flags }))).toBe('EINVAL');
    expect(errnoOf(() => device.deviceFeature({ flags: flags | PROBE }))).toBe('EINVAL');
  });
});

describe('setting the state', () => {
  test('walks every arc on the way and ends with the stream of the last', async () => {
    const { device, toy } = await toyDevice();
    const result = setState(device, STATE.STOP_COPY) as SetResult;
    expect(toy.arcs).toEqual(['2>5', '5>1', '1>3']);
    expect(result.state).toBe(STATE.STOP_COPY);
    expect(result.data?.read(new Uint8Array(4))).toBe(4);
  });

  test('to the state it is in is success without an arc and without a stream', async () => {
    const { device, toy } = await toyDevice();
    expect(setState(device, STATE.RUNNING)).toEqual({ state: STATE.RUNNING, data: undefined });
    expect(toy.arcs).toEqual([]);
  });

  test.each([
    ['ERROR', STATE.ERROR],
    ['a state that does not exist', 8],
    ['a state that is no number of states', 2 ** 32],
  ])('to %s is EINVAL', async (_name, state) => {
    const { device, toy } = await toyDevice();
    expect(errnoOf(() => setState(device, state))).toBe('EINVAL');
    expect(toy.arcs).toEqual([]);
  });

  test('to an optional state that the device lacks is EINVAL', async () => {
    const { device, toy } = await toyDevice(1);
    expect(errnoOf(() => setState(device, STATE.PRE_COPY))).toBe('EINVAL');
    expect(errnoOf(() => setState(device, STATE.RUNNING_P2P))).toBe('EINVAL');
    setState(device, STATE.STOP);
    expect(toy.arcs).toEqual(['2>1']);
  });

  test('from STOP_COPY to PRE_COPY is EINVAL, and the stream lives on', async () => {
    const { device } = await toyDevice();
    const { data } = setState(device, STATE.STOP_COPY) as SetResult;
    expect(errnoOf(() => setState(device, STATE.PRE_COPY))).toBe('EINVAL');
    expect(getState(device)).toBe(STATE.STOP_COPY);
    expect(data?.read(new Uint8Array(1))).toBe(1);
  });

  test('from ERROR is EINVAL until a reset', async () => {
    const { device, toy } = await toyDevice();
    toy.state = STATE.ERROR;
    expect(errnoOf(() => setState(device, STATE.RUNNING))).toBe('EINVAL');
    await device.reset();
    expect(getState(device)).toBe(STATE.RUNNING);
  });

  test('that fails on the way leaves the state it got to', async () => {
    const { device, toy } = await toyDevice();
    toy.failing['5>1'] = 'EIO';
    expect(errnoOf(() => setState(device, STATE.STOP_COPY))).toBe('EIO');
    expect(getState(device)).toBe(STATE.RUNNING_P2P);
    toy.failing = {};
    expect((setState(device, STATE.STOP_COPY) as SetResult).state).toBe(STATE.STOP_COPY);
  });

  test('drops a stream that a driver opens on the way, with EINVAL', async () => {
    const { device, toy } = await toyDevice();
    toy.wrongStreams.add('2>5');
    expect(errnoOf(() => setState(device, STATE.STOP))).toBe('EINVAL');
    expect(toy.streams[0]?.closes).toBe(1);
    expect(getState(device)).toBe(STATE.RUNNING_P2P);
  });

  test('waits for arcs that take time, and a second request waits for the first', async () => {
    const { device, toy } = await toyDevice();
    let go = () => {};
    toy.slow = new Promise((resolve) => {
      go = resolve;
    });
    const first = setState(device, STATE.STOP);
    const second = setState(device, STATE.RUNNING);
    expect(toy.arcs).toEqual(['2>5']);
    go();
    expect(await first).toEqual({ state: STATE.STOP, data: undefined });
    expect(await second).toEqual({ state: STATE.RUNNING, data: undefined });
    expect(toy.arcs).toEqual(['2>5', '5>1', '1>5', '5>2']);
  });
});

describe('data streams', () => {
  test('last over the whole saving group and end when it is left', async () => {
    const { device, toy } = await toyDevice();
    const { data } = setState(device, STATE.PRE_COPY) as SetResult;
    expect(setState(device, STATE.PRE_COPY_P2P)).toEqual({ state: STATE.PRE_COPY_P2P, data: undefined });
    expect(setState(device, STATE.STOP_COPY)).toEqual({ state: STATE.STOP_COPY, data: undefined });
    expect(data?.read(new Uint8Array(2))).toBe(2);
    setState(device, STATE.STOP);
    expect(toy.streams).toHaveLength(1);
    expect(toy.streams[0]?.closes).toBe(1);
    for (const use of [
      () => data?.read(new Uint8Array(1)),
      () => data?.write(new Uint8Array(1)),
      () => data?.precopyInfo(),
    ]) {
      expect(errnoOf(use)).toBe('ENODEV');
    }
    data?.close();
    expect(toy.streams[0]?.closes).toBe(1);
  });

  test('of RESUMING ends when that is left', async () => {
    const { device, toy } = await toyDevice();
    const { data } = setState(device, STATE.RESUMING) as SetResult;
    expect(data?.write(new Uint8Array(5))).toBe(5);
    setState(device, STATE.RUNNING);
    expect(errnoOf(() => data?.write(new Uint8Array(5)))).toBe('ENODEV');
    expect(toy.streams[0]?.closes).toBe(1);
  });

  test('end with the last close, also of a device that is opened again', async () => {
    const { device, dev, toy } = await toyDevice();
    const { data } = setState(device, STATE.STOP_COPY) as SetResult;
    await device.close();
    expect(errnoOf(() => data?.read(new Uint8Array(1)))).toBe('ENODEV');
    expect(toy.streams[0]?.closes).toBe(1);
    await (await dev.open()).close();
  });

  test('tell precopy sizes only in the PRE_COPY states', async () => {
    const { device } = await toyDevice();
    const { data } = setState(device, STATE.PRE_COPY) as SetResult;
    expect(await data?.precopyInfo()).toMatchObject({ initialBytes: 3n });
    setState(device, STATE.PRE_COPY_P2P);
    expect(await data?.precopyInfo()).toMatchObject({ initialBytes: 3n });
    setState(device, STATE.STOP_COPY);
    expect(errnoOf(() => data?.precopyInfo())).toBe('EINVAL');
  });

  test('show REINIT only to a user who opted in, until the last close', async () => {
    const { device, dev } = await toyDevice();
    const { data } = setState(device, STATE.PRE_COPY) as SetResult;
    expect((await data?.precopyInfo())?.flags).toBe(0);
    device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 | SET });
    expect((await data?.precopyInfo())?.flags).toBe(1);
    await device.close();
    const again = await dev.open();
    await again.reset();
    const next = setState(again, STATE.PRE_COPY) as SetResult;
    expect((await next.data?.precopyInfo())?.flags).toBe(0);
    await again.close();
  });
});

describe('a reset', () => {
  test.each<[string, (device: VfioDevice, dev: VfioPciCoreDevice) => unknown]>([
    ['by RESET', (device) => device.reset()],
    ['by FLR in config space', (device) => device.write(7, EXP_AT + 8, Uint8Array.of(0x10, 0x80))],
    ['by error recovery', (_device, dev) => vfioPciCoreAerResetDone(dev)],
  ])('%s returns to RUNNING and ends the stream', async (_name, reset) => {
    const { device, dev, toy } = await toyDevice();
    const { data } = setState(device, STATE.STOP_COPY) as SetResult;
    const before = toy.resets;
    await reset(device, dev);
    expect(toy.resets).toBe(before + 1);
    expect(getState(device)).toBe(STATE.RUNNING);
    expect(errnoOf(() => data?.read(new Uint8Array(1)))).toBe('ENODEV');
  });

  test('that comes while a transition runs is applied when it ends, before anybody sees its result', async () => {
    const { device, toy, dev } = await toyDevice();
    const before = toy.resets;
    let go = () => {};
    toy.slow = new Promise((resolve) => {
      go = resolve;
    });
    const result = setState(device, STATE.STOP_COPY);
    // Error recovery does not ask the handle.
    vfioPciCoreAerResetDone(dev);
    expect(toy.resets, 'not under the driver').toBe(before);
    go();
    const { data } = await result;
    expect(toy.resets).toBe(before + 1);
    expect(getState(device)).toBe(STATE.RUNNING);
    expect(errnoOf(() => data?.read(new Uint8Array(1)))).toBe('ENODEV');
  });

  test('that came while a step ran may be followed up under the lock: the next request waits, one by one', async () => {
    const { device, toy, dev } = await toyDevice();
    const raced: boolean[] = [];
    let followedUp = () => {};
    dev.resetDone.push((late) => {
      raced.push(late);
      return late ? new Promise<void>((resolve) => (followedUp = resolve)) : undefined;
    });
    await device.reset();
    let go = () => {};
    toy.slow = new Promise((resolve) => {
      go = resolve;
    });
    const first = setState(device, STATE.RUNNING_P2P);
    vfioPciCoreAerResetDone(dev);
    go();
    const second = setState(device, STATE.STOP);
    await toy.slow;
    await new Promise((resolve) => setImmediate(resolve));
    expect([raced, toy.arcs]).toEqual([[false, true], ['2>5']]);
    // Another one, while the first is followed up.
    vfioPciCoreAerResetDone(dev);
    followedUp();
    await new Promise((resolve) => setImmediate(resolve));
    expect([raced, toy.arcs]).toEqual([[false, true, true], ['2>5']]);
    followedUp();
    await Promise.all([first, second]);
    expect(toy.arcs).toEqual(['2>5', '2>5', '5>1']);
  });

  test('at open finds the device RUNNING', async () => {
    const { device, dev, toy } = await toyDevice();
    setState(device, STATE.STOP);
    await device.close();
    const again = await dev.open();
    expect(getState(again)).toBe(STATE.RUNNING);
    expect(toy.state).toBe(STATE.RUNNING);
    await again.close();
  });
});

describe('registration', () => {
  test.each([
    ['half a migration table', (toy: ToyMigration) => ({ ops: { setState: toy.ops.setState }, flags: 1 })],
    ['migration without STOP_COPY', (toy: ToyMigration) => ({ ops: toy.ops, flags: 6 })],
  ])('of %s is EINVAL', async (_name, make) => {
    const host = new FakeHost();
    const fn = new FakeFunction(host);
    const { ops, flags } = make(new ToyMigration(ALL));
    const dev = vfioPciCoreAllocDevice(fn, (core) => ({
      ...core,
      name: 'half',
      init(made) {
        made.migrationOps = ops as ToyMigration['ops'];
        made.migrationFlags = flags;
      },
    }));
    expect(await errnoOfAsync(() => vfioPciCoreRegisterDevice(dev))).toBe('EINVAL');
    expect(dev.registered).toBe(false);
  });

  test('of half a log table is EINVAL', async () => {
    const dev = vfioPciCoreAllocDevice(new FakeFunction(new FakeHost()), (core) => ({
      ...core,
      name: 'half',
      init(made) {
        made.logOps = { logStart: () => 4096n } as unknown as NonNullable<typeof made.logOps>;
      },
    }));
    expect(await errnoOfAsync(() => vfioPciCoreRegisterDevice(dev))).toBe('EINVAL');
  });
});

describe('DMA logging', () => {
  const START = VFIO_DEVICE_FEATURE_DMA_LOGGING_START | SET;
  const REPORT = VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | GET;
  const range = { iova: 0n, length: 0x10000n };

  test('of a migratable device is that of its DMA space', async () => {
    const { device, fn } = await toyDevice();
    const bytes = new Uint8Array(0x10000);
    device.dmaMap({
      iova: 0n,
      size: 0x10000n,
      readable: true,
      writable: true,
      memory: { bytes, fd: undefined, fdOffset: 0 },
    });
    await enableMemory(device);
    expect(device.deviceFeature({ flags: START, value: { pageSize: 4096n, ranges: [range] } })).toEqual({
      pageSize: 4096n,
    });
    fn.dma?.write(0x3000, Uint8Array.of(1));
    const bitmap = new Uint8Array(8);
    expect(device.deviceFeature({ flags: REPORT, value: { ...range, pageSize: 4096n, bitmap } })).toBeUndefined();
    expect(bitmap.reduce((sum, byte) => sum + byte, 0)).toBe(0x08);
    expect(errnoOf(() => device.deviceFeature({ flags: START, value: { pageSize: 4096n, ranges: [range] } }))).toBe(
      'EINVAL',
    );
    device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | SET });
    device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | SET });
    expect(errnoOf(() => device.deviceFeature({ flags: REPORT, value: { ...range, pageSize: 4096n, bitmap } }))).toBe(
      'EINVAL',
    );
  });

  test.each([
    ['no range', { pageSize: 4096n, ranges: [] }, 'EINVAL'],
    [
      'too many ranges',
      { pageSize: 4096n, ranges: Array.from({ length: 257 }, (_, i) => ({ iova: BigInt(i) << 20n, length: 4096n })) },
      'E2BIG',
    ],
    [
      'as many ranges as fit a page',
      { pageSize: 4096n, ranges: Array.from({ length: 256 }, (_, i) => ({ iova: BigInt(i) << 20n, length: 4096n })) },
      'none',
    ],
    ['a misaligned start', { pageSize: 4096n, ranges: [{ iova: 1n, length: 4096n }] }, 'EINVAL'],
    ['a misaligned length', { pageSize: 4096n, ranges: [{ iova: 0n, length: 4097n }] }, 'EINVAL'],
    ['a range that wraps', { pageSize: 4096n, ranges: [{ iova: (1n << 64n) - 4096n, length: 8192n }] }, 'EOVERFLOW'],
    [
      'overlapping ranges',
      {
        pageSize: 4096n,
        ranges: [
          { iova: 0n, length: 8192n },
          { iova: 4096n, length: 4096n },
        ],
      },
      'EINVAL',
    ],
    ['no value', undefined, 'EINVAL'],
  ])('started with %s gives %s', async (_name, value, errno) => {
    const { device } = await toyDevice();
    expect(errnoOf(() => device.deviceFeature({ flags: START, value }))).toBe(errno);
  });

  test.each([
    ['a page size below 4 KiB', { pageSize: 2048n }, 'EINVAL'],
    ['a page size that is no power of two', { pageSize: 12288n }, 'EINVAL'],
    ['a range that wraps', { iova: (1n << 64n) - 1n }, 'EOVERFLOW'],
    ['a bitmap that is too short', { bitmap: new Uint8Array(7) }, 'EFAULT'],
    ['no bitmap', { bitmap: undefined }, 'EINVAL'],
  ])('reported with %s gives %s', async (_name, change, errno) => {
    const { device } = await toyDevice();
    device.deviceFeature({ flags: START, value: { pageSize: 4096n, ranges: [range] } });
    const value = { ...range, pageSize: 4096n, bitmap: new Uint8Array(8), ...change };
    expect(errnoOf(() => device.deviceFeature({ flags: REPORT, value }))).toBe(errno);
  });

  test("by a driver's own log ops replaces that of the space; the page size it tracks comes back", async () => {
    const toy = new ToyMigration(ALL);
    const calls: string[] = [];
    const { device } = await opened({}, (core) => {
      const table = toy.factory(core);
      return {
        ...table,
        init(dev) {
          table.init(dev);
          dev.logOps = {
            logStart: (_dev, ranges, pageSize) => {
              calls.push(`start ${ranges.length} ${pageSize}`);
              return 65536n;
            },
            logStop: () => void calls.push('stop'),
            logReadAndClear: async (_dev, asked, dirty) => {
              calls.push(`report ${asked.iova} ${asked.length}`);
              dirty(0x2000n, 0x1000n);
            },
          };
        },
      };
    });
    expect(await device.deviceFeature({ flags: START, value: { pageSize: 4096n, ranges: [range] } })).toEqual({
      pageSize: 65536n,
    });
    const bitmap = new Uint8Array(8);
    await device.deviceFeature({ flags: REPORT, value: { ...range, pageSize: 4096n, bitmap } });
    await device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | SET });
    expect(calls).toEqual(['start 1 4096', 'report 0 65536', 'stop']);
    expect(bitmap.reduce((sum, byte) => sum + byte, 0)).toBe(0x04);
  });

  test('ends with the last close', async () => {
    const { device, dev } = await toyDevice();
    device.deviceFeature({ flags: START, value: { pageSize: 4096n, ranges: [range] } });
    await device.close();
    expect(dev.dmaSpace.isLogging).toBe(false);
  });
});
