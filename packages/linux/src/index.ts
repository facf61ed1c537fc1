/**
 * The real host: the PCI functions of this machine from sysfs, and the kernel drivers that they are bound to.
 *
 * @packageDocumentation
 */
export {
  type BindOptions,
  type BindPlan,
  type BoundFunction,
  bind,
  type PlannedBinding,
  planBind,
  shellScript,
} from './bind.js';
export { type Binding, deviceNodes, isVfioBound, type SysfsWrite, shellLine } from './binding.js';
export { type CheckStatus, canPassThrough, type DoctorCheck, type DoctorOptions, examine } from './doctor.js';
export { LinuxPciFunction } from './function.js';
export { type HostProblem, LinuxPciHost } from './host.js';
export { type NodeUser, usersOf, whatStandsOn } from './in-use.js';
export { type DriverChoice, GENERIC_DRIVER, type KernelDriver, KernelModules } from './kernel-modules.js';
export { type SavedBinding, SavedBindings } from './saved-bindings.js';
export { LinuxSystem, type LinuxSystemOptions, type ProgramResult } from './system.js';
export type { Step } from './transaction.js';
export {
  type PlannedRelease,
  planRestore,
  planUnbind,
  type ReleasedFunction,
  type UnbindOptions,
  type UnbindPlan,
  unbind,
  unbindScript,
} from './unbind.js';
