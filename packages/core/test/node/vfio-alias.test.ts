import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buildAliasFiles } from '@vfio/core/node';
import { describe, expect, test } from 'vitest';
import { main } from '../../src/node/vfio-alias.js';
import { driverCode, type FakePackage, link, temporaryFolder, writePackage } from './fake-packages.js';

const row = (fields: Record<string, number>): string =>
  JSON.stringify({
    vendor: 0xffffffff,
    device: 0xffffffff,
    subvendor: 0xffffffff,
    subdevice: 0xffffffff,
    class: 0,
    classMask: 0,
    overrideOnly: 1,
    driverData: 0,
    ...fields,
  });
const code = (name: string, ...rows: string[]): string =>
  `export const driver = { name: '${name}', idTable: [${rows.join(',')}], probe() {}, remove() {} };`;
const packageOf = async (pkg: Partial<FakePackage>): Promise<string> =>
  await writePackage(await temporaryFolder(), { name: '@vfio/test', alias: null, ...pkg });
const run = async (...args: string[]): Promise<{ code: number; out: string; err: string }> => {
  let out = '';
  let err = '';
  const code = await main(args, { out: (text) => (out += text), err: (text) => (err += text) });
  return { code, out, err };
};
const read = (folder: string): Promise<string> => readFile(join(folder, 'dist/modules.alias'), 'utf8');

