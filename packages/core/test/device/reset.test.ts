import { PCI_COMMAND, VFIO_DEVICE_FEATURE_DMA_BUF, VFIO_DEVICE_FEATURE_GET } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { deviceSetKey } from '../../src/device/device-set.js';
import {
  type RawResetScope,
  restoreConfigState,
  saveConfigState,
  type VfioDevice,
  type VfioPciCoreDevice,
  vfioPciCoreAllocDevice,
  vfioPciCoreRegisterDevice,
} from '../../src/index.js';
import { EXP_AT, FakeFunction, type FakeFunctionOptions, FakeHost, MSI_AT, PM_AT } from './fake-function.js';
import { CountingTrigger, enableMemory, errnoOf, errnoOfAsync, opened, plainOps } from './helpers.js';

class FakeScope implements RawResetScope {
  readonly kind: 'slot' | 'bus';
  readonly members: FakeFunction[] = [];
  resets = 0;
  error: 'EAGAIN' | undefined;
  slow: Promise<void> | undefined;

  constructor(kind: 'slot' | 'bus' = 'bus') {
    this.kind = kind;
  }

  functions() {
    return this.members;
  }

  tryReset(): void | Promise<void> {
    if (this.error !== undefined) throw Object.assign(new Error('busy'), { errno: this.error });
    const work = () => {
      this.resets++;
      for (const member of this.members) member.config.reset();
    };
    return this.slow === undefined ? work() : this.slow.then(work);
  }
}

interface Bus {
  readonly host: FakeHost;
  readonly scope: FakeScope;
  readonly devs: VfioPciCoreDevice[];
  readonly fns: FakeFunction[];
}

/** Functions 0, 1, ... of one slot or bus, each a registered device unless told otherwise. */
async function bus(
  count: number,
  options: FakeFunctionOptions = {},
  kind: 'slot' | 'bus' = 'bus',
  unregistered = 0,
): Promise<Bus> {
  const host = new FakeHost();
  const scope = new FakeScope(kind);
  const devs: VfioPciCoreDevice[] = [];
  const fns: FakeFunction[] = [];
  for (let i = 0; i < count + unregistered; i++) {
    const fn = new FakeFunction(host, { ...options, address: `0000:01:00.${i}`, group: 7 + i });
    host.list.push(fn);
    scope.members.push(fn);
    fn.resetScope = scope;
    fns.push(fn);
    if (i >= count) continue;
    const dev = vfioPciCoreAllocDevice(fn, plainOps);
    await vfioPciCoreRegisterDevice(dev);
    devs.push(dev);
  }
  return { host, scope, devs, fns };
}

const ADDRESSES = ['0000:01:00.0', '0000:01:00.1'];

describe('RESET', () => {
  test('keeps what software had set and forgets what the device had', async () => {
    const { device, fn } = await opened({ exp: true });
    await enableMemory(device);
    fn.config.write(EXP_AT + 8, 2, 0x2830);
    fn.config.put(0x60, 4, 0x1234, -1);
    await device.reset();
    expect(fn.config.read(PCI_COMMAND, 2) & 7).toBe(7);
    expect(fn.config.read(EXP_AT + 8, 2)).toBe(0x2830);
    expect(fn.config.read(0x60, 4)).toBe(0);
  });

  test('runs with decoding and mastering off', async () => {
    const { device, fn } = await opened();
    await enableMemory(device);
    let command = -1;
    const real = fn.tryResetFunction.bind(fn);
    fn.tryResetFunction = () => {
      command = fn.config.read(PCI_COMMAND, 2);
      return real();
    };
    await device.reset();
    expect(command).toBe(0x400);
  });

  test('wakes a function in D3hot first', async () => {
    const { device, fn } = await opened({ pm: true });
    await device.write(7, PM_AT + 4, Uint8Array.of(3, 0));
    await device.reset();
    expect(fn.power.slice(-2)).toEqual([3, 0]);
    expect(fn.resets).toBe(2);
  });

  test('that meets a contended lock is EAGAIN, and the function goes on as before', async () => {
    const { device, fn } = await opened();
    await enableMemory(device);
    fn.resetError = 'EAGAIN';
    expect(errnoOf(() => device.reset())).toBe('EAGAIN');
    expect(device.read(0, 0, new Uint8Array(4))).toBe(4);
    expect(fn.config.read(PCI_COMMAND, 2) & 7).toBe(7);
  });

  test('is EAGAIN while the memory of the function is held by another reset', async () => {
    const { device, dev } = await opened();
    dev.memoryLocks++;
    expect(errnoOf(() => device.reset())).toBe('EAGAIN');
    dev.memoryLocks--;
    expect(errnoOf(() => device.reset())).toBe('none');
  });

  test('tells drivers once that it happened, also when config space asked for it', async () => {
    let told = 0;
    const { device } = await opened({ exp: true }, (core) => ({
      ...core,
      name: 'told',
      init: (dev) => void dev.resetDone.push(() => void told++),
    }));
    told = 0;
    await device.reset();
    expect(told).toBe(1);
    await device.write(7, EXP_AT + 8, Uint8Array.of(0x10, 0x80));
    expect(told).toBe(2);
  });
});

