import { deviceOf, PciBus } from '@vfio/core';
import { Edu, EmulatedPciHost } from '@vfio/emulated';
import { describe, expect, test } from 'vitest';
import { type VfioPciOptions, vfioPciDriver } from '../src/index.js';

const EDU = '0000:00:04.0';

/** A bus with one edu and the generic driver. */
async function bench(options: VfioPciOptions = {}) {
  const host = new EmulatedPciHost();
  const fn = host.add({ address: EDU, model: (ctx) => new Edu(ctx) });
  const bus = new PciBus(host);
  const driver = vfioPciDriver(options);
  await driver.load(bus);
  return { host, fn, bus, driver };
}

describe('the generic driver', () => {
  test('takes nothing by itself: its table is override_only', async () => {
    const { bus, fn } = await bench();
    expect(bus.driverOf(fn)).toBeUndefined();
    expect(bus.match('vfio-pci', fn)).toBeUndefined();
  });

  test('takes a function that is asked for by driver_override, and opens as vfio-pci', async () => {
    const { bus, fn, driver } = await bench();
    await bus.bindOverride(fn, 'vfio-pci');
    expect(bus.driverOf(fn)).toBe(driver);
    const device = await deviceOf(bus, fn).open();
    expect(device.name).toBe('vfio-pci');
    const bytes = new Uint8Array(4);
    expect(device.read(0, 0, bytes)).toBe(4);
    expect([...bytes]).toEqual([0xed, 0x00, 0x00, 0x01]);
    await device.close();
    await bus.unbind(fn);
    expect(bus.driverOf(fn)).toBeUndefined();
  });

  test('takes what ids= names without an override, and warns of a bad item', async () => {
    const warnings: string[] = [];
    const { bus, fn, driver } = await bench({
      ids: '1234:11e8,nonsense',
      warn: (message) => void warnings.push(message),
    });
    expect(bus.driverOf(fn)).toBe(driver);
    expect(warnings).toEqual([expect.stringContaining('nonsense')]);
  });

  test('refuses an ids= of more than 1023 characters', () => {
    expect(() => vfioPciDriver({ ids: '1'.repeat(1024) })).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
  });

  test('makes VFs only while enableSriov is on, read each time, and captures them with its own name', async () => {
    const host = new EmulatedPciHost();
    host.addRootPort({ address: '0000:00:01.0', secondaryBus: 1 });
    const pf = host.add({
      address: '0000:01:00.0',
      model: (ctx) => {
        ctx.identity({ vendor: 0x8086, device: 0x10c9, class: 0x020000 });
        ctx.express();
        ctx.sriov({ totalVfs: 2, device: 0x10ca, model: () => ({}) });
        return {};
      },
    });
    const bus = new PciBus(host);
    const driver = vfioPciDriver();
    await driver.load(bus);
    await bus.bindOverride(pf, 'vfio-pci');
    await expect(bus.sriovConfigure(pf, 2)).rejects.toMatchObject({ errno: 'ENOENT' });
    driver.params.enableSriov = true;
    await expect(bus.sriovConfigure(pf, 2)).resolves.toBe(2);
    await bus.settled();
    const vfs = bus.functions().filter((fn) => fn.physfn === pf);
    expect(vfs.map((vf) => [bus.driverOverride(vf), bus.driverOf(vf)])).toEqual([
      ['vfio-pci', driver],
      ['vfio-pci', driver],
    ]);
    await expect(deviceOf(bus, vfs[0]!).open()).rejects.toMatchObject({ errno: 'EACCES' });
  });

  test('refuses a device on the denylist, unless told otherwise', async () => {
    for (const disableDenylist of [false, true]) {
      const host = new EmulatedPciHost();
      const fn = host.add({
        address: EDU,
        model: (ctx) => ctx.identity({ vendor: 0x8086, device: 0x37c8, class: 0x0b4000 }) ?? {},
      });
      const bus = new PciBus(host);
      await vfioPciDriver({ disableDenylist }).load(bus);
      const bound = bus.bindOverride(fn, 'vfio-pci');
      if (disableDenylist) await expect(bound).resolves.toMatchObject({ name: 'vfio-pci' });
      else await expect(bound).rejects.toMatchObject({ errno: 'EINVAL', message: expect.stringContaining('denylist') });
    }
  });

  test('latches nointxmask for each device when it is probed', async () => {
    const { bus, fn, driver } = await bench();
    await bus.bindOverride(fn, 'vfio-pci');
    driver.params.nointxmask = true;
    expect(deviceOf(bus, fn).params.nointxmask).toBe(false);
    await bus.unbind(fn);
    await bus.bindOverride(fn, 'vfio-pci');
    expect(deviceOf(bus, fn).params.nointxmask).toBe(true);
  });
});
