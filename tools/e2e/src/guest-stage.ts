import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { makeMergedRoot } from './apt.js';
import { recipeKey, type Stage } from './cache.js';
import { command } from './command.js';
import { type CpioEntry, packCpio } from './cpio.js';
import { Sysroot } from './sysroot.js';
import { KERNEL_TREE, SYSROOT } from './tools-stage.js';
import { unpackVmlinux } from './vmlinux.js';

const SOURCES = join(import.meta.dirname, '../guest');

/** Programs of the unpacked packages that guests have, with the other names they go by. */
const PROGRAMS: Record<string, readonly string[]> = {
  'usr/bin/busybox': [],
  // Not busybox's shell, which would run its own applets in place of the programs here.
  'usr/bin/dash': ['sh'],
  'usr/bin/dmesg': [],
  'usr/bin/fio': [],
  'usr/bin/kmod': ['depmod', 'insmod', 'lsmod', 'modinfo', 'modprobe', 'rmmod'],
  'usr/bin/lspci': [],
  'usr/bin/setpci': [],
  'usr/sbin/blkdiscard': [],
  'usr/sbin/nvme': [],
};
const DATA = ['usr/share/misc/pci.ids'] as const;

/** Our own programs for guests: built statically by this machine's compiler. */
const COMPILED = ['config-probe.c', 'vfio-probe.c', 'edu.c', 'journal.c'] as const;
const SCRIPTS: Record<string, string> = { 'init.sh': 'usr/sbin/init', 'agent.sh': 'usr/bin/agent' };

/** Modules that guests may load, each with all it depends on; one that the kernel has built in is passed over. */
const MODULES = [
  'ahci',
  'e1000e',
  'ext4',
  'i2c_i801',
  'mlx5_core',
  'nvme',
  'uio_pci_generic',
  'vfio-pci',
  'vfio_iommu_type1',
] as const;
/** What it takes to mount the root image. */
const BOOT_MODULES = ['virtio_pci', 'virtio_console', 'virtio_blk', 'erofs'] as const;

export interface GuestManifest {
  made: string;
  kernel: string;
}

/** The names under the stage's folder. */
export const ROOT_IMAGE = 'root.erofs';
export const INITRAMFS = 'initramfs.cpio';
export const VMLINUX = 'vmlinux';

/** What guests boot from: kernel, initramfs and a read-only root image. */
export function guestStage(tools: string, kernel: string, log: (line: string) => void): Stage<GuestManifest> {
  const own = ['apt.ts', 'cpio.ts', 'sysroot.ts', 'guest-stage.ts', 'vmlinux.ts'];
  const guest = [...Object.keys(SCRIPTS), 'initramfs-init.sh', ...COMPILED];
  const files = [...own.map((name) => join(import.meta.dirname, name)), ...guest.map((name) => join(SOURCES, name))];
  return {
    name: 'guest',
    key: recipeKey([basename(tools), ...files.map((file) => readFileSync(file))]),
    make: async (folder) => {
      const sysroot = new Sysroot(join(tools, SYSROOT));
      const tree = join(tools, KERNEL_TREE);
      const root = join(folder, 'root');
      makeMergedRoot(root);
      log('building the programs that run in guests');
      await addPrograms(sysroot, root);
      log(`packing kernel ${kernel} and its modules`);
      const modules = await addModules(sysroot, tree, kernel, root);
      writeFileSync(join(folder, INITRAMFS), initramfs(sysroot, modules));
      await unpackVmlinux(sysroot, vmlinuz(tree, kernel), join(folder, VMLINUX));
      log('making the root image');
      await sysroot.run('usr/bin/mkfs.erofs', ['--all-root', '-T0', '--quiet', join(folder, ROOT_IMAGE), root]);
      rmSync(root, { recursive: true });
      return { made: new Date().toISOString(), kernel };
    },
  };
}

function vmlinuz(tree: string, release: string): string {
  const merged = join(tree, 'usr/lib/modules', release, 'vmlinuz');
  // Where kernels kept it before the split into binary and modules packages.
  return existsSync(merged) ? merged : join(tree, 'boot', `vmlinuz-${release}`);
}

