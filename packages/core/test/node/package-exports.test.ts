import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { isExportSubpath, isInnerPath } from '../../src/node/manifest.js';
import { NODE_CONDITIONS, resolveExport } from '../../src/node/package-exports.js';
import { temporaryFolder, write } from './fake-packages.js';

/** Values of `exports`, and subpaths that are asked for. */
const CASES: readonly (readonly [exports: unknown, subpath: string, expected: string | undefined])[] = [
  ['./main.js', '.', './main.js'],
  ['./main.js', './driver', undefined],
  [{ '.': './main.js' }, './driver', undefined],
  [{ './driver': './a.js' }, './driver', './a.js'],
  [{ './driver': './a.js' }, '.', undefined],
  [{ import: './a.js', default: './b.js' }, '.', './a.js'],
  [{ require: './a.js', default: './b.js' }, '.', './b.js'],
  [{ './driver': { types: './a.d.ts', '@vfio/source': './a.ts', default: './a.js' } }, './driver', './a.js'],
  [{ './driver': { browser: './a.js' } }, './driver', undefined],
  [{ './driver': { node: { import: './a.js' }, default: './b.js' } }, './driver', './a.js'],
  [{ './driver': { node: { require: './a.js' }, default: './b.js' } }, './driver', './b.js'],
  [{ './driver': { default: './b.js', node: './a.js' } }, './driver', './b.js'],
  [{ './driver': null }, './driver', undefined],
  [{ './driver': ['./a.js', './b.js'] }, './driver', './a.js'],
  [{ './driver': [{ browser: './a.js' }, './b.js'] }, './driver', './b.js'],
  [{ './*': './lib/*.js' }, './driver', './lib/driver.js'],
  [{ './*': './lib/*.js' }, './a/b', './lib/a/b.js'],
  [{ './*.js': './lib/*.js' }, './a.js', './lib/a.js'],
  [{ './*.js': './lib/*.js' }, './a', undefined],
  [{ './a/*': './wide/*.js', './a/b/*': './narrow/*.js' }, './a/b/c', './narrow/c.js'],
  [{ './a/*': './wide/*.js', './a/*.x': './long/*.js' }, './a/b.x', './long/b.js'],
  [{ './a/*': './lib/*.js', './a/internal/*': null }, './a/internal/x', undefined],
  [{ './driver': './exact.js', './*': './lib/*.js' }, './driver', './exact.js'],
  [{ './*': './lib/*/*.js' }, './a', './lib/a/a.js'],
];

describe('subpaths of exports', () => {
  test.each(CASES)('%j at %s is %s', (exports, subpath, expected) => {
    expect(resolveExport({ exports }, subpath)).toBe(expected);
  });

  test('the answers are those of Node', async () => {
    const root = await temporaryFolder();
    for (const [index, [exports]] of CASES.entries()) {
      await write(join(root, `node_modules/p${index}/package.json`), { name: `p${index}`, type: 'module', exports });
    }
    const asked = CASES.map(([, subpath], index) => `p${index}${subpath.slice(1)}`);
    await write(
      join(root, 'ask.mjs'),
      `console.log(JSON.stringify(${JSON.stringify(asked)}.map((name) => {
        try { return import.meta.resolve(name); } catch (error) { return error.code; }
      })));`,
    );
    const { stdout } = await promisify(execFile)(process.execPath, [join(root, 'ask.mjs')]);
    const answers = JSON.parse(stdout) as string[];
    for (const [index, [, subpath, expected]] of CASES.entries()) {
      const answer =
        expected === undefined
          ? 'ERR_PACKAGE_PATH_NOT_EXPORTED'
          : pathToFileURL(join(root, `node_modules/p${index}`, expected)).href;
      expect([index, subpath, answers[index]]).toEqual([index, subpath, answer]);
    }
  });

  test('conditions that are asked for count in the order of the package', () => {
    const exports = { './driver': { '@vfio/source': './src.ts', default: './dist.js' } };
    expect(resolveExport({ exports }, './driver', ['@vfio/source', ...NODE_CONDITIONS])).toBe('./src.ts');
    expect(resolveExport({ exports }, './driver')).toBe('./dist.js');
  });

  test('without exports the main file and every other path are there', () => {
    expect(resolveExport({ main: 'lib/a.js' }, '.')).toBe('./lib/a.js');
    expect(resolveExport({ main: './lib/a.js' }, '.')).toBe('./lib/a.js');
    expect(resolveExport({}, '.')).toBe('./index.js');
    expect(resolveExport({}, './any/file.js')).toBe('./any/file.js');
  });

  test('a target that does not begin with ./ is none', () => {
    for (const target of ['/etc/passwd', '../up.js', 'other-package', 'file:///x', 7]) {
      expect(resolveExport({ exports: { './driver': target } }, './driver')).toBeUndefined();
    }
  });
});

describe('paths that a package may name', () => {
  test.each(['a', 'dist/modules.alias', 'a.b/c-d/_e', '...', 'a..b/c', '.hidden'])('%j stays inside', (path) => {
    expect(isInnerPath(path)).toBe(true);
  });

  test.each([
    '',
    '/',
    '/a',
    'a/',
    'a//b',
    './a',
    '.',
    '..',
    '../a',
    'a/../b',
    'a/..',
    'C:/a',
    'a\\b',
    'a\0',
    'a\nb',
    7,
    null,
    undefined,
    'a'.repeat(1025),
  ])('%j may not be named', (path) => {
    expect(isInnerPath(path)).toBe(false);
  });

  test('an export is "." or a path below it, as Node takes them', () => {
    expect(['.', './driver', './a/b.js'].every(isExportSubpath)).toBe(true);
    const refused = [
      '',
      'driver',
      '..',
      './',
      './..',
      './a/../b',
      '/a',
      './a%2fb',
      './a%5Cb',
      './node_modules/x',
      './a//b',
      1,
      undefined,
    ];
    expect(refused.filter(isExportSubpath)).toEqual([]);
  });
});
