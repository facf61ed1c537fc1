import { isVfioError, PCI_ANY_ID } from '@vfio/uapi';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  formatPciDeviceId,
  isPciTableEnd,
  type PciDeviceId,
  parseIdsParameter,
  parseNewId,
  parsePciIds,
  parseRemoveId,
  pciDevice,
  pciDeviceClass,
  pciDeviceDriverOverride,
  pciDeviceId,
  pciDeviceSub,
  pciDriverOverrideClassVfio,
  pciDriverOverrideDeviceVfio,
} from './ids.js';

const ANY = PCI_ANY_ID;
const row = (fields: Partial<PciDeviceId>): PciDeviceId => ({
  vendor: ANY,
  device: ANY,
  subvendor: ANY,
  subdevice: ANY,
  class: 0,
  classMask: 0,
  overrideOnly: 0,
  driverData: 0,
  ...fields,
});

describe('rows of an id table (1.1)', () => {
  test('[1.1.1] PCI_ANY_ID is 0xffffffff, and fields that are left out are any id, no class, not override-only', () => {
    expect(ANY).toBe(0xffffffff);
    expect(pciDeviceId()).toEqual(row({}));
  });

  test('each macro fills the fields that the kernel macro of its name fills', () => {
    expect(pciDevice(0x15b3, 0x101e)).toEqual(row({ vendor: 0x15b3, device: 0x101e }));
    expect(pciDeviceSub(1, 2, 3, 4)).toEqual(row({ vendor: 1, device: 2, subvendor: 3, subdevice: 4 }));
    expect(pciDeviceClass(0x010802, 0xffffff)).toEqual(row({ class: 0x010802, classMask: 0xffffff }));
  });

  test('[1.1.4] an override macro gives vendor and device, any subsystem, class 0 with mask 0, and its flag', () => {
    expect(pciDeviceDriverOverride(1, 2, 8)).toEqual(row({ vendor: 1, device: 2, overrideOnly: 8 }));
    expect(pciDriverOverrideDeviceVfio(0x15b3, 0x101e)).toEqual(
      row({ vendor: 0x15b3, device: 0x101e, overrideOnly: 1 }),
    );
    expect(pciDriverOverrideClassVfio(0x010800, 0xffff00)).toEqual(
      row({ class: 0x010800, classMask: 0xffff00, overrideOnly: 1 }),
    );
  });

  test('[1.1.2] a row is the end of a table when vendor, subvendor and class mask are all 0, whatever else it holds', () => {
    expect(isPciTableEnd(row({ vendor: 0, subvendor: 0, classMask: 0, device: 5, subdevice: 6, class: 7 }))).toBe(true);
    expect(isPciTableEnd(row({ vendor: 0, subvendor: 0, classMask: 1 }))).toBe(false);
    expect(isPciTableEnd(row({ vendor: 1, subvendor: 0, classMask: 0 }))).toBe(false);
    expect(isPciTableEnd(row({ vendor: 0, subvendor: 1, classMask: 0 }))).toBe(false);
  });

  test.each([
    ['vendor', -1],
    ['device', 0x1_0000_0000],
    ['subvendor', 1.5],
    ['subdevice', Number.NaN],
    ['class', Number.POSITIVE_INFINITY],
    ['classMask', -0x80000000],
    ['overrideOnly', 2 ** 40],
    ['driverData', 2 ** 53],
  ] as const)('a row with %s %d is refused with EINVAL', (field, value) => {
    expectInvalidId(() => pciDeviceId({ [field]: value }), field);
  });

  test('a row is shown as lspci shows ids, with a star for any', () => {
    expect(formatPciDeviceId(pciDevice(0x15b3, 0x1e))).toBe('15b3:001e');
    expect(formatPciDeviceId(pciDeviceSub(1, 2, 3, ANY))).toBe('0001:0002:0003:*');
    expect(formatPciDeviceId(pciDeviceClass(0x010802, 0xffffff))).toBe('*:* class 0x10802/0xffffff');
  });
});