describe('saved config space', () => {
  test('has MSI only for a function that uses it', () => {
    const fn = new FakeFunction(new FakeHost(), { msiVectors: 4, exp: true });
    fn.config.write(MSI_AT + 4, 4, 0xfee00000 | 0);
    fn.config.write(MSI_AT + 2, 2, 0x0081);
    const state = saveConfigState(fn.config);
    fn.config.reset();
    restoreConfigState(fn.config, state, false);
    expect(fn.config.read(MSI_AT + 2, 2) & 1).toBe(0);
    restoreConfigState(fn.config, state, true);
    expect(fn.config.read(MSI_AT + 2, 2) & 1).toBe(1);
    expect(fn.config.read(MSI_AT + 4, 4)).toBe(0xfee00000 | 0);
  });

  test('writes the BARs before COMMAND, and nothing that is as it was', () => {
    const fn = new FakeFunction(new FakeHost());
    fn.config.write(PCI_COMMAND, 2, 7);
    const state = saveConfigState(fn.config);
    fn.config.writes = 0;
    restoreConfigState(fn.config, state, true);
    expect(fn.config.writes).toBe(0);
    fn.config.write(0x10, 4, 0);
    fn.config.write(PCI_COMMAND, 2, 0);
    const order: number[] = [];
    fn.config.onWrite = (offset) => order.push(offset);
    restoreConfigState(fn.config, state, true);
    expect(order).toEqual([0x10, PCI_COMMAND]);
  });
});

describe('reset sets', () => {
  test('are the function on a root bus and for a VF, the slot where it can be reset, else the bus', () => {
    const host = new FakeHost();
    const fn = new FakeFunction(host, { address: '0000:01:02.3' });
    expect(deviceSetKey(fn)).toBe('function 0000:01:02.3');
    fn.resetScope = new FakeScope('slot');
    expect(deviceSetKey(fn)).toBe('slot 0000:01:02');
    fn.resetScope = new FakeScope('bus');
    expect(deviceSetKey(fn)).toBe('bus 0000:01');
    const vf = new FakeFunction(host, { address: '0000:01:02.4', physfn: fn });
    vf.resetScope = new FakeScope('bus');
    expect(deviceSetKey(vf)).toBe('function 0000:01:02.4');
  });

  test('are reset at the last close where a member could not be reset alone', async () => {
    const { devs, scope } = await bus(2, { resetMethods: [] });
    const one = await devs[0]!.open();
    const two = await devs[1]!.open();
    await one.close();
    expect(scope.resets, 'another is open').toBe(0);
    expect(devs[0]!.needsReset).toBe(true);
    await two.close();
    expect(scope.resets).toBe(1);
    expect(devs.map((dev) => dev.needsReset)).toEqual([false, false]);
    await (await devs[0]!.open()).close();
    expect(scope.resets).toBe(2);
  });

  test('are left alone where every function was reset alone, or one is not ours', async () => {
    const alone = await bus(2);
    await (await alone.devs[0]!.open()).close();
    expect(alone.scope.resets).toBe(0);
    const foreign = await bus(1, { resetMethods: [] }, 'bus', 1);
    await (await foreign.devs[0]!.open()).close();
    expect(foreign.scope.resets).toBe(0);
    expect(foreign.devs[0]!.needsReset).toBe(true);
  });

  test('take opening and closing in turns', async () => {
    const { devs, fns } = await bus(2);
    let go = () => {};
    fns[0]!.slowReset = new Promise((resolve) => {
      go = resolve;
    });
    let secondOpen = false;
    const first = devs[0]!.open();
    const second = devs[1]!.open().then((handle) => {
      secondOpen = true;
      return handle;
    });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(secondOpen).toBe(false);
    go();
    await (await first).close();
    await (await second).close();
  });
});

