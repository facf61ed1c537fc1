import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { fnmatch, isPattern } from './fnmatch.js';

/** What glibc's fnmatch(pattern, text, 0) answers. */
const TABLE: readonly (readonly [pattern: string, text: string, matches: boolean])[] = [
  ['', '', true],
  ['', 'a', false],
  ['abc', 'abc', true],
  ['abc', 'abcd', false],
  ['abc', 'ABC', false],
  ['*', '', true],
  ['*', 'anything', true],
  ['**', 'x', true],
  ['a*', 'a', true],
  ['a*', 'ba', false],
  ['*a', 'bca', true],
  ['*a', 'bcab', false],
  ['a*b*c', 'aXbYc', true],
  ['a*b*c', 'acb', false],
  ['*ab', 'aab', true],
  ['a*ab', 'aab', true],
  ['a*ab', 'ab', false],
  ['?', 'x', true],
  ['?', '', false],
  ['a?c', 'abc', true],
  ['a?c', 'ac', false],
  ['*/x', 'a/b/x', true],
  ['?', '/', true],
  ['*', '.hidden', true],
  ['[abc]', 'b', true],
  ['[abc]', 'd', false],
  ['[a-c]', 'b', true],
  ['[a-c]', 'd', false],
  ['[c-a]', 'b', false],
  ['[!a-c]', 'd', true],
  ['[!a-c]', 'a', false],
  ['[^a-c]', 'd', true],
  ['[]]', ']', true],
  ['[]a]', 'a', true],
  ['[!]]', 'a', true],
  ['[!]]', ']', false],
  ['[a-]', '-', true],
  ['[-a]', '-', true],
  ['[a-]', 'b', false],
  ['[[:digit:]]', '5', true],
  ['[[:digit:]]', 'x', false],
  ['[[:upper:][:digit:]]', 'X', true],
  ['[![:digit:]]', '5', false],
  ['[[:xdigit:]g]', 'g', true],
  ['[[.a.]]', 'a', true],
  ['[[=a=]b]', 'a', true],
  ['[\\]]', ']', true],
  ['[a\\-c]', 'b', false],
  ['[a\\-c]', '-', true],
  ['[*]', '*', true],
  ['[*]', 'a', false],
  ['[?]', 'a', false],
  ['[a', '[a', true],
  ['[a', 'a', false],
  ['[', '[', true],
  ['[]', '[]', true],
  ['[!', '[!', true],
  ['x[a-', 'x[a-', false],
  ['[a-\\', '[a-\\', false],
  ['[a\\', '[a\\', false],
  ['\\*', '*', true],
  ['\\*', 'a', false],
  ['\\a', 'a', true],
  ['\\\\', '\\', true],
  ['a\\', 'a', false],
  ['a\\', 'a\\', false],
  ['a]', 'a]', true],
  ['*[0-9A-F]*', 'pci:v0', true],
  ['pci:v*d*sv*sd*bc*sc*i*', 'pci:v000015B3d00001021sv000015B3sd00000001bc02sc00i00', true],
  ['pci:v*d*sv*sd*bc03sc*i*', 'pci:v000015B3d00001021sv000015B3sd00000001bc02sc00i00', false],
  ['pci:v0000*d*', 'pci:v000015B3d00001021sv000015B3sd00000001bc02sc00i00', true],
];

describe('fnmatch', () => {
  test.each(TABLE)('%j against %j: %s', (pattern, text, matches) => {
    expect(fnmatch(pattern, text)).toBe(matches);
  });

  test('the table is what the C library answers', async ({ skip }) => {
    const { spawnSync } = await import('node:child_process');
    const script = [
      'import ctypes, json, sys',
      'libc = ctypes.CDLL(None)',
      'rows = json.load(sys.stdin)',
      'json.dump([libc.fnmatch(p.encode(), t.encode(), 0) == 0 for p, t in rows], sys.stdout)',
    ].join('\n');
    const rows = TABLE.map(([pattern, text]) => [pattern, text]);
    const run = spawnSync('python3', ['-c', script], { input: JSON.stringify(rows), encoding: 'utf8' });
    if (run.status !== 0) skip('python3 with ctypes is not there to call the C library');
    const answers = JSON.parse(run.stdout) as boolean[];
    expect(TABLE.filter(([, , matches], i) => matches !== answers[i])).toEqual([]);
  });

  test('agrees with a regular expression on patterns of stars, question marks and letters', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[ab*?]{0,8}$/), fc.stringMatching(/^[ab]{0,8}$/), (pattern, text) => {
        const expression = new RegExp(`^${pattern.replace(/\*+/g, '.*').replace(/\?/g, '.')}$`);
        expect(fnmatch(pattern, text)).toBe(expression.test(text));
      }),
      { numRuns: 3000 },
    );
  });

  test('takes no time to speak of for a pattern that was made to take long', () => {
    const started = performance.now();
    expect(fnmatch(`${'*a'.repeat(500)}b`, 'a'.repeat(2000))).toBe(false);
    expect(performance.now() - started).toBeLessThan(2000);
  });

  test('no pattern makes it throw', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[ab[\]!^\-\\*?:.=]{0,12}$/), fc.string({ maxLength: 6 }), (pattern, text) => {
        expect(typeof fnmatch(pattern, text)).toBe('boolean');
      }),
      { numRuns: 3000 },
    );
  });

  test('a text without special characters is no pattern', () => {
    expect(['a', 'pci:v0', 'a]', '-', ''].filter(isPattern)).toEqual([]);
    expect(['*', 'a?', '[a]', '\\'].filter((text) => !isPattern(text))).toEqual([]);
  });
});
