import { spawn } from 'node:child_process';
import { chmod, mkdir, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { PciBus } from '@vfio/core';
import { type DiscoverOptions, discoverDrivers, type InstalledDrivers } from '@vfio/core/node';
import { beforeEach, describe, expect, test } from 'vitest';
import { defaultCacheDirectory } from '../../src/node/alias-cache.js';
import { FakeHost } from '../pci/fake-host.js';
import {
  ALIASES,
  driverCode,
  type FakePackage,
  link,
  project,
  takeLoaded,
  temporaryFolder,
  write,
  writePackage,
} from './fake-packages.js';

const GENERIC: FakePackage = { name: '@vfio/vfio-pci', driver: 'vfio-pci' };
const MLX5: FakePackage = { name: '@vfio/mlx5-vfio-pci', driver: 'mlx5_vfio_pci', patterns: [ALIASES.mlx5] };
const NVME: FakePackage = { name: '@vfio/nvme-vfio-pci', driver: 'nvme_vfio_pci', patterns: [ALIASES.nvme] };

const CX = { vendor: 0x15b3, device: 0x101e, class: 0x020000 };
const discover = (from: string, options: DiscoverOptions = {}): Promise<InstalledDrivers> =>
  discoverDrivers({ from, cacheDirectory: false, ...options });
const names = (found: InstalledDrivers): string[] => found.drivers.map(({ name }) => name);
const fn = (fields: Partial<typeof CX> = {}) => new FakeHost().add('0000:01:00.0', { ...CX, ...fields });

beforeEach(() => {
  takeLoaded();
});

describe('what is considered', () => {
  test('the direct dependencies of the nearest package.json, of every kind', async () => {
    const root = await project([], {
      dependencies: { '@vfio/vfio-pci': '*' },
      devDependencies: { a: '*' },
      optionalDependencies: { b: '*' },
      peerDependencies: { c: '*', missing: '*' },
    });
    await writePackage(join(root, 'node_modules/@vfio/vfio-pci'), GENERIC);
    for (const name of ['a', 'b', 'c', 'stranger'])
      await writePackage(join(root, 'node_modules', name), { name, driver: `${name}_drv` });
    await mkdir(join(root, 'src/deep'), { recursive: true });
    const found = await discover(join(root, 'src/deep'));
    expect(names(found)).toEqual(['a_drv', 'b_drv', 'c_drv', 'vfio-pci']);
    expect(found.problems).toEqual([]);
    expect(found.driver('vfio-pci')).toEqual({
      name: 'vfio-pci',
      export: './driver',
      alias: 'dist/modules.alias',
      requires: [],
      package: '@vfio/vfio-pci',
      directory: join(root, 'node_modules/@vfio/vfio-pci'),
    });
  });

  test('others that lie there are listed as present and not considered', async () => {
    const root = await project([GENERIC]);
    await writePackage(join(root, 'node_modules/@acme/indirect'), { name: '@acme/indirect', driver: 'indirect' });
    await writePackage(join(root, 'node_modules/broken'), { name: 'broken', json: { vfio: 7 } });
    await write(join(root, 'node_modules/plain/package.json'), { name: 'plain' });
    const found = await discover(root);
    expect(names(found)).toEqual(['vfio-pci']);
    expect(await found.notConsidered()).toEqual([
      { package: '@acme/indirect', directory: join(root, 'node_modules/@acme/indirect'), drivers: ['indirect'] },
      { package: 'broken', directory: join(root, 'node_modules/broken'), drivers: [] },
    ]);
  });

  test('a dependency is looked for in node_modules of the folders above, as Node does', async () => {
    const root = await temporaryFolder();
    await write(join(root, 'apps/one/package.json'), { name: 'one', dependencies: { [GENERIC.name]: '*' } });
    await writePackage(join(root, 'node_modules', GENERIC.name), GENERIC);
    expect(names(await discover(join(root, 'apps/one')))).toEqual(['vfio-pci']);
  });

  test('the nearest package itself, when it is a driver package', async () => {
    const root = await temporaryFolder();
    await writePackage(root, MLX5);
    expect(names(await discover(root))).toEqual(['mlx5_vfio_pci']);
  });

  test('the members of a workspace root, whether it depends on them or not; excluded ones are not', async () => {
    const root = join(await temporaryFolder(), 'root');
    await write(join(root, 'package.json'), {
      name: 'root',
      workspaces: ['packages/*', 'deep/**', '!packages/skipped', '../outside', 'packages/../../outside'],
    });
    await writePackage(join(root, 'packages/vfio-pci'), GENERIC);
    await writePackage(join(root, 'deep/er/still/mlx5'), MLX5);
    await writePackage(join(root, 'packages/skipped'), { name: 'skipped', driver: 'skipped' });
    await writePackage(join(root, '../outside'), { name: 'x', driver: 'x' });
    await link(join(root, 'packages/vfio-pci'), join(root, 'node_modules/@vfio/vfio-pci'));
    const found = await discover(root);
    expect(names(found)).toEqual(['mlx5_vfio_pci', 'vfio-pci']);
  });

  test('a folder among the workspaces that cannot be looked into does not keep the others from being found', async () => {
    const root = await temporaryFolder();
    await write(join(root, 'package.json'), { name: 'root', workspaces: ['packages/**'] });
    await writePackage(join(root, 'packages/vfio-pci'), GENERIC);
    await link('loop', join(root, 'packages/loop'));
    await link('nowhere', join(root, 'packages/dangling'));
    expect(names(await discover(root))).toEqual(['vfio-pci']);
  });

  test('a dependency that is a link is one package, by its real folder', async () => {
    const root = await project([], { dependencies: { [GENERIC.name]: '*' } });
    const elsewhere = await temporaryFolder();
    await writePackage(join(elsewhere, 'vfio-pci'), GENERIC);
    await link(join(elsewhere, 'vfio-pci'), join(root, 'node_modules', GENERIC.name));
    const found = await discover(root);
    expect(found.driver('vfio-pci')?.directory).toBe(join(elsewhere, 'vfio-pci'));
  });

  test('no package.json at all: nothing, and no error', async () => {
    const found = await discover(join(await temporaryFolder(), 'not/there'));
    expect(names(found)).toEqual([]);
    expect(found.best(fn())).toBeUndefined();
  });

  test('this repository itself: its workspaces are found through their links', async () => {
    const { drivers, problems } = await discover(join(import.meta.dirname, '../../../..'));
    // Built or not, both are met: as a driver, or as a problem that names the file to build.
    const met = [...drivers.map((driver) => driver.package), ...problems.map((problem) => problem.package)];
    expect(met).toEqual(expect.arrayContaining(['@vfio/vfio-pci', '@vfio/nvme-vfio-pci']));
    for (const problem of problems) expect(problem.message).toContain('alias file dist/modules.alias is missing');
  });
});

describe('a command', () => {
  const cliAt = async (folder: string): Promise<string> => {
    await write(join(folder, 'package.json'), {
      name: '@vfio/cli',
      type: 'module',
      dependencies: { '@vfio/vfio-pci': '*' },
    });
    await write(join(folder, 'dist/bin.js'), '');
    return join(folder, 'dist/bin.js');
  };

  test('that is installed globally considers its siblings and what it depends on, not the folder it is run in', async () => {
    const global = await temporaryFolder();
    const cli = await cliAt(join(global, 'lib/node_modules/@vfio/cli'));
    await writePackage(join(global, 'lib/node_modules/@vfio/nvme-vfio-pci'), NVME);
    await writePackage(join(global, 'lib/node_modules/@vfio/cli/node_modules/@vfio/vfio-pci'), GENERIC);
    const stranger = await project([{ name: 'evil', driver: 'evil' }]);
    const found = await discover(stranger, { cli });
    expect(names(found)).toEqual(['nvme_vfio_pci', 'vfio-pci']);
    expect(names(await discover(await temporaryFolder(), { cli }))).toEqual(['nvme_vfio_pci', 'vfio-pci']);
  });

  test('that is linked from a global folder has its siblings there', async () => {
    const checkout = await temporaryFolder();
    await cliAt(join(checkout, 'cli'));
    const global = await temporaryFolder();
    await link(join(checkout, 'cli'), join(global, 'node_modules/@vfio/cli'));
    await writePackage(join(global, 'node_modules/@vfio/nvme-vfio-pci'), NVME);
    const cli = join(global, 'node_modules/@vfio/cli/dist/bin.js');
    expect(names(await discover(await temporaryFolder(), { cli }))).toEqual(['nvme_vfio_pci']);
  });

  test('that belongs to the project considers the project, and what it depends on itself', async () => {
    const root = await project([MLX5], { dependencies: { '@vfio/mlx5-vfio-pci': '*', '@vfio/cli': '*' } });
    const cli = await cliAt(join(root, 'node_modules/@vfio/cli'));
    await writePackage(join(root, 'node_modules/@vfio/vfio-pci'), GENERIC);
    const found = await discover(root, { cli: pathToFileURL(cli) });
    expect(names(found)).toEqual(['mlx5_vfio_pci', 'vfio-pci']);
  });

  test("whose dependency the project has in another version: the project's counts", async () => {
    const root = await project([GENERIC], { dependencies: { '@vfio/vfio-pci': '*', '@vfio/cli': '*' } });
    const cli = await cliAt(join(root, 'node_modules/@vfio/cli'));
    await writePackage(join(root, 'node_modules/@vfio/cli/node_modules/@vfio/vfio-pci'), GENERIC);
    const found = await discover(root, { cli });
    expect(found.problems).toEqual([]);
    expect(found.driver('vfio-pci')?.directory).toBe(join(root, 'node_modules/@vfio/vfio-pci'));
  });
});

describe('what is found', () => {
  test('no code of any package runs to learn its ids; only the winner is imported', async () => {
    const root = await project([GENERIC, MLX5, NVME]);
    const found = await discover(root);
    expect(found.best(fn())?.driver).toBe('mlx5_vfio_pci');
    expect(found.best(fn({ class: 0x010802, device: 1 }))?.driver).toBe('nvme_vfio_pci');
    expect(found.best(fn({ device: 1 }))?.driver).toBe('vfio-pci');
    expect(takeLoaded()).toEqual([]);
    const bus = new PciBus(new FakeHost());
    expect(bus.functions()).toEqual([]);
    const driver = await found.load('mlx5_vfio_pci');
    expect(driver.name).toBe('mlx5_vfio_pci');
    expect(takeLoaded()).toEqual(['mlx5_vfio_pci']);
    expect(await found.load('mlx5_vfio_pci')).toBe(driver);
    expect(takeLoaded()).toEqual([]);
  });

  test('it is what bindBest takes', async () => {
    const found = await discover(await project([GENERIC, MLX5]));
    const host = new FakeHost();
    const nic = host.add('0000:01:00.0', CX);
    const bus = new PciBus(host);
    const driver = await bus.bindBest(nic, found);
    expect(driver.name).toBe('mlx5_vfio_pci');
    expect(bus.driverOverride(nic)).toBe('mlx5_vfio_pci');
    expect(takeLoaded()).toEqual(['mlx5_vfio_pci']);
    expect((await bus.bindOverride(nic, 'vfio-pci', found)).name).toBe('vfio-pci');
  });

  test('requires and package go with the driver into the index', async () => {
    const root = await project([GENERIC, { ...MLX5, requires: ['zpci'] }]);
    const plain = await discover(root);
    expect(plain.best(fn())?.driver).toBe('vfio-pci');
    const { candidates } = plain.explain(fn());
    expect(candidates.map(({ driver, outcome, package: from }) => [driver, outcome, from])).toEqual([
      ['vfio-pci', 'won', '@vfio/vfio-pci'],
      ['mlx5_vfio_pci', 'excluded', '@vfio/mlx5-vfio-pci'],
    ]);
    const onS390 = await discover(root, { conditions: { zpci: (which) => which.vendor === 0x15b3 } });
    expect(onS390.best(fn())?.driver).toBe('mlx5_vfio_pci');
    expect(onS390.best(fn({ vendor: 1 }))?.driver).toBe('vfio-pci');
  });

  test('a condition that is called like a property of every object does not hold', async () => {
    const root = await project([GENERIC, { ...MLX5, requires: ['constructor', 'toString'] }]);
    expect((await discover(root, { conditions: {} })).best(fn())?.driver).toBe('vfio-pci');
  });

  test('the result does not depend on the order in which packages are named', async () => {
    const twins = ['b', 'a', 'c'].map((name) => ({ name, driver: `${name}_drv`, patterns: [ALIASES.mlx5] }));
    const winners = new Set<string | undefined>();
    for (const order of [twins, [...twins].reverse()])
      winners.add((await discover(await project(order))).best(fn())?.driver);
    expect([...winners]).toEqual(['a_drv']);
  });

  test('a driver without an alias file is found by its name, matches nothing, and is no problem', async () => {
    const vfio = { api: 1, drivers: [{ name: 'mlx5_core', export: './driver' }] };
    const root = await project([GENERIC, { name: '@vfio/pf', driver: 'mlx5_core', alias: null, json: { vfio } }]);
    const cacheDirectory = await temporaryFolder();
    for (const fromCache of [false, true]) {
      const found = await discover(root, { cacheDirectory });
      expect(found.fromCache).toBe(fromCache);
      expect(found.problems).toEqual([]);
      expect(found.best(fn())?.driver).toBe('vfio-pci');
      expect(found.explain(fn()).candidates.map(({ driver }) => driver)).toEqual(['vfio-pci']);
      expect(await found.load('mlx5_core')).toMatchObject({ name: 'mlx5_core' });
    }
  });

  test('a name that nobody has is refused with ENODEV and says which there are', async () => {
    const found = await discover(await project([GENERIC]));
    await expect(found.load('vfio_pci')).rejects.toThrow(
      expect.objectContaining({
        code: 'ERR_VFIO_NO_DRIVER',
        errno: 'ENODEV',
        message: expect.stringContaining('vfio-pci'),
      }),
    );
  });
});

describe('a package that breaks the rules is reported by name and left out, the others are found', () => {
  const entry = { name: 'bad_drv', export: './driver', alias: 'dist/modules.alias' };
  const drivers = (fields: Record<string, unknown>): Record<string, unknown> => ({
    vfio: { api: 1, drivers: [{ ...entry, ...fields }] },
  });

  test.each<[string, Partial<FakePackage>, string, string]>([
    ['another api', { json: { vfio: { api: 2, drivers: [entry] } } }, 'incompatible', 'api 2'],
    ['no api', { json: { vfio: { drivers: [entry] } } }, 'incompatible', 'api undefined'],
    ['a field that is no object', { json: { vfio: 'yes' } }, 'broken', 'not an object'],
    ['a field that is null', { json: { vfio: null } }, 'broken', 'not an object'],
    ['no drivers', { json: { vfio: { api: 1, drivers: [] } } }, 'broken', 'not a list'],
    ['drivers that are no list', { json: { vfio: { api: 1, drivers: { 0: entry } } } }, 'broken', 'not a list'],
    ['an entry that is no object', { json: { vfio: { api: 1, drivers: ['x'] } } }, 'broken', 'not an object'],
    ['a name with a slash', { json: drivers({ name: '../x' }) }, 'broken', 'name'],
    ['no name', { json: drivers({ name: undefined }) }, 'broken', 'name'],
    ['the same name twice', { json: { vfio: { api: 1, drivers: [entry, entry] } } }, 'broken', 'twice'],
    ['an alias outside', { json: drivers({ alias: '../../other/dist/modules.alias' }) }, 'broken', 'alias'],
    ['an absolute alias', { json: drivers({ alias: '/etc/passwd' }) }, 'broken', 'alias'],
    ['an alias through ..', { json: drivers({ alias: 'dist/../../x' }) }, 'broken', 'alias'],
    ['an alias with a backslash', { json: drivers({ alias: 'dist\\..\\x' }) }, 'broken', 'alias'],
    ['an alias with a NUL', { json: drivers({ alias: 'dist/\0' }) }, 'broken', 'alias'],
    ['an export outside', { json: drivers({ export: './../../other/driver.js' }) }, 'broken', 'export'],
    ['an export that is a path', { json: drivers({ export: '/tmp/x.js' }) }, 'broken', 'export'],
    ['an export that is a package', { json: drivers({ export: 'other' }) }, 'broken', 'export'],
    ['an export with %2e%2e%2f', { json: drivers({ export: './%2e%2e%2fx' }) }, 'broken', 'export'],
    ['an export into node_modules', { json: drivers({ export: './node_modules/x' }) }, 'broken', 'export'],
    ['requires that is no list', { json: drivers({ requires: 'zpci' }) }, 'broken', 'requires'],
    ['requires with a space', { json: drivers({ requires: ['a b'] }) }, 'broken', 'requires'],
    ['no alias file', { alias: null }, 'broken', 'is missing'],
  ])('%s', async (_, pkg, kind, text) => {
    const root = await project([GENERIC, { name: 'bad', driver: 'bad_drv', ...pkg }]);
    const found = await discover(root);
    expect(names(found)).toEqual(['vfio-pci']);
    expect(found.problems).toEqual([
      expect.objectContaining({ package: 'bad', kind, message: expect.stringContaining(text) }),
    ]);
    expect(found.best(fn())?.driver).toBe('vfio-pci');
    expect(takeLoaded()).toEqual([]);
  });

  test('package.json that is not JSON, or no object', async () => {
    for (const content of ['{', '[]', '']) {
      const root = await project([GENERIC], { dependencies: { [GENERIC.name]: '*', bad: '*' } });
      await write(join(root, 'node_modules/bad/package.json'), content);
      const found = await discover(root);
      expect(names(found)).toEqual(['vfio-pci']);
      expect(found.problems).toEqual([
        expect.objectContaining({ kind: 'broken', package: join(root, 'node_modules/bad') }),
      ]);
    }
  });

  test('the nearest package.json itself that is not JSON is a problem, not a crash', async () => {
    const root = await temporaryFolder();
    await write(join(root, 'package.json'), '{');
    const found = await discover(root);
    expect(found.problems).toEqual([expect.objectContaining({ kind: 'broken', directory: root })]);
  });

  test('an alias file that is a link out of the package', async () => {
    const root = await project([GENERIC, { name: 'bad', driver: 'bad_drv', alias: null }]);
    await write(join(root, 'secret'), `alias ${ALIASES.generic} bad_drv\n`);
    await link(join(root, 'secret'), join(root, 'node_modules/bad/dist/modules.alias'));
    const found = await discover(root);
    expect(names(found)).toEqual(['vfio-pci']);
    expect(found.problems).toEqual([
      expect.objectContaining({
        package: 'bad',
        kind: 'broken',
        message: expect.stringContaining('leads out of the package'),
      }),
    ]);
  });

  test('an alias file that is a folder', async () => {
    const root = await project([GENERIC, { name: 'bad', driver: 'bad_drv', alias: null }]);
    await mkdir(join(root, 'node_modules/bad/dist/modules.alias'), { recursive: true });
    const found = await discover(root);
    expect(found.problems).toEqual([expect.objectContaining({ package: 'bad', kind: 'broken' })]);
  });

  test('two packages with a driver of one name: both are reported and neither is used', async () => {
    const fork = { name: '@acme/vfio-pci', driver: 'vfio-pci' };
    const found = await discover(await project([GENERIC, fork, MLX5]));
    expect(names(found)).toEqual(['mlx5_vfio_pci']);
    expect(found.problems.map(({ package: name, kind, driver }) => [name, kind, driver])).toEqual([
      ['@acme/vfio-pci', 'duplicate', 'vfio-pci'],
      ['@vfio/vfio-pci', 'duplicate', 'vfio-pci'],
    ]);
    expect(found.problems[0]?.message).toContain('@vfio/vfio-pci');
    expect(found.best(fn({ vendor: 1 }))).toBeUndefined();
  });

  test("garbage lines, lines of other buses and lines for others' drivers are warnings; the good lines count", async () => {
    const alias = `garbage\nalias ${ALIASES.mlx5} mlx5_vfio_pci\nalias usb:* mlx5_vfio_pci\nalias ${ALIASES.generic} vfio-pci\n`;
    const found = await discover(await project([{ ...MLX5, alias }]));
    expect(names(found)).toEqual(['mlx5_vfio_pci']);
    expect(found.index.size).toBe(1);
    expect(found.problems.map(({ kind, message }) => [kind, message])).toEqual([
      ['warning', expect.stringContaining('line 1')],
      ['warning', expect.stringContaining('1 aliases of other buses')],
      ['warning', expect.stringContaining('line 4: is for vfio-pci')],
    ]);
  });

  test('a driver without an alias can be had by name', async () => {
    const found = await discover(await project([{ ...MLX5, alias: '# nothing\n' }]));
    expect(found.best(fn())).toBeUndefined();
    expect(found.problems).toEqual([
      expect.objectContaining({ kind: 'warning', message: expect.stringContaining('by its name only') }),
    ]);
    expect((await found.load('mlx5_vfio_pci')).name).toBe('mlx5_vfio_pci');
  });

  test('drivers of one package may share an alias file', async () => {
    const two = ['one_drv', 'two_drv'].map((name) => ({ name, export: './driver', alias: 'dist/modules.alias' }));
    const alias = `alias ${ALIASES.mlx5} one_drv\nalias ${ALIASES.nvme} two_drv\n`;
    const found = await discover(await project([{ name: 'both', json: { vfio: { api: 1, drivers: two } }, alias }]));
    expect(names(found)).toEqual(['one_drv', 'two_drv']);
    expect(found.problems).toEqual([]);
    expect(found.best(fn())?.driver).toBe('one_drv');
  });
});

describe('loading', () => {
  const load = async (pkg: Partial<FakePackage>): Promise<unknown> =>
    (await discover(await project([{ ...MLX5, ...pkg }]))).load('mlx5_vfio_pci');

  test.each<[string, Partial<FakePackage>, string]>([
    ['code that throws', { code: 'throw new Error("no such chip")' }, 'no such chip'],
    ['code that throws what is no error', { code: 'throw Object.create(null)' }, 'importing'],
    ['a row that is none', { code: 'export const driver = { name: "mlx5_vfio_pci", idTable: [null] }' }, 'row 0'],
    ['code that is no code', { code: 'export const' }, 'importing'],
    ['an import that is missing', { code: 'import "./nowhere.js"' }, 'importing'],
    ['no export "driver"', { code: 'export const other = 1' }, 'no object "driver"'],
    ['a driver that is a function', { code: 'export function driver() {}' }, 'no object "driver"'],
    [
      'a driver without probe',
      { code: 'export const driver = { name: "mlx5_vfio_pci", idTable: [], remove() {} }' },
      'probe and remove',
    ],
    ['a driver of another name', { code: driverCode('mlx5-vfio-pci') }, 'calls itself "mlx5-vfio-pci"'],
    ['an export that package.json does not have', { json: { exports: { '.': './index.js' } } }, 'does not export'],
    ['an export that leads to nothing', { json: { exports: { './driver': './gone.js' } } }, 'missing'],
    ['an export that leads out', { json: { exports: { './driver': './../../../package.json' } } }, 'leads out'],
  ])('%s is ERR_VFIO_BAD_DRIVER', async (_, pkg, text) => {
    await expect(load(pkg)).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_BAD_DRIVER', message: expect.stringContaining(text) }),
    );
  });

  test('the export goes through conditions, patterns and the main file as in Node', async () => {
    await expect(
      load({ json: { exports: { './driver': { browser: './index.js', node: { import: './driver.js' } } } } }),
    ).resolves.toMatchObject({ name: 'mlx5_vfio_pci' });
    await expect(load({ json: { exports: { './*': './*.js' } } })).resolves.toMatchObject({ name: 'mlx5_vfio_pci' });
    const main = {
      exports: undefined,
      main: 'driver.js',
      vfio: { api: 1, drivers: [{ name: 'mlx5_vfio_pci', export: '.', alias: 'dist/modules.alias' }] },
    };
    await expect(load({ json: main })).resolves.toMatchObject({ name: 'mlx5_vfio_pci' });
  });

  test('conditions that are asked for come first', async () => {
    const root = await project([
      { ...MLX5, json: { exports: { './driver': { '@vfio/source': './src.js', default: './index.js' } } } },
    ]);
    await write(join(root, 'node_modules', MLX5.name, 'src.js'), driverCode('mlx5_vfio_pci'));
    const found = await discover(root, { exportConditions: ['@vfio/source', 'node', 'import'] });
    expect((await found.load('mlx5_vfio_pci')).name).toBe('mlx5_vfio_pci');
  });

  test('a failure is not kept: when the package has been put right, it loads', async () => {
    const root = await project([{ ...MLX5, json: { exports: { './driver': './late.js' } } }]);
    const found = await discover(root);
    await expect(found.load('mlx5_vfio_pci')).rejects.toThrow(expect.objectContaining({ code: 'ERR_VFIO_BAD_DRIVER' }));
    await write(join(root, 'node_modules', MLX5.name, 'late.js'), driverCode('mlx5_vfio_pci'));
    expect((await found.load('mlx5_vfio_pci')).name).toBe('mlx5_vfio_pci');
  });
});

