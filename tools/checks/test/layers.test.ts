import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';

const root = resolve(import.meta.dirname, '../../..');

interface Violation {
  readonly from: string;
  readonly rule: { readonly name: string };
}

/** Violations of the layer rules below folders, as `rule: file`. */
function violations(...folders: readonly string[]): string[] {
  const run = spawnSync(
    process.execPath,
    [
      'node_modules/dependency-cruiser/bin/dependency-cruise.mjs',
      ...folders,
      '--config',
      '.dependency-cruiser.cjs',
      '-T',
      'json',
    ],
    { cwd: root, encoding: 'utf8', maxBuffer: 64 << 20 },
  );
  const { summary } = JSON.parse(run.stdout) as { summary: { violations: Violation[]; totalCruised: number } };
  expect(summary.totalCruised).toBeGreaterThan(0);
  return summary.violations.map((v) => `${v.rule.name}: ${v.from.replace(/.*(packages|examples)\//, '')}`).sort();
}

describe('layer rules', () => {
  test('are stated for every package, in the configuration and in the documentation', () => {
    const { forbidden } = createRequire(import.meta.url)(resolve(root, '.dependency-cruiser.cjs')) as {
      forbidden: readonly { readonly name: string }[];
    };
    const page = readFileSync(resolve(root, 'docs/architecture/layers.md'), 'utf8');
    for (const name of readdirSync(resolve(root, 'packages'))) {
      expect(forbidden.map((rule) => rule.name)).toContain(`layers-${name}`);
      const manifest = JSON.parse(readFileSync(resolve(root, 'packages', name, 'package.json'), 'utf8')) as object;
      // The page has a row for all drivers: one that was just generated is in it.
      if (!('vfio' in manifest)) expect(page).toContain(`\`${name}\``);
    }
  });

  test('hold in the packages and in the examples', () => {
    expect(violations('packages', 'docs/examples')).toEqual([]);
  });

  test('bite: a lower layer that imports a higher one, a driver that imports its sibling, Node in a pure package', () => {
    expect(violations('tools/checks/fixtures/layers')).toEqual([
      'layers-examples: serial-vfio-pci/src/imports-sibling.ts',
      'layers-nvme-vfio-pci: nvme-vfio-pci/src/imports-sibling.ts',
      'layers-uapi: uapi/src/imports-core.ts',
      'pure-core: core/src/imports-node.ts',
    ]);
  });
});
