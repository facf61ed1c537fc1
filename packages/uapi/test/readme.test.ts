import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';

const root = new URL('..', import.meta.url).pathname;

test('the example of the README runs and prints what it says', async () => {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const [, example] = /```ts\n([\s\S]*?)```/.exec(readme) ?? [];
  const [, printed] = /console\.log\(.*\); \/\/ (.*)/.exec(example ?? '') ?? [];
  const folder = mkdtempSync(join(tmpdir(), 'vfio-readme-'));
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  try {
    const file = join(folder, 'example.ts');
    writeFileSync(file, example!.replace("'@vfio/uapi'", JSON.stringify(join(root, 'src/index.ts'))));
    await import(/* @vite-ignore */ file);
    expect(log.mock.calls).toEqual([[[{ id: 3, version: 1 }]]]);
    expect(printed).toBe('[ { id: 3, version: 1 } ]');
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
  }
});
