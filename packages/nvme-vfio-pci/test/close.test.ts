import { callbackTrigger } from '@vfio/core';
import { type BlockStore, SparseMemoryStore } from '@vfio/emulated';
import {
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_MSIX_IRQ_INDEX,
} from '@vfio/uapi';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { nvmeVfioPciDriver } from '../src/index.js';
import { BLOCK, Guest } from './helpers/guest.js';
import { bind, bindOver, drive, generic, registers } from './helpers/setup.js';

const WRITE = { kind: 'write', lba: 3, blocks: 2, fill: 0xa5, fua: false } as const;

/** Byte of each block of {@link WRITE} that the media has. */
function onMedia(store: BlockStore): number[] {
  const bytes = new Uint8Array(WRITE.blocks * BLOCK);
  store.read(WRITE.lba * BLOCK, bytes);
  return [bytes[0]!, bytes[BLOCK]!];
}

/** A store whose flush ends when the test says so. */
class SlowStore extends SparseMemoryStore {
  readonly waiting: (() => void)[] = [];

  override flush(): Promise<void> {
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  release(): void {
    for (const resolve of this.waiting.splice(0)) resolve();
  }
}

describe.each(['hardware', 'a VFIO device'] as const)('over %s', (base) => {
  test('what a guest wrote and did not flush is on the media after close, and power may go', async () => {
    const { device, fn, store, controller, warnings } = await drive('variant', { base });
    const opened = await device.open();
    const guest = new Guest(opened);
    await guest.start();
    await guest.run(WRITE);
    expect(onMedia(store)).toEqual([0, 0]);
    await opened.close();
    fn.powerCycle();
    expect(onMedia(store)).toEqual([0xa5, 0xa5]);
    expect([controller.abruptResets, controller.health.unsafeShutdowns, warnings]).toEqual([0, 0, []]);
  });

  test('the same with the generic driver is lost, and the drive counts an unsafe shutdown', async () => {
    const { device, fn, store, controller } = await drive('generic', { base });
    const opened = await device.open();
    const guest = new Guest(opened);
    await guest.start();
    await guest.run(WRITE);
    await opened.close();
    fn.powerCycle();
    expect(onMedia(store)).toEqual([0, 0]);
    expect([controller.abruptResets, controller.health.unsafeShutdowns]).toEqual([1, 1]);
  });

  test.each<[string, (guest: Guest) => Promise<void>]>([
    ['disabled the controller with data in its cache', (guest) => guest.write32(0x14, guest.read32(0x14) & ~1)],
    ['reset the function', async (guest) => guest.device.reset()],
    ['turned memory decode off', (guest) => guest.command(0)],
    [
      'put the function to D3',
      async (guest) => void (await guest.device.write(7, pmControl(guest), Uint8Array.of(3, 0))),
    ],
    [
      'put the function to D3, decode off',
      async (guest) => {
        await guest.command(0);
        await guest.device.write(7, pmControl(guest), Uint8Array.of(3, 0));
      },
    ],
    [
      'wrote nonsense over BAR 0',
      async (guest) => void (await guest.device.write(7, 0x10, new Uint8Array(8).fill(0xff))),
    ],
    ['rang a doorbell that is not there', (guest) => guest.write32(0x1ff8, 1)],
    [
      'enabled it with queues of no size',
      async (guest) => {
        await guest.write32(0x14, guest.read32(0x14) & ~1);
        await guest.until(() => (guest.read32(0x1c) & 1) === 0);
        await guest.write32(0x24, 0);
        await guest.write32(0x14, 0x00460001);
        await guest.until(() => (guest.read32(0x1c) & 2) !== 0);
      },
    ],
    [
      'shut the controller down and went on to disable it',
      async (guest) => {
        await guest.shutDown();
        await guest.write32(0x14, guest.read32(0x14) & ~1);
      },
    ],
  ])('nothing is lost of a guest that %s', async (_what, leave) => {
    const { device, fn, store, warnings } = await drive('variant', { base });
    const opened = await device.open();
    const guest = new Guest(opened);
    await guest.start();
    await guest.run(WRITE);
    await leave(guest);
    await opened.close();
    fn.powerCycle();
    expect([onMedia(store), warnings]).toEqual([[0xa5, 0xa5], []]);
  });

  test('nothing is lost of a guest that is gone while a flush is under way', async () => {
    const store = new SlowStore();
    const { device, fn, warnings } = await drive('variant', { base, store });
    const opened = await device.open();
    const guest = new Guest(opened);
    await guest.start();
    await guest.run(WRITE);
    await guest.submit({ kind: 'flush' });
    await guest.until(() => store.waiting.length > 0);
    await guest.submit({ kind: 'write', lba: 40, blocks: 1, fill: 1, fua: false });
    const closed = opened.close();
    // The flush ends when its completion has nowhere to go, which this controller takes for fatal.
    const ticking = setInterval(() => store.release(), 1);
    await closed;
    clearInterval(ticking);
    fn.powerCycle();
    expect([onMedia(store), warnings]).toEqual([[0xa5, 0xa5], []]);
  });

  test('no memory of the user is written and no interrupt is sent once close has begun', async () => {
    const store = new SlowStore();
    const { device } = await drive('variant', { base, store });
    const opened = await device.open();
    const guest = new Guest(opened);
    await guest.start();
    let signals = 0;
    opened.setIrqs({
      flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
      index: VFIO_PCI_MSIX_IRQ_INDEX,
      start: 0,
      count: 2,
      triggers: [callbackTrigger(() => void signals++), callbackTrigger(() => void signals++)],
    });
    await guest.run(WRITE);
    await guest.submit({ kind: 'flush' });
    await guest.until(() => store.waiting.length > 0);
    const memory = guest.memory.slice();
    const before = signals;
    const closed = opened.close();
    const ticking = setInterval(() => store.release(), 1);
    await closed;
    clearInterval(ticking);
    expect([signals, guest.hasCompletion]).toEqual([before, false]);
    expect(guest.memory).toEqual(memory);
  });
});

/** PMCSR, found as a guest finds it. */
function pmControl(guest: Guest): number {
  const bytes = new Uint8Array(256);
  guest.device.read(7, 0, bytes);
  for (let at = bytes[0x34]!; at !== 0; at = bytes[at + 1]!) if (bytes[at] === 1) return at + 4;
  throw new Error('no PM capability');
}

describe('the order of a shutdown', () => {
  test('an enabled controller is notified, once, and stays enabled until it has answered', async () => {
    const { device, model, warnings } = await registers();
    const opened = await device.open();
    model.leaveEnabled();
    model.written.length = 0;
    await opened.close();
    expect(model.written).toEqual([0x00464001]);
    expect([model.csts, model.violations, warnings]).toEqual([0x9, [], []]);
  });

  test('bus mastering goes first, then the notification', async () => {
    const { device, fn, model } = await registers();
    const opened = await device.open();
    await opened.write(7, 4, Uint8Array.of(0x06, 0x00));
    model.leaveEnabled();
    const seen: number[] = [];
    const { write } = model;
    model.write = (offset, width, value) => {
      if (offset === 0x14) seen.push(fn.config.read(4, 2) & 0x406);
      write.call(model, offset, width, value);
    };
    await opened.close();
    expect(seen).toEqual([0x402]);
  });

  test('a disabled controller is enabled with queues that nobody rings, smallest pages and its own command set', async () => {
    const { device, model } = await registers();
    const opened = await device.open();
    model.cap = [1 << 24, (0x80 << 5) | (2 << 16)];
    model.written.length = 0;
    await opened.close();
    // MPS is CAP.MPSMIN; without the NVM command set, admin commands only (CSS 111b).
    expect(model.written).toEqual([0x00460171, 0x00464171]);
    expect(model.violations).toEqual([]);
  });

  test.each([
    ['shut down', 0x9],
    ['in its shutdown', 0x5],
  ])('a controller that its user left %s is not notified again', async (_state, csts) => {
    const { device, model, warnings } = await registers();
    const opened = await device.open();
    Object.assign(model, { cc: 0x00464001, csts });
    model.written.length = 0;
    if (csts === 0x5) setTimeout(() => (model.csts = 0x9), 20);
    await opened.close();
    expect([model.written, warnings]).toEqual([[], []]);
  });

  test('a controller that was just enabled is notified when it is ready', async () => {
    const { device, model } = await registers();
    const opened = await device.open();
    Object.assign(model, { cc: 0x00460001, csts: 0 });
    setTimeout(() => (model.csts = 1), 20);
    await opened.close();
    expect([model.csts, model.violations]).toEqual([0x9, []]);
  });

  test.each(['hardware', 'a VFIO device'] as const)(
    'over %s a function in low power is woken once for it all',
    async (base) => {
      const { host, fn, model } = await registers();
      const driver = nvmeVfioPciDriver();
      const device = await (base === 'hardware'
        ? bind(host, fn, driver)
        : bindOver(await bind(host, fn, generic), driver));
      const opened = await device.open();
      model.leaveEnabled();
      await opened.deviceFeature({ flags: VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | VFIO_DEVICE_FEATURE_SET });
      expect(fn.powerState).toBe(3);
      model.written.length = 0;
      model.powerStates.length = 0;
      model.delayMs = 20;
      await opened.close();
      expect([model.written, model.csts, model.violations]).toEqual([[0x00464001], 0x9, []]);
      // Asleep again at the end, when nobody uses it.
      expect(model.powerStates).toEqual([0, 3]);
    },
  );

  test('one whose shutdown fails once is reset, and notified again', async () => {
    const { device, model, warnings } = await registers();
    const opened = await device.open();
    model.leaveEnabled();
    model.ailment = { shutdownsThatFail: 1 };
    await opened.close();
    expect([model.csts, model.violations, warnings]).toEqual([0x9, [], []]);
  });
});

describe('a broken controller is closed all the same, with a warning', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] }));
  afterEach(() => void vi.useRealTimers());

  test.each([
    ['whose shutdown hangs', { shutdownHangs: true }, /end its shutdown within 1500 ms/],
    ['whose shutdown always fails', { shutdownsThatFail: 9 }, /fatal state/],
    ['that stays in fatal state', { shutdownsThatFail: 9, fatalForGood: true }, /fatal state/],
    ['that is gone', { gone: true }, /all ones/],
  ])('%s', async (_what, ailment, message) => {
    const { device, fn, model, warnings } = await registers({ shutdownTimeoutMs: 1500 });
    const opened = await device.open();
    model.leaveEnabled();
    model.ailment = ailment;
    const closed = opened.close();
    await vi.advanceTimersByTimeAsync(5000);
    await closed;
    expect(warnings).toEqual([expect.stringMatching(message)]);
    expect(warnings[0]).toContain('no orderly shutdown');
    expect(device.openCount).toBe(0);
    expect(fn.config.read(4, 2) & 0x6).toBe(0);
    expect(vi.getTimerCount()).toBe(0);
  });

  test('without an option of its own the bus is told', async () => {
    const { PciBus, OpsRegistry, deviceOf } = await import('@vfio/core');
    const { driver } = await import('../src/index.js');
    const { host, fn, model } = await registers();
    const told: unknown[] = [];
    const bus = new PciBus(host, { ops: new OpsRegistry(), warn: (warning) => void told.push(warning) });
    await bus.register(driver);
    await bus.bindOverride(fn, driver.name);
    const opened = await deviceOf(bus, fn).open();
    model.ailment = { gone: true };
    await opened.close();
    expect(told).toEqual([{ device: fn.address, message: expect.stringContaining('no orderly shutdown') }]);
  });
});
