import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { FakeFunction, FakeHost } from './device/fake-function.js';

const root = join(import.meta.dirname, '..');

/** Runs the first example of a section of the README; returns what it printed. */
async function runExample(section: string, before = ''): Promise<{ code: string; printed: unknown[][] }> {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const code = /```ts\n([\s\S]*?)```/.exec(readme.slice(readme.indexOf(`\n## ${section}\n`)))?.[1] ?? '';
  const folder = mkdtempSync(join(tmpdir(), 'vfio-readme-'));
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  try {
    const file = join(folder, 'example.ts');
    // Where the example lies nothing is installed.
    writeFileSync(file, before + code.replaceAll("'@vfio/core'", JSON.stringify(join(root, 'src/index.ts'))));
    await import(/* @vite-ignore */ file);
    return { code, printed: log.mock.calls };
  } finally {
    log.mockRestore();
    rmSync(folder, { recursive: true });
  }
}

test('the example of PCI prints what it says', async () => {
  const { code, printed } = await runExample('PCI');
  const promised = [...code.matchAll(/^\/\/ (.*)$/gm)].map(([, text]) => [text]);
  expect(promised).toHaveLength(2);
  expect(printed).toEqual(promised);
});

test('the example of a driver shows what it says', async () => {
  const host = new FakeHost();
  const fn = new FakeFunction(host);
  host.list.push(fn);
  vi.stubGlobal('machine', { host, fn });
  const { code, printed } = await runExample('Device', 'const { host, fn } = globalThis.machine;\n');
  expect(code).toContain('console.log(device.name, revision[0]); // acme-vfio-pci 7');
  expect(printed).toEqual([['acme-vfio-pci', 7]]);
  vi.unstubAllGlobals();
});
