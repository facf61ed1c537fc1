import { describe, expect, test } from 'vitest';
import { checkPciDriver, defineVfioDriver, isPciDriverName, type PciDriver } from './driver.js';
import { formatDriverOverride, parseDriverOverride } from './driver-override.js';
import {
  type PciDeviceId,
  pciDevice,
  pciDeviceId,
  pciDriverOverrideClassVfio,
  pciDriverOverrideDeviceVfio,
} from './ids.js';

const END = pciDeviceId({ vendor: 0, device: 0, subvendor: 0, subdevice: 0 });
const driver = (fields: Partial<PciDriver>): PciDriver => ({
  name: 'nic',
  idTable: [],
  probe: () => {},
  remove: () => {},
  ...fields,
});
const badDriver = (text: string): unknown =>
  expect.objectContaining({ code: 'ERR_VFIO_BAD_DRIVER', errno: 'EINVAL', message: expect.stringContaining(text) });

describe('a driver that a bus takes', () => {
  test.each(['vfio-pci', 'mlx5_vfio_pci', 'xe-vfio-pci', 'e1000', 'a', '_x', 'a'.repeat(64)])(
    'may be called %s',
    (name) => {
      expect(isPciDriverName(name)).toBe(true);
      checkPciDriver(driver({ name }));
    },
  );

  test.each(['', '.', '..', 'a/b', '../x', 'a b', 'a\n', '-rf', 'a'.repeat(65), 'ä', '(null)'])(
    'may not be called %j',
    (name) => {
      expect(isPciDriverName(name)).toBe(false);
      expect(() => checkPciDriver(driver({ name }))).toThrow(badDriver('the name'));
    },
  );

  test('may mix ordinary and override-only rows, have none, or end in a terminator', () => {
    checkPciDriver(driver({ idTable: [pciDevice(1, 2), pciDriverOverrideDeviceVfio(1, 2), END] }));
    checkPciDriver(driver({ idTable: [] }));
  });

  test('[1.1.2] may not have rows behind a terminator', () => {
    expect(() => checkPciDriver(driver({ idTable: [END, pciDevice(1, 2)] }))).toThrow(badDriver('row 0'));
  });

  test('may not have a row that is out of range, or lack probe or remove', () => {
    const broken = { ...pciDevice(1, 2), vendor: 2 ** 32 };
    expect(() => checkPciDriver(driver({ idTable: [pciDevice(1, 1), broken] }))).toThrow(badDriver('row 1'));
    // What a JavaScript caller can do.
    const without = (key: keyof PciDriver): PciDriver => ({ ...driver({}), [key]: undefined });
    expect(() => checkPciDriver(without('probe'))).toThrow(badDriver('probe and remove'));
    expect(() => checkPciDriver(without('remove'))).toThrow(badDriver('probe and remove'));
    expect(() => checkPciDriver(without('idTable'))).toThrow(badDriver('idTable'));
  });
});

describe('a VFIO driver', () => {
  const rows = [pciDriverOverrideDeviceVfio(1, 2), pciDriverOverrideClassVfio(0x010802, 0xffffff)];

  test('[2.11f] owns the DMA of its group', () => {
    expect(defineVfioDriver(driver({ idTable: rows })).driverManagedDma).toBe(true);
  });

  test.each<[string, PciDeviceId, string]>([
    ['an ordinary row', pciDevice(1, 2), 'PCI_ID_F_VFIO_DRIVER_OVERRIDE'],
    ['an unknown bit', pciDeviceId({ vendor: 1, overrideOnly: 2 }), 'overrideOnly 2'],
    ['an unknown bit beside the known one', pciDeviceId({ vendor: 1, overrideOnly: 3 }), 'overrideOnly 3'],
  ])('may not have %s, because it must be asked for', (_, bad, text) => {
    expect(() => defineVfioDriver(driver({ idTable: [...rows, bad] }))).toThrow(badDriver(text));
  });

  test('may not have an empty table: no alias would lead to it', () => {
    expect(() => defineVfioDriver(driver({ idTable: [] }))).toThrow(badDriver('empty'));
    expect(() => defineVfioDriver(driver({ idTable: [END] }))).toThrow(badDriver('empty'));
  });

  test('may be an instance of a class, whose methods keep their `this`', async () => {
    class Nic implements PciDriver {
      readonly name = 'nic_vfio_pci';
      readonly idTable = rows;
      readonly calls: string[] = [];
      probe(): void {
        this.calls.push('probe');
      }
      remove(): void {
        this.calls.push('remove');
      }
      sriovConfigure(): number {
        this.calls.push('sriov');
        return 0;
      }
    }
    const nic = new Nic();
    const defined = defineVfioDriver(nic);
    // The arguments are not looked at by this class.
    const [fn, bus] = [undefined as never, undefined as never];
    await defined.probe(fn, rows[0] as PciDeviceId, bus);
    await defined.remove(fn, bus);
    await defined.sriovConfigure?.(fn, 0, bus);
    expect(nic.calls).toEqual(['probe', 'remove', 'sriov']);
  });
});

describe('driver_override as sysfs takes it', () => {
  test.each([
    ['vfio-pci', 'vfio-pci'],
    ['vfio-pci\n', 'vfio-pci'],
    ['vfio-pci\njunk\n', 'vfio-pci'],
    ['', undefined],
    ['\n', undefined],
    ['\nvfio-pci', undefined],
    [' vfio-pci', ' vfio-pci'],
  ])('[1.2.8a] writing %j sets %j: cut at the first newline, empty clears', (text, name) => {
    expect(parseDriverOverride(text)).toBe(name);
  });

  test('[1.2.8b] 4094 bytes are taken, 4095 refused with EINVAL, the newline and UTF-8 counted', () => {
    expect(parseDriverOverride('a'.repeat(4094))).toHaveLength(4094);
    expect(parseDriverOverride(`${'a'.repeat(4093)}\n`)).toHaveLength(4093);
    for (const text of ['a'.repeat(4095), `${'a'.repeat(4094)}\n`, `${'a'.repeat(4093)}é`]) {
      expect(() => parseDriverOverride(text)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    }
  });

  test('a NUL is refused with EINVAL', () => {
    expect(() => parseDriverOverride('vfio\0-pci')).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
  });

  test('[1.2.8c] what is not set reads as (null)', () => {
    expect(formatDriverOverride(undefined)).toBe('(null)\n');
    expect(formatDriverOverride('vfio-pci')).toBe('vfio-pci\n');
  });
});
