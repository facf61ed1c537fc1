import { PCI_ANY_ID, PCI_ID_F_VFIO_DRIVER_OVERRIDE } from '@vfio/uapi';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { PciIdentity } from './function.js';
import { type PciDeviceId, pciDevice, pciDeviceClass, pciDeviceId, pciDriverOverrideDeviceVfio } from './ids.js';
import { PCI_DEVICE_ID_ANY, pciMatchDevice, pciMatchId, pciMatchOneDevice } from './match.js';

const NIC: PciIdentity = { vendor: 0x15b3, device: 0x101e, subvendor: 0x15b3, subdevice: 1, class: 0x020000 };
const END = pciDeviceId({ vendor: 0, device: 0, subvendor: 0, subdevice: 0 });

describe('one row (pci_match_one_device)', () => {
  test('[1.2.6] each id must be equal or any', () => {
    expect(pciMatchOneDevice(pciDeviceId({ ...NIC, class: 0 }), NIC)).toBe(true);
    for (const field of ['vendor', 'device', 'subvendor', 'subdevice'] as const) {
      expect(pciMatchOneDevice(pciDeviceId({ [field]: NIC[field] }), NIC)).toBe(true);
      expect(pciMatchOneDevice(pciDeviceId({ [field]: NIC[field] + 1 }), NIC)).toBe(false);
    }
  });

  test('[1.2.6] the class is compared under the mask, bit by bit, also with a mask that no alias can hold', () => {
    expect(pciMatchOneDevice(pciDeviceClass(0x020000, 0xff0000), NIC)).toBe(true);
    expect(pciMatchOneDevice(pciDeviceClass(0x0280ff, 0xff0000), NIC)).toBe(true);
    expect(pciMatchOneDevice(pciDeviceClass(0x028000, 0xffff00), NIC)).toBe(false);
    expect(pciMatchOneDevice(pciDeviceClass(0x030000, 0xfe0000), NIC)).toBe(true);
    expect(pciMatchOneDevice(pciDeviceClass(0x030000, 0x010000), NIC)).toBe(false);
    expect(pciMatchOneDevice(pciDeviceClass(0xffffff, 0), NIC)).toBe(true);
    expect(pciMatchOneDevice(pciDeviceClass(0x80020000, 0xff0000ff), NIC)).toBe(false);
  });

  test('pci_match_id gives the first row that matches and stops at a terminator', () => {
    const first = pciDeviceId({ vendor: 0x15b3, driverData: 1 });
    const second = pciDeviceId({ vendor: 0x15b3, driverData: 2 });
    expect(pciMatchId([pciDevice(1, 1), first, second], NIC)).toBe(first);
    expect(pciMatchId([END, first], NIC)).toBeUndefined();
    expect(pciMatchId([], NIC)).toBeUndefined();
  });
});

