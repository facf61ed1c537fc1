import { isVfioError, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE } from '@vfio/uapi';
import { describe, expect, test, vi } from 'vitest';
import {
  type DeviceExtension,
  defineVfioDriver,
  deviceOf,
  OpsRegistry,
  PciBus,
  type PciDriver,
  toClient,
  type VfioOpsFactory,
  vfioPciCoreAllocDevice,
  vfioPciCoreErrHandlers,
  vfioPciCoreProbe,
  vfioPciCoreRegisterDevice,
  vfioPciCoreRemove,
  vfioPciCoreUnregisterDevice,
} from '../../src/index.js';
import { FakeFunction, type FakeFunctionOptions, FakeHost, ioBar, memoryBar, PM_AT } from './fake-function.js';
import { CountingTrigger, enableMemory, errnoOf, errnoOfAsync, opened, plainOps, rig } from './helpers.js';

const ANY = 0xffffffff;

/** A whole VFIO driver, as short as one can be. */
function driver(ops: VfioOpsFactory | string = plainOps): PciDriver {
  return defineVfioDriver({
    name: 'fake_vfio_pci',
    idTable: [
      {
        vendor: ANY,
        device: ANY,
        subvendor: ANY,
        subdevice: ANY,
        class: 0,
        classMask: 0,
        overrideOnly: 1,
        driverData: 0,
      },
    ],
    probe: async (fn, _id, bus) => void (await vfioPciCoreProbe(bus, fn, { ops })),
    remove: (fn, bus) => vfioPciCoreRemove(bus, fn, { requestIntervalMs: 5 }),
    errorHandlers: vfioPciCoreErrHandlers,
  });
}

async function onBus(
  options: FakeFunctionOptions = {},
  ops: VfioOpsFactory | string = plainOps,
  registry = new OpsRegistry(),
) {
  const host = new FakeHost();
  const fn = new FakeFunction(host, options);
  host.list.push(fn);
  const bus = new PciBus(host, { ops: registry });
  const pciDriver = driver(ops);
  await bus.register(pciDriver);
  return { host, fn, bus, pciDriver, registry };
}

describe('probe and remove on a bus', () => {
  test('make the device the driver data, and let go of it', async () => {
    const { bus, fn } = await onBus();
    bus.setDriverOverride(fn, 'fake_vfio_pci');
    await bus.probe(fn);
    const dev = deviceOf(bus, fn);
    expect(dev.registered).toBe(true);
    const device = await dev.open();
    expect(device.name).toBe('plain');
    expect(device.function).toBe(fn);
    await device.close();
    await bus.unbind(fn);
    expect(dev.registered).toBe(false);
    expect(errnoOf(() => deviceOf(bus, fn))).toBe('ENODEV');
    expect(await errnoOfAsync(() => dev.open())).toBe('ENODEV');
  });

  test('take the table from the registry of the bus by its ops name', async () => {
    const registry = new OpsRegistry();
    registry.register((core) => ({ ...core, name: 'by-name' }));
    const { bus, fn } = await onBus({}, 'by-name', registry);
    bus.setDriverOverride(fn, 'fake_vfio_pci');
    await bus.bind(fn, 'fake_vfio_pci');
    expect(deviceOf(bus, fn).name).toBe('by-name');
    const missing = await onBus({}, 'no-such');
    missing.bus.setDriverOverride(missing.fn, 'fake_vfio_pci');
    expect(await errnoOfAsync(() => missing.bus.bind(missing.fn, 'fake_vfio_pci'))).toBe('ENOENT');
    expect(missing.bus.getDrvdata(missing.fn)).toBeUndefined();
  });

  test('that fail to register leave nothing behind', async () => {
    const release = vi.fn();
    const { bus, fn } = await onBus({ headerType: 1 }, (core) => ({ ...core, name: 'bridge', release }));
    bus.setDriverOverride(fn, 'fake_vfio_pci');
    expect(await errnoOfAsync(() => bus.bind(fn, 'fake_vfio_pci'))).toBe('EINVAL');
    expect(release).toHaveBeenCalledTimes(1);
    expect(bus.getDrvdata(fn)).toBeUndefined();
    expect(bus.isBound(fn)).toBe(false);
  });

  test('wait for the user: remove asks again and again and ends with the last close', async () => {
    const { bus, fn } = await onBus();
    bus.setDriverOverride(fn, 'fake_vfio_pci');
    await bus.probe(fn);
    const dev = deviceOf(bus, fn);
    const one = await dev.open();
    const two = await dev.open();
    const trigger = new CountingTrigger();
    one.setIrqs({ index: 4, flags: 0x24, start: 0, count: 1, triggers: [trigger] });
    let gone = false;
    const unbound = bus.unbind(fn).then(() => {
      gone = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 25));
    expect(trigger.signals).toBeGreaterThan(1);
    expect(await errnoOfAsync(() => dev.open()), 'nobody new').toBe('ENODEV');
    await enableMemory(one);
    expect(one.read(0, 0, new Uint8Array(4)), 'who has it open may go on').toBe(4);
    await one.close();
    expect(gone).toBe(false);
    await two.close();
    await unbound;
  });

  test('wait for the user also where the driver cannot ask', async () => {
    const { dev, warnings } = await rig({}, (core) => ({
      ...core,
      name: 'mute',
      request(made) {
        throw made.error('EIO', 'request', 'the line is dead');
      },
    }));
    const device = await dev.open();
    const gone = vfioPciCoreUnregisterDevice(dev, { requestIntervalMs: 1 });
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(dev.registered).toBe(true);
    await device.close();
    await gone;
    expect(dev.registered).toBe(false);
    expect(warnings.some((warning) => warning.includes('the line is dead'))).toBe(true);
  });

  test('an error reported by hardware reaches the user', async () => {
    const { bus, fn } = await onBus();
    bus.setDriverOverride(fn, 'fake_vfio_pci');
    await bus.probe(fn);
    const device = await deviceOf(bus, fn).open();
    const trigger = new CountingTrigger();
    device.setIrqs({ index: 3, flags: 0x24, start: 0, count: 1, triggers: [trigger] });
    for (const handler of fn.errorHandlers) handler('error-detected');
    expect(trigger.signals).toBe(1);
    await device.close();
  });
});

