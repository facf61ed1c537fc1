import type { LinuxPciFunction } from './function.js';
import { GENERIC_DRIVER } from './kernel-modules.js';
import type { LinuxSystem } from './system.js';

/** Who has a function, and who alone may have it. */
export interface Binding {
  readonly driver: string | undefined;
  readonly override: string | undefined;
}

/** One write to sysfs: the whole text at once, as the kernel takes it. */
export interface SysfsWrite {
  readonly path: string;
  readonly text: string;
}

export const bindingOf = (fn: LinuxPciFunction): Binding => ({ driver: fn.driver, override: fn.driverOverride });

const overrideWrite = (fn: LinuxPciFunction, driver: string | undefined): SysfsWrite => ({
  path: `${fn.path}/driver_override`,
  // A newline alone clears it.
  text: driver ?? '\n',
});
const unbindWrite = (fn: LinuxPciFunction): SysfsWrite => ({ path: `${fn.path}/driver/unbind`, text: fn.address });
const probeWrite = (fn: LinuxPciFunction): SysfsWrite => ({
  path: fn.host.system.sys('bus/pci/drivers_probe'),
  text: fn.address,
});
export const bindWrite = (fn: LinuxPciFunction, driver: string): SysfsWrite => ({
  path: fn.host.system.sys('bus/pci/drivers', driver, 'bind'),
  text: fn.address,
});

/** The writes that give a function to a driver, from what is now. */
export function writesToBind(fn: LinuxPciFunction, driver: string): SysfsWrite[] {
  const now = bindingOf(fn);
  return [
    ...(now.override === driver ? [] : [overrideWrite(fn, driver)]),
    ...(now.driver === undefined ? [] : [unbindWrite(fn)]),
    probeWrite(fn),
  ];
}

/** The writes that put a function back to a binding, from what is now; none where it is so. */
export function writesToRestore(fn: LinuxPciFunction, wanted: Binding): SysfsWrite[] {
  const now = bindingOf(fn);
  const writes: SysfsWrite[] = [];
  let { override } = now;
  if (now.driver !== wanted.driver) {
    if (now.driver !== undefined) writes.push(unbindWrite(fn));
    if (wanted.driver !== undefined) {
      // What it was bound by then, an override or an id, may be gone: by its override a driver takes any function.
      if (override !== wanted.driver) writes.push(overrideWrite(fn, wanted.driver));
      override = wanted.driver;
      writes.push(bindWrite(fn, wanted.driver));
    }
  }
  if (override !== wanted.override) writes.push(overrideWrite(fn, wanted.override));
  return writes;
}

/** The writes that leave the choice to the kernel: no override, and a probe. */
export function writesToRelease(fn: LinuxPciFunction): SysfsWrite[] {
  const now = bindingOf(fn);
  return [
    ...(now.driver === undefined ? [] : [unbindWrite(fn)]),
    ...(now.override === undefined ? [] : [overrideWrite(fn, undefined)]),
    probeWrite(fn),
  ];
}

/** A write as a line for a shell. */
export function shellLine({ path, text }: SysfsWrite): string {
  return text === '\n' ? `echo > ${path}` : `echo ${text} > ${path}`;
}

/** Whether a VFIO driver has the function, so that its DMA is its user's. */
export function isVfioBound(fn: LinuxPciFunction): boolean {
  const { driver, driverModule } = fn;
  if (driver === undefined) return false;
  const { system } = fn.host;
  // Kernels before 6.1 have no vfio-dev folder; modules of VFIO drivers hold their library.
  return (
    system.exists(`${fn.path}/vfio-dev`) ||
    driver === GENERIC_DRIVER ||
    (driverModule !== undefined && system.exists(system.sys('module/vfio_pci_core/holders', driverModule)))
  );
}

/** The device nodes of a function that a VFIO driver has: its group's and, where the kernel has them, its own. */
export function deviceNodes(fn: LinuxPciFunction): string[] {
  const { system } = fn.host;
  const { iommuGroup: group, vfioDevice } = fn;
  const nodes = group === undefined ? [] : [`/dev/vfio/${group}`, `/dev/vfio/noiommu-${group}`];
  if (vfioDevice !== undefined) nodes.push(`/dev/vfio/devices/vfio${vfioDevice}`);
  return nodes.filter((node) => system.exists(system.file(node)));
}

/** Number of a user that is named, or given as a number; undefined where there is none. */
export function userId(system: LinuxSystem, user: string): number | undefined {
  if (/^\d{1,10}$/.test(user)) return Number(user);
  // By `id`, which asks whatever the system has its users in.
  const result = /^[a-z_][a-z0-9_.@-]*\$?$/i.test(user) ? system.run('id', ['-u', user]) : undefined;
  return result?.code === 0 && /^\d+\s*$/.test(result.stdout) ? Number(result.stdout) : undefined;
}