describe('vfio-alias', () => {
  test('writes the alias file that the package declares, with the driver name in the third column as it is', async () => {
    const folder = await packageOf({});
    expect(await run(folder)).toEqual({ code: 0, out: 'dist/modules.alias: 1 alias of vfio-pci, written\n', err: '' });
    expect(await read(folder)).toBe(
      '# Aliases of @vfio/test, made by vfio-alias from its id tables.\nalias vfio_pci:v*d*sv*sd*bc*sc*i* vfio-pci\n',
    );
  });

  test('[1.3.12] writes by the rules of file2alias', async () => {
    const table = [
      row({ vendor: 0x15b3, device: 0x101e }),
      row({ class: 0x010802, classMask: 0xffffff }),
      row({ vendor: 0x15b3, device: 0x101e, driverData: 3 }),
      row({ vendor: 0x8086, overrideOnly: 0 }),
    ];
    const folder = await packageOf({ driver: 'mixed_drv', code: code('mixed_drv', ...table) });
    expect((await run(folder)).code).toBe(0);
    expect((await read(folder)).split('\n').slice(1, -1)).toEqual([
      'alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mixed_drv',
      'alias vfio_pci:v*d*sv*sd*bc01sc08i02* mixed_drv',
      'alias pci:v00008086d*sv*sd*bc*sc*i* mixed_drv',
    ]);
  });

  test('a driver without an alias file gets none, those beside it do', async () => {
    const drivers = [
      { name: 'vfio-pci', export: './driver', alias: 'dist/modules.alias' },
      { name: 'by_name', export: './other' },
    ];
    const folder = await packageOf({ json: { vfio: { api: 1, drivers } } });
    expect(await run(folder)).toMatchObject({ code: 0, out: 'dist/modules.alias: 1 alias of vfio-pci, written\n' });
    expect(await read(folder)).not.toContain('by_name');
  });

  test('a row that gives no alias is a warning that names driver and row', async () => {
    const folder = await packageOf({
      driver: 'd',
      code: code(
        'd',
        row({ vendor: 1 }),
        row({ class: 0x020000, classMask: 0xf00000 }),
        row({ vendor: 2, overrideOnly: 4 }),
      ),
    });
    const { code: exit, err } = await run(folder);
    expect(exit).toBe(0);
    expect(err.split('\n').filter(Boolean)).toEqual([
      expect.stringMatching(/^vfio-alias: warning: d: row 1: .*mask/),
      expect.stringMatching(/^vfio-alias: warning: d: row 2: .*override/),
    ]);
  });

  test('a second run changes nothing, not even the time of the file', async () => {
    const folder = await packageOf({});
    await run(folder);
    const before = await stat(join(folder, 'dist/modules.alias'), { bigint: true });
    expect((await run(folder)).out).toContain('up to date');
    expect((await stat(join(folder, 'dist/modules.alias'), { bigint: true })).mtimeNs).toBe(before.mtimeNs);
  });

  test('--check writes nothing and fails where a file is missing or out of date', async () => {
    const folder = await packageOf({});
    expect(await run('--check', folder)).toMatchObject({ code: 1, err: expect.stringContaining('run vfio-alias') });
    await expect(read(folder)).rejects.toThrow('ENOENT');
    await run(folder);
    expect((await run('--check', folder)).code).toBe(0);
    await writeFile(join(folder, 'dist/modules.alias'), '# other\n');
    expect((await run('--check', folder)).code).toBe(1);
    expect(await read(folder)).toBe('# other\n');
  });

  test('--quiet says nothing where nothing is wrong', async () => {
    expect(await run('-q', await packageOf({}))).toEqual({ code: 0, out: '', err: '' });
  });

  test('drivers of one package may share a file or have their own', async () => {
    const entry = (name: string, alias: string) => ({ name, export: `./${name}`, alias });
    const folder = await packageOf({
      json: {
        exports: { './*': './*.js' },
        vfio: { api: 1, drivers: [entry('a', 'dist/ab.alias'), entry('b', 'dist/ab.alias'), entry('c', 'c.alias')] },
      },
    });
    for (const name of ['a', 'b', 'c']) await writeFile(join(folder, `${name}.js`), code(name, row({ vendor: 1 })));
    const files = await buildAliasFiles(folder);
    expect(files.map(({ path, drivers }) => [path, drivers])).toEqual([
      ['dist/ab.alias', ['a', 'b']],
      ['c.alias', ['c']],
    ]);
    expect((await readFile(join(folder, 'dist/ab.alias'), 'utf8')).match(/^alias .*$/gm)).toHaveLength(2);
    expect(await readFile(join(folder, 'c.alias'), 'utf8')).toContain(' c\n');
  });

  test('-C adds a condition under which drivers are imported', async () => {
    const folder = await packageOf({
      json: { exports: { './driver': { built: './driver.js', default: './gone.js' } } },
    });
    expect((await run(folder)).code).toBe(1);
    expect((await run('-C', 'built', folder)).code).toBe(0);
  });

  test.each<[string, Partial<FakePackage>, string]>([
    ['no vfio field', { json: { vfio: undefined } }, 'no "vfio" field'],
    ['a field that breaks the rules', { json: { vfio: { api: 1, drivers: [] } } }, 'not a list'],
    [
      'an alias path out of the package',
      { json: { vfio: { api: 1, drivers: [{ name: 'd', export: './driver', alias: '../x' }] } } },
      'alias',
    ],
    ['an export that is not there', { json: { exports: { '.': './index.js' } } }, 'does not export'],
    ['code that is not built', { json: { exports: { './driver': './dist/driver.js' } } }, 'build the package first'],
    ['code that throws', { code: 'throw new Error("boom")' }, 'boom'],
    ['code that throws what is no error', { code: 'throw null' }, 'could not be imported: null'],
    ['a row that is none', { code: `export const driver = { name: 'vfio-pci', idTable: [null] };` }, 'row 0'],
    ['no driver', { code: 'export const x = 1;' }, 'no object "driver"'],
    ['a driver of another name', { code: driverCode('vfio_pci') }, 'calls itself "vfio_pci"'],
    ['a table without any alias', { code: code('vfio-pci', row({ class: 1, classMask: 1 })) }, 'gives no alias'],
    ['an empty table', { code: code('vfio-pci') }, 'gives no alias'],
    [
      'a driver that breaks the rules',
      { code: `export const driver = { name: 'vfio-pci', idTable: [] };` },
      'probe and remove',
    ],
  ])('%s: exit code 1, a sentence, and no file', async (_, pkg, text) => {
    const folder = await packageOf(pkg);
    const result = await run(folder);
    expect(result).toMatchObject({ code: 1, out: '', err: expect.stringContaining(text) });
    expect(result.err).not.toContain('    at ');
    await expect(read(folder)).rejects.toThrow('ENOENT');
  });

  test('one driver that is wrong keeps every file from being written', async () => {
    const entry = (name: string) => ({ name, export: `./${name}`, alias: `${name}.alias` });
    const folder = await packageOf({
      json: { exports: { './*': './*.js' }, vfio: { api: 1, drivers: [entry('a'), entry('b')] } },
    });
    await writeFile(join(folder, 'a.js'), code('a', row({ vendor: 1 })));
    await writeFile(join(folder, 'b.js'), code('b'));
    expect((await run(folder)).code).toBe(1);
    await expect(readFile(join(folder, 'a.alias'))).rejects.toThrow('ENOENT');
  });

  test('a dist that is a link out of the package is not written through', async () => {
    const folder = await packageOf({});
    const outside = await temporaryFolder();
    await rm(join(folder, 'dist'), { recursive: true, force: true });
    await link(outside, join(folder, 'dist'));
    expect(await run(folder)).toMatchObject({ code: 1, err: expect.stringContaining('leads out of the package') });
    await expect(readFile(join(outside, 'modules.alias'))).rejects.toThrow('ENOENT');
  });

  test('a folder without package.json: exit code 1', async () => {
    expect(await run(await temporaryFolder())).toMatchObject({ code: 1, err: expect.stringContaining('package.json') });
  });

  test.each([[['--nope']], [['a', 'b']], [['-C']]])('wrong usage %j: exit code 2 and how it is used', async (args) => {
    const { code: exit, err } = await run(...args);
    expect(exit).toBe(2);
    expect(err).toContain('Usage: vfio-alias');
  });

  test('--help says how it is used', async () => {
    expect(await run('--help')).toMatchObject({ code: 0, out: expect.stringContaining('Usage: vfio-alias') });
  });
});