describe('registration', () => {
  test.each([
    ['a bridge', { headerType: 1 }, 'EINVAL'],
    ['a PF whose VFs are there already', { totalVfs: 4 }, 'EBUSY'],
  ])('of %s is refused', async (_name, options, errno) => {
    const host = new FakeHost();
    const fn = new FakeFunction(host, options);
    if ('totalVfs' in options) {
      fn.sriov = { totalVfs: 4, numVfs: 2, driversAutoprobe: true, enable() {}, disable() {} };
    }
    const dev = vfioPciCoreAllocDevice(fn, plainOps);
    expect(await errnoOfAsync(() => vfioPciCoreRegisterDevice(dev))).toBe(errno);
    expect(dev.deviceSet).toBeUndefined();
    expect(await errnoOfAsync(() => dev.open())).toBe('ENODEV');
  });

  test('of a function that cannot be powered up fails, and leaves nothing behind', async () => {
    const fn = new FakeFunction(new FakeHost(), { pm: true });
    fn.sriov = { totalVfs: 4, numVfs: 0, driversAutoprobe: true, enable() {}, disable() {} };
    fn.config.put(PM_AT + 4, 2, 3, 3);
    const real = fn.setPowerState.bind(fn);
    const dev = vfioPciCoreAllocDevice(fn, plainOps);
    fn.setPowerState = () => {
      throw dev.error('EIO', 'power', 'gone');
    };
    expect(await errnoOfAsync(() => vfioPciCoreRegisterDevice(dev))).toBe('EIO');
    expect([dev.registered, dev.deviceSet, dev.vf.token]).toEqual([false, undefined, undefined]);
    fn.setPowerState = real;
    await vfioPciCoreRegisterDevice(dev);
    expect(dev.registered).toBe(true);
  });

  test('is refused where the driver data of the function is not the device, before anything else is looked at', async () => {
    const { bus, fn } = await onBus({ headerType: 1 });
    const dev = vfioPciCoreAllocDevice(fn, plainOps, { bus });
    const message = await vfioPciCoreRegisterDevice(dev).catch((error: Error) => error.message);
    expect(message).toContain('driver data');
  });

  test('checks in the order of the kernel: name, header type, migration, log, VFs', async () => {
    const messages: string[] = [];
    const host = new FakeHost();
    const fn = new FakeFunction(host, { headerType: 1 });
    fn.sriov = { totalVfs: 4, numVfs: 2, driversAutoprobe: true, enable() {}, disable() {} };
    const dev = vfioPciCoreAllocDevice(fn, (core) => ({ ...core, name: 'x' }));
    const fix = [
      () => Object.assign(dev, { ops: { ...dev.ops, name: 'x' } }),
      () => Object.assign(fn, { headerType: 0 }),
      () => Object.assign(dev, { migrationOps: undefined }),
      () => Object.assign(dev, { logOps: undefined }),
      () => Object.assign(fn, { sriov: undefined }),
    ];
    Object.assign(dev, { ops: { ...dev.ops, name: '' }, migrationOps: {}, logOps: {} });
    for (const repair of fix) {
      messages.push(
        await vfioPciCoreRegisterDevice(dev).then(
          () => 'registered',
          (error: Error) => error.message,
        ),
      );
      repair();
    }
    await vfioPciCoreRegisterDevice(dev);
    expect(messages.map((message) => /name|header|migration|log|VFs/.exec(message)?.[0])).toEqual([
      'name',
      'header',
      'migration',
      'log',
      'VFs',
    ]);
  });

  test('twice is EINVAL; unregistering twice is harmless', async () => {
    const { dev } = await rig();
    expect(await errnoOfAsync(() => vfioPciCoreRegisterDevice(dev))).toBe('EINVAL');
    await vfioPciCoreUnregisterDevice(dev);
    await vfioPciCoreUnregisterDevice(dev);
    expect(dev.registered).toBe(false);
  });
});

