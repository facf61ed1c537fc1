/** Every struct of the package against vectors that were made without it. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as uapi from '../src/index.js';
import { type Field, type Struct, viewOf } from '../src/index.js';
import { bytesOf, caught, hexOf } from './support/hex.js';
import { STRUCT_VECTORS } from './support/struct-vectors.js';

function isStruct(value: unknown): value is Struct {
  return typeof value === 'object' && value !== null && 'layout' in value && 'readInto' in value;
}

const structs = new Map(Object.entries<unknown>(uapi).filter((entry): entry is [string, Struct] => isStruct(entry[1])));

/** Any value that a field can hold, found by what the field refuses. */
function anyValue(field: Field<unknown>): fc.Arbitrary<unknown> {
  if (field.refuse(0) === undefined) {
    const most = field.size === 8 ? Number.MAX_SAFE_INTEGER : 2 ** (8 * field.size) - 1;
    return field.refuse(-1) === undefined
      ? fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })
      : fc.integer({ min: 0, max: most });
  }
  if (field.refuse(0n) === undefined) return fc.bigInt(0n, 2n ** 64n - 1n);
  return fc.uint8Array({ minLength: field.size, maxLength: field.size });
}

test('every struct has a vector, and every vector a struct', () => {
  expect([...structs.keys()].sort()).toEqual(Object.keys(STRUCT_VECTORS).sort());
});

describe.each(Object.entries(STRUCT_VECTORS))('%s', (name, vector) => {
  const struct = structs.get(name)!;
  const value = Object.fromEntries(
    Object.entries(vector.value).map(([key, field]) => [key, typeof field === 'string' ? bytesOf(field) : field]),
  ) as never;

  test.each([
    ['little-endian', true, vector.little],
    ['big-endian', false, vector.big],
  ])('is read and written as in its %s vector', (_order, littleEndian, hex) => {
    expect(struct.read(viewOf(bytesOf(hex)), 0, littleEndian)).toEqual(value);
    expect(hexOf(struct.encode(value, littleEndian))).toBe(hex);
  });

  test('gives back every value', () => {
    const fields = Object.entries(struct.layout).filter(([, field]) => !field.reserved);
    const any = fc.record(
      Object.fromEntries(fields.map(([key, field]) => [key, anyValue(field as unknown as Field<unknown>)])),
    );
    fc.assert(
      fc.property(any, fc.boolean(), (given, littleEndian) => {
        const encoded = struct.encode(given as never, littleEndian);
        expect(struct.read(viewOf(encoded), 0, littleEndian)).toEqual(given);
      }),
      { numRuns: 50 },
    );
  });

  test('is refused when a byte is missing', () => {
    const short = bytesOf(vector.little).subarray(1);
    expect(caught(() => struct.read(viewOf(short), 0, true))).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
      errno: 'EINVAL',
    });
  });

  test('is not written when a field is missing', () => {
    const [first] = Object.keys(vector.value);
    const partial = { ...(value as object), [first!]: undefined } as never;
    expect(caught(() => struct.encode(partial, true))).toMatchObject({
      code: 'ERR_VFIO_INVALID_ARGUMENT',
      errno: 'EINVAL',
    });
  });
});