describe('a driver (pci_match_device)', () => {
  const ordinary = pciDeviceId({ vendor: 0x15b3, driverData: 7 });
  const overrideOnly = pciDriverOverrideDeviceVfio(0x15b3, 0x101e);

  test('[1.2.1] a driver_override that names another driver: no match, not even by a dynamic id', () => {
    const driver = { name: 'mlx5_core', idTable: [ordinary] };
    expect(pciMatchDevice(driver, { ...NIC, driverOverride: 'vfio-pci' }, [pciDevice(0x15b3, 0x101e)])).toBeUndefined();
  });

  test('[1.2.1] names are compared as they are: vfio_pci is not vfio-pci', () => {
    const driver = { name: 'vfio-pci', idTable: [] };
    expect(pciMatchDevice(driver, { ...NIC, driverOverride: 'vfio_pci' })).toBeUndefined();
    expect(pciMatchDevice(driver, { ...NIC, driverOverride: 'vfio-pci' })).toBe(PCI_DEVICE_ID_ANY);
  });

  test('[1.2.2] dynamic ids come before the table, the first hit wins', () => {
    const older = pciDeviceId({ vendor: 0x15b3, driverData: 1 });
    const newer = pciDeviceId({ vendor: 0x15b3, driverData: 2 });
    const driver = { name: 'mlx5_core', idTable: [ordinary] };
    expect(pciMatchDevice(driver, NIC, [pciDevice(1, 1), older, newer])).toBe(older);
    expect(pciMatchDevice(driver, { ...NIC, driverOverride: 'mlx5_core' }, [older])).toBe(older);
  });

  test('[1.2.2] [12.1] a dynamic id binds a VFIO driver without driver_override', () => {
    const dynid = pciDevice(0x15b3, 0x101e);
    expect(pciMatchDevice({ name: 'vfio-pci', idTable: [overrideOnly] }, NIC, [dynid])).toBe(dynid);
  });

  test('[1.2.3] [12.1] an override-only row is passed over without driver_override, and the walk goes on', () => {
    expect(pciMatchDevice({ name: 'mixed', idTable: [overrideOnly] }, NIC)).toBeUndefined();
    expect(pciMatchDevice({ name: 'mixed', idTable: [overrideOnly, ordinary] }, NIC)).toBe(ordinary);
  });

  test('[1.2.3] with driver_override the first hit counts, override-only or not', () => {
    const fn = { ...NIC, driverOverride: 'mixed' };
    expect(pciMatchDevice({ name: 'mixed', idTable: [overrideOnly, ordinary] }, fn)).toBe(overrideOnly);
    expect(pciMatchDevice({ name: 'mixed', idTable: [ordinary, overrideOnly] }, fn)).toBe(ordinary);
  });

  test('[1.2.3] a row with any override_only value but 0 is override-only', () => {
    const odd = pciDeviceId({ vendor: 0x15b3, overrideOnly: 4 });
    expect(pciMatchDevice({ name: 'odd', idTable: [odd] }, NIC)).toBeUndefined();
    expect(pciMatchDevice({ name: 'odd', idTable: [odd] }, { ...NIC, driverOverride: 'odd' })).toBe(odd);
  });

  test('[1.2.4] [12.1] driver_override always matches: a dummy row of any ids, with no table at all too', () => {
    const fn = { ...NIC, driverOverride: 'pci-stub' };
    expect(pciMatchDevice({ name: 'pci-stub', idTable: [] }, fn)).toBe(PCI_DEVICE_ID_ANY);
    expect(pciMatchDevice({ name: 'pci-stub', idTable: [pciDevice(1, 1)] }, fn)).toBe(PCI_DEVICE_ID_ANY);
    expect(PCI_DEVICE_ID_ANY).toMatchObject({ vendor: PCI_ANY_ID, device: PCI_ANY_ID, driverData: 0, overrideOnly: 0 });
  });

  test('[1.2.5] nothing matches, no driver_override: no match', () => {
    expect(
      pciMatchDevice({ name: 'e1000', idTable: [pciDevice(0x8086, 0x100e)] }, NIC, [pciDevice(1, 1)]),
    ).toBeUndefined();
  });

  test('[1.1.2] rows behind a terminator do not count', () => {
    expect(pciMatchDevice({ name: 'd', idTable: [END, ordinary] }, NIC)).toBeUndefined();
  });

  test('[1.1.5] the generic driver matches anything, but only when it is asked for', () => {
    const generic = { name: 'vfio-pci', idTable: [pciDeviceId({ overrideOnly: 1 })] };
    expect(pciMatchDevice(generic, NIC)).toBeUndefined();
    expect(pciMatchDevice(generic, { ...NIC, driverOverride: 'vfio-pci' })).toBe(generic.idTable[0]);
    expect(generic.idTable[0]?.overrideOnly).toBe(PCI_ID_F_VFIO_DRIVER_OVERRIDE);
  });

  /** The order of 1.2 written as one expression over the hits, to compare with. */
  test('agrees with the order of the rules on any table', () => {
    const id = fc.oneof(fc.constant(PCI_ANY_ID), fc.integer({ min: 1, max: 3 }));
    const anyRow = fc
      .record({
        vendor: id,
        device: id,
        subvendor: id,
        subdevice: id,
        class: fc.integer({ min: 0, max: 7 }),
        classMask: fc.constantFrom(0, 1, 4, 7, 0xffffff),
        overrideOnly: fc.constantFrom(0, 0, 1, 2),
        driverData: fc.nat(1000),
      })
      .map((fields) => pciDeviceId(fields));
    const identity = fc.record({
      vendor: fc.integer({ min: 1, max: 3 }),
      device: fc.integer({ min: 1, max: 3 }),
      subvendor: fc.integer({ min: 1, max: 3 }),
      subdevice: fc.integer({ min: 1, max: 3 }),
      class: fc.integer({ min: 0, max: 7 }),
      driverOverride: fc.constantFrom(undefined, 'this', 'other'),
    });
    fc.assert(
      fc.property(
        fc.array(anyRow, { maxLength: 8 }),
        fc.array(anyRow, { maxLength: 2 }),
        identity,
        (idTable, dynids, fn) => {
          const hits = (rows: readonly PciDeviceId[]): PciDeviceId[] =>
            rows.filter(
              (row) =>
                [row.vendor, row.device, row.subvendor, row.subdevice].every(
                  (want, i) => want === PCI_ANY_ID || want === [fn.vendor, fn.device, fn.subvendor, fn.subdevice][i],
                ) && (row.class & row.classMask) === (fn.class & row.classMask),
            );
          const named = fn.driverOverride === 'this';
          const expected =
            fn.driverOverride === 'other'
              ? undefined
              : (hits(dynids)[0] ??
                hits(idTable).find((row) => named || row.overrideOnly === 0) ??
                (named ? PCI_DEVICE_ID_ANY : undefined));
          expect(pciMatchDevice({ name: 'this', idTable }, fn, dynids)).toBe(expected);
        },
      ),
      { numRuns: 2000 },
    );
  });
});
