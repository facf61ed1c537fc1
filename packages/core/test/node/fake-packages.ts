import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { mkdir, realpath, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { onTestFinished } from 'vitest';

/** A folder that is gone after the test. */
export async function temporaryFolder(): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return await realpath(folder);
}

export async function write(path: string, content: unknown): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
}

export async function link(target: string, path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  symlinkSync(target, path);
}

export const ALIASES = {
  generic: 'vfio_pci:v*d*sv*sd*bc*sc*i*',
  mlx5: 'vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i*',
  nvme: 'vfio_pci:v*d*sv*sd*bc01sc08i02*',
} as const;

export interface FakePackage {
  readonly name: string;
  readonly driver?: string;
  /** Alias patterns of the driver; default: one that matches anything. */
  readonly patterns?: readonly string[];
  readonly requires?: readonly string[];
  /** Replaces fields of package.json. */
  readonly json?: Record<string, unknown>;
  /** Replaces the alias file; null: there is none. */
  readonly alias?: string | null;
  /** Replaces the driver module. */
  readonly code?: string;
}

/** Source of a driver module: says so in `globalThis.vfioLoaded` when it is run. */
export function driverCode(name: string, extra = ''): string {
  return `(globalThis.vfioLoaded ??= []).push(${JSON.stringify(name)});
export const driver = {
  name: ${JSON.stringify(name)},
  idTable: [{ vendor: 0xffffffff, device: 0xffffffff, subvendor: 0xffffffff, subdevice: 0xffffffff, class: 0, classMask: 0, overrideOnly: 1, driverData: 0 }],
  probe() {},
  remove() {},
};
${extra}`;
}

/** Writes a package into a folder as it would be installed. */
export async function writePackage(folder: string, pkg: FakePackage): Promise<string> {
  const { driver = 'vfio-pci', patterns = [ALIASES.generic], requires = [] } = pkg;
  await write(join(folder, 'package.json'), {
    name: pkg.name,
    version: '1.0.0',
    type: 'module',
    exports: { '.': './index.js', './driver': './driver.js', './package.json': './package.json' },
    vfio: { api: 1, drivers: [{ name: driver, export: './driver', alias: 'dist/modules.alias', requires }] },
    ...pkg.json,
  });
  await write(join(folder, 'index.js'), `throw new Error('the package itself was imported');`);
  await write(join(folder, 'driver.js'), pkg.code ?? driverCode(driver));
  if (pkg.alias !== null) {
    const text = patterns.map((pattern) => `alias ${pattern} ${driver}\n`).join('');
    await write(join(folder, 'dist/modules.alias'), pkg.alias ?? `# test\n${text}`);
  }
  return folder;
}

/** A project whose direct dependencies are these packages. */
export async function project(packages: readonly FakePackage[], json: Record<string, unknown> = {}): Promise<string> {
  const root = await temporaryFolder();
  await write(join(root, 'package.json'), {
    name: 'project',
    dependencies: Object.fromEntries(packages.map(({ name }) => [name, '*'])),
    ...json,
  });
  for (const pkg of packages) await writePackage(join(root, 'node_modules', pkg.name), pkg);
  return root;
}

/** Names of the driver modules that have run since the last call. */
export function takeLoaded(): string[] {
  const holder = globalThis as { vfioLoaded?: string[] };
  const names = holder.vfioLoaded ?? [];
  holder.vfioLoaded = [];
  return names;
}
