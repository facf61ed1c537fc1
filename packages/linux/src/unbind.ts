import { errnoError } from '@vfio/uapi';
import { checkUnused } from './bind.js';
import {
  type Binding,
  bindingOf,
  isVfioBound,
  type SysfsWrite,
  shellLine,
  writesToRelease,
  writesToRestore,
} from './binding.js';
import type { LinuxPciFunction } from './function.js';
import type { LinuxPciHost } from './host.js';
import type { KernelModules } from './kernel-modules.js';
import { persistedPaths } from './persist.js';
import { type SavedBinding, SavedBindings } from './saved-bindings.js';
import { failure, type Step, Transaction } from './transaction.js';

export interface UnbindOptions {
  /** Also the other functions of their IOMMU groups that were bound by us. */
  readonly group?: boolean;
  /** Also where a process has the function open: it is asked to let go, and the call waits until it has. */
  readonly force?: boolean;
}

/** What a function is to go back to. */
export interface PlannedRelease {
  readonly fn: LinuxPciFunction;
  readonly before: Binding;
  /** What it was before `vfio bind`; undefined where that is not known, and the kernel is to choose. */
  readonly wanted: Binding | undefined;
  /** The module of the driver that is wanted back, where it has to be loaded. */
  readonly module: string | undefined;
  /** False: nothing will be written to it. */
  readonly changes: boolean;
}

export interface UnbindPlan {
  readonly functions: readonly PlannedRelease[];
  /** Addresses of which something is kept and where that function is not any more; what is kept is dropped. */
  readonly stale: readonly string[];
}

/** Decides what each function goes back to. Reads only. @throws EBUSY where one is in use */
export function planUnbind(
  host: LinuxPciHost,
  asked: readonly LinuxPciFunction[],
  options: UnbindOptions = {},
): UnbindPlan {
  const saved = new SavedBindings(host.system);
  const functions = new Set(asked);
  if (options.group === true) {
    for (const { iommuGroup } of asked) {
      const group = iommuGroup === undefined ? [] : host.group(iommuGroup);
      for (const fn of group) if (saved.readFor(fn) !== undefined) functions.add(fn);
    }
  }
  return { functions: [...functions].map((fn) => planRelease(fn, saved.readFor(fn), options)), stale: [] };
}

/** Everything that was ever bound by us and not given back. */
export function planRestore(host: LinuxPciHost, options: UnbindOptions = {}): UnbindPlan {
  const saved = new SavedBindings(host.system);
  const functions: PlannedRelease[] = [];
  const stale: string[] = [];
  for (const address of saved.addresses()) {
    const fn = host.find(address);
    const kept = fn && saved.readFor(fn);
    if (fn === undefined || kept === undefined) stale.push(address);
    else functions.push(planRelease(fn, kept, options));
  }
  return { functions, stale };
}

function planRelease(fn: LinuxPciFunction, saved: SavedBinding | undefined, options: UnbindOptions): PlannedRelease {
  const before = bindingOf(fn);
  const wanted = saved?.from;
  const { system } = fn.host;
  if (wanted === undefined && !isVfioBound(fn)) return { fn, before, wanted, module: undefined, changes: false };
  const changes = wanted === undefined || wanted.driver !== before.driver || wanted.override !== before.override;
  if (changes && options.force !== true) checkUnused(fn, '`--force` asks for it back and waits');
  const registered = wanted?.driver === undefined || system.exists(system.sys('bus/pci/drivers', wanted.driver));
  return { fn, before, wanted, module: registered ? undefined : wanted.module, changes };
}

const writesOf = ({ fn, wanted }: PlannedRelease): SysfsWrite[] =>
  wanted === undefined ? writesToRelease(fn) : writesToRestore(fn, wanted);

/** What has become of a function. */
export interface ReleasedFunction {
  readonly fn: LinuxPciFunction;
  readonly before: Binding;
  readonly after: Binding;
  readonly changed: boolean;
  /** Whether it was known what it was before, or the kernel chose. */
  readonly known: boolean;
}

/**
 * Gives functions back, all of them or none: after a failure each is bound as it was. What made a binding last is removed.
 *
 * @param tell told of each step before it is made
 * @throws `ERR_VFIO_NO_DRIVER` where the module of a driver that is wanted back cannot be loaded; EIO where a driver does not take
 *   its function back; what the kernel gives for a write
 */
export function unbind(
  host: LinuxPciHost,
  modules: KernelModules,
  plan: UnbindPlan,
  tell: (step: Step) => void = () => {},
): ReleasedFunction[] {
  const { system } = host;
  for (const { module } of plan.functions) if (module !== undefined) modules.load(module);
  const saved = new SavedBindings(system);
  const transaction = new Transaction(system, tell);
  let device: string | undefined;
  const forget = (address: string, driver: string | undefined): void => {
    device = address;
    for (const path of persistedPaths(system, address, driver)) transaction.remove(path);
    transaction.remove(saved.path(address));
  };
  try {
    for (const planned of plan.functions) {
      const { fn, wanted } = planned;
      device = fn.address;
      if (planned.changes) transaction.write(fn, writesOf(planned));
      if (wanted !== undefined && fn.driver !== wanted.driver) {
        throw errnoError('EIO', `${wanted.driver} did not take it back`, { op: 'unbind', device });
      }
    }
    for (const { fn, before } of plan.functions) forget(fn.address, before.driver);
    for (const address of plan.stale) forget(address, undefined);
  } catch (error) {
    throw failure('could not be given back', 'unbind', device, error, transaction.rollBack());
  }
  return plan.functions.map(({ fn, before, changes, wanted }) => ({
    fn,
    before,
    after: bindingOf(fn),
    changed: changes,
    known: wanted !== undefined,
  }));
}

/** What {@link unbind} would write, as lines for a shell. */
export function unbindScript(plan: UnbindPlan): string[] {
  const loads = plan.functions.flatMap(({ module }) => (module === undefined ? [] : [`modprobe ${module}`]));
  return [...loads, ...plan.functions.flatMap((planned) => (planned.changes ? writesOf(planned).map(shellLine) : []))];
}