describe('power while nobody uses the function', () => {
  test('is D3hot after registration, D0 while open, and D0 after unregistering', async () => {
    const { dev, fn } = await rig({ pm: true });
    expect(fn.power).toEqual([3]);
    const device = await dev.open();
    expect(fn.power.at(-1)).toBe(0);
    await device.close();
    expect(fn.power.at(-1)).toBe(3);
    await vfioPciCoreUnregisterDevice(dev);
    expect(fn.power.at(-1)).toBe(0);
  });

  test('stays D0 with disableIdleD3', async () => {
    const { dev, fn } = await rig({ pm: true }, plainOps, { params: { disableIdleD3: true } });
    const device = await dev.open();
    await device.close();
    await vfioPciCoreUnregisterDevice(dev);
    expect(fn.power).toEqual([]);
  });

  test('a function that forgets in D3hot has its config space back when it is opened', async () => {
    const { dev, fn } = await rig({ pm: true });
    const bar = fn.config.read(0x10, 4);
    fn.config.write(0x10, 4, 0);
    const device = await dev.open();
    expect(fn.config.read(0x10, 4)).toBe(bar);
    await device.close();
  });

  test('that cannot be had back is EIO for the open, and nothing stays open', async () => {
    const { dev, fn } = await rig({ pm: true });
    const real = fn.setPowerState.bind(fn);
    fn.setPowerState = () => {
      throw dev.error('EIO', 'power', 'the slot is dark');
    };
    expect(await errnoOfAsync(() => dev.open())).toBe('EIO');
    expect(dev.openCount).toBe(0);
    fn.setPowerState = real;
    await (await dev.open()).close();
  });
});

