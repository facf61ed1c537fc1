import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { cacheRoot, ensureStage, withLock } from './cache.js';
import { type GuestManifest, guestStage, INITRAMFS, ROOT_IMAGE, VMLINUX } from './guest-stage.js';
import { debianQemu, type QemuProgram, systemQemu } from './qemu-program.js';
import { Sysroot } from './sysroot.js';
import { SYSROOT, type ToolsManifest, toolsStage } from './tools-stage.js';
import { USERLAND_IMAGE, type UserlandManifest, userlandStage } from './userland-stage.js';

/** Everything a guest is started from; plain data, so that it can be handed from the preparation to the suites. */
export interface Artifacts {
  qemu: QemuProgram;
  kernel: { release: string; image: string; initramfs: string };
  rootImage: string;
  /** A Debian userland with Node, for guests that are somebody's machine. */
  userlandImage: string;
  /** The unpacked packages, whose programs make images. */
  sysroot: string;
  /** Debian's version of each package behind it. */
  versions: Record<string, string>;
  /** Folder for the logs of guests, kept after the run. */
  logs: string;
  /** Milliseconds that the preparation took, and whether anything had to be made. */
  preparation: { milliseconds: number; made: string[] };
}

/**
 * Makes what is missing in the cache and tells where everything is. Several runs may call it at once: one makes, the
 * others wait.
 */
export async function prepare(log: (line: string) => void): Promise<Artifacts> {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new Error(`guests are prepared on Linux x86-64 only; this is ${process.platform} ${process.arch}`);
  }
  const started = performance.now();
  const cache = cacheRoot();
  mkdirSync(cache, { recursive: true });
  const own = await systemQemu();
  const { tools, guest, userland } = await withLock(join(cache, 'lock'), async () => {
    const tools = await ensureStage<ToolsManifest>(cache, toolsStage(own === undefined, log));
    const guest = await ensureStage<GuestManifest>(cache, guestStage(tools.folder, tools.manifest.kernel, log));
    const userland = await ensureStage<UserlandManifest>(cache, userlandStage(tools.folder, log));
    return { tools, guest, userland };
  });
  const qemu = own ?? (await debianQemu(new Sysroot(join(tools.folder, SYSROOT))));
  const made = [tools.made ? 'tools' : '', guest.made ? 'guest' : '', userland.made ? 'userland' : ''].filter(Boolean);
  return {
    qemu,
    kernel: {
      release: guest.manifest.kernel,
      image: join(guest.folder, VMLINUX),
      initramfs: join(guest.folder, INITRAMFS),
    },
    rootImage: join(guest.folder, ROOT_IMAGE),
    userlandImage: join(userland.folder, USERLAND_IMAGE),
    sysroot: join(tools.folder, SYSROOT),
    versions: tools.manifest.versions,
    logs: join(cache, 'logs'),
    preparation: { milliseconds: Math.round(performance.now() - started), made },
  };
}
