import { bitmapBytes, bitmapNext, PAGE_SUM_BYTES, pageSums } from '@vfio/native';
import { isVfioError } from '@vfio/uapi';
import fc from 'fast-check';
import { expect, test } from 'vitest';

const PAGE = 64;
const PAGES = 40;

const setBits = (bitmap: Uint8Array): number[] => {
  const bits: number[] = [];
  for (let bit = bitmapNext(bitmap); bit >= 0; bit = bitmapNext(bitmap, bit + 1)) {
    bits.push(bit);
    if (bit + 1 === bitmap.length * 8) break;
  }
  return bits;
};

test('a page is found again exactly when a bit of it is another', () => {
  const change = fc.tuple(fc.nat(PAGE * PAGES - 1), fc.nat(7));
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: PAGE, maxLength: PAGE }),
      fc.array(change, { maxLength: 6 }),
      (seed, changes) => {
        const memory = Uint8Array.from({ length: PAGE * PAGES }, (_, at) => (seed[at % PAGE] ?? 0) ^ (at >> 6));
        const sums = new Uint8Array(PAGES * PAGE_SUM_BYTES);
        pageSums(memory, PAGE, sums, 0);
        const before = memory.slice();
        for (const [at, bit] of changes) memory[at] = (memory[at] ?? 0) ^ (1 << bit);
        const changed = new Uint8Array(bitmapBytes(PAGES));
        const count = pageSums(memory, PAGE, sums, 0, changed);
        const expected = Array.from({ length: PAGES }, (_, page) => page).filter((page) =>
          memory.subarray(page * PAGE, (page + 1) * PAGE).some((byte, at) => byte !== before[page * PAGE + at]),
        );
        expect(setBits(changed)).toEqual(expected);
        expect(count).toBe(expected.length);
        expect(pageSums(memory, PAGE, sums, 0, changed)).toBe(0);
      },
    ),
  );
});

test('any single bit of a page changes its sum, words that change places too', () => {
  const page = Uint8Array.from({ length: 4096 }, (_, at) => (at * 7) & 0xff);
  const sums = new Uint8Array(PAGE_SUM_BYTES);
  pageSums(page, 4096, sums, 0);
  for (let bit = 0; bit < 4096 * 8; bit += 5) {
    page[bit >> 3] = (page[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    expect(pageSums(page, 4096, sums, 0)).toBe(1);
    page[bit >> 3] = (page[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    expect(pageSums(page, 4096, sums, 0)).toBe(1);
  }
  const words = new BigUint64Array(page.buffer);
  for (const [a, b] of [
    [0, 1],
    [0, 4],
    [3, 508],
  ] as const) {
    [words[a], words[b]] = [words[b]!, words[a]!];
    expect(pageSums(page, 4096, sums, 0)).toBe(1);
  }
});

test('sums of a part are kept at the place of that part', () => {
  const sums = new Uint8Array(4 * PAGE_SUM_BYTES);
  const changed = new Uint8Array(8);
  expect(pageSums(new Uint8Array(2 * PAGE).fill(1), PAGE, sums, 2, changed, 30)).toBe(2);
  expect(setBits(changed)).toEqual([30, 31]);
  expect(sums.subarray(0, 2 * PAGE_SUM_BYTES).every((byte) => byte === 0)).toBe(true);
});

test.each([
  ['a part of a page', 65, PAGE, 4, 0, 64],
  ['pages that no sum is made of', 96, 48, 4, 0, 64],
  ['pages of nothing', 64, 0, 4, 0, 64],
  ['more pages than there are sums', 5 * PAGE, PAGE, 4, 0, 64],
  ['a page behind the last sum', PAGE, PAGE, 4, 4, 64],
  ['a bit behind the last of the bitmap', PAGE, PAGE, 100, 64, 64],
])('%s is EINVAL', (_what, length, pageSize, sums, first, bits) => {
  const call = () =>
    pageSums(new Uint8Array(length), pageSize, new Uint8Array(sums * PAGE_SUM_BYTES), first, new Uint8Array(bits / 8));
  expect(call).toThrow(expect.objectContaining({ code: 'ERR_VFIO_INVALID_ARGUMENT', errno: 'EINVAL' }));
  try {
    call();
  } catch (error) {
    expect(isVfioError(error)).toBe(true);
  }
});
