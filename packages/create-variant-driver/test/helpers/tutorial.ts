/** One change that a page shows: lines of a file that are there, and what takes their place. */
export interface Edit {
  readonly file: string;
  readonly before: string;
  readonly after: string;
}

/** The `diff` blocks of a page, each of the file that its text named last. */
export function editsOf(page: string): Edit[] {
  const edits: Edit[] = [];
  let file: string | undefined;
  for (const [, named, diff] of page.matchAll(/`((?:src|test)\/[\w/.-]+|README\.md)`|^```diff\n([\s\S]*?)^```$/gm)) {
    file = named ?? file;
    if (diff === undefined) continue;
    if (file === undefined) throw new Error('a change of no file');
    const lines = diff.trimEnd().split('\n');
    const without = (mark: string) =>
      lines.flatMap((line) => (line.startsWith(mark) ? [] : [`${line.slice(1)}\n`])).join('');
    edits.push({ file, before: without('+'), after: without('-') });
  }
  return edits;
}

/** The arguments with which a page runs `npm create`, in order. */
export function createCommandsOf(page: string): string[][] {
  const commands = page.matchAll(/^npm create @vfio\/variant-driver (\S+) -- (.*)$/gm);
  return [...commands].map(([, name = '', options = '']) => [name, ...options.split(' ')]);
}

/** A text with a change made, which must fit at one place. */
export function apply(text: string, { file, before, after }: Edit): string {
  const pieces = text.split(before);
  if (pieces.length !== 2) throw new Error(`${file} has ${pieces.length - 1} places for:\n${before}`);
  return pieces.join(after);
}
