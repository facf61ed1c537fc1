/** The middle of a list that is not empty; of the two middle ones of an even list, the lower. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted[(sorted.length - 1) >> 1];
  if (middle === undefined) throw new Error('median of nothing');
  return middle;
}

/** Pairs of one round each, as `a / b`: the machine's speed drifts between rounds, not within one. */
export function ratios(a: readonly number[], b: readonly number[]): number[] {
  return a.slice(0, b.length).map((value, round) => value / (b[round] ?? Number.NaN));
}