describe('ids= (2.11)', () => {
  test.each([
    ['15b3:101e', { vendor: 0x15b3, device: 0x101e }],
    ['15B3:101E', { vendor: 0x15b3, device: 0x101e }],
    ['0x15b3:0X101e', { vendor: 0x15b3, device: 0x101e }],
    ['1:2:3', { vendor: 1, device: 2, subvendor: 3 }],
    ['1:2:3:4', { vendor: 1, device: 2, subvendor: 3, subdevice: 4 }],
    ['1:2:3:4:10802', { vendor: 1, device: 2, subvendor: 3, subdevice: 4, class: 0x010802 }],
    ['1:2:3:4:10802:ffff00', { vendor: 1, device: 2, subvendor: 3, subdevice: 4, class: 0x10802, classMask: 0xffff00 }],
    ['8086:ffffffff:ffffffff:ffffffff:20000:ff0000', { vendor: 0x8086, class: 0x020000, classMask: 0xff0000 }],
    ['  8086:10ed ', { vendor: 0x8086, device: 0x10ed }],
  ])('%s is a row with what is left out open', (text, fields) => {
    expect(parsePciIds(text)).toEqual(row(fields));
  });

  test.each([
    ['', 'empty'],
    ['15b3', 'one field'],
    ['15b3:', 'empty second field'],
    [':101e', 'empty first field'],
    ['15b3:101e:', 'empty third field'],
    ['15b3:101g', 'not hex'],
    ['15b3:101e zz', 'text after the last number'],
    ['15b3 101e', 'spaces for colons'],
    ['1:2:3:4:5:6:7', 'seven fields'],
    ['115b30000:1', 'more than 32 bits'],
    ['-1:2', 'negative'],
    ['0x:1', 'prefix without digits'],
    ['*:*', 'stars'],
  ])('"%s" (%s) is refused with EINVAL', (text) => {
    expectInvalidId(() => parsePciIds(text), 'in hex');
  });

  test('a bad item of the list is skipped with a warning that names it, an empty one silently', () => {
    const { ids, warnings } = parseIdsParameter('15b3:101e,,junk,8086:10ed:,1af4:1000');
    expect(ids).toEqual([pciDevice(0x15b3, 0x101e), pciDevice(0x1af4, 0x1000)]);
    expect(warnings).toHaveLength(2);
    expect(warnings[0]).toContain('"junk"');
    expect(warnings[1]).toContain('"8086:10ed:"');
  });

  test('a list of 1023 characters is read, one of 1024 refused with ENOSPC', () => {
    const list = '1:2,'.repeat(255).padEnd(1023, ',');
    expect(list).toHaveLength(1023);
    expect(parseIdsParameter(list).ids).toHaveLength(255);
    expect(() => parseIdsParameter(`${list},`)).toThrow(expect.objectContaining({ errno: 'ENOSPC' }));
  });

  test('what is written in this form is read back', () => {
    const u32 = fc.integer({ min: 0, max: 0xffffffff });
    fc.assert(
      fc.property(fc.array(u32, { minLength: 2, maxLength: 6 }), (numbers) => {
        const id = parsePciIds(numbers.map((n) => n.toString(16)).join(':'));
        const read = [id.vendor, id.device, id.subvendor, id.subdevice, id.class, id.classMask];
        expect(read.slice(0, numbers.length)).toEqual(numbers);
      }),
    );
  });

  test('no text makes it throw anything but the refusal', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        try {
          parsePciIds(text);
        } catch (error) {
          expect(isVfioError(error, 'ERR_VFIO_INVALID_ID')).toBe(true);
        }
      }),
    );
  });
});

describe('new_id and remove_id', () => {
  test('[1.2.9a] new_id reads two to seven hex fields; only seven are complete', () => {
    expect(parseNewId('8086 10ed')).toEqual({ id: pciDevice(0x8086, 0x10ed), complete: false });
    expect(parseNewId(' 8086\t10ed \n').id).toEqual(pciDevice(0x8086, 0x10ed));
    expect(parseNewId('0x8086 0X0000000010ED').id).toEqual(pciDevice(0x8086, 0x10ed));
    expect(parseNewId('1 2 3 4 5 6 ff')).toEqual({
      id: row({ vendor: 1, device: 2, subvendor: 3, subdevice: 4, class: 5, classMask: 6, driverData: 0xff }),
      complete: true,
    });
    expect(parseNewId('1 2 3 4 5 6').complete).toBe(false);
  });

  test.each([
    '',
    '8086',
    '8086 zz',
    '8086 10ed zz',
    '8086 10edzz',
    '8086 0x',
    '8086 -1',
    '8086 100000000',
    '1 2 3 4 5 6 7 8',
    '1 2 3 4 5 6 fffffffffffffffff',
    '1 2 3 4 5 6 ffffffffffffffff',
    '1:2',
  ])('[1.2.9b] new_id "%s" is refused with EINVAL', (text) => {
    expectInvalidId(() => parseNewId(text), 'new_id');
  });

  test('[1.2.10a] remove_id reads two to six fields; what is left out is any id and no class', () => {
    expect(parseRemoveId('8086 10ed')).toEqual(row({ vendor: 0x8086, device: 0x10ed }));
    expect(parseRemoveId('1 2 3 4 5 6')).toEqual(
      row({ vendor: 1, device: 2, subvendor: 3, subdevice: 4, class: 5, classMask: 6 }),
    );
  });

  test.each(['', '8086', '8086 zz', '1 2 3 4 5 6 7'])('[1.2.10b] remove_id "%s" is refused with EINVAL', (text) => {
    expectInvalidId(() => parseRemoveId(text), 'remove_id');
  });
});

function expectInvalidId(run: () => unknown, text: string): void {
  expect(run).toThrow(expect.objectContaining({ code: 'ERR_VFIO_INVALID_ID', errno: 'EINVAL' }));
  expect(run).toThrow(text);
}
