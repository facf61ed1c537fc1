import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createContext, runInContext } from 'node:vm';
import { build } from 'tsup';
import { describe, expect, test } from 'vitest';

/** What pages have beside the language itself. */
const WEB = {
  AbortController,
  clearTimeout,
  crypto,
  performance,
  queueMicrotask,
  setTimeout,
  TextDecoder,
  TextEncoder,
};

/** Bundles a program for a browser, with the packages that it imports, and runs it where there is nothing of Node. */
async function runAsPage(program: string): Promise<unknown> {
  const outDir = mkdtempSync(join(tmpdir(), 'vfio-page-'));
  try {
    await build({
      entry: { page: resolve(import.meta.dirname, '../fixtures/browser', program) },
      outDir,
      config: false,
      silent: true,
      format: 'iife',
      globalName: 'page',
      platform: 'browser',
      target: 'es2022',
      noExternal: [/./],
      esbuildOptions: (options) => {
        options.conditions = ['@vfio/source'];
        options.logLevel = 'silent';
      },
    });
    const context = createContext({ ...WEB }) as { page?: { result: unknown } };
    runInContext(readFileSync(join(outDir, 'page.global.js'), 'utf8'), context);
    // Another realm's objects: compared as data.
    return JSON.parse(JSON.stringify(await context.page?.result));
  } finally {
    rmSync(outDir, { recursive: true });
  }
}

describe('the packages whose main entry is pure', () => {
  test('find, bind and open an emulated function in a page', async () => {
    expect(await runAsPage('program.ts')).toEqual({
      candidates: ['nvme_vfio_pci', 'vfio-pci'],
      name: 'nvme_vfio_pci',
      ids: [0x36, 0x1b, 0x10, 0x00],
    });
  });

  test('would be found out: by a built-in module of Node, by a global of Node', async () => {
    await expect(runAsPage('imports-node.ts')).rejects.toThrow('Dynamic require of "os"');
    await expect(runAsPage('uses-buffer.ts')).rejects.toThrow('Buffer is not defined');
  });
});
