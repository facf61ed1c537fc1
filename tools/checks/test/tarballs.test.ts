import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ROOT } from '../src/markdown.js';

interface Manifest {
  readonly name: string;
  readonly exports: unknown;
  readonly types?: string;
  readonly bin?: Readonly<Record<string, string>>;
  readonly vfio?: { readonly drivers: readonly { readonly alias?: string }[] };
}

interface Tarball {
  readonly folder: string;
  readonly manifest: Manifest;
  readonly files: readonly string[];
}

/** What the tarballs of all packages would hold; they are built before this test. */
function tarballs(): Tarball[] {
  const folders = readdirSync(join(ROOT, 'packages'));
  const manifests = folders.map(
    (folder) => JSON.parse(readFileSync(join(ROOT, 'packages', folder, 'package.json'), 'utf8')) as Manifest,
  );
  const names = manifests.flatMap(({ name }) => ['-w', name]);
  const out = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts', ...names], {
    cwd: ROOT,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const packed = JSON.parse(out) as unknown;
  // npm 11 keys them by name, npm 10 lists them.
  const list = (Array.isArray(packed) ? packed : Object.values(packed as object)) as readonly {
    readonly name: string;
    readonly files: readonly { readonly path: string }[];
  }[];
  return list.map(({ name, files }) => {
    const index = manifests.findIndex((manifest) => manifest.name === name);
    return {
      folder: join(ROOT, 'packages', folders[index] ?? ''),
      manifest: manifests[index] as Manifest,
      files: files.map(({ path }) => path).sort(),
    };
  });
}

/** Files that `exports` leads to, outside of this repository's own condition. */
function exported(exports: unknown): string[] {
  if (typeof exports === 'string') return [exports];
  if (typeof exports !== 'object' || exports === null) return [];
  return Object.entries(exports).flatMap(([key, value]) => (key === '@vfio/source' ? [] : exported(value)));
}

/** What a package may have at its top level. */
const TOP = ['LICENSE', 'README.md', 'bin', 'dist', 'package.json', 'schemas', 'src'];
/** What Nx reads, and what a driver is rendered from: files that are another package's. */
const GENERATOR = ['generators.json', 'schema.json', 'templates'];
const NATIVE = ['binding.gyp', 'prebuilds', 'scripts', 'src-native'];

const all = tarballs();

test('every package is packed', () => {
  expect(all.map(({ folder }) => folder).sort()).toEqual(
    readdirSync(join(ROOT, 'packages'))
      .map((name) => join(ROOT, 'packages', name))
      .sort(),
  );
});

describe.each(all)('the tarball of $manifest.name', ({ folder, files, manifest }) => {
  const has = (path: string) => files.includes(posix.normalize(path));

  test('has the licence of the repository, a README and its manifest', () => {
    expect(['LICENSE', 'README.md', 'package.json'].filter((path) => !has(path))).toEqual([]);
    expect(readFileSync(join(folder, 'LICENSE'), 'utf8')).toBe(readFileSync(join(ROOT, 'LICENSE'), 'utf8'));
  });

  test('has nothing else at its top level, and no tests, caches or configuration', () => {
    const more: Readonly<Record<string, readonly string[]>> = { '@vfio/native': NATIVE, '@vfio/nx': GENERATOR };
    const allowed = [...TOP, ...(more[manifest.name] ?? [])];
    const own = files.filter((path) => !path.startsWith('templates/'));
    expect(
      [...new Set(files.map((path) => path.split('/')[0]))].filter((name) => !allowed.includes(name ?? '')),
    ).toEqual([]);
    expect(
      own.filter((path) => /\.test\.|(^|\/)(test|fixtures|coverage|\.cache)\/|tsbuildinfo|tsconfig|\.env/.test(path)),
    ).toEqual([]);
  });

  test('has every file that its manifest names', () => {
    const { exports, types, bin = {}, vfio } = manifest;
    const named = [
      ...exported(exports),
      ...Object.values(bin),
      ...(vfio?.drivers.flatMap(({ alias }) => alias ?? []) ?? []),
    ];
    if (types !== undefined) named.push(types);
    const missing = named.filter((path) =>
      path.includes('*')
        ? !files.some((file) => file.startsWith(posix.normalize(path.split('*')[0] ?? '')))
        : !has(path),
    );
    expect(missing).toEqual([]);
  });

  test('has a map for each file that was compiled, and the sources that the maps name', () => {
    const compiled = files.filter((path) => /^dist\/.*\.(js|d\.ts)$/.test(path));
    expect(compiled.length).toBeGreaterThan(0);
    expect(compiled.filter((path) => !has(`${path}.map`))).toEqual([]);
    const missing = compiled.flatMap((path) => {
      const map = JSON.parse(readFileSync(join(folder, `${path}.map`), 'utf8')) as {
        sources: string[];
        sourceRoot?: string;
      };
      return map.sources
        .map((source) => posix.join(posix.dirname(path), map.sourceRoot ?? '', source))
        .filter((source) => !source.startsWith('..') && !has(source))
        .map((source) => `${path}: ${source}`);
    });
    expect(missing).toEqual([]);
  });
});
