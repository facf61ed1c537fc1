import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesOf, caught, hexOf } from '../test/support/hex.js';
import { decodeDeviceCap, encodeDeviceCap, type TypedDeviceCap } from './device-caps.js';

const base: TypedDeviceCap = {
  id: 1,
  version: 3,
  startDma: 0x0102030405060708n,
  endDma: 0x1112131415161718n,
  pchid: 0x2122,
  vfn: 0x2324,
  fmbLength: 0x2526,
  pft: 0x27,
  gid: 0x28,
  fh: 0x31323334,
  ccdfErrLength: 32,
};
const group: TypedDeviceCap = {
  id: 2,
  version: 2,
  dasm: 0x0102030405060708n,
  msiAddr: 0x1112131415161718n,
  flags: 1n,
  mui: 0x2122,
  noi: 0x2324,
  maxstbl: 128,
  pciVersion: 1,
  imaxstbl: 0x0800,
};

/** The zPCI capabilities are those of a big-endian machine, and may be read on any other. */
const VECTORS: readonly [name: string, cap: TypedDeviceCap, big: string, little: string][] = [
  [
    'ZPCI_BASE',
    base,
    '0102030405060708 1112131415161718 2122 2324 2526 27 28 31323334 00000020',
    '0807060504030201 1817161514131211 2221 2423 2625 27 28 34333231 20000000',
  ],
  [
    'ZPCI_BASE of version 1',
    { ...base, version: 1, fh: undefined, ccdfErrLength: undefined },
    '0102030405060708 1112131415161718 2122 2324 2526 27 28 00000000 00000000',
    '0807060504030201 1817161514131211 2221 2423 2625 27 28 00000000 00000000',
  ],
  [
    'ZPCI_BASE of version 2',
    { ...base, version: 2, ccdfErrLength: undefined },
    '0102030405060708 1112131415161718 2122 2324 2526 27 28 31323334 00000000',
    '0807060504030201 1817161514131211 2221 2423 2625 27 28 34333231 00000000',
  ],
  [
    'ZPCI_GROUP',
    group,
    '0102030405060708 1112131415161718 0000000000000001 2122 2324 0080 01 00 0800 000000000000',
    '0807060504030201 1817161514131211 0100000000000000 2221 2423 8000 01 00 0008 000000000000',
  ],
  [
    'ZPCI_GROUP of version 1',
    { ...group, version: 1, imaxstbl: undefined },
    '0102030405060708 1112131415161718 0000000000000001 2122 2324 0080 01 00 0000 000000000000',
    '0807060504030201 1817161514131211 0100000000000000 2221 2423 8000 01 00 0000 000000000000',
  ],
  ['ZPCI_UTIL', { id: 3, version: 1, utilStr: bytesOf('c8c5d3d3d6') }, '00000005 c8c5d3d3d6', '05000000 c8c5d3d3d6'],
  ['ZPCI_PFIP', { id: 4, version: 1, pfip: bytesOf('00112233') }, '00000004 00112233', '04000000 00112233'],
  ['PCI_ATOMIC_COMP', { id: 5, version: 1, flags: 7 }, '00000007 00000000', '07000000 00000000'],
];

describe.each(VECTORS)('%s', (_name, cap, big, little) => {
  test.each([
    ['big-endian', false, big],
    ['little-endian', true, little],
  ])('is read and written in %s bytes', (_order, littleEndian, hex) => {
    const { id, version } = cap;
    expect(encodeDeviceCap(cap, littleEndian)).toEqual({ id, version, data: bytesOf(hex) });
    expect(decodeDeviceCap({ id, version, data: bytesOf(hex) }, littleEndian)).toEqual(cap);
  });

  test('is refused when its body is a byte short', () => {
    const data = bytesOf(big).subarray(0, -1);
    expect(caught(() => decodeDeviceCap({ id: cap.id, version: cap.version, data }, false))).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
      errno: 'EINVAL',
    });
  });
});

test('a newer version has the fields that are known', () => {
  const { data } = encodeDeviceCap(base, false);
  const longer = Uint8Array.of(...data, 1, 2, 3, 4, 5, 6, 7, 8);
  expect(decodeDeviceCap({ id: 1, version: 9, data: longer }, false)).toEqual({ ...base, version: 9 });
});

test('padding after a string is not part of it', () => {
  const data = bytesOf('00000003 c1c2c3 00');
  expect(decodeDeviceCap({ id: 3, version: 1, data }, false)).toMatchObject({ utilStr: bytesOf('c1c2c3') });
});

test.each([
  ['an id that is not known', 6, 1],
  ['version 0', 1, 0],
])('%s has no typed form', (_name, id, version) => {
  expect(decodeDeviceCap({ id, version, data: new Uint8Array(64) }, false)).toBeUndefined();
});

test.each<[string, TypedDeviceCap]>([
  ['a function handle in version 1', { ...base, version: 1, ccdfErrLength: undefined }],
  ['no function handle in version 2', { ...base, version: 2, fh: undefined, ccdfErrLength: undefined }],
  ['an error length in version 2', { ...base, version: 2 }],
  ['no error length in version 3', { ...base, ccdfErrLength: undefined }],
  ['imaxstbl in version 1', { ...group, version: 1 }],
  ['no imaxstbl in version 2', { ...group, imaxstbl: undefined }],
  ['a value that does not fit', { ...base, pft: 256 }],
])('%s is refused', (_name, cap) => {
  expect(caught(() => encodeDeviceCap(cap, false))).toMatchObject({
    code: 'ERR_VFIO_INVALID_ARGUMENT',
    errno: 'EINVAL',
  });
});

test('any bytes give a capability, none, or an error', () => {
  fc.assert(
    fc.property(
      fc.nat(7),
      fc.nat(4),
      fc.uint8Array({ maxLength: 80 }),
      fc.boolean(),
      (id, version, data, littleEndian) => {
        try {
          const cap = decodeDeviceCap({ id, version, data }, littleEndian);
          if (cap === undefined) return;
          const again = encodeDeviceCap(cap, littleEndian);
          expect(decodeDeviceCap(again, littleEndian)).toEqual(cap);
          expect(hexOf(again.data).length).toBeLessThanOrEqual(2 * data.length);
        } catch (error) {
          expect(error).toMatchObject({ name: 'VfioError', errno: 'EINVAL' });
        }
      },
    ),
    { numRuns: 500 },
  );
});
