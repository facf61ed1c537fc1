import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { caught } from '../test/support/hex.js';
import {
  checkLoggingRangeCount,
  checkLoggingRanges,
  checkLoggingReport,
  type IovaRange,
  loggingBitmapSize,
  maxLoggingRanges,
} from './dma-logging.js';

const TOP = 2n ** 64n;

describe('ranges of a start', () => {
  test('are as many as fit one page of the host', () => {
    expect(maxLoggingRanges(4096)).toBe(256);
    expect(maxLoggingRanges(65536)).toBe(4096);
    expect(() => checkLoggingRangeCount(1, 4096)).not.toThrow();
    expect(() => checkLoggingRangeCount(256, 4096)).not.toThrow();
    expect(caught(() => checkLoggingRangeCount(257, 4096))).toMatchObject({ errno: 'E2BIG' });
    expect(caught(() => checkLoggingRangeCount(0, 4096))).toMatchObject({ errno: 'EINVAL' });
  });

  test('may touch each other, come in any order, and end one page before the top', () => {
    const ranges = [
      { iova: 0x3000n, length: 0x1000n },
      { iova: 0x1000n, length: 0x1000n },
      { iova: 0x2000n, length: 0x1000n },
      { iova: TOP - 0x2000n, length: 0x1000n },
    ];
    expect(checkLoggingRanges(ranges, 0x1000n)).toEqual(ranges);
  });

  test('of no length are refused', () => {
    expect(caught(() => checkLoggingRanges([{ iova: 0n, length: 0n }], 0x1000n))).toMatchObject({ errno: 'EINVAL' });
  });

  test('are aligned by the mask of the page size, which is not checked itself', () => {
    // 0x3000 is no power of two: its mask is 0x2fff.
    expect(() => checkLoggingRanges([{ iova: 0x1000n, length: 0x3000n }], 0x1000n)).not.toThrow();
    expect(caught(() => checkLoggingRanges([{ iova: 0n, length: 0x1n }], 0x3000n))).toMatchObject({ errno: 'EINVAL' });
    expect(() => checkLoggingRanges([{ iova: 0x5000n, length: 0x1000n }], 0x3000n)).not.toThrow();
    // A page size of 0 has a mask of all ones: only 0 is aligned to it, and 0 is no length.
    expect(caught(() => checkLoggingRanges([{ iova: 0n, length: 0x1000n }], 0n))).toMatchObject({ errno: 'EINVAL' });
    expect(() => checkLoggingRanges([{ iova: 3n, length: 5n }], 1n)).not.toThrow();
  });

  test('overlap exactly when two of them have an address in common', () => {
    const anyRange = fc.record({
      iova: fc.bigInt(0n, 40n).map((page) => page * 0x1000n),
      length: fc.bigInt(1n, 4n).map((pages) => pages * 0x1000n),
    });
    const meet = (a: IovaRange, b: IovaRange): boolean => a.iova < b.iova + b.length && b.iova < a.iova + a.length;
    fc.assert(
      fc.property(fc.array(anyRange, { minLength: 1, maxLength: 12 }), (ranges) => {
        const overlaps = ranges.some((a, index) => ranges.slice(0, index).some((b) => meet(a, b)));
        if (overlaps) expect(caught(() => checkLoggingRanges(ranges, 0x1000n))).toMatchObject({ errno: 'EINVAL' });
        else expect(checkLoggingRanges(ranges, 0x1000n)).toEqual(ranges);
      }),
      { numRuns: 500 },
    );
  });
});

describe('a report', () => {
  test.each([
    [0x1000n, 0x1000n, 8n],
    [64n << 12n, 0x1000n, 8n],
    [65n << 12n, 0x1000n, 16n],
    [(64n << 12n) + 1n, 0x1000n, 16n],
    [1n, 0x1000n, 8n],
    [2n ** 30n, 0x1000n, 32768n],
    [2n ** 30n, 2n ** 21n, 64n],
    [TOP - 1n, 0x1000n, 2n ** 49n],
  ])('of %s bytes in pages of %s takes %s bytes of bitmap', (length, pageSize, size) => {
    expect(checkLoggingReport(0n, length, pageSize)).toBe(size);
    expect(loggingBitmapSize(length, pageSize)).toBe(size);
  });

  test.each([
    ['a page size below 4096', 0n, 0x1000n, 2048n, 'EINVAL'],
    ['a page size of 0', 0n, 0x1000n, 0n, 'EINVAL'],
    ['a page size that is no power of two', 0n, 0x3000n, 0x3000n, 'EINVAL'],
    ['an end at the top', TOP - 0x1000n, 0x1000n, 0x1000n, 'EOVERFLOW'],
    ['an end beyond it', TOP - 1n, TOP - 1n, 0x1000n, 'EOVERFLOW'],
    ['nothing', 0x1000n, 0n, 0x1000n, 'EINVAL'],
    ['a wrong page size before an overflow', TOP - 0x1000n, 0x1000n, 3n, 'EINVAL'],
  ])('with %s is refused', (_name, iova, length, pageSize, errno) => {
    expect(caught(() => checkLoggingReport(iova, length, pageSize))).toMatchObject({ errno });
  });

  test('need not be aligned', () => {
    expect(checkLoggingReport(0x123n, 0x456n, 4096n)).toBe(8n);
  });
});
