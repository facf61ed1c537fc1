import { errnoError, type VfioError } from '@vfio/uapi';
import { type Binding, bindingOf, deviceNodes, isVfioBound, shellLine, userId, writesToBind } from './binding.js';
import type { LinuxPciFunction } from './function.js';
import type { LinuxPciHost } from './host.js';
import { usersOf, whatStandsOn } from './in-use.js';
import { type DriverChoice, isSwitchedOn, type KernelDriver, type KernelModules } from './kernel-modules.js';
import { persistentFiles } from './persist.js';
import { SavedBindings } from './saved-bindings.js';
import { confirmBound, failure, type Step, Transaction } from './transaction.js';

/** Drivers beside VFIO's that leave a group's DMA alone (the kernel's `driver_managed_dma`). */
const HARMLESS_DRIVERS: readonly string[] = ['pci-stub', 'pcieport', 'shpchp'];

export interface BindOptions {
  /** This driver, or the one of this module, instead of the best, for the functions that are asked for. */
  readonly driver?: string;
  /** Also bind the other functions of their IOMMU groups. */
  readonly group?: boolean;
  /** Also where the system stands on the function, or it is in use. */
  readonly force?: boolean;
  /** The user, by name or number, who is to have the device nodes. */
  readonly owner?: string;
  /** Make it survive a reboot. */
  readonly persist?: boolean;
}

/** What is to become of a function. */
export interface PlannedBinding {
  readonly fn: LinuxPciFunction;
  readonly choice: DriverChoice;
  /** Undefined as long as the module that has it is not loaded. */
  readonly driver: string | undefined;
  readonly before: Binding;
  /** False: a driver of that name has it already, and nothing will be written to it. */
  readonly changes: boolean;
  /** It was not asked for, and is in the group of one that was. */
  readonly companion: boolean;
}

export interface BindPlan {
  readonly functions: readonly PlannedBinding[];
  readonly owner: { readonly name: string; readonly uid: number } | undefined;
  readonly persist: boolean;
}

/**
 * Decides which driver each function is to have, and refuses what must not be done. Reads only.
 *
 * @throws EINVAL: a bridge, an unknown user; ENODEV: no IOMMU, no driver; EBUSY: the system stands on it, it is in use, it has
 *   virtual functions, or others of its group are in the way
 */
export function planBind(
  host: LinuxPciHost,
  modules: KernelModules,
  asked: readonly LinuxPciFunction[],
  options: BindOptions = {},
): BindPlan {
  for (const fn of asked) checkCanBind(fn);
  const companions = companionsOf(host, asked, options);
  const owner = options.owner === undefined ? undefined : { name: options.owner, uid: ownerId(host, options.owner) };
  const plan = (fn: LinuxPciFunction, companion: boolean): PlannedBinding => {
    const choice = options.driver !== undefined && !companion ? modules.named(options.driver) : modules.bestModule(fn);
    const driver = driverIfKnown(modules, choice);
    const before = bindingOf(fn);
    const changes = driver === undefined || before.driver !== driver;
    if (changes && options.force !== true) checkMayTake(fn);
    return { fn, choice, driver, before, changes, companion };
  };
  const functions = [...[...new Set(asked)].map((fn) => plan(fn, false)), ...companions.map((fn) => plan(fn, true))];
  return { functions, owner, persist: options.persist === true };
}

function refuse(
  fn: LinuxPciFunction,
  errno: 'EINVAL' | 'ENODEV' | 'EBUSY',
  message: string,
  advice: string,
): VfioError {
  return errnoError(errno, message, { op: 'bind', device: fn.address, details: { try: advice } });
}

function checkCanBind(fn: LinuxPciFunction): void {
  if (fn.headerType !== 0) {
    throw refuse(fn, 'EINVAL', 'it is a bridge, and VFIO takes none', 'name the functions behind it');
  }
  if (fn.iommuGroup === undefined && !isSwitchedOn(fn.host.system, 'vfio', 'enable_unsafe_noiommu_mode')) {
    throw refuse(
      fn,
      'ENODEV',
      'it is in no IOMMU group: this machine has no IOMMU, or it is off, or it does not cover the function',
      '`vfio doctor` says what is missing',
    );
  }
}

/** @throws EBUSY where somebody would lose what he has */
function checkMayTake(fn: LinuxPciFunction): void {
  const force = '`--force` takes it all the same';
  const uses = whatStandsOn(fn);
  if (uses.length > 0) throw refuse(fn, 'EBUSY', `the system stands on it: ${uses.join('; ')}`, force);
  const { sriovNumVfs } = fn;
  if (sriovNumVfs > 0) {
    throw refuse(
      fn,
      'EBUSY',
      `it has ${sriovNumVfs} virtual functions, and VFIO takes no physical function that has some`,
      `\`echo 0 > ${fn.path}/sriov_numvfs\` removes them`,
    );
  }
  checkUnused(fn, force);
}

/** @throws EBUSY where a process has the function open: the kernel would wait for it, without end */
export function checkUnused(fn: LinuxPciFunction, force: string): void {
  if (!isVfioBound(fn)) return;
  const users = usersOf(fn.host.system, deviceNodes(fn));
  if (users.length === 0) return;
  const names = users.map(({ pid, command, node }) => `${command} (pid ${pid}) has ${node} open`);
  throw refuse(fn, 'EBUSY', `it is in use: ${names.join(', ')}; the kernel waits until that is closed`, force);
}