describe('first open and last close', () => {
  test.each([
    ['I/O', { 1: ioBar(0x40) }, 0x1],
    ['memory', { 0: memoryBar(0x1000) }, 0x2],
    ['both', { 0: memoryBar(0x1000), 1: ioBar(0x40) }, 0x3],
    ['neither', {}, 0x0],
  ])('switch decoding on for %s as BARs need it, a ROM needs none', async (_name, bars, decode) => {
    const { fn } = await opened({ bars, rom: new Uint8Array(2048) });
    expect(fn.config.read(4, 2) & 0x3).toBe(decode);
  });

  test('clear the DisINTx that somebody left set, where it works', async () => {
    for (const pci23 of [true, false]) {
      const { dev, fn } = await rig({ pci23, resetMethods: [] });
      fn.config.bytes[5] = 0x04;
      await dev.open();
      expect(fn.config.bytes[5]! & 0x04).toBe(pci23 ? 0 : 0x04);
    }
  });

  test('an opening that waits for its turn while the device is taken away is ENODEV', async () => {
    const { dev } = await rig();
    const unlock = await dev.deviceSet!.lock.acquire();
    const opening = errnoOfAsync(() => dev.open());
    const gone = vfioPciCoreUnregisterDevice(dev);
    await new Promise((resolve) => setTimeout(resolve, 1));
    unlock();
    expect(await opening).toBe('ENODEV');
    await gone;
    expect(dev.openCount).toBe(0);
  });

  test('end bus mastering before anything else is taken away', async () => {
    const { device, fn } = await opened();
    await enableMemory(device);
    device.setIrqs({ index: 0, flags: 0x24, start: 0, count: 1, triggers: [new CountingTrigger()] });
    const masters: number[] = [];
    const free = fn.interrupts.freeIntx.bind(fn.interrupts);
    fn.interrupts.freeIntx = () => {
      masters.push(fn.config.read(4, 2) & 0x4);
      free();
    };
    await device.close();
    expect(masters).toEqual([0]);
  });

  test('bring a function that its user left in D3hot to D0 before they reset it', async () => {
    const { device, fn } = await opened({ pm: true });
    await device.write(7, PM_AT + 4, Uint8Array.of(3));
    const states: number[] = [];
    const reset = fn.tryResetFunction.bind(fn);
    fn.tryResetFunction = () => {
      states.push(fn.config.read(PM_AT + 4, 2) & 3);
      return reset();
    };
    await device.close();
    expect(states).toEqual([0]);
  });

  test('reset a function that neither decodes nor interrupts', async () => {
    const { device, fn } = await opened();
    await enableMemory(device);
    const commands: number[] = [];
    const reset = fn.tryResetFunction.bind(fn);
    fn.tryResetFunction = () => {
      commands.push(fn.config.read(PCI_COMMAND, 2));
      return reset();
    };
    await device.close();
    expect(commands).toEqual([PCI_COMMAND_INTX_DISABLE]);
  });

  test('that fail let the function sleep again', async () => {
    const { dev, fn } = await rig({ pm: true });
    fn.resetError = 'EAGAIN';
    expect(await errnoOfAsync(() => dev.open())).toBe('EAGAIN');
    expect(fn.power).toEqual([3, 0, 3]);
  });

  test.each([[['flr'] as const], [[]]])('leave config space as it was found, with resets %j', async (resetMethods) => {
    const { dev, fn } = await rig({ resetMethods });
    fn.config.put(0x0c, 1, 0x08, 0xff);
    fn.config.seal();
    const found = fn.config.bytes.slice();
    const device = await dev.open();
    await device.write(7, 4, Uint8Array.of(0x07, 0x04));
    await device.write(7, 0x0c, Uint8Array.of(0x20));
    await device.close();
    expect(fn.config.bytes).toEqual(found);
  });

  test('run the ops once for several handles, which share the device', async () => {
    const calls: string[] = [];
    const { dev, fn } = await rig({}, (core) => ({
      ...core,
      name: 'counted',
      async openDevice(made) {
        calls.push('open');
        await core.openDevice(made);
      },
      async closeDevice(made) {
        calls.push('close');
        await core.closeDevice(made);
      },
    }));
    const one = await dev.open();
    const two = await dev.open();
    await enableMemory(one);
    one.write(0, 0, Uint8Array.of(5));
    const data = new Uint8Array(1);
    two.read(0, 0, data);
    expect(data[0]).toBe(5);
    await one.close();
    expect(calls).toEqual(['open']);
    two.read(0, 0, data);
    await two.close();
    expect(calls).toEqual(['open', 'close']);
    expect(fn.dma).toBeUndefined();
  });

  test('of several callers at once take turns', async () => {
    const { dev } = await rig();
    const handles = await Promise.all([dev.open(), dev.open(), dev.open()]);
    expect(dev.openCount).toBe(3);
    await Promise.all(handles.map((handle) => handle.close()));
    expect(dev.openCount).toBe(0);
    const [closing, opening] = [dev.open().then((handle) => handle.close()), dev.open()];
    await closing;
    await (await opening).close();
    expect(dev.openCount).toBe(0);
  });

  test('reset the function: what the last user left is gone for the next', async () => {
    const { dev, fn } = await rig();
    const device = await dev.open();
    expect(fn.resets).toBe(1);
    await device.write(7, 0x0c, Uint8Array.of(0x55));
    await device.close();
    expect(fn.resets).toBe(2);
    expect(fn.config.read(0x0c, 1)).toBe(0);
    expect(fn.config.read(PCI_COMMAND, 2) & 0x7, 'nothing decodes or masters').toBe(0);
  });

  test('whose reset meets a contended lock is EAGAIN; one that cannot reset opens without RESET', async () => {
    const { dev, fn } = await rig();
    fn.resetError = 'EAGAIN';
    expect(await errnoOfAsync(() => dev.open())).toBe('EAGAIN');
    expect(dev.openCount).toBe(0);
    expect(dev.config).toBeUndefined();
    fn.resetError = 'ENOTTY';
    const device = await dev.open();
    expect(device.getInfo().flags & 1).toBe(0);
    expect(errnoOf(() => device.reset())).toBe('EINVAL');
    await device.close();
    fn.resetError = undefined;
    const again = await dev.open();
    expect(again.getInfo().flags & 1).toBe(1);
    await again.close();
  });

  test('that fail in the driver leave the device closed and can be tried again', async () => {
    let fail = true;
    const { dev, fn } = await rig({}, (core) => ({
      ...core,
      name: 'failing',
      async openDevice(made) {
        await core.openDevice(made);
        if (!fail) return;
        await core.closeDevice(made);
        throw made.error('ENODEV', 'openDevice', 'firmware says no');
      },
    }));
    expect(await errnoOfAsync(() => dev.open())).toBe('ENODEV');
    expect([dev.openCount, fn.dma]).toEqual([0, undefined]);
    fail = false;
    await (await dev.open()).close();
  });

  test('clear bus mastering before the driver sees the function, and give DMA an address space only while open', async () => {
    const { dev, fn } = await rig();
    fn.config.write(PCI_COMMAND, 2, 0x4);
    fn.config.seal();
    const device = await dev.open();
    const command = new Uint8Array(2);
    device.read(7, PCI_COMMAND, command);
    expect(command[0]! & 0x4).toBe(0);
    expect(fn.dma).toBe(dev.dmaSpace);
    await device.close();
    expect(fn.dma).toBeUndefined();
  });

  test('leave no DMA mapping, trigger or ioeventfd of a user who just went away', async () => {
    const { device, dev } = await opened({ msixVectors: 4 });
    const release = vi.fn();
    const triggers = [new CountingTrigger(), new CountingTrigger(), new CountingTrigger()];
    device.dmaMap({ iova: 0n, size: 4096n, readable: true, writable: true, memory: undefined, release });
    device.setIrqs({ index: 2, flags: 0x24, start: 0, count: 1, triggers: [triggers[0]!] });
    device.setIrqs({ index: 4, flags: 0x24, start: 0, count: 1, triggers: [triggers[1]!] });
    device.ioeventfd({ region: 0, offset: 0, width: 4, data: 1n, trigger: triggers[2]! });
    dev.dmaSpace.remote = { read: async () => {}, write: async () => {} };
    await device.close();
    expect(release).toHaveBeenCalledTimes(1);
    expect(triggers.map((trigger) => trigger.releases)).toEqual([1, 1, 1]);
    expect([dev.dmaSpace.mappings, dev.dmaSpace.remote]).toEqual([0, undefined]);
  });

  test('a close whose driver fails is told and still closes', async () => {
    const { device, dev, warnings } = await opened({}, (core) => ({
      ...core,
      name: 'failing',
      async closeDevice(made) {
        await core.closeDevice(made);
        throw new Error('boom');
      },
    }));
    await device.close();
    expect(dev.openCount).toBe(0);
    expect(warnings.some((warning) => warning.includes('boom'))).toBe(true);
  });

  test('of a PCI function whose BAR cannot be had keep the error for that BAR and say so', async () => {
    const { device, warnings } = await opened({
      bars: { 0: memoryBar(0x1000), 2: memoryBar(0x1000, { error: 'EBUSY' }) },
    });
    await enableMemory(device);
    expect(device.read(0, 0, new Uint8Array(4))).toBe(4);
    expect(warnings.some((warning) => warning.includes('BAR 2'))).toBe(true);
  });
});

