import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';

const root = resolve(import.meta.dirname, '../../..');

interface Violation {
  readonly from: string;
  readonly rule: { readonly name: string };
}

/** Violations of the layer rules below `folder`, as `rule: file`. */
function violations(folder: string): string[] {
  const run = spawnSync(
    process.execPath,
    [
      'node_modules/dependency-cruiser/bin/dependency-cruise.mjs',
      folder,
      '--config',
      '.dependency-cruiser.cjs',
      '-T',
      'json',
    ],
    { cwd: root, encoding: 'utf8', maxBuffer: 64 << 20 },
  );
  const { summary } = JSON.parse(run.stdout) as { summary: { violations: Violation[]; totalCruised: number } };
  expect(summary.totalCruised).toBeGreaterThan(0);
  return summary.violations.map((v) => `${v.rule.name}: ${v.from.replace(/.*packages\//, '')}`).sort();
}

describe('layer rules', () => {
  test('hold in the packages', () => {
    expect(violations('packages')).toEqual([]);
  }, 60_000);

  test('bite: a lower layer that imports a higher one, a driver that imports its sibling, Node in a pure package', () => {
    expect(violations('tools/checks/fixtures/layers')).toEqual([
      'layers-nvme-vfio-pci: nvme-vfio-pci/src/imports-sibling.ts',
      'layers-uapi: uapi/src/imports-core.ts',
      'pure-core: core/src/imports-node.ts',
    ]);
  }, 60_000);
});
