import { callbackTrigger, corePciOps, deviceOf, PciBus } from '@vfio/core';
import { Edu, type EmulatedFunction, EmulatedPciHost } from '@vfio/emulated';
import { VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_ERR_IRQ_INDEX } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { type VfioPciOptions, vfioPciDriver, vfioPciOps } from '../src/index.js';

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

/** A PF that can have two VFs, bound to the generic driver. */
async function withVfs(options: VfioPciOptions = {}) {
  const host = new EmulatedPciHost();
  host.addRootPort({ address: '0000:00:01.0', secondaryBus: 1 });
  const pf = host.add({
    address: '0000:01:00.0',
    model: (ctx) => {
      ctx.identity({ vendor: 0x8086, device: 0x10c9, class: 0x020000 });
      ctx.express({ flr: true });
      ctx.sriov({ totalVfs: 2, device: 0x10ca, model: () => ({}) });
      return {};
    },
  });
  const bus = new PciBus(host);
  const driver = vfioPciDriver(options);
  await driver.load(bus);
  await bus.bindOverride(pf, 'vfio-pci');
  return { bus, pf, driver };
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

  test('changes nothing of its base: its table is the base’s under its own name', () => {
    expect(vfioPciOps(corePciOps)).toEqual({ ...corePciOps, name: 'vfio-pci' });
  });

  test('makes VFs only while enableSriov is on, read each time, and captures them with its own name', async () => {
    const { bus, pf, driver } = await withVfs();
    await expect(bus.sriovConfigure(pf, 2)).rejects.toMatchObject({ errno: 'ENOENT' });
    driver.params.set('enableSriov', true);
    await expect(bus.sriovConfigure(pf, 2)).resolves.toBe(2);
    await bus.settled();
    const vfs = bus.functions().filter((fn) => fn.physfn === pf);
    expect(vfs.map((vf) => [bus.driverOverride(vf), bus.driverOf(vf)])).toEqual([
      ['vfio-pci', driver],
      ['vfio-pci', driver],
    ]);
    await expect(deviceOf(bus, vfs[0]!).open()).rejects.toMatchObject({ errno: 'EACCES' });
  });

  test('takes VFs away when it lets go of their PF', async () => {
    const { bus, pf } = await withVfs({ enableSriov: true });
    await bus.sriovConfigure(pf, 2);
    await bus.settled();
    expect(bus.functions().filter((fn) => fn.physfn === pf)).toHaveLength(2);
    await bus.unbind(pf);
    expect(bus.functions().filter((fn) => fn.physfn === pf)).toEqual([]);
  });

  test('VFs outlive the user of their PF, and its resets', async () => {
    const { bus, pf } = await withVfs({ enableSriov: true });
    const device = await deviceOf(bus, pf).open();
    await bus.sriovConfigure(pf, 2);
    await bus.settled();
    const [vf] = bus.functions().filter((fn) => fn.physfn === pf) as EmulatedFunction[];
    await device.reset();
    expect(vf?.config.present).toBe(true);
    await device.close();
    expect(vf?.config.present).toBe(true);
  });

  test('a PF keeps out of its VFs’ way: enabled VFs stay when enableSriov is taken back, and 0 needs it', async () => {
    const { bus, pf, driver } = await withVfs({ enableSriov: true });
    await bus.sriovConfigure(pf, 1);
    await bus.settled();
    driver.params.set('enableSriov', false);
    await expect(bus.sriovConfigure(pf, 0)).rejects.toMatchObject({ errno: 'ENOENT' });
    expect(bus.functions().filter((fn) => fn.physfn === pf)).toHaveLength(1);
    driver.params.set('enableSriov', true);
    await expect(bus.sriovConfigure(pf, 0)).resolves.toBe(0);
  });

  test('tells the user of an uncorrectable error through ERR', async () => {
    const { bus, fn } = await bench();
    await bus.bindOverride(fn, 'vfio-pci');
    const device = await deviceOf(bus, fn).open();
    let signals = 0;
    device.setIrqs({
      flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
      index: VFIO_PCI_ERR_IRQ_INDEX,
      start: 0,
      count: 1,
      triggers: [callbackTrigger(() => void signals++)],
    });
    fn.notifyError('error-detected');
    expect(signals).toBe(1);
    await device.close();
    fn.notifyError('error-detected');
    expect(signals).toBe(1);
  });
});