describe('handles', () => {
  test('refuse every call after their close with ERR_VFIO_CLOSED and EBADF, and let go of what they were given', async () => {
    const { dev } = await rig();
    const other = await dev.open();
    const device = await dev.open();
    await device.close();
    const trigger = new CountingTrigger();
    const release = vi.fn();
    const calls = [
      () => device.getInfo(),
      () => device.getRegionInfo(0),
      () => device.getIrqInfo(0),
      () => device.getHotResetInfo(),
      () => device.read(0, 0, new Uint8Array(1)),
      () => device.write(0, 0, new Uint8Array(1)),
      () => device.mmapArea(0, 0, 4096),
      () => device.setIrqs({ index: 0, flags: 0x24, start: 0, count: 1, triggers: [trigger] }),
      () => device.ioeventfd({ region: 0, offset: 0, width: 1, data: 0n, trigger }),
      () => device.reset(),
      () => device.hotReset({ flags: 0, owned: [] }),
      () => device.deviceFeature({ flags: 0x20004, value: { trigger } }),
      () => device.dmaMap({ iova: 0n, size: 1n, readable: true, writable: true, memory: undefined, release }),
      () => device.dmaUnmap(0n, 1n),
    ];
    for (const call of calls) {
      expect(errnoOf(call)).toBe('EBADF');
      expect(() => call()).toThrow(expect.objectContaining({ code: 'ERR_VFIO_CLOSED' }));
    }
    expect([trigger.releases, release.mock.calls.length]).toEqual([6, 2]);
    expect(other.getInfo().numRegions).toBe(9);
    await other.close();
  });

  test('can be closed twice, at once or later, and by `await using`', async () => {
    const { dev } = await rig();
    const device = await dev.open();
    const [one, two] = [device.close(), device.close()];
    await Promise.all([one, two]);
    await device.close();
    expect(dev.openCount).toBe(0);
    await (await dev.open())[Symbol.asyncDispose]();
    expect(dev.openCount).toBe(0);
  });

  test('wait with their close for what runs', async () => {
    const { device, dev, fn } = await opened();
    let go = () => {};
    fn.slowReset = new Promise((resolve) => {
      go = resolve;
    });
    const reset = device.reset();
    const closed = device.close();
    expect(dev.openCount).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 1));
    expect(dev.config, 'nothing is taken down yet').toBeDefined();
    fn.slowReset = undefined;
    go();
    await reset;
    await closed;
    expect(dev.openCount).toBe(0);
  });

  test('run ops that take time one after the other, over all of them', async () => {
    const { dev, fn } = await rig();
    const one = await dev.open();
    const two = await dev.open();
    const order: string[] = [];
    let go = () => {};
    fn.slowReset = new Promise((resolve) => {
      go = resolve;
    });
    fn.onReset = () => order.push('reset');
    const first = one.reset();
    const second = two.reset() as Promise<void>;
    const third = Promise.resolve(one.write(7, 0x3c, Uint8Array.of(9))).then(() => order.push('write'));
    fn.slowReset = undefined;
    go();
    await Promise.all([first, second, third]);
    expect(order).toEqual(['reset', 'reset', 'write']);
    await one.close();
    await two.close();
  });

  test('as a client give the same by promise', async () => {
    const { device } = await opened();
    const client = toClient(device);
    await client.write(7, 4, Uint8Array.of(6, 0));
    expect(await client.write(0, 0, Uint8Array.of(1, 2))).toBe(2);
    const data = new Uint8Array(2);
    expect(await client.read(0, 0, data)).toBe(2);
    expect([...data]).toEqual([1, 2]);
    expect(client.name).toBe('plain');
    expect((await client.getInfo()).numIrqs).toBe(5);
    expect((await client.getIrqInfo(0)).count).toBe(1);
    expect((await client.getRegionInfo(0)).size).toBe(0x4000);
    expect((await client.mmapArea(0, 0, 4096)).size).toBe(4096);
    expect(await client.setIrqs({ index: 0, flags: 0x24, start: 0, count: 1, triggers: [null] })).toBe(0);
    await client.reset();
    await client.dmaMap({ iova: 0n, size: 4096n, readable: true, writable: true, memory: undefined });
    await client.dmaUnmap(0n, 4096n);
    for (const failing of [
      () => client.getRegionInfo(99),
      () => client.getHotResetInfo(),
      () => client.hotReset({ flags: 0, owned: [] }),
      () => client.deviceFeature({ flags: 0 }),
      () => client.ioeventfd({ region: 9, offset: 0, width: 1, data: 0n, trigger: null }),
    ]) {
      expect(await errnoOfAsync(failing)).not.toBe('none');
    }
    await client[Symbol.asyncDispose]();
    expect(await errnoOfAsync(() => client.getInfo())).toBe('EBADF');
    await client.close();
  });
});

