import { command } from './command.js';
import type { Sysroot } from './sysroot.js';

/** How to start QEMU: the words before its own options, and what to add to the environment. */
export interface QemuProgram {
  argv: string[];
  env: Record<string, string>;
  version: string;
  /** `system`: this machine's own; `debian`: the unpacked package. */
  origin: 'system' | 'debian';
}

/** The first release whose `vfio-user-pci` device is there. */
const OLDEST = [10, 1] as const;

export function isNewEnough(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
}

/**
 * This machine's QEMU (`VFIO_E2E_QEMU`, or the one in PATH) if it is new enough and was built with a vfio-user client.
 * One that is named by the variable and will not do is an error, not silently replaced.
 */
export async function systemQemu(env: NodeJS.ProcessEnv = process.env): Promise<QemuProgram | undefined> {
  const { VFIO_E2E_QEMU: named } = env;
  const argv = [named || 'qemu-system-x86_64'];
  let problem: string;
  try {
    const version = await versionOf(argv, {});
    if (!isNewEnough(version)) problem = `version ${version} is older than ${OLDEST.join('.')}`;
    else if (!(await command([...argv, '-device', 'help'])).includes('"vfio-user-pci"')) {
      problem = `version ${version} was built without vfio-user-pci`;
    } else return { argv, env: {}, version, origin: 'system' };
  } catch (error) {
    problem = error instanceof Error ? error.message : String(error);
  }
  if (named) throw new Error(`VFIO_E2E_QEMU=${named}: ${problem}`);
  return undefined;
}

/** QEMU of the unpacked packages. */
export async function debianQemu(sysroot: Sysroot): Promise<QemuProgram> {
  const argv = [
    ...sysroot.argv('usr/bin/qemu-system-x86_64'),
    ...['usr/share/qemu', 'usr/share/seabios'].flatMap((folder) => ['-L', sysroot.path(folder)]),
  ];
  const env = { QEMU_MODULE_DIR: sysroot.path('usr/lib/x86_64-linux-gnu/qemu') };
  return { argv, env, version: await versionOf(argv, env), origin: 'debian' };
}

async function versionOf(argv: string[], env: Record<string, string>): Promise<string> {
  const text = await command([...argv, '--version'], { env: { ...process.env, ...env }, timeoutMs: 60_000 });
  const version = /version (\d+\.\d+\.\d+)/.exec(text)?.[1];
  if (version === undefined) throw new Error(`no version in what it says: ${text.split('\n')[0]}`);
  return version;
}
