import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { DepmodReport } from '../src/commands/depmod.js';
import { folder, ROOT, type RunOptions, vfio } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

async function depmod(options: RunOptions = {}): Promise<DepmodReport & { code: number }> {
  const { out, code } = await vfio(['depmod', '--json'], options);
  const report = JSON.parse(out) as DepmodReport;
  expectSchema('depmod', report);
  return { ...report, code };
}

test('the index is written, with every driver that is installed', async () => {
  const { code, directory, drivers, problems } = await depmod();
  expect({ code, problems }).toEqual({ code: 0, problems: [] });
  // The driver of the physical function is found by its name only.
  expect(drivers.map(({ driver, package: from, aliases }) => [driver, from, aliases])).toEqual([
    ['nvme', '@vfio/nvme-vfio-pci', 0],
    ['nvme_vfio_pci', '@vfio/nvme-vfio-pci', 1],
    ['vfio-pci', '@vfio/vfio-pci', 1],
  ]);
  const index = readFileSync(join(directory ?? '', 'modules.alias'), 'utf8');
  expect(index).toContain('alias vfio_pci:v*d*sv*sd*bc01sc08i02* nvme_vfio_pci\n');
});

test('it is made anew, whatever was kept', async () => {
  const { directory } = await depmod();
  const path = join(directory ?? '', 'modules.alias');
  const before = readFileSync(path, 'utf8');
  writeFileSync(path, 'garbage');
  await depmod();
  expect(readFileSync(path, 'utf8')).toBe(before);
});

test('a package that cannot be used is told by name, and one that nobody depends on', async () => {
  const cwd = join(folder, 'depmod');
  const modules = join(cwd, 'node_modules');
  mkdirSync(join(modules, '@vfio'), { recursive: true });
  symlinkSync(join(ROOT, 'packages/vfio-pci'), join(modules, '@vfio/vfio-pci'));
  for (const name of ['broken', 'unused']) {
    mkdirSync(join(modules, name));
    const drivers = [{ name: `${name}_vfio_pci`, export: './driver', alias: 'modules.alias' }];
    writeFileSync(join(modules, name, 'package.json'), JSON.stringify({ name, vfio: { api: 1, drivers } }));
  }
  writeFileSync(join(cwd, 'package.json'), '{"name":"p","dependencies":{"@vfio/vfio-pci":"*","broken":"*"}}');
  const { code, drivers, problems, notConsidered } = await depmod({ cwd });
  expect(code).toBe(0);
  expect(drivers.map(({ driver }) => driver)).toEqual(['vfio-pci']);
  expect(problems).toMatchObject([{ package: 'broken', driver: 'broken_vfio_pci', kind: 'broken' }]);
  expect(notConsidered).toEqual([{ package: 'unused', drivers: ['unused_vfio_pci'] }]);
  const { out } = await vfio(['depmod'], { cwd });
  expect(out).toMatch(/^broken broken: alias file modules.alias is missing/m);
  expect(out).toMatch(/^not considered unused \(unused_vfio_pci\): no direct dependency$/m);
});

test('an index that cannot be kept ends with 1 and says so', async () => {
  const file = join(folder, 'file');
  writeFileSync(file, '');
  const { code, out } = await vfio(['depmod'], { env: { VFIO_CACHE: file } });
  expect(code).toBe(1);
  expect(out).toContain('the index could not be kept');
});
