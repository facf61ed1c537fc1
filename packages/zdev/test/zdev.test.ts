/** What a zPCI function's device shows beside that of any other, by the driver and by the extension. */
import {
  deviceOf,
  driverSourceOf,
  functionOverDevice,
  OpsRegistry,
  PciBus,
  type PciDriver,
  type PciHost,
  PLATFORM_CONDITIONS,
  pciDriverOverrideDeviceVfio,
  type VfioDevice,
  vfioPciCoreProbe,
  vfioPciCoreRemove,
  ZPCI,
} from '@vfio/core';
import { Edu, EmulatedPciHost, EmulatedZpci, type ZpciOptions } from '@vfio/emulated';
import {
  decodeDeviceCap,
  PCI_ANY_ID,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_FEATURE_ZPCI_ERROR,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { zdevExtension, zdevVfioPciDriver } from '../src/index.js';

const generic: PciDriver = {
  name: 'vfio-pci',
  idTable: [pciDriverOverrideDeviceVfio(PCI_ANY_ID, PCI_ANY_ID)],
  async probe(fn, _id, bus) {
    await vfioPciCoreProbe(bus, fn, { ops: (core) => ({ ...core, name: 'vfio-pci' }) });
  },
  remove: (fn, bus) => vfioPciCoreRemove(bus, fn),
};

function machine(zpci: EmulatedZpci | undefined) {
  const host = new EmulatedPciHost();
  const fn = host.add({
    address: '0000:00:02.0',
    model: (ctx) => new Edu(ctx),
    ...(zpci === undefined ? {} : { platform: [[ZPCI, zpci]] }),
  });
  const ops = new OpsRegistry();
  return { host, fn, ops, bus: new PciBus(host, { ops }) };
}

/** The same function, its device made by the driver, or by another one with the extension registered. */
async function device(way: 'driver' | 'extension', zpci: EmulatedZpci) {
  const { fn, ops, bus } = machine(zpci);
  const driver = way === 'driver' ? zdevVfioPciDriver() : generic;
  // Registered in either case: with the driver it must not add all that again.
  ops.addExtension(zdevExtension);
  await bus.register(driver);
  await bus.bindOverride(fn, driver.name);
  return deviceOf(bus, fn);
}

const LITTLE_ENDIAN = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;
const caps = (opened: VfioDevice) => opened.getInfo().caps.map((cap) => decodeDeviceCap(cap, LITTLE_ENDIAN));

describe('who serves it', () => {
  const best = (zpci: EmulatedZpci | undefined) => {
    const { fn } = machine(zpci);
    for (const drivers of [
      [generic, zdevVfioPciDriver()],
      [zdevVfioPciDriver(), generic],
    ]) {
      const source = driverSourceOf(drivers, {
        conditions: PLATFORM_CONDITIONS,
        requires: { zdev_vfio_pci: ['zpci'] },
      });
      return source.best(fn)?.driver;
    }
    return undefined;
  };

  test('a zPCI function gets the driver, any other one the generic one', () => {
    expect(best(new EmulatedZpci())).toBe('zdev_vfio_pci');
    expect(best(undefined)).toBe('vfio-pci');
  });

  test('the extension leaves functions of other machines alone', () => {
    expect(zdevExtension.appliesTo(machine(undefined).fn)).toBe(false);
    expect(zdevExtension.appliesTo(machine(new EmulatedZpci()).fn)).toBe(true);
  });
});

describe.each(['driver', 'extension'] as const)('by the %s', (way) => {
  const open = async (options: ZpciOptions = {}) => {
    const zpci = new EmulatedZpci(options);
    const dev = await device(way, zpci);
    return { zpci, dev, opened: await dev.open() };
  };

  test('BASE, GROUP, UTIL and PFIP, in this order', async () => {
    const utilStr = Uint8Array.from({ length: 64 }, (_, at) => at);
    const { opened } = await open({
      pchid: 0x1c8,
      vfn: 7,
      fmbLength: 0x40,
      pft: 2,
      gid: 5,
      fh: 0x80000123,
      utilStr,
      pfip: Uint8Array.of(1, 2, 3, 4),
      group: { dasm: 0xffn, mui: 100, noi: 1024, maxstbl: 4096, version: 1 },
    });
    expect(caps(opened)).toEqual([
      {
        id: 1,
        version: 3,
        startDma: 0x1_0000_0000n,
        endDma: 0x1_3fff_ffffn,
        pchid: 0x1c8,
        vfn: 7,
        fmbLength: 0x40,
        pft: 2,
        gid: 5,
        fh: 0x80000123,
        ccdfErrLength: 32,
      },
      {
        id: 2,
        version: 2,
        dasm: 0xffn,
        msiAddr: 0xfe00_0000_0000_0000n,
        flags: 1n,
        mui: 100,
        noi: 1024,
        maxstbl: 128,
        pciVersion: 1,
        imaxstbl: 4096,
      },
      { id: 3, version: 1, utilStr },
      { id: 4, version: 1, pfip: Uint8Array.of(1, 2, 3, 4) },
    ]);
    await opened.close();
  });

  test('no UTIL without a utility string; BASE of version 2 where there are no error records', async () => {
    const { opened } = await open({ hasErrors: false });
    expect(caps(opened)).toMatchObject([{ id: 1, version: 2, ccdfErrLength: undefined }, { id: 2 }, { id: 4 }]);
    const get = { flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_ZPCI_ERROR };
    expect(() => opened.deviceFeature(get)).toThrow(expect.objectContaining({ errno: 'ENOTTY' }));
    await opened.close();
  });

  test('a handle that changed is seen', async () => {
    const { opened, zpci } = await open();
    zpci.fh = 0x80990000;
    expect(caps(opened)[0]).toMatchObject({ fh: 0x80990000 });
    await opened.close();
  });

  describe('error records', () => {
    const take = (opened: VfioDevice) =>
      opened.deviceFeature({ flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_ZPCI_ERROR }) as Uint8Array;
    const pec = (record: Uint8Array) => new DataView(record.buffer).getUint16(0x1e, LITTLE_ENDIAN);

    test('come oldest first, each once, then ENOMSG', async () => {
      const { opened, zpci } = await open({ fid: 0x77 });
      expect(() => take(opened)).toThrow(expect.objectContaining({ errno: 'ENOMSG' }));
      zpci.report({ pec: 0x3a, faddr: 0x1_0000_2000n });
      zpci.report({ pec: 0x3b });
      const first = take(opened);
      expect(first).toHaveLength(32);
      const view = new DataView(first.buffer);
      expect([view.getUint32(4, LITTLE_ENDIAN), view.getUint32(8, LITTLE_ENDIAN)]).toEqual([zpci.fh, 0x77]);
      expect(view.getBigUint64(0x10, LITTLE_ENDIAN)).toBe(0x1_0000_2000n);
      expect([pec(first), pec(take(opened))]).toEqual([0x3a, 0x3b]);
      expect(() => take(opened)).toThrow(expect.objectContaining({ errno: 'ENOMSG' }));
      await opened.close();
    });

    test('four are kept', async () => {
      const { opened, zpci } = await open();
      for (let code = 1; code <= 6; code++) zpci.report({ pec: code });
      expect([1, 2, 3, 4].map(() => pec(take(opened)))).toEqual([1, 2, 3, 4]);
      expect(() => take(opened)).toThrow(expect.objectContaining({ errno: 'ENOMSG' }));
      await opened.close();
    });

    test('are the user’s from the first open to the last close; the next user does not get them', async () => {
      const { dev, opened, zpci } = await open();
      const second = await dev.open();
      await opened.close();
      zpci.report({ pec: 1 });
      await second.close();
      zpci.report({ pec: 2 });
      await using third = await dev.open();
      expect(() => take(third)).toThrow(expect.objectContaining({ errno: 'ENOMSG' }));
    });

    test('GET and a probe of it are all there is', async () => {
      const { opened, zpci } = await open();
      zpci.report({ pec: 1 });
      const probe = VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_ZPCI_ERROR;
      expect(opened.deviceFeature({ flags: probe })).toBeUndefined();
      const set = { flags: VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_ZPCI_ERROR };
      expect(() => opened.deviceFeature(set)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
      // A probe takes nothing.
      expect(pec(take(opened))).toBe(1);
      await opened.close();
    });
  });
});

test('over a function that is VFIO already its capabilities pass through, and none is added', async () => {
  const fn = functionOverDevice(await device('driver', new EmulatedZpci()));
  const host: PciHost = {
    name: 'over-device',
    functions: () => [fn],
    find: (address) => (address === fn.address ? fn : undefined),
    watch: () => () => {},
  };
  const bus = new PciBus(host, { ops: new OpsRegistry() });
  await bus.register(zdevVfioPciDriver());
  await bus.bindOverride(fn, 'zdev_vfio_pci');
  await using opened = await deviceOf(bus, fn).open();
  expect(caps(opened)).toMatchObject([{ id: 1 }, { id: 2 }, { id: 4 }]);
});