describe('the cache', () => {
  const cached = async (root: string, cacheDirectory: string): Promise<InstalledDrivers> =>
    discoverDrivers({ from: root, cacheDirectory });
  const onlyFolder = async (cache: string): Promise<string> => {
    const folders = await readdir(cache);
    expect(folders).toHaveLength(1);
    return join(cache, folders[0] as string);
  };

  test('holds modules.alias and drivers.json, and the second start takes them', async () => {
    const root = await project([GENERIC, MLX5]);
    const cache = join(await temporaryFolder(), 'cache');
    const first = await cached(root, cache);
    expect(first.fromCache).toBe(false);
    const folder = await onlyFolder(cache);
    expect((await readdir(folder)).sort()).toEqual(['drivers.json', 'modules.alias']);
    expect(await readFile(join(folder, 'modules.alias'), 'utf8')).toBe(
      `# Aliases of the installed VFIO drivers, merged from their packages.\nalias ${ALIASES.mlx5} mlx5_vfio_pci\nalias ${ALIASES.generic} vfio-pci\n`,
    );
    const second = await cached(root, cache);
    expect(second.fromCache).toBe(true);
    expect(second.drivers).toEqual(first.drivers);
    expect(second.best(fn())?.driver).toBe('mlx5_vfio_pci');
    expect((await second.load('vfio-pci')).name).toBe('vfio-pci');
  });

  test('problems are kept too', async () => {
    const root = await project([GENERIC, { name: 'bad', json: { vfio: 1 } }]);
    const cache = await temporaryFolder();
    const { problems } = await cached(root, cache);
    expect(problems).toHaveLength(1);
    expect(await cached(root, cache)).toMatchObject({ fromCache: true, problems });
  });

  test.each<[string, (root: string) => Promise<void>, string]>([
    [
      'an alias file',
      (root) =>
        write(join(root, 'node_modules', MLX5.name, 'dist/modules.alias'), `alias ${ALIASES.nvme} mlx5_vfio_pci\n`),
      'vfio-pci',
    ],
    [
      'an alias file of the same length and time',
      async (root) => {
        const path = join(root, 'node_modules', MLX5.name, 'dist/modules.alias');
        const { atime, mtime } = await stat(path);
        const text = await readFile(path, 'utf8');
        await writeFile(path, text.replace('101E', '1021'));
        await utimes(path, atime, mtime);
      },
      'vfio-pci',
    ],
    [
      'a package.json',
      async (root) => {
        const path = join(root, 'node_modules', MLX5.name, 'package.json');
        await writeFile(path, (await readFile(path, 'utf8')).replace('"api":1', '"api":9'));
      },
      'vfio-pci',
    ],
    ['the packages, one gone', (root) => rm(join(root, 'node_modules', MLX5.name), { recursive: true }), 'vfio-pci'],
    [
      'the packages, one new',
      async (root) => {
        await writePackage(join(root, 'node_modules/new'), { name: 'new', driver: 'a_new', patterns: [ALIASES.mlx5] });
        const path = join(root, 'package.json');
        await writeFile(path, (await readFile(path, 'utf8')).replace('"dependencies":{', '"dependencies":{"new":"*",'));
      },
      'a_new',
    ],
    [
      'the nearest package.json, a dependency gone',
      (root) => write(join(root, 'package.json'), { name: 'project', dependencies: { [GENERIC.name]: '*' } }),
      'vfio-pci',
    ],
  ])('a change of %s is seen at once', async (_, change, winner) => {
    const root = await project([GENERIC, MLX5]);
    const cache = await temporaryFolder();
    expect((await cached(root, cache)).best(fn())?.driver).toBe('mlx5_vfio_pci');
    expect((await cached(root, cache)).fromCache).toBe(true);
    await change(root);
    const changed = await cached(root, cache);
    expect(changed.fromCache).toBe(false);
    expect(changed.best(fn())?.driver).toBe(winner);
    expect((await cached(root, cache)).fromCache).toBe(true);
  });

  test('an alias file that was missing and is built now is seen', async () => {
    const root = await project([GENERIC, { ...MLX5, alias: null }]);
    const cache = await temporaryFolder();
    expect((await cached(root, cache)).problems).toHaveLength(1);
    await write(join(root, 'node_modules', MLX5.name, 'dist/modules.alias'), `alias ${ALIASES.mlx5} mlx5_vfio_pci\n`);
    expect((await cached(root, cache)).best(fn())?.driver).toBe('mlx5_vfio_pci');
  });

  test.each<[string, (folder: string) => Promise<void>]>([
    ['cut', async (folder) => writeFile(join(folder, 'drivers.json'), '{"format":1,')],
    [
      'of another format',
      async (folder) => {
        const path = join(folder, 'drivers.json');
        await writeFile(path, (await readFile(path, 'utf8')).replace('"format": 3', '"format": 2'));
      },
    ],
    [
      'changed in one word',
      async (folder) => {
        const path = join(folder, 'drivers.json');
        await writeFile(path, (await readFile(path, 'utf8')).replace('"export": "./driver"', '"export": "./evil"'));
      },
    ],
    [
      'of drivers that are none',
      async (folder) => {
        const path = join(folder, 'drivers.json');
        const kept = JSON.parse(await readFile(path, 'utf8')) as object;
        await writeFile(path, JSON.stringify({ ...kept, drivers: [null] }));
      },
    ],
    ['of two makings', async (folder) => writeFile(join(folder, 'modules.alias'), `alias ${ALIASES.generic} evil\n`)],
    ['without its aliases', async (folder) => rm(join(folder, 'modules.alias'))],
    ['null', async (folder) => writeFile(join(folder, 'drivers.json'), 'null')],
    ['writable for others', async (folder) => chmod(join(folder, 'drivers.json'), 0o666)],
    ['in a folder writable for others', async (folder) => chmod(folder, 0o777)],
  ])('a cache that is %s is not used, and nothing fails', async (_, spoil) => {
    const root = await project([GENERIC, MLX5]);
    const cache = await temporaryFolder();
    await cached(root, cache);
    await spoil(await onlyFolder(cache));
    const found = await cached(root, cache);
    expect(found.fromCache).toBe(false);
    expect(found.best(fn())?.driver).toBe('mlx5_vfio_pci');
  });

  test('belongs where XDG_CACHE_HOME says, else into the home, else nowhere', () => {
    const home = (): string => '/home/me';
    expect(defaultCacheDirectory({ XDG_CACHE_HOME: '/var/cache' }, home)).toBe('/var/cache/vfio');
    expect(defaultCacheDirectory({ XDG_CACHE_HOME: 'relative' }, home)).toBe('/home/me/.cache/vfio');
    expect(defaultCacheDirectory({}, home)).toBe('/home/me/.cache/vfio');
    const homeless = (): string => {
      throw new Error('no entry');
    };
    expect(defaultCacheDirectory({}, homeless)).toBeUndefined();
  });

  test('where it cannot be written, everything works without it', async () => {
    const root = await project([GENERIC]);
    const file = join(await temporaryFolder(), 'file');
    await writeFile(file, '');
    const found = await cached(root, join(file, 'cache'));
    expect(names(found)).toEqual(['vfio-pci']);
    expect(found.fromCache).toBe(false);
  });

  test('a driver is loaded as its package is now, not as the cache remembers it', async () => {
    const root = await project([GENERIC]);
    const cache = await temporaryFolder();
    await cached(root, cache);
    const found = await cached(root, cache);
    expect(found.fromCache).toBe(true);
    await writePackage(join(root, 'node_modules', GENERIC.name), {
      ...GENERIC,
      json: { exports: { './driver': './../../../evil.js' } },
    });
    await expect(found.load('vfio-pci')).rejects.toThrow(expect.objectContaining({ code: 'ERR_VFIO_BAD_DRIVER' }));
  });

  const twelve = Array.from({ length: 12 }, (_, i) => ({ name: `p${i}`, driver: `drv_${i}` }));

  test('many at once leave a cache that is whole, and each gets the whole of it', async () => {
    const root = await project(twelve);
    const cache = await temporaryFolder();
    const all = await Promise.all(Array.from({ length: 20 }, () => cached(root, cache)));
    for (const found of all) expect([found.drivers.length, found.index.size]).toEqual([12, 12]);
    expect((await readdir(await onlyFolder(cache))).sort()).toEqual(['drivers.json', 'modules.alias']);
    expect((await cached(root, cache)).fromCache).toBe(true);
  });

  test('several processes at once too', async ({ skip }) => {
    const built = join(import.meta.dirname, '../../dist/node/index.js');
    if (!(await stat(built).catch(() => undefined))) skip('the package is not built, so no other process can run it');
    const root = await project(twelve);
    const cache = await temporaryFolder();
    const script = `
      import { discoverDrivers } from ${JSON.stringify(pathToFileURL(built).href)};
      for (let i = 0; i < 10; i++) {
        const found = await discoverDrivers({ from: ${JSON.stringify(root)}, cacheDirectory: ${JSON.stringify(cache)} });
        if (found.drivers.length !== 12 || found.index.size !== 12) throw new Error('half a cache');
      }`;
    const children = Array.from({ length: 3 }, () => {
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['ignore', 'inherit', 'inherit'],
      });
      return new Promise<number | null>((done) => child.on('close', done));
    });
    expect(await Promise.all(children)).toEqual([0, 0, 0]);
    expect((await readdir(await onlyFolder(cache))).sort()).toEqual(['drivers.json', 'modules.alias']);
    expect((await cached(root, cache)).fromCache).toBe(true);
  });
});
