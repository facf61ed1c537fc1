import { realpathSync } from 'node:fs';
import type { LinuxPciFunction } from './function.js';
import type { LinuxSystem } from './system.js';

/**
 * What the system stands on in a function, a sentence each: a disk that is mounted or holds one that is, a network interface
 * with a default route, the display that the machine booted on. Empty where the function can go without harm.
 */
export function whatStandsOn(fn: LinuxPciFunction): string[] {
  const { system } = fn.host;
  const below = `${fn.devicePath}/`;
  return [...disksInUse(system, below), ...defaultRoutes(system, below), ...bootDisplay(system, fn, below)];
}

/** Names in a class of sysfs whose device lies below a folder, each with its own folder. */
function classBelow(system: LinuxSystem, name: string, below: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const entry of system.list(system.sys('class', name))) {
    const path = realPath(system.sys('class', name, entry));
    if (path?.startsWith(below)) found.set(entry, path);
  }
  return found;
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    // Gone meanwhile, or a link to nowhere: not below anything.
    return undefined;
  }
}

function disksInUse(system: LinuxSystem, below: string): string[] {
  const disks = new Set(classBelow(system, 'block', below).keys());
  // The disk of an NVMe subsystem with several controllers is under none of them.
  for (const entry of system.list(system.sys('class/nvme-subsystem'))) {
    const subsystem = system.sys('class/nvme-subsystem', entry);
    const names = system.list(subsystem);
    const controllers = names.filter((name) => /^nvme\d+$/.test(name));
    if (!controllers.some((name) => realPath(`${subsystem}/${name}`)?.startsWith(below))) continue;
    const own = realPath(subsystem);
    if (own !== undefined) for (const disk of classBelow(system, 'block', `${own}/`).keys()) disks.add(disk);
  }
  if (disks.size === 0) return [];
  const used = usedBlockDevices(system);
  const found: string[] = [];
  for (const disk of disks) {
    const use = blockUse(system, disk, used, new Set());
    if (use !== undefined) found.push(use);
  }
  return found;
}

/** What is mounted or swapped on, by `major:minor` and by the name under /dev. */
function usedBlockDevices(system: LinuxSystem): Map<string, string> {
  const used = new Map<string, string>();
  for (const line of mountTables(system)) {
    const [left = '', right = ''] = line.split(' - ');
    const [, , number = '', , target = ''] = left.split(' ');
    const source = right.split(' ')[1] ?? '';
    const use = `is mounted on ${plain(target)}`;
    if (number !== '' && !number.startsWith('0:') && !used.has(number)) used.set(number, use);
    // Btrfs has a number of its own; its source still names the disk.
    const name = deviceName(system, plain(source));
    if (name !== undefined && !used.has(name)) used.set(name, use);
  }
  for (const line of (system.text(system.file('/proc/swaps')) ?? '').split('\n').slice(1)) {
    const name = deviceName(system, plain(line.split(/\s/)[0] ?? ''));
    if (name !== undefined) used.set(name, 'is swap space');
  }
  return used;
}

/** The mounts of this process, and those of the first one: a service or a chroot may see few. */
function mountTables(system: LinuxSystem): string[] {
  return ['self', '1'].flatMap((process) => {
    try {
      return (system.text(system.file(`/proc/${process}/mountinfo`)) ?? '').split('\n');
    } catch {
      // Another user's; who may not see it may not bind either.
      return [];
    }
  });
}

/** `sda2` of `/dev/sda2` or of a link to it. */
function deviceName(system: LinuxSystem, path: string): string | undefined {
  if (!path.startsWith('/dev/')) return undefined;
  const real = realPath(system.file(path)) ?? system.file(path);
  return real.slice(real.lastIndexOf('/') + 1);
}

/** Spaces and the like in /proc/mounts are octal. */
const plain = (text: string): string =>
  text.replaceAll(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 8)));

