import type { LinuxPciFunction } from './function.js';
import type { KernelDriver } from './kernel-modules.js';
import type { LinuxSystem } from './system.js';

/** A configuration file. */
export interface SystemFile {
  readonly path: string;
  readonly content: string;
}

const rulePath = (system: LinuxSystem, address: string): string =>
  system.file(`/etc/udev/rules.d/70-vfio-${address}.rules`);
const driverctlPath = (system: LinuxSystem, address: string): string => system.file(`/etc/driverctl.d/pci-${address}`);

/** The files that would bind a function again: our rule, if there is one, and the state of driverctl that names the same driver. */
export function persistedPaths(system: LinuxSystem, address: string, driver: string | undefined): string[] {
  const driverctl = driverctlPath(system, address);
  const isSame = driver !== undefined && system.text(driverctl)?.trim() === driver;
  return [rulePath(system, address), ...(isSame ? [driverctl] : [])];
}

/**
 * What makes a binding survive a reboot: the state of driverctl where that is installed, so that the two never disagree, else
 * a udev rule. Device nodes are given to their owner by a rule in both cases.
 */
export function persistentFiles(fn: LinuxPciFunction, driver: KernelDriver, owner: string | undefined): SystemFile[] {
  const { system } = fn.host;
  const { address } = fn;
  const hasDriverctl = ['/usr/sbin/driverctl', '/sbin/driverctl', '/usr/bin/driverctl'].some((path) =>
    system.exists(system.file(path)),
  );
  const rules = [
    ...(hasDriverctl ? [] : [bindRule(fn, driver)]),
    ...(owner === undefined ? [] : ownerRules(fn, owner)),
  ];
  const head = `# Written by \`vfio bind --persist\`; \`vfio unbind ${address}\` removes it.\n`;
  return [
    ...(hasDriverctl ? [{ path: driverctlPath(system, address), content: `${driver.name}\n` }] : []),
    ...(rules.length === 0 ? [] : [{ path: rulePath(system, address), content: `${head}${rules.join('\n')}\n` }]),
  ];
}

/**
 * The ids are compared because a bus number is not for ever: another function at this address is left alone. The override
 * is in place before modules are loaded by the function's modalias, so its host driver does not get it; where that driver is
 * built in or was loaded by the initramfs, the function is taken from it.
 */
function bindRule(fn: LinuxPciFunction, driver: KernelDriver): string {
  const device = `/sys/bus/pci/devices/${fn.address}`;
  // In a rule `%` and `$` are its own, so the address stands there in full and a dollar is doubled.
  const script = [
    ...(driver.module === undefined ? [] : [`modprobe ${driver.module};`]),
    `case $$(readlink ${device}/driver) in`,
    `*/${driver.name}) ;;`,
    `?*) echo ${fn.address} >${device}/driver/unbind; echo ${fn.address} >/sys/bus/pci/drivers_probe ;;`,
    `*) echo ${fn.address} >/sys/bus/pci/drivers_probe ;;`,
    'esac',
  ].join(' ');
  const match = `ACTION=="add", SUBSYSTEM=="pci", KERNEL=="${fn.address}", ATTR{vendor}=="${id(fn.vendor)}", ATTR{device}=="${id(fn.device)}"`;
  return `${match}, ATTR{driver_override}="${driver.name}", RUN+="/bin/sh -c '${script}'"`;
}

/** The group's node has no parent in sysfs, so the rule asks whether the function is in the group. */
function ownerRules(fn: LinuxPciFunction, owner: string): string[] {
  return [
    `SUBSYSTEM=="vfio", TEST=="/sys/kernel/iommu_groups/%k/devices/${fn.address}", OWNER="${owner}"`,
    `SUBSYSTEM=="vfio-dev", KERNELS=="${fn.address}", OWNER="${owner}"`,
  ];
}

/** As the attributes `vendor` and `device` show ids. */
const id = (value: number): string => `0x${value.toString(16).padStart(4, '0')}`;