/** The functions of the groups that go with those that are asked for. @throws EBUSY where they must and may not */
function companionsOf(
  host: LinuxPciHost,
  asked: readonly LinuxPciFunction[],
  options: BindOptions,
): LinuxPciFunction[] {
  const companions = new Set<LinuxPciFunction>();
  for (const fn of asked) {
    const { iommuGroup } = fn;
    if (iommuGroup === undefined) continue;
    const others = host.group(iommuGroup).filter((one) => one.headerType === 0 && !asked.includes(one));
    if (options.group === true) {
      for (const other of others) companions.add(other);
      continue;
    }
    const inTheWay = others.filter((other) => {
      const { driver } = other;
      return driver !== undefined && !HARMLESS_DRIVERS.includes(driver) && !isVfioBound(other);
    });
    if (inTheWay.length === 0) continue;
    const names = inTheWay.map((other) => `${other.address} (${other.driver})`);
    throw errnoError(
      'EBUSY',
      `IOMMU group ${iommuGroup} is used as a whole, and host drivers have others of it: ${names.join(', ')}`,
      {
        op: 'bind',
        device: fn.address,
        details: { companions: inTheWay.map(({ address }) => address), try: '`--group` binds them too' },
      },
    );
  }
  return [...companions];
}

function ownerId(host: LinuxPciHost, name: string): number {
  const uid = userId(host.system, name);
  if (uid !== undefined) return uid;
  throw errnoError('EINVAL', `there is no user ${JSON.stringify(name)}`, { op: 'owner' });
}

function driverIfKnown(modules: KernelModules, choice: DriverChoice): string | undefined {
  if ('driver' in choice) return choice.driver;
  return modules.isLoaded(choice.module) ? modules.driverOf(choice.module).name : undefined;
}

/** What a function has become. */
export interface BoundFunction {
  readonly fn: LinuxPciFunction;
  readonly driver: KernelDriver;
  readonly before: Binding;
  readonly changed: boolean;
  readonly companion: boolean;
  /** Where programs open it. */
  readonly nodes: readonly string[];
}

/**
 * Carries a plan out, all of it or nothing: after a failure every function has the driver and the override that it had. What
 * a function was is kept in a file first, for {@link unbind}.
 *
 * @param tell told of each step before it is made
 * @throws `ERR_VFIO_NO_DRIVER` where a module cannot be loaded; ENODEV where a function goes; EIO where a driver refuses one; what
 *   the kernel gives for a write
 */
export function bind(modules: KernelModules, plan: BindPlan, tell: (step: Step) => void = () => {}): BoundFunction[] {
  const system = plan.functions[0]?.fn.host.system;
  if (system === undefined) return [];
  // Before anything is touched.
  const targets = plan.functions.map((planned) => ({ ...planned, target: modules.obtain(planned.choice) }));
  const saved = new SavedBindings(system);
  const transaction = new Transaction(system, tell);
  let what = 'nothing was bound';
  let device: string | undefined;
  try {
    for (const { fn, target } of targets) {
      if (fn.driver === target.name) continue;
      device = fn.address;
      what = `could not be given to ${target.name}`;
      transaction.file(saved.path(fn.address), saved.content(fn, target.name));
      transaction.write(fn, writesToBind(fn, target.name));
      confirmBound(transaction, fn, target.name);
    }
    device = undefined;
    if (plan.owner !== undefined) {
      what = `the device nodes could not be given to ${plan.owner.name}`;
      // Else udev, which hears of the nodes later, would set their owner after us.
      system.run('udevadm', ['settle', '--timeout=10']);
      for (const { fn } of targets) {
        for (const node of deviceNodes(fn)) transaction.own(system.file(node), plan.owner.uid);
      }
    }
    what = 'the binding could not be made to last';
    if (plan.persist) {
      for (const { fn, target } of targets) {
        for (const { path, content } of persistentFiles(fn, target, plan.owner?.name)) transaction.file(path, content);
      }
    }
  } catch (error) {
    throw failure(what, 'bind', device, error, transaction.rollBack());
  }
  return targets.map(({ fn, target, before, companion }) => ({
    fn,
    driver: target,
    before,
    changed: before.driver !== target.name,
    companion,
    nodes: deviceNodes(fn),
  }));
}

/**
 * What {@link bind} would do, as lines for a shell. Where the module of a driver is not loaded, the line reads the driver's name
 * from it, as `bind` does.
 */
export function shellScript(plan: BindPlan): string[] {
  const lines: string[] = [];
  const changing = plan.functions.filter(({ changes }) => changes);
  const toLoad = changing.flatMap(({ choice, driver }) =>
    'module' in choice && driver === undefined ? [choice.module] : [],
  );
  for (const module of new Set(toLoad)) lines.push(`modprobe ${module}`);
  for (const { fn, choice, driver } of changing) {
    const drivers = 'module' in choice ? fn.host.system.sys('module', choice.module, 'drivers') : '';
    const name = driver ?? `$(ls ${drivers} | sed -n 's/^pci://p')`;
    lines.push(...writesToBind(fn, name).map(shellLine));
  }
  if (plan.owner !== undefined) {
    const groups = new Set(plan.functions.map(({ fn }) => fn.iommuGroup).filter((group) => group !== undefined));
    for (const group of groups) lines.push(`chown ${plan.owner.name} /dev/vfio/${group}`);
  }
  if (plan.persist) {
    for (const { fn, choice, driver } of plan.functions) {
      // Its name is not known yet: the file cannot be shown as it will be.
      const target = { name: driver ?? '...', module: 'module' in choice ? choice.module : undefined };
      for (const { path, content } of persistentFiles(fn, target, plan.owner?.name)) {
        lines.push(`cat > ${path} <<'END'`, ...content.trimEnd().split('\n'), 'END');
      }
    }
  }
  return lines;
}
