import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { MatchReport } from '../src/commands/match.js';
import { folder, ROOT, vfio } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

async function match(...args: string[]): Promise<MatchReport & { code: number }> {
  const { out, code } = await vfio(['match', '--json', ...args]);
  const report = JSON.parse(out) as MatchReport;
  expectSchema('match', report);
  return { ...report, code };
}

const drivers = ({ candidates }: MatchReport) => candidates.map(({ driver, outcome }) => [driver, outcome]);

test.each([
  ['an address', '0000:01:00.0'],
  ['an address without its domain', '1:0.0'],
  ['a modalias as sysfs has it', 'pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02'],
  ['ids with class', '1b36:0010:1af4:1100:010802'],
])('the same function by %s: the variant wins over the generic driver', async (_, what) => {
  const report = await match(what);
  expect(report).toMatchObject({ winner: 'nvme_vfio_pci', refused: null, code: 0 });
  expect(drivers(report)).toEqual([
    ['nvme_vfio_pci', 'won'],
    ['vfio-pci', 'lost'],
  ]);
});

test('ids without a class do not match a driver that goes by class', async () => {
  expect(drivers(await match('1b36:0010'))).toEqual([['vfio-pci', 'won']]);
});

test('--all also tells of drivers that do not match, field by field', async () => {
  const report = await match('--all', '0000:00:02.0');
  expect(drivers(report)).toEqual([
    ['vfio-pci', 'won'],
    ['nvme_vfio_pci', 'mismatch'],
  ]);
  const fields = report.candidates[1]?.fields.filter(({ matches }) => !matches).map(({ name }) => name);
  expect(fields).toEqual(['baseClass', 'subclass', 'interface']);
});

test('a bridge matches, and is refused: exit code 1', async () => {
  const report = await match('0000:00:1c.0');
  expect(report).toMatchObject({ winner: 'vfio-pci', refused: expect.stringContaining('bridge'), code: 1 });
  const { out, code } = await vfio(['match', '0000:00:1c.0']);
  expect(code).toBe(1);
  expect(out).toMatch(/^but 0000:00:1c.0 is a bridge/m);
});

test('the table has a column for each field and says who wins and why', async () => {
  const { out, code } = await vfio(['match', '0000:01:00.0']);
  expect(code).toBe(0);
  expect(out).toMatch(/DRIVER +PACKAGE +V +D +SV +SD +BC +SC +I +WILDCARDS +WHY/);
  expect(out).toMatch(/^\* +nvme_vfio_pci +@vfio\/nvme-vfio-pci +\* +\* +\* +\* +01 +08 +02 +4 /m);
  expect(out).toMatch(/^nvme_vfio_pci takes it, because it /m);
});

test.each(['', 'zz', '1b36', '1b36:0010:zz', '1b36:0010:1af4:1100:010802:ffffff:0', 'pci:v1'])(
  'what cannot be read is a usage error that shows the forms: "%s"',
  async (what) => {
    const { code, out, err } = await vfio(['match', what]);
    expect(code).toBe(2);
    expect(out).toBe('');
    expect(err).toMatch(/cannot match .* an address \(.*\), a modalias \(.*\), or ids \(.*ERR_VFIO_INVALID_ID, EINVAL/);
  },
);

test('an address at which nothing is fails and names those that are there', async () => {
  const { code, err } = await vfio(['match', '0000:7f:00.0']);
  expect(code).toBe(1);
  expect(err).toMatch(/no function 0000:7f:00.0 on the emulated host; there are 0000:00:00.0, .*ENODEV/);
  expect(err).toMatch(/^try: `vfio list`/m);
});

test('a driver that is not installed and would match better is named with its package', async () => {
  const report = await match('0000:04:00.0');
  expect(report).toMatchObject({
    winner: 'vfio-pci',
    better: { driver: 'mlx5_vfio_pci', package: '@vfio/mlx5-vfio-pci' },
  });
  const { out } = await vfio(['match', '0000:04:00.0']);
  expect(out).toContain('mlx5_vfio_pci would match better: `npm install @vfio/mlx5-vfio-pci` brings it\n');
});

test('without the variant its function falls back to the generic driver, and the variant is named', async () => {
  const cwd = join(folder, 'generic-only');
  mkdirSync(join(cwd, 'node_modules/@vfio'), { recursive: true });
  writeFileSync(join(cwd, 'package.json'), '{"name":"p","dependencies":{"@vfio/vfio-pci":"*"}}');
  symlinkSync(join(ROOT, 'packages/vfio-pci'), join(cwd, 'node_modules/@vfio/vfio-pci'));
  const { out } = await vfio(['match', '--json', '0000:01:00.0'], { cwd });
  expect(JSON.parse(out)).toMatchObject({
    winner: 'vfio-pci',
    better: { driver: 'nvme_vfio_pci', package: '@vfio/nvme-vfio-pci' },
  });
  expect((await match('0000:01:00.0')).better).toBeNull();
});
