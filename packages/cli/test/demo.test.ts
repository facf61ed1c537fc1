import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { expect, test } from 'vitest';
import type { DemoReport } from '../src/commands/demo.js';
import { folder, vfio } from './helpers/run.js';
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
  const { code } = await vfio(['demo'], { signal: AbortSignal.abort() });
  expect(code).toBe(1);
  expect(leftovers()).toEqual(before);
});
