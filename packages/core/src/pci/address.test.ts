import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  comparePciAddress,
  formatPciAddress,
  normalizePciAddress,
  type PciAddress,
  parsePciAddress,
} from './address.js';

describe('PCI addresses', () => {
  test.each([
    ['0000:3b:00.1', '0000:3b:00.1'],
    ['3b:00.1', '0000:3b:00.1'],
    ['3B:1F.7', '0000:3b:1f.7'],
    ['0:1:2.3', '0000:01:02.3'],
    ['10000:e1:00.0', '10000:e1:00.0'],
    ['ffffffff:ff:1f.7', 'ffffffff:ff:1f.7'],
  ])('%s is %s in full', (text, full) => {
    expect(normalizePciAddress(text)).toBe(full);
  });

  test.each([
    '',
    '3b',
    '00.1',
    '3b:00',
    '0000:3b:00',
    '0000:3b:00.8',
    '0000:3b:20.0',
    '0000:3b:00.10',
    '0000:3b:00.1 ',
    ' 0000:3b:00.1',
    '0000:3b:00.1\n',
    '0000:13b:00.1',
    '0000:3b:000.1',
    '123456789:3b:00.1',
    '0x0:3b:00.1',
    '0000:3b:00.-1',
    'pci:3b:00.1',
    '0000:3b:00:1',
  ])('%j is refused with EINVAL: a part of an address never stands for a function', (text) => {
    expect(() => parsePciAddress(text)).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_INVALID_ID', errno: 'EINVAL' }),
    );
  });

  const address = fc.record({
    domain: fc.oneof(fc.integer({ min: 0, max: 0xffff }), fc.integer({ min: 0, max: 0xffffffff })),
    bus: fc.integer({ min: 0, max: 0xff }),
    device: fc.integer({ min: 0, max: 31 }),
    function: fc.integer({ min: 0, max: 7 }),
  });

  test('every address is read back from its full form', () => {
    fc.assert(
      fc.property(address, (value) => {
        expect(parsePciAddress(formatPciAddress(value))).toEqual(value);
      }),
    );
  });

  test('they are ordered by domain, bus, device and function, as numbers', () => {
    const sorted = ['0000:02:00.0', '0000:10:00.0', '0000:10:01.7', '0000:10:02.0', '0001:00:00.0', '10000:00:00.0'];
    const shuffled: PciAddress[] = [3, 0, 5, 2, 4, 1].map((i) => parsePciAddress(sorted[i] as string));
    expect(shuffled.sort(comparePciAddress).map(formatPciAddress)).toEqual(sorted);
  });
});
