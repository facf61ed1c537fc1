import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { expect, test } from 'vitest';
import type { DemoReport } from '../src/commands/demo.js';
import type { MigrationReport } from '../src/demo/migration.js';
import { folder, ROOT, vfio } from './helpers/run.js';
import { expectSchema } from './helpers/schema.js';

const leftovers = () => readdirSync(tmpdir()).filter((name) => name.startsWith('vfio-demo-'));

test('the NVMe function is driven through the variant, the generic driver, and the variant by name; edu beside it', async () => {
  const { code, out } = await vfio(['demo', '--json']);
  expect(code).toBe(0);
  const report = JSON.parse(out) as DemoReport;
  expectSchema('demo', report);
  expect(report.ok).toBe(true);
  expect(report.nvme.map(({ driver, ops, intact }) => [driver, ops, intact])).toEqual([
    ['nvme_vfio_pci', 'nvme-vfio-pci', true],
    ['vfio-pci', 'vfio-pci', true],
    ['nvme_vfio_pci', 'nvme-vfio-pci', true],
  ]);
  expect(report.edu).toEqual({
    driver: 'vfio-pci',
    identification: 0x010000ed,
    liveness: true,
    factorialOf10: 3628800,
    interrupts: 3,
    dmaRoundTrip: true,
  });
  // Its driver is not in this project.
  expect(report.migration).toBeNull();
});

test('a virtual function under load changes its process: data, checksums, counters and interrupts are right', async () => {
  const { code, out, err } = await vfio(['demo', '--json'], { cwd: ROOT });
  expect({ code, err }).toEqual({ code: 0, err: '' });
  const report = JSON.parse(out) as DemoReport;
  expectSchema('demo', report);
  const { migration } = report;
  expect(migration).toMatchObject({
    address: '0000:05:00.1',
    driver: 'mlx5_vfio_pci',
    wrong: 0,
    countersRight: true,
    interruptsRight: true,
  });
  const { from, to, counters } = migration as MigrationReport;
  expect(from.pid).not.toBe(to.pid);
  expect([from.pid, to.pid]).not.toContain(process.pid);
  const turns = from.turns + to.turns;
  expect(Math.min(from.turns, to.turns)).toBeGreaterThan(100);
  expect(counters).toEqual({ descriptors: turns * 4, bytes: turns * 4 * 4096, failed: 0, interrupts: turns });
  expect(from.interrupts + to.interrupts).toBe(turns);
  // What the engine wrote, and what the function keeps to itself.
  expect(migration?.memoryBytes).toBeGreaterThanOrEqual(256 * 4096);
  expect(migration?.stateBytes).toBeGreaterThan(32 * 4096);
  // Nobody is left behind.
  for (const { pid } of [from, to]) expect(() => process.kill(pid, 0)).toThrow(/ESRCH/);
});

test('it tells people what moved, what it cost and that nothing was lost; without the driver, what to install', async () => {
  const { out } = await vfio(['demo'], { cwd: ROOT });
  expect(out).toMatch(/from pid \d+ to pid \d+: .* of state and .* of memory in \d+ rounds, \d+ ms, .* still \d+ ms/);
  expect(out).toMatch(/data and checksums equal, counters right, \d+ \+ \d+ interrupts right/);
  expect((await vfio(['demo'])).out).toMatch(/not shown: `npm install @vfio\/mlx5-vfio-pci`/);
});

test('it ends in a summary that says what was seen, what is next, and whether all was right', async () => {
  const { out } = await vfio(['demo']);
  const [, summary = ''] = out.split('\nWhat you saw\n');
  expect(summary).toMatch(/npx vfio serve 0000:01:00.0 --socket-path/);
  expect(summary).toMatch(/All checks passed in \d+\.\d s\n$/);
});

test('in a project without the variant it says what to install, before anything else', async () => {
  const { code, out, err } = await vfio(['demo'], { cwd: folder });
  expect({ code, out }).toEqual({ code: 1, out: '' });
  expect(err).toMatch(/^vfio: .*npm install @vfio\/nvme-vfio-pci.*\(ERR_VFIO_NO_DRIVER, ENODEV\)$/m);
});

test('stopped on the way it ends with 1 and leaves nothing behind', async () => {
  const before = leftovers();
  const { code } = await vfio(['demo'], { cwd: ROOT, signal: AbortSignal.abort() });
  expect(code).toBe(1);
  expect(leftovers()).toEqual(before);
});
