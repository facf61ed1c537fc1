import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as fc from 'fast-check';
import ts from 'typescript';
import { describe, expect, test } from 'vitest';
import {
  checkOptions,
  FEATURES,
  GeneratorError,
  renderChangeset,
  renderVariantDriver,
  type Setting,
} from '../src/index.js';
import { options } from './helpers/arbitrary.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const ALONE: Setting = { version: '1.2.3' };
const HISI = { name: 'hisi-acc', ids: ['19e5:a251', '19e5:a256'] };

/** Every set of features. */
const combinations = Array.from({ length: 2 ** FEATURES.length }, (_, bits) =>
  FEATURES.filter((_feature, at) => ((bits >> at) & 1) === 1),
);

const render = (more: object = {}, setting = ALONE) => renderVariantDriver(checkOptions({ ...HISI, ...more }), setting);

/** What a compiler says of a text by itself. */
const syntaxErrors = (path: string, text: string): string[] =>
  (ts.transpileModule(text, { fileName: path, reportDiagnostics: true }).diagnostics ?? []).map(({ messageText }) =>
    ts.flattenDiagnosticMessageText(messageText, '\n'),
  );

describe('a driver', () => {
  test('without features has the three files of every driver, and what a package has', () => {
    expect([...render().keys()].sort()).toEqual([
      '.github/workflows/ci.yml',
      '.gitignore',
      'LICENSE',
      'README.md',
      'biome.json',
      'package.json',
      'src/device.ts',
      'src/ids.ts',
      'src/index.ts',
      'src/ops.ts',
      'test/contract.test.ts',
      'test/helpers/model.ts',
      'test/helpers/setup.ts',
      'test/match.test.ts',
      'tsconfig.build.json',
      'tsconfig.json',
      'tsup.config.ts',
      'vitest.config.ts',
    ]);
  });

  test.each([
    ['migration', ['cmd', 'control-bar', 'migration', 'stream']],
    ['dirty-tracking', ['cmd', 'control-bar', 'dirty']],
    ['regions', ['control-bar', 'regions']],
    ['caps', ['caps', 'control-bar']],
  ])('with %s has a file for each of its subjects', (feature, subjects) => {
    const without = render();
    const added = [...render({ features: [feature] }).keys()].filter((path) => !without.has(path));
    expect(added.filter((path) => path.startsWith('src/')).sort()).toEqual(subjects.map((name) => `src/${name}.ts`));
  });

  test.each(combinations.map((features) => [features.join(', ') || 'none', features] as const))(
    'imports only what is there, with features: %s',
    (_name, features) => {
      const files = render({ features });
      for (const [path, text] of files) {
        if (!path.endsWith('.ts')) continue;
        for (const [, target = ''] of text.matchAll(/from '(\.[^']*)'/g))
          expect(files.has(join(dirname(path), target.replace(/\.js$/, '.ts'))), `${path}: ${target}`).toBe(true);
      }
    },
  );

  test('has a README whose headings are what the kernel asks', () => {
    const headings = [...(render({ features: FEATURES }).get('README.md') ?? '').matchAll(/^## (.*)$/gm)];
    expect(headings.map(([, heading]) => heading)).toEqual([
      'What does it add to the generic driver?',
      'Why can the generic driver not do it?',
      "How is the device's state composed?",
      'How is it consumed?',
      'Which parts of it are not available to the user otherwise?',
      'What safeguards are there that it is valid?',
      'How is it tested?',
      'Who reviews it?',
      'Errors',
    ]);
  });

  test('has nothing in it that its author would have to delete', () => {
    for (const [path, text] of render({ features: FEATURES }))
      expect(text, path).not.toMatch(/TODO|FIXME|XXX|not implemented|\{\{\w|%% /i);
  });

  test('has its conditions where discovery looks for them, once each', () => {
    const manifest = JSON.parse(render({ requires: ['zpci', 'zpci'] }).get('package.json') ?? '');
    expect(manifest.vfio).toEqual({
      api: 1,
      drivers: [{ name: 'hisi_acc_vfio_pci', export: './driver', alias: 'dist/modules.alias', requires: ['zpci'] }],
    });
  });

  test('is the same whenever it is rendered, in whatever order its features are named', () => {
    expect(render({ features: ['caps', 'migration'] })).toEqual(render({ features: ['migration', 'caps', 'caps'] }));
  });

  test('is a package of its workspace in a monorepo that shares its configuration', () => {
    const about = { author: 'us', repository: { type: 'git', url: 'git+https://example.org/x.git' } };
    const directory = 'packages/hisi-acc-vfio-pci';
    const files = render({}, { ...ALONE, workspace: { directory, sharesConfig: true, about } });
    expect(files.get('tsconfig.json')).toContain('"extends": "../../tsconfig.base.json"');
    expect(files.get('tsup.config.ts')).toContain("from '../../tsup.config.base.ts'");
    expect([...files.keys()].filter((path) => path.startsWith('.') || path === 'biome.json')).toEqual([]);
    const manifest = JSON.parse(files.get('package.json') ?? '');
    expect(manifest).toMatchObject({ author: 'us', repository: { ...about.repository, directory } });
    expect(manifest.exports['./driver']['@vfio/source']).toBe('./src/device.ts');
    expect(Object.keys(manifest.devDependencies)).toEqual(['@vfio/emulated', '@vfio/testing']);
  });

  test('brings its configuration to a monorepo that shares none, and no CI', () => {
    const files = render({}, { ...ALONE, workspace: { directory: 'libs/x', sharesConfig: false, about: {} } });
    expect(files.get('tsconfig.json')).toContain('"strict": true');
    expect(files.has('.github/workflows/ci.yml')).toBe(false);
    expect(JSON.parse(files.get('package.json') ?? '').devDependencies).toHaveProperty('tsup');
  });
});

describe('what is asked for', () => {
  test.each([
    [{ ids: [] }, 'say which functions'],
    [{ features: ['speed'] }, 'no feature "speed"'],
    [{ requires: ['a b'] }, 'the condition "a b"'],
    [{ requires: ['../x'] }, 'the condition "../x"'],
    [{ description: 'two\nlines' }, 'the description'],
    [{ description: '\u001b[31m' }, 'the description'],
    [{ description: 'x'.repeat(201) }, 'the description'],
    [{ description: ' ' }, 'the description'],
  ])('is refused as %j', (more, says) => {
    expect(() => render(more)).toThrow(GeneratorError);
    expect(() => render(more)).toThrow(says);
  });

  test('if it is valid gives a valid package, whatever the description has in it', () => {
    fc.assert(
      fc.property(options, (asked) => {
        const driver = checkOptions(asked);
        const files = renderVariantDriver(driver, ALONE);
        const manifest = JSON.parse(files.get('package.json') ?? '');
        expect(manifest).toMatchObject({ name: driver.package, description: driver.description });
        for (const [path, text] of files) {
          if (path.endsWith('.json')) JSON.parse(text);
          if (path.endsWith('.ts')) expect(syntaxErrors(path, text)).toEqual([]);
        }
        expect(renderChangeset(driver)).toMatch(/^---\n"[^"\n]+": minor\n---\n\n[^\n]+\n$/);
      }),
      { numRuns: 15 },
    );
  });

  test('if it is valid gives files that are laid out as the formatter does, and in which the linter finds nothing', () => {
    const folder = mkdtempSync(join(tmpdir(), 'vfio-nx-'));
    try {
      const longest = { name: 'abcdefghijklmnopqrstuvwx', ids: ['19e5:a251'] };
      const asked = [
        ...[HISI, longest].flatMap((one) => combinations.map((features) => ({ ...one, features }))),
        ...fc.sample(options, 24),
      ];
      for (const [at, one] of asked.entries()) {
        for (const [path, text] of renderVariantDriver(checkOptions(one), ALONE)) {
          // The root has the one configuration; the schema that it names is not installed here.
          const target = join(folder, path === 'biome.json' ? path : `${at}/${path}`);
          mkdirSync(dirname(target), { recursive: true });
          writeFileSync(target, text.replace('./node_modules', join(ROOT, 'node_modules')));
        }
      }
      const biome = join(ROOT, 'node_modules/.bin/biome');
      const { status, stdout, stderr } = spawnSync(biome, ['check', '.'], { cwd: folder, encoding: 'utf8' });
      expect(status, stdout + stderr).toBe(0);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
