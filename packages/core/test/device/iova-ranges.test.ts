import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { vfioCombineIovaRanges } from '../../src/device/iova-ranges.js';

describe('ranges', () => {
  const range = (iova: number, length: number) => ({ iova: BigInt(iova), length: BigInt(length) });

  test('are merged over the smallest gaps', () => {
    const ranges = [range(0, 10), range(100, 10), range(12, 10), range(300, 10)];
    expect(vfioCombineIovaRanges(ranges, 4)).toEqual([range(0, 10), range(12, 10), range(100, 10), range(300, 10)]);
    expect(vfioCombineIovaRanges(ranges, 3)).toEqual([range(0, 22), range(100, 10), range(300, 10)]);
    expect(vfioCombineIovaRanges(ranges, 2)).toEqual([range(0, 110), range(300, 10)]);
    expect(vfioCombineIovaRanges(ranges, 1)).toEqual([range(0, 310)]);
  });

  test('cover all that they covered, in as many as are allowed', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.integer({ min: 0, max: 500 }), { minLength: 1, maxLength: 40 }),
        fc.integer({ min: 1, max: 40 }),
        (places, limit) => {
          const ranges = places.map((place) => range(place * 10, 1 + (place % 10)));
          const combined = vfioCombineIovaRanges(ranges, limit);
          expect(combined.length).toBe(Math.min(limit, ranges.length));
          for (const { iova, length } of ranges)
            expect(combined.some((one) => one.iova <= iova && iova + length <= one.iova + one.length)).toBe(true);
          for (const [i, one] of combined.entries())
            if (i > 0) expect(one.iova).toBeGreaterThanOrEqual(combined[i - 1]!.iova + combined[i - 1]!.length);
        },
      ),
    );
  });
});
