import fc from 'fast-check';
import { describe, expect, expectTypeOf, test } from 'vitest';
import { bytesOf, caught, hexOf } from '../test/support/hex.js';
import { isVfioError } from './errors.js';
import {
  bytes,
  needBytes,
  readArray,
  reserved,
  type StructOf,
  s32,
  struct,
  u8,
  u16,
  u32,
  u64,
  u64n,
  viewOf,
  writeArray,
} from './struct.js';

const sample = struct('sample', {
  a: u8,
  pad: reserved(1),
  b: u16,
  c: u32,
  d: u64,
  e: u64n,
  f: s32,
  g: bytes(4),
});

const value: StructOf<typeof sample> = {
  a: 0x12,
  b: 0x3456,
  c: 0x789abcde,
  d: 0x0102030405060708n,
  e: 0x0a0b0c0d0e0f,
  f: -2,
  g: Uint8Array.of(1, 2, 3, 4),
};

const LITTLE = '12 00 5634 debc9a78 0807060504030201 0f0e0d0c0b0a0000 feffffff 01020304';
const BIG = '12 00 3456 789abcde 0102030405060708 00000a0b0c0d0e0f fffffffe 01020304';

describe('struct', () => {
  test('knows its size and where each field lies', () => {
    expect(sample.size).toBe(32);
    expect(sample.fields).toEqual({
      a: { offset: 0, size: 1 },
      pad: { offset: 1, size: 1 },
      b: { offset: 2, size: 2 },
      c: { offset: 4, size: 4 },
      d: { offset: 8, size: 8 },
      e: { offset: 16, size: 8 },
      f: { offset: 24, size: 4 },
      g: { offset: 28, size: 4 },
    });
  });

  test('has the type of its fields without the reserved ones', () => {
    expectTypeOf(value).toEqualTypeOf<{
      a: number;
      b: number;
      c: number;
      d: bigint;
      e: number;
      f: number;
      g: Uint8Array;
    }>();
  });

  test.each([
    ['little-endian', true, LITTLE],
    ['big-endian', false, BIG],
  ])('reads and writes %s bytes', (_name, littleEndian, hex) => {
    expect(sample.read(viewOf(bytesOf(hex)), 0, littleEndian)).toEqual(value);
    expect(hexOf(sample.encode(value, littleEndian))).toBe(hexOf(bytesOf(hex)));
  });

  test('reads and writes at an offset and touches nothing around it', () => {
    const out = new Uint8Array(40).fill(0xee);
    sample.write(viewOf(out), 4, value, true);
    expect(hexOf(out)).toBe(`eeeeeeee${hexOf(bytesOf(LITTLE))}eeeeeeee`);
    expect(sample.read(viewOf(out), 4, true)).toEqual(value);
  });

  test('honours the offset of the view in its buffer', () => {
    const whole = bytesOf(`ffffff ${BIG}`);
    expect(sample.read(new DataView(whole.buffer, 3), 0, false)).toEqual(value);
  });

  test('reads into an object that the caller keeps', () => {
    const target = sample.read(viewOf(new Uint8Array(32)), 0, true);
    sample.readInto(target, viewOf(bytesOf(LITTLE)), 0, true);
    expect(target).toEqual(value);
  });

  test('writes zeros into reserved bytes and does not read them', () => {
    const out = new Uint8Array(32).fill(0xff);
    sample.write(viewOf(out), 0, value, true);
    expect(out[1]).toBe(0);
    out[1] = 0xff;
    expect(sample.read(viewOf(out), 0, true)).toEqual(value);
  });

  test('gives bytes as a copy', () => {
    const source = bytesOf(LITTLE);
    const read = sample.read(viewOf(source), 0, true);
    source.fill(0);
    expect(read.g).toEqual(Uint8Array.of(1, 2, 3, 4));
  });

  test('gives back every value that it was given, in either byte order and at any offset', () => {
    fc.assert(
      fc.property(
        fc.record({
          a: fc.nat(0xff),
          b: fc.nat(0xffff),
          c: fc.nat(0xffffffff),
          d: fc.bigInt(0n, 0xffffffffffffffffn),
          e: fc.maxSafeNat(),
          f: fc.integer({ min: -0x80000000, max: 0x7fffffff }),
          g: fc.uint8Array({ minLength: 4, maxLength: 4 }),
        }),
        fc.boolean(),
        fc.nat(16),
        (any, littleEndian, at) => {
          const out = new Uint8Array(at + 32);
          sample.write(viewOf(out), at, any, littleEndian);
          expect(sample.read(viewOf(out), at, littleEndian)).toEqual(any);
        },
      ),
    );
  });

  test('one byte order is the other one reversed field by field', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, 0xffffffffffffffffn), (any) => {
        const one = struct('one', { x: u64 });
        expect([...one.encode({ x: any }, true)].reverse()).toEqual([...one.encode({ x: any }, false)]);
      }),
    );
  });
});