async function addPrograms(sysroot: Sysroot, root: string): Promise<void> {
  for (const folder of ['dev', 'proc', 'sys', 'tmp', 'run', 'usr/local/bin', 'etc']) {
    mkdirSync(join(root, folder), { recursive: true });
  }
  const copied = new Set<string>(DATA);
  for (const [program, names] of Object.entries(PROGRAMS)) {
    copied.add(program);
    if (program !== 'usr/bin/busybox') for (const library of await sysroot.libraries(program)) copied.add(library);
    for (const name of names) symlinkSync(basename(program), join(root, 'usr/bin', name));
  }
  for (const path of copied) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    copyFileSync(sysroot.path(path), join(root, path));
  }
  // Every other command is busybox's.
  const busybox = sysroot.path('usr/bin/busybox');
  for (const applet of (await command([busybox, '--list'])).trim().split('\n')) {
    const taken = ['usr/bin', 'usr/sbin'].some((folder) =>
      lstatSync(join(root, folder, applet), { throwIfNoEntry: false }),
    );
    if (!taken) symlinkSync('busybox', join(root, 'usr/bin', applet));
  }
  for (const [source, path] of Object.entries(SCRIPTS)) {
    rmSync(join(root, path), { force: true });
    copyFileSync(join(SOURCES, source), join(root, path));
    chmodSync(join(root, path), 0o755);
  }
  for (const source of COMPILED) {
    const program = join(root, 'usr/local/bin', basename(source, '.c'));
    await command(['gcc', '-O2', '-static', '-o', program, join(SOURCES, source)]);
  }
}

interface BootModules {
  /** File names, each after those it depends on. */
  order: string[];
  files: Map<string, Uint8Array>;
}

/** Puts the modules and the indexes that modprobe reads into the root, and gives those of the initramfs. */
async function addModules(sysroot: Sysroot, tree: string, release: string, root: string): Promise<BootModules> {
  const from = join(tree, 'usr/lib/modules', release);
  const to = join(root, 'usr/lib/modules', release);
  const paths = new Map(
    readdirSync(join(from, 'kernel'), { recursive: true, encoding: 'utf8' })
      .filter((path) => /\.ko(\.xz)?$/.test(path))
      .map((path) => [moduleName(path), join('kernel', path)]),
  );
  // A module names what it needs itself; depmod over all five thousand would take half a minute.
  const closure = async (names: readonly string[], ordered = new Set<string>()): Promise<Set<string>> => {
    for (const name of names) {
      const path = paths.get(moduleName(name));
      if (path === undefined || ordered.has(path)) continue;
      const needs = await sysroot.run('usr/bin/kmod', ['-F', 'depends', join(from, path)], { argv0: 'modinfo' });
      await closure(needs.trim().split(',').filter(Boolean), ordered);
      ordered.add(path);
    }
    return ordered;
  };

  const boot: BootModules = { order: [], files: new Map() };
  const bootPaths = [...(await closure(BOOT_MODULES))];
  for (const path of new Set([...bootPaths, ...(await closure(MODULES))])) {
    const plain = path.replace(/\.xz$/, '');
    const target = join(to, plain);
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(join(from, path), join(to, path));
    if (plain !== path) await sysroot.run('usr/bin/xz', ['--decompress', join(to, path)]);
    if (bootPaths.includes(path)) boot.files.set(basename(plain), readFileSync(target));
  }
  boot.order = bootPaths.map((path) => basename(path).replace(/\.xz$/, ''));
  for (const name of readdirSync(from).filter((entry) => /^(config$|modules\.(builtin|order))/.test(entry))) {
    copyFileSync(join(from, name), join(to, name));
  }
  await sysroot.run('usr/bin/kmod', ['-b', root, release], { argv0: 'depmod' });
  return boot;
}

const moduleName = (path: string) =>
  basename(path)
    .replace(/\.ko(\.xz)?$/, '')
    .replaceAll('-', '_');

function initramfs(sysroot: Sysroot, modules: BootModules): Uint8Array {
  const folders = ['bin', 'dev', 'modules', 'root'].map((path): CpioEntry => ({ kind: 'directory', path }));
  return packCpio([
    ...folders,
    { kind: 'character-device', path: 'dev/console', major: 5, minor: 1 },
    { kind: 'file', path: 'bin/busybox', data: readFileSync(sysroot.path('usr/bin/busybox')), mode: 0o755 },
    { kind: 'file', path: 'init', data: readFileSync(join(SOURCES, 'initramfs-init.sh')), mode: 0o755 },
    { kind: 'file', path: 'modules/order', data: Buffer.from(`${modules.order.join('\n')}\n`) },
    ...[...modules.files].map(([name, data]): CpioEntry => ({ kind: 'file', path: `modules/${name}`, data })),
  ]);
}
