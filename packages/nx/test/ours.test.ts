import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { checkOptions, FEATURES, renderVariantDriver } from '../src/index.js';
import { readRows } from '../src/match.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

/**
 * What our drivers are asked for as, and where the repository keeps what a driver elsewhere has in a file of its own. Models
 * and contract tests are shared here; and each of ours speaks to its device in another way than through a BAR that is its own.
 */
const OURS = [
  {
    package: 'nvme-vfio-pci',
    asked: { name: 'nvme', classes: ['010802'], features: ['migration', 'dirty-tracking'] },
    elsewhere: {
      'src/control-bar.ts': 'packages/nvme-vfio-pci/src/parent/admin-queue.ts',
      'test/control-bar.test.ts': 'packages/nvme-vfio-pci/test/migration.test.ts',
      'test/contract.test.ts': 'tools/contract/test/nvme.test.ts',
      'test/helpers/model.ts': 'packages/emulated/src/devices/nvme/controller.ts',
      'test/helpers/control-page.ts': 'packages/emulated/src/devices/nvme/migration-manager.ts',
    },
  },
  {
    package: 'mlx5-vfio-pci',
    asked: { name: 'mlx5', ids: ['15b3:101e'], features: ['migration', 'dirty-tracking'] },
    elsewhere: {
      'src/control-bar.ts': 'packages/mlx5-vfio-pci/src/hca/command-queue.ts',
      'test/control-bar.test.ts': 'packages/mlx5-vfio-pci/test/hca.test.ts',
      'test/contract.test.ts': 'tools/contract/test/mlx5.test.ts',
      'test/match.test.ts': 'tools/contract/test/mlx5.test.ts',
      'test/helpers/model.ts': 'packages/emulated/src/devices/connectx/connectx.ts',
      'test/helpers/control-page.ts': 'packages/emulated/src/devices/connectx/command-queue.ts',
    },
  },
  {
    package: 'igd',
    asked: { name: 'igd', classes: ['03'], features: ['regions'] },
    elsewhere: {
      'src/regions.ts': 'packages/igd/src/region.ts',
      'src/control-bar.ts': 'packages/igd/src/opregion.ts',
      'test/control-bar.test.ts': 'packages/igd/test/regions.test.ts',
      'test/contract.test.ts': 'tools/contract/test/drivers.test.ts',
      'test/helpers/model.ts': 'packages/emulated/src/devices/igd',
      'test/helpers/control-page.ts': 'packages/emulated/src/devices/igd',
    },
  },
  {
    package: 'zdev',
    asked: { name: 'zdev', classes: ['ff'], features: ['caps'], requires: ['zpci'] },
    elsewhere: {
      'src/control-bar.ts': 'packages/zdev/src/attach.ts',
      'test/caps.test.ts': 'packages/zdev/test/zdev.test.ts',
      'test/control-bar.test.ts': 'packages/zdev/test/zdev.test.ts',
      'test/match.test.ts': 'packages/zdev/test/zdev.test.ts',
      'test/contract.test.ts': 'tools/contract/test/zdev.test.ts',
      'test/helpers/setup.ts': 'packages/zdev/test/zdev.test.ts',
      'test/helpers/model.ts': 'packages/emulated/src/devices/zpci.ts',
      'test/helpers/control-page.ts': 'packages/emulated/src/devices/zpci.ts',
    },
  },
];

const root = JSON.parse(read('package.json'));
const { author, homepage, bugs, repository, license } = root;

describe.each(OURS)('our $package could have been generated', ({ package: name, asked, elsewhere }) => {
  const folder = `packages/${name}`;
  const driver = checkOptions({ ...asked, scope: '@vfio' });
  const about = { author, homepage, bugs, repository, license };
  const workspace = { directory: folder, sharesConfig: true, license: read('LICENSE'), about };
  const files = renderVariantDriver(driver, { version: '0.0.0', workspace });
  const where = (path: string): string => (elsewhere as Record<string, string>)[path] ?? `${folder}/${path}`;

  test('every file of its skeleton is there', () => {
    expect([...files.keys()].filter((path) => !existsSync(join(ROOT, where(path))))).toEqual([]);
    expect(Object.keys(elsewhere).filter((path) => !files.has(path))).toEqual([]);
  });

  test('it has no file of a feature that it was not asked for', () => {
    const filesWith = (features: readonly string[]) =>
      new Set([
        ...renderVariantDriver(checkOptions({ ...asked, scope: '@vfio', features }), {
          version: '0.0.0',
          workspace,
        }).keys(),
      ]);
    const mine = filesWith(asked.features);
    const foreign = [...filesWith(FEATURES)].filter((path) => path.startsWith('src/') && !mine.has(path));
    expect(readdirSync(join(ROOT, folder, 'src')).filter((name) => foreign.includes(`src/${name}`))).toEqual([]);
  });

  test('its package.json says the same, beyond its words and what it exports more', () => {
    const generated = JSON.parse(files.get('package.json') ?? '');
    const ours = JSON.parse(read(`${folder}/package.json`));
    expect(Object.keys(ours)).toEqual(Object.keys(generated));
    expect({ ...ours, devDependencies: undefined }).toMatchObject({
      ...generated,
      // Two are called by what they are for alone.
      name: `@vfio/${name}`,
      version: ours.version,
      description: ours.description,
      dependencies: ours.dependencies,
      // It may have another driver that goes with it.
      vfio: { ...ours.vfio, drivers: expect.arrayContaining(generated.vfio.drivers) },
      devDependencies: undefined,
    });
    expect(Object.keys(ours.dependencies)).toEqual(Object.keys(generated.dependencies));
  });

  test.each(['LICENSE', 'tsconfig.json', 'tsconfig.build.json', 'vitest.config.ts'])(
    'its %s is the generated one',
    (path) => {
      expect(read(`${folder}/${path}`)).toBe(files.get(path));
    },
  );

  test('its modules export what generated ones do', () => {
    for (const path of ['src/ids.ts', 'src/device.ts']) {
      const named = (text: string) =>
        [...text.matchAll(/^export (?:async )?(?:const|function|interface) (\w+)/gm)].map(([, name]) => name);
      expect(named(read(`${folder}/${path}`))).toEqual(expect.arrayContaining(named(files.get(path) ?? 'nothing')));
    }
    expect(readRows(files.get('src/ids.ts') ?? '')).toEqual([...driver.rows]);
  });
});
