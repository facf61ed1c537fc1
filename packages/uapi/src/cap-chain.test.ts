import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesOf, caught, hexOf } from '../test/support/hex.js';
import { capChainSize, encodeCapChain, type InfoCap, placeCaps, readCapChain } from './cap-chain.js';
import { viewOf } from './struct.js';

const caps: readonly InfoCap[] = [
  { id: 1, version: 2, data: bytesOf('aabbccdd') },
  { id: 0x0304, version: 1, data: bytesOf('') },
  { id: 5, version: 1, data: bytesOf('1122334455667788') },
];

/** The chain of `caps` after a struct of 24 bytes: headers, bodies, padding. */
const VECTORS = {
  'aligned little-endian': `
    0100 0200 28000000 aabbccdd 00000000
    0403 0100 30000000
    0500 0100 00000000 1122334455667788`,
  'aligned big-endian': `
    0001 0002 00000028 aabbccdd 00000000
    0304 0001 00000030
    0005 0001 00000000 1122334455667788`,
  'packed little-endian': `
    0100 0200 24000000 aabbccdd
    0403 0100 2c000000
    0500 0100 00000000 1122334455667788`,
  'packed big-endian': `
    0001 0002 00000024 aabbccdd
    0304 0001 0000002c
    0005 0001 00000000 1122334455667788`,
};

function afterStruct(size: number, chain: Uint8Array): DataView {
  const out = new Uint8Array(size + chain.length);
  out.set(chain, size);
  return viewOf(out);
}

describe('encodeCapChain', () => {
  test.each(Object.entries(VECTORS))('writes the %s vector', (name, hex) => {
    const [style, order] = name.split(' ');
    const chain = encodeCapChain(caps, 24, style as 'aligned' | 'packed', order === 'little-endian');
    expect(hexOf(chain)).toBe(hexOf(bytesOf(hex)));
    expect(capChainSize(caps, style as 'aligned' | 'packed')).toBe(chain.length);
  });

  test('of no capabilities is empty', () => {
    expect(encodeCapChain([], 24, 'aligned', true)).toEqual(new Uint8Array(0));
  });

  test.each([
    ['id', { id: 0x10000, version: 1, data: new Uint8Array(0) }],
    ['version', { id: 1, version: -1, data: new Uint8Array(0) }],
  ])('refuses a %s that does not fit', (_name, cap) => {
    expect(caught(() => encodeCapChain([cap], 24, 'aligned', true))).toMatchObject({ errno: 'EINVAL' });
  });
});

