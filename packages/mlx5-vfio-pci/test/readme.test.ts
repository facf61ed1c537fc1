import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test, vi } from 'vitest';

const packages = fileURLToPath(new URL('../..', import.meta.url));

test('the example in the README does what its comments say', async () => {
  const readme = readFileSync(join(packages, 'mlx5-vfio-pci/README.md'), 'utf8');
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';
  const folder = mkdtempSync(join(tmpdir(), 'vfio-readme-'));
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  try {
    const file = join(folder, 'example.ts');
    // Where the example lies nothing is installed.
    const source = (name: string) => JSON.stringify(join(packages, name, 'src/index.ts'));
    writeFileSync(
      file,
      code.replaceAll(/'@vfio\/([a-z0-9-]+)'/g, (_, name: string) => source(name)),
    );
    await import(/* @vite-ignore */ file);
    expect(log.mock.calls).toEqual([[{ flags: 7 }]]);
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
  }
});