describe('extensions', () => {
  function extension(name: string, calls: string[], fail?: 'init' | 'open'): DeviceExtension {
    return {
      name,
      appliesTo: (fn) => fn.vendor === 0x1234,
      init() {
        calls.push(`${name} init`);
        if (fail === 'init') throw new Error(`${name} init`);
      },
      async openDevice() {
        calls.push(`${name} open`);
        if (fail === 'open') throw new Error(`${name} open`);
      },
      closeDevice() {
        calls.push(`${name} close`);
      },
    };
  }

  test('add to every device that meets their condition, around the driver', async () => {
    const calls: string[] = [];
    const registry = new OpsRegistry();
    const remove = registry.addExtension(extension('a', calls));
    registry.addExtension(extension('b', calls));
    expect(errnoOf(() => registry.addExtension(extension('a', calls)))).toBe('EEXIST');
    const ops: VfioOpsFactory = (core) => ({
      ...core,
      name: 'ops',
      init: () => void calls.push('ops init'),
      async openDevice(dev) {
        await core.openDevice(dev);
        calls.push('ops open');
      },
      async closeDevice(dev) {
        calls.push('ops close');
        await core.closeDevice(dev);
      },
    });
    const { bus, fn } = await onBus({}, ops, registry);
    bus.setDriverOverride(fn, 'fake_vfio_pci');
    await bus.probe(fn);
    await (await deviceOf(bus, fn).open()).close();
    expect(calls).toEqual([
      'ops init',
      'a init',
      'b init',
      'ops open',
      'a open',
      'b open',
      'b close',
      'a close',
      'ops close',
    ]);
    remove();
    expect(registry.extensionsFor(fn).map(({ name }) => name)).toEqual(['b']);
    const other = await onBus({ vendor: 0x8086 }, ops, registry);
    expect(other.registry.extensionsFor(other.fn)).toEqual([]);
  });

  test('that fail at open undo those before and the driver; that fail in init fail the probe', async () => {
    const calls: string[] = [];
    const registry = new OpsRegistry();
    registry.addExtension(extension('a', calls));
    registry.addExtension(extension('b', calls, 'open'));
    const { bus, fn } = await onBus({}, plainOps, registry);
    bus.setDriverOverride(fn, 'fake_vfio_pci');
    await bus.probe(fn);
    const dev = deviceOf(bus, fn);
    await expect(dev.open()).rejects.toThrow('b open');
    expect(calls).toEqual(['a init', 'b init', 'a open', 'b open', 'a close']);
    expect([dev.openCount, fn.dma]).toEqual([0, undefined]);
    const failing = new OpsRegistry();
    failing.addExtension(extension('c', calls, 'init'));
    const release = vi.fn();
    const second = await onBus({}, (core) => ({ ...core, name: 'x', release }), failing);
    second.bus.setDriverOverride(second.fn, 'fake_vfio_pci');
    await expect(second.bus.bind(second.fn, 'fake_vfio_pci')).rejects.toThrow('c init');
    expect(release).toHaveBeenCalledTimes(1);
  });
});

test('errors name the device and the op', async () => {
  const { device } = await opened();
  try {
    device.getRegionInfo(77);
    expect.unreachable();
  } catch (error) {
    expect(isVfioError(error)).toBe(true);
    expect(error).toMatchObject({ device: '0000:01:00.0', op: 'getRegionInfo', errno: 'EINVAL' });
  }
  try {
    device.setIrqs({ index: 9, flags: 0, start: 0, count: 0 });
    expect.unreachable();
  } catch (error) {
    expect(error).toMatchObject({ device: '0000:01:00.0', errno: 'EINVAL' });
  }
});
