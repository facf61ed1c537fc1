import type { IovaRange } from './migration-types.js';

/**
 * Ranges in order, the smallest gaps between them filled until there are at most `limit`: the kernel's
 * `vfio_combine_iova_ranges`. More is tracked then than was asked for, never less.
 */
export function vfioCombineIovaRanges(ranges: readonly IovaRange[], limit: number): IovaRange[] {
  const combined = ranges.map(({ iova, length }) => ({ iova, length })).sort((a, b) => (a.iova < b.iova ? -1 : 1));
  while (combined.length > limit) {
    let best = 1;
    let bestGap: bigint | undefined;
    for (let i = 1; i < combined.length; i++) {
      const before = combined[i - 1]!;
      const gap = combined[i]!.iova - (before.iova + before.length);
      if (bestGap !== undefined && gap >= bestGap) continue;
      best = i;
      bestGap = gap;
    }
    const [before, after] = [combined[best - 1]!, combined[best]!];
    combined.splice(best - 1, 2, { iova: before.iova, length: after.iova + after.length - before.iova });
  }
  return combined;
}