describe('hot reset', () => {
  async function openAll(made: Bus): Promise<VfioDevice[]> {
    return Promise.all(made.devs.map((dev) => dev.open()));
  }

  test('info lists every function that it takes with it, by group', async () => {
    const made = await bus(2);
    const [device] = await openAll(made);
    expect(device!.getHotResetInfo()).toEqual({
      flags: 0,
      devices: [
        { id: 7, segment: 0, bus: 1, devfn: 0 },
        { id: 8, segment: 0, bus: 1, devfn: 1 },
      ],
    });
  });

  test('info without a slot or bus is ENODEV, and of a function without a group EPERM', async () => {
    const { device } = await opened();
    expect(errnoOf(() => device.getHotResetInfo())).toBe('ENODEV');
    expect(errnoOf(() => device.hotReset({ flags: 0, owned: ADDRESSES }))).toBe('ENODEV');
    expect(
      errnoOf(() => device.hotReset({ flags: 0, owned: [] })),
      'arguments come first',
    ).toBe('EINVAL');
    const made = await bus(1);
    const alone = new FakeFunction(made.host, { address: '0000:01:00.5', group: null });
    made.scope.members.push(alone);
    expect(errnoOf(() => made.devs[0]!.ops.getHotResetInfo(made.devs[0]!))).toBe('EPERM');
  });

  test('resets all, keeps their state, kills mappings meanwhile and returns migrations to RUNNING', async () => {
    const made = await bus(2, { msixVectors: 4 });
    const [one, two] = await openAll(made);
    await enableMemory(one!);
    await enableMemory(two!);
    const told: number[] = [];
    for (const [i, dev] of made.devs.entries()) dev.resetDone.push(() => void told.push(i));
    const trigger = new CountingTrigger();
    two!.setIrqs({ index: 2, flags: 0x24, start: 0, count: 1, triggers: [trigger] });
    const { memory } = two!.mmapArea(0, 0, 4096);
    let during = -1;
    made.fns[1]!.config.onWrite = () => {
      during = Math.max(during, memory.bytes.length);
    };
    await one!.hotReset({ flags: 0, owned: ADDRESSES });
    expect(made.scope.resets).toBe(1);
    expect(during).toBe(0);
    expect(memory.bytes.length).toBe(4096);
    expect(told.sort()).toEqual([0, 1]);
    expect(made.fns.map((fn) => fn.config.read(PCI_COMMAND, 2) & 7)).toEqual([7, 7]);
    made.fns[1]!.interrupts.fire(0);
    expect(trigger.signals).toBe(1);
  });

  test.each([
    ['flags', { flags: 1, owned: ADDRESSES }, 'EINVAL'],
    ['nothing owned', { flags: 0, owned: [] }, 'EINVAL'],
    ['one not owned', { flags: 0, owned: [ADDRESSES[0]!] }, 'EINVAL'],
    ['more owned than affected', { flags: 0, owned: [...ADDRESSES, '0000:01:00.2'] }, 'EINVAL'],
    ['one unknown', { flags: 0, owned: [ADDRESSES[0]!, '0000:02:00.0'] }, 'EINVAL'],
  ])('with %s is refused', async (_name, request, errno) => {
    const made = await bus(2);
    const [device] = await openAll(made);
    expect(errnoOf(() => device!.hotReset(request))).toBe(errno);
    expect(made.scope.resets).toBe(0);
  });

  test('with a function of another driver under the bus is EINVAL', async () => {
    const made = await bus(1, {}, 'bus', 1);
    const [device] = await openAll(made);
    expect(errnoOf(() => device!.hotReset({ flags: 0, owned: ADDRESSES }))).toBe('EINVAL');
  });

  test('is EBUSY, never waiting, while the memory of a member is held', async () => {
    const made = await bus(2);
    const [one, two] = await openAll(made);
    let go = () => {};
    made.fns[1]!.slowReset = new Promise((resolve) => {
      go = resolve;
    });
    const reset = two!.reset();
    expect(errnoOf(() => one!.hotReset({ flags: 0, owned: ADDRESSES }))).toBe('EBUSY');
    expect(made.scope.resets).toBe(0);
    go();
    await reset;
    expect(errnoOf(() => one!.hotReset({ flags: 0, owned: ADDRESSES }))).toBe('none');
  });

  test('that fails gives memory and state back', async () => {
    const made = await bus(2);
    const [one, two] = await openAll(made);
    await enableMemory(two!);
    made.scope.tryReset = () => {
      throw made.devs[0]!.error('EAGAIN', 'reset', 'contended');
    };
    expect(await errnoOfAsync(() => one!.hotReset({ flags: 0, owned: ADDRESSES }))).toBe('EAGAIN');
    expect(two!.read(0, 0, new Uint8Array(4))).toBe(4);
    expect(made.devs.map((dev) => dev.memoryLocks)).toEqual([0, 0]);
  });

  test('wakes members that sleep because nobody has them open', async () => {
    const made = await bus(2, { pm: true });
    const device = await made.devs[0]!.open();
    expect(made.fns[1]!.power).toEqual([3]);
    await device.hotReset({ flags: 0, owned: ADDRESSES });
    expect(made.fns[1]!.power).toEqual([3, 0, 3]);
    await device.close();
  });

  test('brings a member that its user put into D3hot to D0 first', async () => {
    const made = await bus(2, { pm: true });
    const [one, two] = await openAll(made);
    await two!.write(7, PM_AT + 4, Uint8Array.of(3));
    await one!.hotReset({ flags: 0, owned: ADDRESSES });
    expect(made.fns[1]!.power.at(-1)).toBe(0);
    await enableMemory(two!);
    expect(two!.read(0, 0, new Uint8Array(4))).toBe(4);
  });

  test('revokes the DMA buffers of every member meanwhile', async () => {
    const made = await bus(2);
    const devices = await openAll(made);
    const revoked: string[] = [];
    for (const [i, fn] of made.fns.entries()) {
      await enableMemory(devices[i]!);
      fn.exportDmaBuf = () => ({ fd: 3, setRevoked: (value) => revoked.push(`${i} ${value} ${made.scope.resets}`) });
      const value = { region: 0, openFlags: 0, ranges: [{ offset: 0, length: 4096 }] };
      devices[i]!.deviceFeature({ flags: VFIO_DEVICE_FEATURE_DMA_BUF | VFIO_DEVICE_FEATURE_GET, value });
    }
    revoked.length = 0;
    await devices[0]!.hotReset({ flags: 0, owned: ADDRESSES });
    expect(revoked).toEqual(['0 true 0', '1 true 0', '0 false 1', '1 false 1']);
  });

  test('that takes time holds the set: an opening waits', async () => {
    const made = await bus(2);
    const one = await made.devs[0]!.open();
    let go = () => {};
    made.scope.slow = new Promise((resolve) => {
      go = resolve;
    });
    const reset = one.hotReset({ flags: 0, owned: ADDRESSES });
    let open = false;
    const two = made.devs[1]!.open().then((handle) => {
      open = true;
      return handle;
    });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(open).toBe(false);
    go();
    await reset;
    await (await two).close();
    await one.close();
  });
});