/** How a disk or partition is used: itself, or by what was built on it (LVM, RAID, encryption). */
function blockUse(
  system: LinuxSystem,
  name: string,
  used: ReadonlyMap<string, string>,
  seen: Set<string>,
): string | undefined {
  if (seen.has(name)) return undefined;
  seen.add(name);
  const folder = system.sys('class/block', name);
  const use = used.get(system.attribute(`${folder}/dev`) ?? '') ?? used.get(name);
  if (use !== undefined) return `${name} ${use}`;
  const [holder] = system.list(`${folder}/holders`);
  if (holder === undefined) return undefined;
  const above = blockUse(system, holder, used, seen);
  return above === undefined ? `${name} is part of ${holder}` : `${name} is part of ${holder}, ${above}`;
}

function defaultRoutes(system: LinuxSystem, below: string): string[] {
  const interfaces = classBelow(system, 'net', below);
  if (interfaces.size === 0) return [];
  const routes = new Set<string>();
  // Destination and mask of zeros; flag 0x200 rejects.
  for (const line of (system.text(system.file('/proc/net/route')) ?? '').split('\n').slice(1)) {
    const [name = '', destination, , flags = '0', , , , mask] = line.split('\t');
    if (destination === '00000000' && mask === '00000000' && (Number.parseInt(flags, 16) & 0x200) === 0)
      routes.add(name);
  }
  for (const line of (system.text(system.file('/proc/net/ipv6_route')) ?? '').split('\n')) {
    const words = line.trim().split(/\s+/);
    const [destination, length, , , , , , , flags = '0', name = ''] = words;
    if (/^0{32}$/.test(destination ?? '') && length === '00' && (Number.parseInt(flags, 16) & 0x200) === 0) {
      routes.add(name);
    }
  }
  const found: string[] = [];
  for (const name of interfaces.keys()) {
    const carrier = [name, ...interfacesAbove(system, name)].find((one) => routes.has(one));
    if (carrier === undefined) continue;
    const through = carrier === name ? '' : `, as part of ${carrier}`;
    found.push(`network interface ${name} has the default route${through}`);
  }
  return found;
}

/** Bonds, bridges and VLANs over an interface. */
function interfacesAbove(system: LinuxSystem, name: string, seen = new Set<string>()): Set<string> {
  for (const entry of system.list(system.sys('class/net', name))) {
    if (!entry.startsWith('upper_')) continue;
    const above = entry.slice('upper_'.length);
    if (seen.has(above)) continue;
    seen.add(above);
    interfacesAbove(system, above, seen);
  }
  return seen;
}

function bootDisplay(system: LinuxSystem, fn: LinuxPciFunction, below: string): string[] {
  const isBoot = ['boot_vga', 'boot_display'].some((name) => system.attribute(`${fn.path}/${name}`) === '1');
  // `boot_display` may sit at the connector's card instead.
  const card = [...classBelow(system, 'drm', below).values()].some(
    (path) => system.attribute(`${path}/boot_display`) === '1',
  );
  return isBoot || card ? ['it is the display that the machine booted on'] : [];
}

/** A process that has one of the device nodes open. */
export interface NodeUser {
  readonly pid: number;
  readonly command: string;
  readonly node: string;
}

/** The processes that have one of these files open, as far as this process may see. */
export function usersOf(system: LinuxSystem, nodes: readonly string[]): NodeUser[] {
  if (nodes.length === 0) return [];
  const wanted = new Set(nodes);
  const found: NodeUser[] = [];
  for (const pid of system.list(system.file('/proc'))) {
    if (!/^\d+$/.test(pid)) continue;
    const node = openNode(system, system.file(`/proc/${pid}/fd`), wanted);
    if (node === undefined) continue;
    const command = (system.text(system.file(`/proc/${pid}/comm`)) ?? '?').trim();
    found.push({ pid: Number(pid), command, node });
  }
  return found;
}

function openNode(system: LinuxSystem, folder: string, wanted: ReadonlySet<string>): string | undefined {
  let names: string[];
  try {
    names = system.list(folder);
  } catch {
    // Another user's process.
    return undefined;
  }
  for (const name of names) {
    const target = system.linkTarget(`${folder}/${name}`);
    if (target !== undefined && wanted.has(target)) return target;
  }
  return undefined;
}
