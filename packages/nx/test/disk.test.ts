import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkDirectory, GeneratorError, planOnDisk, writeFiles } from '../src/index.js';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'vfio-nx-'));
});
afterEach(() => rmSync(root, { recursive: true }));

const HISI = { name: 'hisi-acc', ids: ['19e5:a251'] };
const plan = (directory: string) => planOnDisk(root, directory, HISI, { version: '1.2.3' });
const write = (files: Record<string, string>, replaced: string[] = []) =>
  writeFiles(root, new Map(Object.entries(files)), new Set(replaced));

/** Everything below the root. */
const tree = () => readdirSync(root, { recursive: true }).sort();

describe('a directory', () => {
  test.each([
    ['drivers/foo', 'drivers/foo'],
    ['./foo/', 'foo'],
    ['.', '.'],
    ['a b', 'a b'],
    ['..foo', '..foo'],
  ])('%s is taken', (text, wanted) => expect(checkDirectory(text)).toBe(wanted));

  test.each([
    '',
    ' ',
    '..',
    '../foo',
    'a/../../b',
    'a/..',
    '/tmp/foo',
    '~/foo',
    'C:\\foo',
    'C:foo',
    'a\\..\\b',
    'a\0b',
    'a\nb',
    '.git/x',
    'node_modules/x',
  ])('%j is refused', (text) => expect(() => checkDirectory(text)).toThrow(GeneratorError));
});

describe('a folder', () => {
  test('that is not there, or empty, or a repository that was just begun takes a new driver', () => {
    expect(plan('.').isNew).toBe(true);
    mkdirSync(join(root, 'empty'));
    mkdirSync(join(root, 'begun/.git'), { recursive: true });
    for (const directory of ['none', 'a/b/c', 'empty', 'begun']) expect(() => plan(directory)).not.toThrow();
    expect(plan('none').isNew).toBe(true);
  });

  test('with anything else in it is refused, and stays as it is', () => {
    writeFileSync(join(root, 'notes.txt'), 'mine');
    expect(() => plan('.')).toThrow('is not the driver hisi_acc_vfio_pci');
    expect(tree()).toEqual(['notes.txt']);
  });

  test('that is a file, or below one, is refused', () => {
    writeFileSync(join(root, 'file'), '');
    expect(() => plan('file')).toThrow('file is a file');
    expect(() => plan('file/x')).toThrow('file is in the way');
  });

  test.each(['link', 'link/below'])('that is reached by a symbolic link is refused: %s', (directory) => {
    symlinkSync(tmpdir(), join(root, 'link'));
    expect(() => plan(directory)).toThrow('link is a symbolic link');
  });

  test('in which a file is a symbolic link is refused', () => {
    const files = Object.fromEntries([...plan('x').created].map(([path, text]) => [`x/${path}`, text]));
    write(files);
    rmSync(join(root, 'x/src/ops.ts'));
    symlinkSync('/etc/passwd', join(root, 'x/src/ops.ts'));
    expect(() => plan('x')).toThrow('x/src/ops.ts is a symbolic link');
  });
});

describe('files', () => {
  test('are written with the folders that they need', () => {
    write({ 'a/b/c': 'one', d: 'two' });
    expect(readFileSync(join(root, 'a/b/c'), 'utf8')).toBe('one');
    expect(tree()).toEqual(['a', 'a/b', 'a/b/c', 'd']);
  });

  test('that are there are replaced only where that was said', () => {
    write({ a: 'old' });
    expect(() => write({ a: 'new' })).toThrow('a is there already');
    write({ a: 'new' }, ['a']);
    expect(readFileSync(join(root, 'a'), 'utf8')).toBe('new');
  });

  test('are all written or none: what was there is as it was, and nothing else is left', () => {
    write({ kept: 'old', 'folder/in-the-way': '' });
    const before = tree();
    expect(() => write({ kept: 'new', 'new/a': '', 'folder/in-the-way/b': '' }, ['kept'])).toThrow(GeneratorError);
    expect(() => write({ kept: 'new', 'new/a': '', 'folder/in-the-way': '' }, ['kept'])).toThrow('is there already');
    expect(() => write({ 'new/a': '', [`new/${'x'.repeat(300)}`]: '' })).toThrow('nothing was written: ENAMETOOLONG');
    // Noticed only when what was prepared is put into its place.
    expect(() => write({ kept: 'new', z: '', 'z/b': '' }, ['kept'])).toThrow('nothing was written: EISDIR');
    expect(tree()).toEqual(before);
    expect(readFileSync(join(root, 'kept'), 'utf8')).toBe('old');
  });

  test('are not written through a symbolic link that came after the plan', () => {
    const elsewhere = join(root, 'elsewhere');
    mkdirSync(elsewhere);
    mkdirSync(join(root, 'x'));
    symlinkSync(elsewhere, join(root, 'x/src'));
    expect(() => write({ 'x/src/ops.ts': '' })).toThrow('x/src is a symbolic link');
    expect(readdirSync(elsewhere)).toEqual([]);
    expect(lstatSync(join(root, 'x/src')).isSymbolicLink()).toBe(true);
  });

  test.skipIf(process.getuid?.() === 0)(
    'in a folder that may not be written to give the reason of the system (root may)',
    () => {
      mkdirSync(join(root, 'locked'));
      chmodSync(join(root, 'locked'), 0o500);
      expect(() => write({ 'locked/a': '' })).toThrow('EACCES');
      expect(existsSync(join(root, 'locked/a'))).toBe(false);
    },
  );
});
