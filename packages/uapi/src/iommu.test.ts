import { describe, expect, test } from 'vitest';
import { bytesOf, caught } from '../test/support/hex.js';
import { decodeIommuType1Info } from './iommu.js';

/** 24 bytes of struct, and the three capabilities of a current kernel. */
const LITTLE = `
  78000000 03000000 00f0ffffffffffff 18000000 00000000
  0200010038000000 00000000 00000000 0010000000000000 0000001000000000
  0100010068000000 02000000 00000000 0000000000000000 ffffdffe00000000 0000f0fe00000000 ffffffffffffff00
  0300010000000000 ffff0000 00000000`;

describe('decodeIommuType1Info', () => {
  test('reads what a current kernel tells', () => {
    const decoded = decodeIommuType1Info(bytesOf(LITTLE), true);
    expect(decoded.info).toEqual({
      iovaPgsizes: 0xfffffffffffff000n,
      iovaRanges: [
        { start: 0n, end: 0xfedfffffn },
        { start: 0xfef00000n, end: 0xffffffffffffffn },
      ],
      migration: { pgsizeBitmap: 0x1000n, maxDirtyBitmapSize: 0x10000000n },
      dmaAvail: 65535,
    });
    expect(decoded.argsz).toBe(120);
    expect(decoded.chain.map(({ id }) => id)).toEqual([2, 1, 3]);
  });

  test('reads big-endian bytes', () => {
    const bytes = bytesOf('00000024 00000003 0000000000101000 00000018 00000000 0003000100000000 00000007');
    expect(decodeIommuType1Info(bytes, false).info).toMatchObject({ iovaPgsizes: 0x101000n, dmaAvail: 7 });
  });

  test('reads the 16 bytes of the oldest kernels', () => {
    expect(decodeIommuType1Info(bytesOf('10000000 01000000 0010000000000000'), true).info).toEqual({
      iovaPgsizes: 0x1000n,
      iovaRanges: undefined,
      migration: undefined,
      dmaAvail: undefined,
    });
  });

  test('tells no page sizes without their flag', () => {
    expect(decodeIommuType1Info(bytesOf('10000000 00000000 0010000000000000'), true).info.iovaPgsizes).toBeUndefined();
  });

  test('says how much room the whole reply takes', () => {
    const short = bytesOf('70000000 03000000 0010000000000000 00000000 00000000');
    expect(decodeIommuType1Info(short, true)).toMatchObject({ argsz: 112, chain: [] });
  });

  test('leaves a capability of an unknown version alone', () => {
    const bytes = bytesOf('24000000 03000000 0010000000000000 18000000 00000000 0300020000000000 07000000');
    const decoded = decodeIommuType1Info(bytes, true);
    expect(decoded.info.dmaAvail).toBeUndefined();
    expect(decoded.chain).toHaveLength(1);
  });

  test.each([
    ['15 bytes', new Uint8Array(15)],
    [
      'more ranges than there are bytes',
      bytesOf(`28000000 02000000 ${'00'.repeat(8)} 18000000 00000000 0100010000000000 ffffffff 00000000`),
    ],
    [
      'a chain that leaves the bytes',
      bytesOf(`20000000 02000000 ${'00'.repeat(8)} 18000000 00000000 0300010040000000`),
    ],
  ])('refuses %s', (_name, bytes) => {
    expect(caught(() => decodeIommuType1Info(bytes, true))).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
      errno: 'EINVAL',
    });
  });
});
