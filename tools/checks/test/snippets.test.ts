import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type CodeBlock, codeBlocks, pages, ROOT } from '../src/markdown.js';

/** Stands for lines of the file that a snippet leaves out. */
const ELISION = '// …';

/** What a snippet shows that its file does not have, in this order; undefined: it shows the file. */
function notInFile(snippet: string, file: string): string | undefined {
  const lines = file.split('\n').map((line) => line.trim());
  let from = 0;
  for (const piece of snippet.split(ELISION)) {
    const wanted = piece
      .trim()
      .split('\n')
      .map((line) => line.trim());
    let at = from;
    while (at < lines.length && !wanted.every((line, n) => lines[at + n] === line)) at += 1;
    if (at === lines.length) return piece.trim();
    from = at + wanted.length;
  }
  return undefined;
}

const shown = pages().flatMap(({ path, text }) =>
  codeBlocks(text)
    .filter((block): block is CodeBlock & { readonly file: string } => block.file !== undefined)
    .map((block) => ({ ...block, path, where: `${path}:${block.line}` })),
);

describe('a snippet', () => {
  test('is found in its file, with or without what it leaves out', () => {
    const file = 'a\n  b\n  c\nd\ne\n';
    expect(notInFile('b\nc\n', file)).toBeUndefined();
    expect(notInFile(`a\n${ELISION}\nd\n`, file)).toBeUndefined();
  });

  test.each([
    ['another line', 'a\nx\n'],
    ['lines that are not together', 'a\nc\n'],
    ['pieces in another order', `d\n${ELISION}\na\n`],
    ['half a line', 'a\n  b and more\n'],
  ])('is not with %s', (_what, snippet) => {
    expect(notInFile(snippet, 'a\n  b\n  c\nd\n')).toBeDefined();
  });
});

test.each(shown)('what $where shows is in $file', ({ code, file }) => {
  expect(notInFile(code, readFileSync(join(ROOT, file), 'utf8'))).toBeUndefined();
});

test('the guide goes through every file of its example', () => {
  const folder = 'docs/examples/serial-vfio-pci/src';
  const files = readdirSync(join(ROOT, folder)).filter((name) => name !== 'index.ts');
  const inGuide = shown.filter(({ path }) => path === 'docs/guides/write-a-driver.md').map(({ file }) => file);
  expect(files.map((name) => `${folder}/${name}`).filter((file) => !inGuide.includes(file))).toEqual([]);
});
