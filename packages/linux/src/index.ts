/**
 * The real host: the PCI functions of this machine from sysfs, and the kernel drivers that they are bound to.
 *
 * @packageDocumentation
 */
export { LinuxPciFunction } from './function.js';
export { type HostProblem, LinuxPciHost } from './host.js';
export { type NodeUser, usersOf, whatStandsOn } from './in-use.js';
export { GENERIC_DRIVER, type KernelDriver, KernelModules } from './kernel-modules.js';
export { LinuxSystem, type LinuxSystemOptions, type ProgramResult } from './system.js';
