import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'tsup';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { contractCases } from '../src/index.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const readme = readFileSync(join(root, 'packages/testing/README.md'), 'utf8');
const example = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';

/** Packages that the README's example is made of, from source: a test needs no build. */
const withSources = (code: string): string =>
  code.replaceAll(/'@vfio\/([a-z-]+)(\/driver)?'/g, (_, name: string, isDriver?: string) =>
    JSON.stringify(join(root, 'packages', name, 'src', isDriver === undefined ? 'index.ts' : 'device.ts')),
  );

describe('the example in the README', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'vfio-testing-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  /** The example as one plain module, with another runner perhaps, and what Node's test runner makes of it. */
  async function run(name: string, code: string) {
    const source = join(folder, `${name}.ts`);
    writeFileSync(source, withSources(code));
    await build({
      entry: [source],
      outDir: folder,
      format: 'esm',
      target: 'node20',
      outExtension: () => ({ js: '.test.mjs' }),
      config: false,
      removeNodeProtocol: false,
      silent: true,
      tsconfig: join(root, 'packages/testing/tsconfig.json'),
      esbuildOptions: (options) => {
        options.conditions = ['@vfio/source'];
      },
      noExternal: [/./],
      nodePaths: [join(root, 'node_modules')],
    } as Parameters<typeof build>[0]);
    const { NODE_TEST_CONTEXT: _, NODE_OPTIONS: __, ...env } = process.env;
    return spawnSync(process.execPath, ['--test', '--test-reporter=tap', join(folder, `${name}.test.mjs`)], {
      encoding: 'utf8',
      env,
    });
  }

  const forNode = example.replace("'vitest'", "'node:test'");

  test('is a whole contract test, of 15 lines at most', () => {
    expect(example.trim().split('\n').length).toBeLessThanOrEqual(15);
    expect(forNode).not.toBe(example);
  });

  test('runs with node:test: every case is reported, and those without a subject are skipped with the reason', async () => {
    const { stdout, status } = await run('example', forNode);
    const cases = contractCases({ name: 'x', open: () => Promise.reject(new Error('not opened')) });
    expect(status, stdout).toBe(0);
    expect(Number(/^# tests (\d+)$/m.exec(stdout)?.[1])).toBe(cases.length);
    expect(stdout).toContain('# SKIP the device does not log its DMA');
    expect(/^# fail 0$/m.test(stdout)).toBe(true);
  });

  test('fails with node:test where the driver breaks a rule, by the rule’s name', async () => {
    const broken = forNode.replace(
      'toClient(await deviceOf(bus, fn).open())',
      '{ ...toClient(await deviceOf(bus, fn).open()), getInfo: async () => ({ flags: 0, numRegions: 0, numIrqs: 0, caps: [] }) }',
    );
    expect(broken).not.toBe(forNode);
    const { stdout, status } = await run('broken', broken);
    expect(status).toBe(1);
    expect(stdout).toMatch(/not ok \d+ - is a PCI device with at least the regions and interrupts that every one has/);
  });
});
