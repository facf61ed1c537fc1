import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';

const HERE = import.meta.dirname;

test('the example in the README runs and prints what it says', async () => {
  const [, example = ''] = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(HERE, '../README.md'), 'utf8')) ?? [];
  const [, says] = /console\.log\(.*\); \/\/ (.*)/.exec(example) ?? [];
  mkdirSync(join(HERE, '../.cache'), { recursive: true });
  // Within the package, so that it is found by its name.
  const folder = mkdtempSync(join(HERE, '../.cache/readme-'));
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  try {
    const file = join(folder, 'example.ts');
    writeFileSync(file, example);
    await import(/* @vite-ignore */ file);
    expect(log.mock.calls.map((words) => words.join(' '))).toEqual([says]);
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
  }
});
