import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as core from '@vfio/core';
import { expect, test } from 'vitest';

test('the example of the README runs and prints what it says', () => {
  const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8');
  const section = readme.slice(readme.indexOf('\n## PCI\n'));
  const example = /```ts\n([\s\S]*?)```/.exec(section)?.[1] ?? '';
  const code = example.replace(/import (\{[^}]*\}) from '@vfio\/core';/, 'const $1 = core;');
  expect(code).not.toContain('import');
  const printed: string[] = [];
  const run = new Function('core', 'console', code) as (module: typeof core, log: { log(text: string): void }) => void;
  run(core, { log: (text) => printed.push(text) });
  const promised = [...example.matchAll(/^\/\/ (.*)$/gm)].map(([, text]) => text);
  expect(promised).toHaveLength(2);
  expect(printed).toEqual(promised);
});
