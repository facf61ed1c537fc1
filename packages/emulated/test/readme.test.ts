import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';

const root = new URL('..', import.meta.url).pathname;
const readme = readFileSync(join(root, 'README.md'), 'utf8');
const examples = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code = '']) => code);

/** Runs a piece of the README; what it prints. */
async function run(code: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-readme-'));
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  try {
    const file = join(folder, 'example.ts');
    writeFileSync(file, code.replace("'@vfio/emulated'", JSON.stringify(join(root, 'src/index.ts'))));
    await import(/* @vite-ignore */ file);
    return log.mock.calls.map((words) => words.join(' ')).join('\n');
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
  }
}

test('the first example prints what it says', async () => {
  const [, printed] = /console\.log\(.*\); \/\/ (.*)/.exec(examples[0] ?? '') ?? [];
  expect(await run(examples[0] ?? '')).toBe(printed);
});

test('the model of your own can be put into a host and counts', async () => {
  const code = `${examples[1]}
const bar = host.find('0000:00:03.0')!.open(0);
bar.write(0, 4, 0);
bar.write(0, 4, 0);
console.log(bar.read(0, 4));`;
  expect(await run(code)).toBe('2');
});
