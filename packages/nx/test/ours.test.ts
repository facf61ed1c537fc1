import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { checkOptions, FEATURES, renderVariantDriver } from '../src/index.js';
import { readRows } from '../src/match.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

/** What our drivers are asked for as, and where the repository keeps what a driver elsewhere has in its own package. */
const OURS = [
  {
    asked: { name: 'nvme', classes: ['010802'], features: [] as string[] },
    elsewhere: {
      'test/helpers/model.ts': 'packages/emulated/src/devices/nvme/controller.ts',
      'test/contract.test.ts': 'tools/contract/test/drivers.test.ts',
    },
  },
  {
    asked: { name: 'mlx5', ids: ['15b3:101e'], features: ['migration', 'dirty-tracking'] },
    elsewhere: {
      'test/helpers/model.ts': 'packages/emulated/src/devices/connectx/connectx.ts',
      'test/helpers/control-page.ts': 'packages/emulated/src/devices/connectx/command-queue.ts',
      'test/contract.test.ts': 'tools/contract/test/mlx5.test.ts',
      // It speaks to its device through the physical function, and not through a BAR of its own.
      'src/control-bar.ts': 'packages/mlx5-vfio-pci/src/hca/driver.ts',
      'test/control-bar.test.ts': 'packages/mlx5-vfio-pci/test/hca.test.ts',
      // That it is for the ids of its table, the contract suite asks.
      'test/match.test.ts': 'tools/contract/test/mlx5.test.ts',
    },
  },
];

const root = JSON.parse(read('package.json'));
const { author, homepage, bugs, repository, license } = root;

describe.each(OURS)('our driver for $asked.name could have been generated', ({ asked, elsewhere }) => {
  const folder = `packages/${asked.name}-vfio-pci`;
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
    const with_ = (features: readonly string[]) =>
      new Set([
        ...renderVariantDriver(checkOptions({ ...asked, scope: '@vfio', features }), {
          version: '0.0.0',
          workspace,
        }).keys(),
      ]);
    const mine = with_(asked.features);
    const foreign = [...with_(FEATURES)].filter((path) => path.startsWith('src/') && !mine.has(path));
    expect(readdirSync(join(ROOT, folder, 'src')).filter((name) => foreign.includes(`src/${name}`))).toEqual([]);
  });

  test('its package.json says the same, beyond its words and what it exports more', () => {
    const generated = JSON.parse(files.get('package.json') ?? '');
    const ours = JSON.parse(read(`${folder}/package.json`));
    expect(Object.keys(ours)).toEqual(Object.keys(generated));
    expect({ ...ours, devDependencies: undefined }).toMatchObject({
      ...generated,
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
