import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ROOT, run } from './helpers/run.js';

/** The packages as they would be released, and what is made with them in empty folders. What they need comes from npm. */
const folder = mkdtempSync(join(tmpdir(), 'vfio-packages-'));
afterAll(() => rmSync(folder, { recursive: true }));

const PACKAGES = join(folder, 'packages');
const DRIVER = join(folder, 'author/hisi-acc-vfio-pci');
const PROJECT = join(folder, 'project');

/** Runs a program that must succeed, and gives what it wrote. */
function ok(cwd: string, command: string, ...args: string[]): string {
  const { status, output } = run(cwd, { VFIO_CACHE: join(folder, 'cache') }, command, ...args);
  expect(status, `${command} ${args.join(' ')}\n${output}`).toBe(0);
  return output;
}

const npm = (cwd: string, ...args: string[]): string =>
  ok(cwd, 'npm', ...args, '--no-audit', '--no-fund', '--prefer-offline');

/** Files of packed packages: together they leave nothing of ours to be looked for in a registry. */
function tarballs(...names: string[]): string[] {
  const files = readdirSync(PACKAGES);
  return names.map((name) => {
    const file = files.find((one) => new RegExp(`^vfio-${name}-\\d`).test(one));
    if (file === undefined) throw new Error(`no tarball of ${name}`);
    return join(PACKAGES, file);
  });
}

beforeAll(() => {
  mkdirSync(PACKAGES);
  const folders = readdirSync(join(ROOT, 'packages')).map((name) => `./packages/${name}`);
  ok(ROOT, 'npm', 'pack', ...folders, '--pack-destination', PACKAGES, '--ignore-scripts');
  for (const path of ['author', 'project']) {
    mkdirSync(join(folder, path));
    writeFileSync(join(folder, path, 'package.json'), JSON.stringify({ name: path, private: true }));
  }
});

describe('a driver of an author who has only the released packages', () => {
  test('is made by the command of the tarball', () => {
    npm(join(folder, 'author'), 'install', ...tarballs('create-variant-driver', 'nx'));
    const features = 'migration,dirty-tracking,regions,caps';
    const out = ok(
      join(folder, 'author'),
      'npx',
      'create-variant-driver',
      'hisi-acc',
      '--id',
      '19e5:a251',
      '--features',
      features,
    );
    expect(out).toContain('hisi-acc-vfio-pci is there');
  });

  test('is linted, compiled, built, tested and checked by its own scripts', () => {
    // Its package.json stays as it is: it asks for a release, which these are.
    npm(DRIVER, 'install', '--no-save', ...tarballs('core', 'uapi', 'emulated', 'testing'));
    for (const script of ['lint', 'typecheck', 'build', 'test', 'check:package']) npm(DRIVER, 'run', script);
  });
});

describe('the project of a user', () => {
  const match = (what: string) => {
    const { stdout } = run(PROJECT, { VFIO_CACHE: join(folder, 'cache') }, 'npx', 'vfio', 'match', what, '--json');
    return JSON.parse(stdout) as unknown;
  };
  const ID = '19e5:a251:0000:0000:120000';
  const NVME = '144d:a808:0000:0000:010802';
  const COMMAND = ['cli', 'core', 'uapi', 'emulated', 'linux', 'native', 'vfio-pci', 'vfio-user'];

  test('has each driver chosen that it installs, by its alias file', () => {
    npm(DRIVER, 'pack', '--pack-destination', PACKAGES);
    const [driver = ''] = readdirSync(PACKAGES).filter((name) => name.startsWith('hisi-acc-vfio-pci'));
    npm(PROJECT, 'install', ...tarballs(...COMMAND, 'nvme-vfio-pci'), join(PACKAGES, driver));
    expect(match(ID)).toMatchObject({ winner: 'hisi_acc_vfio_pci', better: null });
    expect(match(NVME)).toMatchObject({ winner: 'nvme_vfio_pci', better: null });
  });

  test('falls back to the generic driver when they are removed, and is told of the package that is better', () => {
    npm(PROJECT, 'rm', 'hisi-acc-vfio-pci', '@vfio/nvme-vfio-pci');
    expect(match(ID)).toMatchObject({ winner: 'vfio-pci', better: null });
    expect(match(NVME)).toMatchObject({
      winner: 'vfio-pci',
      better: { driver: 'nvme_vfio_pci', package: '@vfio/nvme-vfio-pci' },
    });
  });
});
