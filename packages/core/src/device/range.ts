/** What two ranges have in common. */
export interface RangeOverlap {
  /** From the start of the register range. */
  readonly registerOffset: number;
  /** From the start of the buffer's range. */
  readonly bufferOffset: number;
  readonly count: number;
}

/**
 * The part of an access that hits a register range, or undefined: `vfio_pci_core_range_intersect_range`. For drivers that
 * overlay registers.
 */
export function intersectRanges(
  bufferStart: number,
  bufferCount: number,
  registerStart: number,
  registerCount: number,
): RangeOverlap | undefined {
  const from = Math.max(bufferStart, registerStart);
  const to = Math.min(bufferStart + bufferCount, registerStart + registerCount);
  if (from >= to) return undefined;
  return { registerOffset: from - registerStart, bufferOffset: from - bufferStart, count: to - from };
}
