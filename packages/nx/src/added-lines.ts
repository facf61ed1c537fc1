/** Lines of `after` that a shortest change of `before` adds, in their order; empty ones are left out. */
export function addedLines(before: string, after: string): string[] {
  const [from, to] = [before.split('\n'), after.split('\n')];
  // common[i][j]: lines that the texts from line i and j on have in common, in order.
  const common = Array.from({ length: from.length + 1 }, () => new Uint16Array(to.length + 1));
  const at = (i: number, j: number): number => common[i]?.[j] ?? 0;
  for (let i = from.length - 1; i >= 0; i--)
    for (let j = to.length - 1; j >= 0; j--)
      (common[i] as Uint16Array)[j] = from[i] === to[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
  const added: string[] = [];
  for (let i = 0, j = 0; j < to.length; ) {
    if (i < from.length && from[i] === to[j]) {
      i++;
      j++;
    } else if (i < from.length && at(i + 1, j) >= at(i, j + 1)) i++;
    else added.push(to[j++] as string);
  }
  return added.filter((line) => line.trim() !== '');
}
