import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { debianMirror, makeMergedRoot, PrivateApt, unpack } from './apt.js';
import { recipeKey, type Stage } from './cache.js';
import { Sysroot } from './sysroot.js';
import { SYSROOT } from './tools-stage.js';

/** A small Debian with Node, as the machine of somebody who passes devices through. */
const PACKAGES = [
  'bash',
  'coreutils',
  'dash',
  'debianutils',
  'grep',
  'iproute2',
  'kmod',
  'nodejs',
  'pci.ids',
  'pciutils',
  'python3',
  'sed',
  'udev',
] as const;

/** Single scripts of packages that would bring a hundred others. */
const SCRIPTS: Readonly<Record<string, string>> = { driverctl: 'driverctl', 'dpdk-devbind.py': 'dpdk' };

/** What is mounted over in the guest. */
const MOUNT_POINTS = [
  ...['dev', 'proc', 'run', 'sys', 'tmp', 'var/lib', 'opt/vfio', 'usr/lib/modules'],
  ...['etc/driverctl.d', 'etc/udev/rules.d'],
] as const;

/** What nobody reads in a guest. */
const LEFT_OUT = ['usr/share/doc', 'usr/share/man', 'usr/share/locale', 'usr/share/info'] as const;

/** Users of that machine: `vfio bind --owner` names one. */
const PASSWD = 'root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n';

export interface UserlandManifest {
  made: string;
}

/** The name under the stage's folder. */
export const USERLAND_IMAGE = 'userland.erofs';

/** A root image with Node and the tools that ours is compared with, for guests that enter it by chroot. */
export function userlandStage(tools: string, log: (line: string) => void): Stage<UserlandManifest> {
  const sources = ['apt.ts', 'sysroot.ts', 'userland-stage.ts'].map((name) =>
    readFileSync(join(import.meta.dirname, name)),
  );
  return {
    name: 'userland',
    key: recipeKey([basename(tools), ...sources]),
    make: async (folder) => {
      const scratch = join(folder, 'apt');
      const apt = new PrivateApt(scratch, await debianMirror());
      log('reading the package lists for a userland with Node');
      await apt.update();
      log(`downloading ${PACKAGES.join(', ')}`);
      const root = join(folder, 'root');
      makeMergedRoot(root);
      await unpack(await apt.downloadClosure(PACKAGES), root);
      await addScripts(apt, join(folder, 'scripts'), root);
      for (const path of MOUNT_POINTS) mkdirSync(join(root, path), { recursive: true });
      for (const path of LEFT_OUT) rmSync(join(root, path), { recursive: true, force: true });
      writeFileSync(join(root, 'etc/passwd'), PASSWD);
      // Where the package's own script would put it.
      symlinkSync('which.debianutils', join(root, 'usr/bin/which'));
      log('making the userland image');
      await new Sysroot(join(tools, SYSROOT)).run('usr/bin/mkfs.erofs', [
        ...['--all-root', '-T0', '--quiet'],
        ...[join(folder, USERLAND_IMAGE), root],
      ]);
      for (const path of [scratch, root]) rmSync(path, { recursive: true });
      return { made: new Date().toISOString() };
    },
  };
}

async function addScripts(apt: PrivateApt, scratch: string, root: string): Promise<void> {
  const debs = await apt.download(Object.values(SCRIPTS), scratch);
  const tree = join(scratch, 'tree');
  await unpack(debs, tree);
  const files = readdirSync(tree, { recursive: true, encoding: 'utf8' });
  for (const name of Object.keys(SCRIPTS)) {
    const found = files.find((path) => /^(usr\/)?s?bin\//.test(path) && basename(path) === name);
    if (found === undefined) throw new Error(`no program ${name} in ${SCRIPTS[name]}`);
    const target = join(root, 'usr/local/bin', name);
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(join(tree, found), target);
    chmodSync(target, 0o755);
  }
  rmSync(scratch, { recursive: true });
}
