import { cpSync, existsSync, mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import type { Sysroot } from './sysroot.js';

const ROOT = join(import.meta.dirname, '../../..');

/** What of a package of this workspace is shipped. */
const SHIPPED = ['package.json', 'bin', 'dist', 'schemas', 'build/Release'] as const;

/**
 * Packs a project that has installed the built command and some drivers into an image, as npm would install it:
 * `node_modules` with all that these need.
 */
export async function packCli(sysroot: Sysroot, folder: string, packages: readonly string[]): Promise<string> {
  const project = join(folder, 'project');
  rmSync(project, { recursive: true, force: true });
  const placed = new Map<string, string>();
  const place = (from: string, name: string): void => {
    const source = realpathSync(resolvePackage(from, name));
    // A package of this workspace is where npm would put it, and what lies in its own node_modules lies there.
    const target = relative(ROOT, source).replace(/^packages\/([^/]+)/, 'node_modules/@vfio/$1');
    if (placed.get(target) === source) return;
    placed.set(target, source);
    copyPackage(source, join(project, target));
    for (const dependency of dependenciesOf(source)) place(source, dependency);
  };
  for (const name of packages) place(ROOT, name);
  const dependencies = Object.fromEntries(packages.map((name) => [name, '*']));
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'project', private: true, dependencies }));
  const image = join(folder, 'vfio.erofs');
  rmSync(image, { force: true });
  await sysroot.run('usr/bin/mkfs.erofs', ['--all-root', '-T0', '--quiet', image, project]);
  rmSync(project, { recursive: true });
  return image;
}

/** Where Node finds a package from a folder. */
function resolvePackage(from: string, name: string): string {
  for (let folder = from; ; folder = dirname(folder)) {
    const found = join(folder, 'node_modules', name);
    if (existsSync(join(found, 'package.json'))) return found;
    if (folder === dirname(folder)) throw new Error(`${name} is not installed for ${from}`);
  }
}

function dependenciesOf(folder: string): string[] {
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
    dependencies?: Record<string, string>;
  };
  return Object.keys(manifest.dependencies ?? {});
}

function copyPackage(source: string, target: string): void {
  mkdirSync(target, { recursive: true });
  if (relative(ROOT, source).includes('node_modules/')) {
    // What it has of its own below is placed by itself, where it is needed.
    cpSync(source, target, { recursive: true, filter: (path) => !relative(source, path).startsWith('node_modules') });
    return;
  }
  for (const part of SHIPPED) {
    if (existsSync(join(source, part))) cpSync(join(source, part), join(target, part), { recursive: true });
  }
}
