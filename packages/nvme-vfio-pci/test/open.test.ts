import type { VfioDevice, VfioDeviceProvider } from '@vfio/core';
import { PCI_COMMAND, VFIO_PCI_CONFIG_REGION_INDEX } from '@vfio/uapi';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { nvmeVfioPciDriver } from '../src/index.js';
import { Guest } from './helpers/guest.js';
import type { Ailment, RegisterModel } from './helpers/register-model.js';
import { bind, bindOver, drive, generic, registers } from './helpers/setup.js';

const MEMORY = 0x2;
const MASTER = 0x4;

function command(device: VfioDevice): number {
  const bytes = new Uint8Array(2);
  device.read(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, bytes);
  return bytes[0]! | (bytes[1]! << 8);
}

describe('a user finds the controller disabled', () => {
  test.each<[string, (model: RegisterModel) => void]>([
    ['disabled', () => {}],
    ['enabled and ready', (model) => model.leaveEnabled()],
    ['in the middle of a shutdown', (model) => Object.assign(model, { cc: 0x00464001, csts: 0x5 })],
    ['shut down', (model) => Object.assign(model, { cc: 0x00464001, csts: 0x9 })],
    ['in fatal state that a reset ends', (model) => Object.assign(model, { cc: 0x00460001, csts: 0x3 })],
    ['fatal before it was ready', (model) => Object.assign(model, { cc: 0x00460001, csts: 0x2 })],
    ['with a shutdown asked for while disabled', (model) => Object.assign(model, { cc: 0x00464000, csts: 0 })],
  ])('that was left %s', async (_state, leave) => {
    const { device, model } = await registers();
    leave(model);
    const opened = await device.open();
    expect([model.cc & 0xc001, model.csts]).toEqual([0, 0]);
    expect(model.violations).toEqual([]);
    await opened.close();
  });

  test('that was just enabled: EN is not cleared before it has become ready', async () => {
    const { device, model } = await registers();
    Object.assign(model, { cc: 0x00460001, csts: 0 });
    setTimeout(() => (model.csts = 1), 20);
    const opened = await device.open();
    expect([model.cc & 1, model.csts, model.violations]).toEqual([0, 0, []]);
    await opened.close();
  });

  test('that takes its time, up to its own time-out', async () => {
    const { device, model } = await registers();
    model.leaveEnabled();
    model.delayMs = 50;
    const opened = await device.open();
    expect(model.csts).toBe(0);
    model.delayMs = 0;
    await opened.close();
  });

  test('and COMMAND as the base gives it, bus mastering off', async () => {
    const { device } = await registers();
    const plain = await (await registersBelow(generic)).open();
    const opened = await device.open();
    expect(command(opened)).toBe(command(plain) & ~MASTER);
    await opened.close();
    await plain.close();
  });

  test('over a VFIO device whose memory decode is off and that is in D3', async () => {
    const { host, fn, model } = await registers();
    const below = await bind(host, fn, generic);
    const asleep: VfioDeviceProvider = {
      function: below.function,
      name: below.name,
      async open(options) {
        const opened = await below.open(options);
        const caps = new Uint8Array(1);
        opened.read(VFIO_PCI_CONFIG_REGION_INDEX, 0x34, caps);
        await opened.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, Uint8Array.of(0, 0));
        await opened.write(VFIO_PCI_CONFIG_REGION_INDEX, caps[0]! + 4, Uint8Array.of(3, 0));
        return opened;
      },
    };
    model.leaveEnabled();
    const opened = await (await bindOver(asleep, nvmeVfioPciDriver())).open();
    expect([model.cc & 1, model.csts, fn.powerState]).toEqual([0, 0, 0]);
    expect(command(opened) & (MEMORY | MASTER)).toBe(0);
    await opened.close();
  });

  test.each(['hardware', 'a VFIO device'] as const)('over %s, time after time, and can use it', async (base) => {
    const { device, warnings } = await drive('variant', { base });
    for (let round = 0; round < 3; round++) {
      const opened = await device.open();
      const guest = new Guest(opened);
      expect(guest.read32(0x14) & 1).toBe(0);
      await guest.start();
      await guest.run({ kind: 'write', lba: round, blocks: 1, fill: round + 1, fua: false });
      await opened.close();
    }
    expect(warnings).toEqual([]);
  });
});

async function registersBelow(driver: typeof generic) {
  const { host, fn } = await registers();
  return bind(host, fn, driver);
}

describe('a controller that will not be disabled fails the open with EIO', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] }));
  afterEach(() => void vi.useRealTimers());

  test.each<[string, Ailment, (model: RegisterModel) => void, RegExp]>([
    ['stays ready', { neverDisabled: true }, (model) => model.leaveEnabled(), /disabled within 500 ms .*CSTS 0x1\b/],
    [
      'stays in fatal state',
      { fatalForGood: true },
      (model) => model.leaveEnabled(),
      /disabled.*fatal state, CSTS 0x2/,
    ],
    ['reads as all ones', { gone: true }, () => {}, /all ones/],
  ])('that %s; what was opened is closed again', async (_what, ailment, leave, message) => {
    const { device, fn, model } = await registers();
    leave(model);
    model.ailment = ailment;
    const attached = vi.spyOn(fn, 'attachDma');
    const failed = device.open().then(
      () => undefined,
      (error: unknown) => error,
    );
    await vi.advanceTimersByTimeAsync(3000);
    expect(await failed).toMatchObject({ errno: 'EIO', device: fn.address, message: expect.stringMatching(message) });
    expect(device.openCount).toBe(0);
    expect(attached.mock.lastCall).toEqual([undefined]);
    expect(fn.config.read(PCI_COMMAND, 2) & (MEMORY | MASTER)).toBe(0);
    expect(vi.getTimerCount()).toBe(0);

    model.ailment = {};
    model.csts = 0;
    const opened = device.open();
    await vi.advanceTimersByTimeAsync(3000);
    const closed = (await opened).close();
    await vi.advanceTimersByTimeAsync(3000);
    await closed;
  });

  test('one that never becomes ready is told to become disabled when its time is up', async () => {
    const { device, model } = await registers();
    Object.assign(model, { cc: 0x00460001, csts: 0 });
    const opened = device.open();
    await vi.advanceTimersByTimeAsync(400);
    expect(model.cc & 1).toBe(1);
    await vi.advanceTimersByTimeAsync(400);
    await opened;
    expect([model.cc & 1, model.csts]).toEqual([0, 0]);
  });

  test('the time-out is the controller’s own, CAP.TO in units of 500 ms', async () => {
    const { device, model } = await registers();
    model.cap = [4 << 24, 1 << 5];
    model.leaveEnabled();
    model.ailment = { neverDisabled: true };
    let error: unknown;
    device.open().catch((reason: unknown) => (error = reason));
    await vi.advanceTimersByTimeAsync(1900);
    expect(error).toBeUndefined();
    await vi.advanceTimersByTimeAsync(200);
    expect(error).toMatchObject({ errno: 'EIO', message: expect.stringContaining('2000 ms') });
  });
});