describe('readCapChain', () => {
  test.each(Object.entries(VECTORS))('reads the %s vector', (name, hex) => {
    const view = afterStruct(24, bytesOf(hex));
    const found = readCapChain(view, 24, 24, name.endsWith('little-endian'));
    expect(found.map(({ id, version }) => ({ id, version }))).toEqual(caps.map(({ id, version }) => ({ id, version })));
    expect(found.map(({ offset }) => offset)).toEqual(name.startsWith('aligned') ? [24, 40, 48] : [24, 36, 44]);
    const padding = name.startsWith('aligned') ? '00000000' : '';
    expect(found.map(({ data }) => hexOf(data))).toEqual([`aabbccdd${padding}`, '', '1122334455667788']);
  });

  test('follows next wherever it points, also backwards', () => {
    const view = viewOf(bytesOf('0000000000000000  0200010000000000 ffff  0100010008000000 eeee'));
    expect(readCapChain(view, 18, 8, true)).toEqual([
      { id: 1, version: 1, offset: 18, data: bytesOf('eeee') },
      { id: 2, version: 1, offset: 8, data: bytesOf('ffff') },
    ]);
  });

  test('of offset 0 is empty, whatever the bytes are', () => {
    expect(readCapChain(viewOf(new Uint8Array(4)), 0, 24, true)).toEqual([]);
  });

  test('copies the bodies', () => {
    const bytes = bytesOf('0000000000000000 0100010000000000 aa');
    const [cap] = readCapChain(viewOf(bytes), 8, 8, true);
    bytes.fill(0);
    expect(cap?.data).toEqual(Uint8Array.of(0xaa));
  });

  test.each([
    ['a first capability inside the struct', '0000000000000000 0100010000000000', 4],
    ['a first capability past the end', '0000000000000000 0100010000000000', 9],
    ['a first capability far past the end', '0000000000000000 0100010000000000', 0xffffffff],
    ['a next inside the struct', '0000000000000000 0100010004000000 0200010000000000', 8],
    ['a next past the end', '0000000000000000 0100010014000000 0200010000000000', 8],
    ['a next that is one byte short of a header', '0000000000000000 0100010011000000 0200010000000000', 8],
    ['a capability that is its own next', '0000000000000000 0100010008000000', 8],
    ['a circle of two', '0000000000000000 0100010010000000 0200010008000000', 8],
    ['headers that overlap', '0000000000000000 010001000c000000 0000000000000000 00000000', 8],
    ['bytes without room for a header', '0000000000000000 01000100000000', 8],
  ])('refuses %s', (_name, hex, first) => {
    expect(caught(() => readCapChain(viewOf(bytesOf(hex)), first, 8, true))).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
      errno: 'EINVAL',
    });
  });

  test('ends on any bytes: with capabilities that do not overlap, or with an error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 96 }), fc.nat(100), fc.boolean(), (bytes, first, littleEndian) => {
        try {
          const found = readCapChain(viewOf(bytes), first, 8, littleEndian);
          const total = found.reduce((sum, cap) => sum + 8 + cap.data.length, 0);
          expect(total).toBeLessThanOrEqual(Math.max(0, bytes.length - 8));
        } catch (error) {
          expect(error).toMatchObject({ name: 'VfioError', errno: 'EINVAL' });
        }
      }),
      { numRuns: 1000 },
    );
  });

  test('gives back what was written', () => {
    const anyCap = fc.record({
      id: fc.nat(0xffff),
      version: fc.nat(0xffff),
      data: fc.uint8Array({ maxLength: 40 }),
    });
    fc.assert(
      fc.property(
        fc.array(anyCap, { maxLength: 8 }),
        fc.boolean(),
        fc.integer({ min: 8, max: 64 }),
        (given, littleEndian, size) => {
          for (const style of ['aligned', 'packed'] as const) {
            const view = afterStruct(size, encodeCapChain(given, size, style, littleEndian));
            const found = readCapChain(view, given.length === 0 ? 0 : size, size, littleEndian);
            expect(found.length).toBe(given.length);
            for (const [index, cap] of given.entries()) {
              expect(found[index]).toMatchObject({ id: cap.id, version: cap.version });
              const body = found[index]!.data;
              expect(hexOf(body.subarray(0, cap.data.length))).toBe(hexOf(cap.data));
              expect(body.length - cap.data.length).toBe(style === 'packed' ? 0 : (8 - (cap.data.length % 8)) % 8);
              expect(body.subarray(cap.data.length).every((byte) => byte === 0)).toBe(true);
            }
          }
        },
      ),
    );
  });
});

describe('placeCaps', () => {
  test('places capabilities when argsz takes them all, to the byte', () => {
    expect(placeCaps(caps, 24, 64, 'aligned', true)).toMatchObject({ needed: 64, fits: true });
    expect(placeCaps(caps, 24, 64, 'aligned', true).chain).toHaveLength(40);
    expect(placeCaps(caps, 24, 63, 'aligned', true)).toEqual({ needed: 64, fits: false, chain: undefined });
    expect(placeCaps(caps, 24, 60, 'packed', true)).toMatchObject({ needed: 60, fits: true });
  });

  test('has nothing to place where there is nothing', () => {
    expect(placeCaps([], 24, 16, 'aligned', true)).toEqual({ needed: 24, fits: true, chain: undefined });
  });
});
