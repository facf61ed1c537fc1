import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { debianMirror, makeMergedRoot, PrivateApt, RELEASE, unpack } from './apt.js';
import type { Stage } from './cache.js';
import { recipeKey } from './cache.js';
import { Sysroot } from './sysroot.js';

/** Debian's stock kernel; its cloud flavour would save a guest half a second and lacks drivers. */
const KERNEL = 'linux-image-amd64';
const QEMU_PACKAGES = ['qemu-system-x86', 'qemu-utils'] as const;
/** What guests run, and what makes their disks. */
const USERLAND_PACKAGES = [
  'busybox-static',
  'dash',
  'erofs-utils',
  'fio',
  'kmod',
  'nvme-cli',
  'pci.ids',
  'pciutils',
  'util-linux',
  'xz-utils',
  'zstd',
] as const;

export interface ToolsManifest {
  release: string;
  made: string;
  /** Version of each package this machine's guests depend on, by name. */
  versions: Record<string, string>;
  /** The kernel's release, as `uname -r` says it. */
  kernel: string;
}

/** The names under the stage's folder. */
export const SYSROOT = 'sysroot';
export const KERNEL_TREE = 'kernel';

/** Debian's packages, unpacked: the kernel, what guests run, and QEMU unless the machine has its own. */
export function toolsStage(needQemu: boolean, log: (line: string) => void): Stage<ToolsManifest> {
  const packages = [...(needQemu ? QEMU_PACKAGES : []), ...USERLAND_PACKAGES];
  const sources = ['apt.ts', 'tools-stage.ts'].map((name) => readFileSync(join(import.meta.dirname, name)));
  return {
    name: 'tools',
    key: recipeKey([packages.join(' '), ...sources]),
    make: (folder) => make(folder, packages, log),
  };
}

async function make(folder: string, packages: string[], log: (line: string) => void): Promise<ToolsManifest> {
  const scratch = join(folder, 'apt');
  const apt = new PrivateApt(scratch, await debianMirror());
  log(`reading the package lists of Debian ${RELEASE} and its backports`);
  await apt.update();

  const versions: Record<string, string> = {};
  for (const name of packages) versions[name] = (await apt.show(name)).version;
  log(
    `downloading ${Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')}`,
  );
  const debs = await apt.downloadClosure(packages);
  const sysroot = new Sysroot(join(folder, SYSROOT));
  makeMergedRoot(sysroot.root);
  await unpack(debs, sysroot.root);

  const wanted = await kernelPackages(apt, KERNEL);
  versions[KERNEL] = (await apt.show(KERNEL)).version;
  const kernel = kernelRelease(wanted);
  log(`downloading kernel ${kernel}`);
  const files = await apt.download(wanted, join(scratch, 'kernel'));
  makeMergedRoot(join(folder, KERNEL_TREE));
  await unpack(files, join(folder, KERNEL_TREE));
  rmSync(scratch, { recursive: true, force: true });
  return { release: RELEASE, made: new Date().toISOString(), versions, kernel };
}

/**
 * The versioned packages behind a kernel metapackage as `name=version`. One package held everything up to 6.x; later
 * ones split into base, binary and modules, so the dependencies are followed instead of named.
 */
async function kernelPackages(apt: PrivateApt, meta: string): Promise<string[]> {
  const found = new Map<string, string>();
  const follow = async (name: string): Promise<void> => {
    for (const match of (await apt.show(name)).depends.matchAll(/(linux-\S+) \(= (\S+)\)/g)) {
      const [, next, version] = match as unknown as [string, string, string];
      // Only versioned names hold files; `linux-base-amd64` and the like are metapackages again.
      if (found.has(next) || !/^linux-(image|base|binary|modules)-\d.*-amd64$/.test(next)) continue;
      found.set(next, version);
      await follow(next);
    }
  };
  await follow(meta);
  if (found.size === 0) throw new Error(`${meta}: no versioned kernel package among what it depends on`);
  return [...found].map(([name, version]) => `${name}=${version}`);
}

function kernelRelease(packages: readonly string[]): string {
  for (const name of packages) {
    const release = /^linux-image-(.*)=/.exec(name)?.[1];
    if (release !== undefined) return release;
  }
  throw new Error(`no kernel image among ${packages.join(', ')}`);
}
