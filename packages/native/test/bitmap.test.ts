import {
  type Bitmap,
  bitmapBytes,
  bitmapClear,
  bitmapCount,
  bitmapNext,
  bitmapOr,
  bitmapScale,
  bitmapSet,
} from '@vfio/native';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

const BITS = 320;

/** The naive model: one boolean a bit, read word by word with BigUint64Array. */
function bitsOf(words: BigUint64Array): boolean[] {
  return [...words].flatMap((word) => Array.from({ length: 64 }, (_, bit) => ((word >> BigInt(bit)) & 1n) === 1n));
}

function wordsOf(bits: readonly boolean[]): BigUint64Array {
  const words = new BigUint64Array(bits.length / 64);
  for (const [bit, isSet] of bits.entries()) if (isSet) words[bit >> 6]! |= 1n << BigInt(bit & 63);
  return words;
}

/** Mostly sparse, with runs. */
const content = (bits: number) =>
  fc
    .array(fc.tuple(fc.nat(bits - 1), fc.integer({ min: 1, max: 70 })), { maxLength: 8 })
    .map((runs) => Array.from({ length: bits }, (_, bit) => runs.some(([from, n]) => bit >= from && bit < from + n)));
const range = (bits: number) =>
  fc.tuple(fc.nat(bits), fc.nat(bits)).map(([a, b]) => ({ start: Math.min(a, b), count: Math.abs(a - b) }));

/** The same bitmap as words and as bytes that start at an odd address. */
function shapes(bits: readonly boolean[]): Bitmap[] {
  const words = wordsOf(bits);
  const odd = new Uint8Array(words.byteLength + 1).subarray(1);
  odd.set(new Uint8Array(words.buffer));
  return [words, odd];
}

function read(bitmap: Bitmap): boolean[] {
  return bitsOf(bitmap instanceof BigUint64Array ? bitmap : new BigUint64Array(bitmap.slice().buffer));
}

describe('against a model of one boolean a bit', () => {
  test('set and clear change exactly their range', () => {
    fc.assert(
      fc.property(content(BITS), range(BITS), (bits, { start, count }) => {
        for (const [change, value] of [
          [bitmapSet, true],
          [bitmapClear, false],
        ] as const) {
          const expected = bits.map((bit, n) => (n >= start && n < start + count ? value : bit));
          for (const bitmap of shapes(bits)) {
            change(bitmap, start, count);
            expect(read(bitmap)).toEqual(expected);
          }
        }
      }),
    );
  });

  test('count and next look at exactly their range', () => {
    fc.assert(
      fc.property(content(BITS), range(BITS), (bits, { start, count }) => {
        const end = start + count;
        const set = bits.flatMap((bit, n) => (bit && n >= start && n < end ? [n] : []));
        for (const bitmap of shapes(bits)) {
          expect(bitmapCount(bitmap, start, count)).toBe(set.length);
          expect(bitmapNext(bitmap, start, end)).toBe(set[0] ?? -1);
          const walked: number[] = [];
          for (let bit = bitmapNext(bitmap, start, end); bit >= 0; bit = bitmapNext(bitmap, bit + 1, end))
            walked.push(bit);
          expect(walked).toEqual(set);
        }
      }),
    );
  });

  test('or joins a bitmap that is as long or shorter', () => {
    fc.assert(
      fc.property(content(BITS), content(128), (bits, others) => {
        const expected = bits.map((bit, n) => bit || (others[n] ?? false));
        for (const [n, target] of shapes(bits).entries()) {
          bitmapOr(target, shapes(others)[n] as Bitmap);
          expect(read(target)).toEqual(expected);
        }
      }),
    );
  });

  test('scale reports every dirty page of one size in pages of another, and no page more', () => {
    fc.assert(
      fc.property(
        content(128),
        range(128),
        fc.integer({ min: -7, max: 4 }),
        content(2048),
        (bits, part, shift, before) => {
          const { start, count } = part;
          const sourcePage = 4096;
          const targetPage = sourcePage * 2 ** -shift;
          const target = wordsOf(before);
          const needed = Math.ceil((count * sourcePage) / targetPage);
          fc.pre(needed <= before.length);
          const expected = before.slice();
          for (let n = 0; n < count; n++) {
            if (!bits[start + n]) continue;
            const first = Math.floor((n * sourcePage) / targetPage);
            const last = Math.ceil(((n + 1) * sourcePage) / targetPage) - 1;
            for (let page = first; page <= last; page++) expected[page] = true;
          }
          bitmapScale(wordsOf(bits), start, count, sourcePage, target, targetPage);
          expect(bitsOf(target)).toEqual(expected);
        },
      ),
    );
  });
});

describe('bad ranges', () => {
  const whole = () => new Uint8Array(16).fill(0x5a);
  const bad: [string, (bitmap: Uint8Array) => unknown][] = [
    ['set beyond the end', (b) => bitmapSet(b, 120, 9)],
    ['set from beyond the end', (b) => bitmapSet(b, 129, 0)],
    ['set of a wrapping range', (b) => bitmapSet(b, 1, Number.MAX_SAFE_INTEGER)],
    ['set of a negative bit', (b) => bitmapSet(b, -1, 2)],
    ['set of a fraction', (b) => bitmapSet(b, 0, 0.5)],
    ['clear beyond the end', (b) => bitmapClear(b, 0, 129)],
    ['count beyond the end', (b) => bitmapCount(b, 64, 65)],
    ['next beyond the end', (b) => bitmapNext(b, 0, 129)],
    ['next of a reversed range', (b) => bitmapNext(b, 5, 4)],
    ['or of a longer source', (b) => bitmapOr(b, new Uint8Array(24))],
    ['or of no whole words', (b) => bitmapOr(b, new Uint8Array(7))],
    ['a bitmap of no whole words', (b) => bitmapSet(b.subarray(0, 12), 0, 1)],
    ['scale beyond the source', (b) => bitmapScale(new Uint8Array(8), 60, 5, 4096, b, 4096)],
    ['scale beyond the target', (b) => bitmapScale(new Uint8Array(8).fill(255), 0, 64, 4096, b, 1024)],
    ['scale to a page of no power of two', (b) => bitmapScale(new Uint8Array(8), 0, 1, 4096, b, 3000)],
    ['scale from a page of no size', (b) => bitmapScale(new Uint8Array(8), 0, 1, 0, b, 4096)],
  ];

  test.each(bad)('%s is refused and changes nothing', (_, run) => {
    const bitmap = whole();
    expect(() => run(bitmap)).toThrow(expect.objectContaining({ code: 'ERR_VFIO_INVALID_ARGUMENT', errno: 'EINVAL' }));
    expect(bitmap).toEqual(whole());
  });
});

test('a bitmap takes whole words', () => {
  expect([0, 1, 64, 65, 128].map(bitmapBytes)).toEqual([0, 8, 8, 16, 16]);
});