describe('struct refuses', () => {
  test.each([
    ['an empty view', 0, 0],
    ['a view that is one byte short', 31, 0],
    ['an offset that leaves one byte too few', 33, 2],
    ['an offset beyond the view', 8, 64],
    ['a negative offset', 64, -1],
    ['a fractional offset', 64, 0.5],
    ['an offset that is no number', 64, Number.NaN],
    ['an endless offset', 64, Number.POSITIVE_INFINITY],
  ])('%s, on reading and on writing', (_name, length, at) => {
    const view = viewOf(new Uint8Array(length));
    for (const error of [
      caught(() => sample.read(view, at, true)),
      caught(() => sample.readInto({ ...value }, view, at, true)),
      caught(() => sample.write(view, at, value, true)),
    ]) {
      expect(isVfioError(error, 'ERR_VFIO_INVALID_STRUCT')).toBe(true);
      expect(error).toMatchObject({ errno: 'EINVAL' });
      expect(String(error)).toContain('sample needs 32 bytes');
    }
  });

  test.each<[string, Partial<Record<keyof typeof value, unknown>>]>([
    ['u8 above', { a: 0x100 }],
    ['u8 below', { a: -1 }],
    ['u8 fraction', { a: 1.5 }],
    ['u8 NaN', { a: Number.NaN }],
    ['u8 missing', { a: undefined }],
    ['u8 bigint', { a: 1n }],
    ['u16 above', { b: 0x10000 }],
    ['u32 above', { c: 0x100000000 }],
    ['u32 below', { c: -1 }],
    ['u64 above', { d: 1n << 64n }],
    ['u64 below', { d: -1n }],
    ['u64 number', { d: 1 }],
    ['u64n above', { e: 2 ** 53 }],
    ['u64n below', { e: -1 }],
    ['u64n bigint', { e: 1n }],
    ['s32 above', { f: 0x80000000 }],
    ['s32 below', { f: -0x80000001 }],
    ['bytes too few', { g: new Uint8Array(3) }],
    ['bytes too many', { g: new Uint8Array(5) }],
    ['bytes as an array', { g: [1, 2, 3, 4] }],
  ])('a value that does not fit, and stores nothing: %s', (_name, wrong) => {
    const out = new Uint8Array(32).fill(0x5a);
    const error = caught(() => sample.write(viewOf(out), 0, { ...value, ...wrong } as typeof value, true));
    expect(isVfioError(error, 'ERR_VFIO_INVALID_ARGUMENT')).toBe(true);
    expect(error).toMatchObject({ errno: 'EINVAL' });
    expect(String(error)).toContain(`sample.${Object.keys(wrong)[0]}`);
    expect(out.every((byte) => byte === 0x5a)).toBe(true);
  });

  test.each([true, false])('a 64-bit number above 2^53-1 with EOVERFLOW (little-endian: %s)', (littleEndian) => {
    const size = struct('size', { size: u64n });
    const wide = struct('size', { size: u64 });
    const edge = wide.encode({ size: BigInt(Number.MAX_SAFE_INTEGER) }, littleEndian);
    expect(size.read(viewOf(edge), 0, littleEndian)).toEqual({ size: Number.MAX_SAFE_INTEGER });
    for (const above of [2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
      const error = caught(() => size.read(viewOf(wide.encode({ size: above }, littleEndian)), 0, littleEndian));
      expect(error).toMatchObject({ code: 'ERR_VFIO_INVALID_STRUCT', errno: 'EOVERFLOW' });
      expect(String(error)).toContain(`0x${above.toString(16)}`);
    }
  });

  test('a layout with a field that is not aligned, where it is defined', () => {
    expect(() => struct('bad', { a: u8, b: u16 })).toThrow('bad.b lies at 1, which is not a multiple of 2');
    expect(() => struct('bad', { a: u32, b: u64 })).toThrow('bad.b lies at 4, which is not a multiple of 8');
  });

  test('a layout whose end is not padded', () => {
    expect(() => struct('bad', { a: u64, b: u32 })).toThrow('bad has 12 bytes, which is not a multiple of 8');
  });
});

describe('arrays of structs', () => {
  const pair = struct('pair', { x: u16, y: u16 });

  test('are read and written one after the other', () => {
    const data = bytesOf('ffff 0100 0200 0300 0400');
    const values = [
      { x: 1, y: 2 },
      { x: 3, y: 4 },
    ];
    expect(readArray(pair, viewOf(data), 2, 2, true)).toEqual(values);
    const out = new Uint8Array(10).fill(0xff);
    writeArray(pair, viewOf(out), 2, values, true);
    expect(hexOf(out)).toBe(hexOf(data));
  });

  test('of none need no bytes', () => {
    expect(readArray(pair, viewOf(new Uint8Array(0)), 0, 0, true)).toEqual([]);
  });

  test('are refused when the view is too short, before anything is allocated', () => {
    const error = caught(() => readArray(pair, viewOf(new Uint8Array(8)), 0, 0xffffffff, true));
    expect(error).toMatchObject({ code: 'ERR_VFIO_INVALID_STRUCT', errno: 'EINVAL' });
    const out = new Uint8Array(7).fill(9);
    expect(
      caught(() =>
        writeArray(
          pair,
          viewOf(out),
          0,
          [
            { x: 0, y: 0 },
            { x: 0, y: 0 },
          ],
          true,
        ),
      ),
    ).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
    });
    expect(out.every((byte) => byte === 9)).toBe(true);
  });
});

test('needBytes says what was wanted and what was there', () => {
  const error = caught(() => needBytes(viewOf(new Uint8Array(10)), 4, 8, 'thing'));
  expect(String(error)).toContain('thing needs 8 bytes at offset 4, found 6');
  expect(error).toMatchObject({ details: { offset: 4, needed: 8, found: 6 } });
  expect(() => needBytes(viewOf(new Uint8Array(10)), 4, 6, 'thing')).not.toThrow();
});
