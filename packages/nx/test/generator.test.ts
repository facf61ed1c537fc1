import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { GeneratorError, type GeneratorTree, type VariantDriverSchema, variantDriverGenerator } from '../src/index.js';

interface NxTree extends GeneratorTree {
  listChanges(): { path: string; type: string; content: Buffer | null }[];
}

/** Nx's own tree: what its command hands to a generator. */
const { FsTree, flushChanges } = createRequire(import.meta.url)('nx/src/generators/tree.js') as {
  FsTree: new (root: string, verbose: boolean) => NxTree;
  flushChanges(root: string, changes: ReturnType<NxTree['listChanges']>): void;
};

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'vfio-nx-'));
  put('package.json', JSON.stringify({ name: 'mono', license: 'ISC', author: 'us' }));
});
afterEach(() => rmSync(root, { recursive: true }));

function put(path: string, text = ''): void {
  mkdirSync(join(root, path, '..'), { recursive: true });
  writeFileSync(join(root, path), text);
}

/** Runs the generator, and has Nx write what it left. */
function generate(schema: Partial<VariantDriverSchema> = {}) {
  const tree = new FsTree(root, false);
  const after = variantDriverGenerator(tree, { name: 'hisi-acc', id: ['19e5:a251'], ...schema });
  const changes = tree.listChanges();
  flushChanges(root, changes);
  const texts = new Map(changes.map(({ path, content }) => [path, String(content)]));
  return { paths: [...texts.keys()], texts, after };
}

describe('the Nx generator', () => {
  test('makes a package of the workspace, below packages', () => {
    const { paths, texts } = generate();
    expect(paths.every((path) => path.startsWith('packages/hisi-acc-vfio-pci/'))).toBe(true);
    expect(JSON.parse(texts.get('packages/hisi-acc-vfio-pci/package.json') ?? '')).toMatchObject({ author: 'us' });
  });

  test('says the licence of the workspace where its text is there', () => {
    const license = (texts: ReadonlyMap<string, string>) => [
      JSON.parse(texts.get('packages/hisi-acc-vfio-pci/package.json') ?? '').license,
      texts.get('packages/hisi-acc-vfio-pci/LICENSE')?.split('\n')[0],
    ];
    expect(license(generate().texts)).toEqual(['MIT', 'MIT License']);
    rmSync(join(root, 'packages'), { recursive: true });
    put('LICENSE', 'ISC License\n');
    expect(license(generate().texts)).toEqual(['ISC', 'ISC License']);
  });

  test('shares the configuration of a workspace that has one for its packages', () => {
    for (const path of ['tsconfig.base.json', 'tsup.config.base.ts', 'vitest.config.base.ts']) put(path);
    expect(generate().texts.get('packages/hisi-acc-vfio-pci/tsconfig.json')).toContain('"../../tsconfig.base.json"');
    const deeper = generate({ name: 'other', directory: 'libs/vfio/other' }).texts;
    expect(deeper.get('libs/vfio/other/tsconfig.json')).toContain('"../../../tsconfig.base.json"');
  });

  test('adds a changeset where the workspace keeps them, one more for features that come later, none for nothing', () => {
    put('.changeset/config.json', '{}');
    expect(generate().texts.get('.changeset/hisi-acc-vfio-pci.md')).toBe(
      '---\n"hisi-acc-vfio-pci": minor\n---\n\nVFIO variant driver for 19e5:a251.\n',
    );
    expect(generate({ features: ['caps'] }).paths).toContain('.changeset/hisi-acc-vfio-pci-caps.md');
    expect(generate({ features: ['caps'] }).paths).toEqual([]);
  });

  test('takes digits for a class, which Nx reads as a number', () => {
    const { texts } = generate({ class: [1200, '0108'] });
    expect(texts.get('packages/hisi-acc-vfio-pci/src/ids.ts')).toContain(
      'pciDriverOverrideClassVfio(0x120000, 0xffff00)',
    );
  });

  test('adds features to a driver that is there, and says what it left alone', () => {
    generate();
    const ops = 'packages/hisi-acc-vfio-pci/src/ops.ts';
    put(ops, '// mine\n');
    const { paths, after } = generate({ features: ['regions'] });
    expect(paths).toContain('packages/hisi-acc-vfio-pci/src/regions.ts');
    expect(paths).not.toContain(ops);
    const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
    try {
      after();
      expect(write.mock.calls.join('')).toContain('src/ops.ts has your changes and was left alone');
    } finally {
      write.mockRestore();
    }
  });

  test.each([
    ['a path that leads out', { directory: '../out' }, 'must not lead out'],
    ['an absolute path', { directory: '/tmp/out' }, 'must be relative'],
    ['the root, which is not empty', { directory: '.' }, 'is not the driver'],
    ['a file', { directory: 'package.json' }, 'is a file'],
    ['a folder with something else', { directory: 'taken' }, 'is not the driver'],
    ['a symbolic link', { directory: 'link/x' }, 'link is a symbolic link'],
    ['no ids', { id: [] }, 'say which functions'],
    ['a bad name', { name: 'Foo' }, '"foo" would do'],
    ['a bad scope', { scope: 'acme' }, 'the scope'],
  ])('refuses %s and leaves the tree as it was', (_what, schema, says) => {
    put('taken/file');
    symlinkSync(tmpdir(), join(root, 'link'));
    const tree = new FsTree(root, false);
    const run = () => variantDriverGenerator(tree, { name: 'hisi-acc', id: ['19e5:a251'], ...schema });
    expect(run).toThrow(GeneratorError);
    expect(run).toThrow(says);
    expect(tree.listChanges()).toEqual([]);
  });
});
