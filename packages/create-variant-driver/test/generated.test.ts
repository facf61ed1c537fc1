import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { discoverDrivers } from '@vfio/core/node';
import { checkOptions, FEATURES, renderVariantDriver, version } from '@vfio/nx';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { main } from '../src/index.js';
import { BIN, ROOT, run as runIn } from './helpers/run.js';
import { apply, createCommandsOf, editsOf } from './helpers/tutorial.js';

/** Outside of the repository, with its packages as if they were installed: what is built of them, and nothing of source. */
const folder = mkdtempSync(join(tmpdir(), 'vfio-generated-'));
beforeAll(() => symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules')));
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs a program in a folder below, without a registry. */
const run = (cwd: string, command: string, ...args: string[]) =>
  runIn(join(folder, cwd), { PATH: `${BIN}:${process.env['PATH']}`, npm_config_offline: 'true' }, command, ...args);

function generate(at: string, more: object): void {
  const driver = checkOptions({ name: 'hisi-acc', ids: ['19e5:a251'], ...more });
  for (const [path, text] of renderVariantDriver(driver, { version })) {
    const target = join(folder, at, path);
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, text);
  }
}

/** Compilers and test runs of their own, on a machine that has other things to do. */
const HEAVY_MS = 300_000;

/** Every set of features, each in a folder of its own; those named are tested too. */
const all = Array.from({ length: 2 ** FEATURES.length }, (_, bits) =>
  FEATURES.filter((_feature, at) => ((bits >> at) & 1) === 1),
);
const ALL = `features-${all.length - 1}`;
const TUTORIAL = 'hisi-acc-vfio-pci';
const TESTED = ['features-0', ALL, 'by-class', 'by-subsystem', TUTORIAL];
const page = readFileSync(join(ROOT, 'docs/guides/generate-a-driver.md'), 'utf8');

beforeAll(() => {
  for (const [at, features] of all.entries()) generate(`features-${at}`, { features });
  generate('by-class', { name: 'x', ids: [], classes: ['0108'], features: ['caps', 'dirty-tracking'] });
  generate('by-subsystem', {
    name: 'y-z',
    ids: ['19e5:a251:19e5:0001'],
    classes: ['12'],
    features: ['regions', 'migration'],
  });
});

/** The driver of the tutorial: its commands, and then its changes. */
beforeAll(async () => {
  const nothing = () => {};
  for (const args of createCommandsOf(page))
    expect(await main(args, { cwd: folder, out: nothing, err: nothing, prompts: undefined })).toBe(0);
  for (const edit of editsOf(page)) {
    const path = join(folder, TUTORIAL, edit.file);
    writeFileSync(path, apply(readFileSync(path, 'utf8'), edit));
  }
});

describe('what is generated', () => {
  test(
    'compiles, with every set of features',
    () => {
      const [config = ''] = ['tsconfig.json'].map((path) => readFileSync(join(folder, ALL, path), 'utf8'));
      const { compilerOptions } = JSON.parse(config);
      writeFileSync(
        join(folder, 'tsconfig.json'),
        JSON.stringify({ compilerOptions, include: ['*/src', '*/test', '*/*.config.ts'] }),
      );
      const { status, output } = run('.', join(BIN, 'tsc'), '-p', 'tsconfig.json');
      expect(status, output).toBe(0);
    },
    HEAVY_MS,
  );

  test(
    'passes its tests at once, the contract suite on both bases among them',
    () => {
      const config = readFileSync(join(folder, ALL, 'vitest.config.ts'), 'utf8');
      const include = TESTED.map((at) => `'${at}/test/**/*.test.ts'`).join();
      writeFileSync(join(folder, 'vitest.config.ts'), config.replace(/include: \[.*\]/, `include: [${include}]`));
      const { status, output } = run(
        '.',
        join(BIN, 'vitest'),
        'run',
        '--no-isolate',
        '--reporter=json',
        '--outputFile=report.json',
      );
      expect(status, output).toBe(0);
      const report = JSON.parse(readFileSync(join(folder, 'report.json'), 'utf8'));
      const passed = (file: string, name: string) =>
        (report.testResults as { name: string; assertionResults: { status: string; fullName: string }[] }[])
          .filter((suite) => suite.name.endsWith(file))
          .flatMap(({ assertionResults }) => assertionResults)
          .filter((one) => one.status === 'passed' && one.fullName.includes(name)).length;
      for (const at of TESTED) {
        expect(passed(`${at}/test/contract.test.ts`, 'on hardware')).toBeGreaterThan(50);
        expect(passed(`${at}/test/contract.test.ts`, 'over a VFIO device')).toBeGreaterThan(50);
      }
      // A feature that is not there is passed over by the suite: that it is there shows in rules that only it meets.
      const rules = ['what one device saves another loads', 'no page that the device writes under load is missed'];
      expect(passed(`${TUTORIAL}/test/caps.test.ts`, 'a device whose firmware is older than 1.2.0 is not opened')).toBe(
        1,
      );
      for (const rule of rules) expect(passed(`${ALL}/test/contract.test.ts`, rule)).toBe(2);
    },
    HEAVY_MS,
  );

  test('is laid out and linted well after the changes of the tutorial, too', () => {
    expect(editsOf(page).map(({ file }) => file)).toEqual([
      'test/caps.test.ts',
      'src/caps.ts',
      'src/caps.ts',
      'README.md',
    ]);
    const { status, output } = run(TUTORIAL, join(BIN, 'biome'), 'check', '.');
    expect(status, output).toBe(0);
  });

  describe('is built', () => {
    beforeAll(() => {
      const { status, output } = run(ALL, 'npm', 'run', 'build');
      expect(status, output).toBe(0);
    }, HEAVY_MS);

    test('with its alias file, by which discovery finds it and runs none of its code', async () => {
      expect(readFileSync(join(folder, ALL, 'dist/modules.alias'), 'utf8')).toContain(
        'alias vfio_pci:v000019E5d0000A251sv*sd*bc*sc*i* hisi_acc_vfio_pci',
      );
      const project = join(folder, 'project');
      mkdirSync(join(project, 'node_modules'), { recursive: true });
      symlinkSync(join(folder, ALL), join(project, 'node_modules/hisi-acc-vfio-pci'));
      writeFileSync(join(project, 'package.json'), '{"name":"p","dependencies":{"hisi-acc-vfio-pci":"*"}}');
      const { drivers, problems, index } = await discoverDrivers({ from: project, cacheDirectory: false });
      expect({ problems, names: drivers.map(({ name }) => name) }).toEqual({
        problems: [],
        names: ['hisi_acc_vfio_pci'],
      });
      const modalias = 'vfio_pci:v000019E5d0000A251sv00000000sd00000000bc12sc00i00';
      expect(index.bestModalias(modalias)?.driver).toBe('hisi_acc_vfio_pci');
    });

    test('into a package that publint finds nothing in', () => {
      const { status, output } = run(ALL, join(BIN, 'publint'), '--strict');
      expect(status, output).toBe(0);
    });

    test('and the example in its README runs and prints what it says', () => {
      const readme = readFileSync(join(folder, ALL, 'README.md'), 'utf8');
      const [, example = ''] = /```ts\n([\s\S]*?)```/.exec(readme) ?? [];
      const { ESNext } = ts.ScriptTarget;
      const { outputText } = ts.transpileModule(example, {
        compilerOptions: { module: ts.ModuleKind.ESNext, target: ESNext },
      });
      writeFileSync(join(folder, ALL, 'example.mjs'), outputText);
      expect(run(ALL, process.execPath, 'example.mjs')).toMatchObject({ status: 0, output: 'hisi-acc-vfio-pci\n' });
    });
  });
});
