import {
  type Binding,
  type BindPlan,
  bind as bindPlan,
  type KernelModules,
  planBind,
  planRestore,
  planUnbind,
  type Step,
  shellLine,
  shellScript,
  type UnbindPlan,
  unbind as unbindPlan,
  unbindScript,
} from '@vfio/linux';
import type { Io } from '../io.js';
import { paint, printJson } from '../output.js';
import { findFunction, type LinuxMachine } from '../session.js';

export interface BindOptions {
  readonly json?: boolean;
  readonly driver?: string;
  readonly group?: boolean;
  readonly force?: boolean;
  readonly owner?: string;
  readonly persist?: boolean;
  readonly dryRun?: boolean;
}

interface BindingReport {
  readonly driver: string | null;
  readonly driverOverride: string | null;
}

/** What `vfio bind --json` shows: schemas/bind.json. */
export interface BindReport {
  readonly dryRun: boolean;
  readonly functions: readonly {
    readonly address: string;
    readonly iommuGroup: number | null;
    readonly before: BindingReport;
    /** Null in a dry run where the module that has it is not loaded. */
    readonly driver: string | null;
    readonly module: string | null;
    readonly changed: boolean;
    readonly companion: boolean;
    readonly nodes: readonly string[];
  }[];
  readonly steps: readonly string[];
}

/** What `vfio unbind --json` and `vfio restore --json` show: schemas/unbind.json. */
export interface UnbindReport {
  readonly dryRun: boolean;
  readonly functions: readonly {
    readonly address: string;
    readonly before: BindingReport;
    /** Null in a dry run where the kernel is to choose. */
    readonly after: BindingReport | null;
    readonly changed: boolean;
    readonly known: boolean;
  }[];
  readonly stale: readonly string[];
  readonly steps: readonly string[];
}

const binding = ({ driver, override }: Binding): BindingReport => ({
  driver: driver ?? null,
  driverOverride: override ?? null,
});

/** A step as it is done by hand. */
function stepLine(step: Step): string {
  switch (step.kind) {
    case 'write':
      return shellLine(step);
    case 'file':
      return `cat > ${step.path} <<'END'\n${step.content}END`;
    case 'remove':
      return `rm ${step.path}`;
    case 'own':
      return `chown ${step.uid} ${step.path}`;
  }
}

/** `vfio bind`: gives functions of this machine to their best VFIO drivers, all of them or none. */
export function bind(machine: LinuxMachine, addresses: readonly string[], options: BindOptions, io: Io): void {
  const { host, modules } = machine;
  const plan = planBind(
    host,
    modules,
    addresses.map((address) => findFunction(host, address)),
    options,
  );
  const report = options.dryRun === true ? plannedBind(plan) : carryOut(modules, plan, options, io);
  if (options.json === true) printJson(io, report);
  else if (report.dryRun) printSteps(report.steps, io);
  else for (const fn of report.functions) io.out(`${boundLine(fn, io)}\n`);
}

function plannedBind(plan: BindPlan): BindReport {
  const functions = plan.functions.map(({ fn, choice, driver = null, before, changes, companion }) => ({
    address: fn.address,
    iommuGroup: fn.iommuGroup ?? null,
    before: binding(before),
    driver,
    module: 'module' in choice ? choice.module : null,
    changed: changes,
    companion,
    nodes: [],
  }));
  return { dryRun: true, functions, steps: shellScript(plan) };
}

function carryOut(modules: KernelModules, plan: BindPlan, options: BindOptions, io: Io): BindReport {
  const steps: string[] = [];
  // From here on a signal ends the command when every function is in one state or the other.
  void io.signal;
  const bound = bindPlan(modules, plan, (step) => {
    steps.push(stepLine(step));
    // What will act at the next boot is shown before it is there.
    const lasts = options.persist === true && step.kind === 'file' && step.path.includes('/etc/');
    if (lasts && options.json !== true) {
      io.out(`${paint(io, 'bold', step.path)}\n${step.content.trimEnd().replaceAll(/^/gm, '  ')}\n`);
    }
  });
  const functions = bound.map(({ fn, driver, before, changed, companion, nodes }) => ({
    address: fn.address,
    iommuGroup: fn.iommuGroup ?? null,
    before: binding(before),
    driver: driver.name,
    module: driver.module ?? null,
    changed,
    companion,
    nodes,
  }));
  return { dryRun: false, functions, steps };
}

function boundLine(fn: BindReport['functions'][number], io: Io): string {
  const driver = fn.driver ?? '';
  const how = fn.changed ? `${fn.before.driver ?? 'free'} -> ${paint(io, 'green', driver)}` : `${driver}, as it was`;
  const group = fn.iommuGroup === null ? [] : [`IOMMU group ${fn.iommuGroup}`];
  const companion = fn.companion ? ' (of the group)' : '';
  return `${paint(io, 'bold', fn.address)}  ${[how, ...group, ...fn.nodes].join(', ')}${companion}`;
}

export interface UnbindOptions {
  readonly json?: boolean;
  readonly group?: boolean;
  readonly force?: boolean;
  readonly dryRun?: boolean;
}

/** `vfio unbind`: gives functions back to the drivers that they had. */
export function unbind(machine: LinuxMachine, addresses: readonly string[], options: UnbindOptions, io: Io): void {
  const asked = addresses.map((address) => findFunction(machine.host, address));
  giveBack(machine, planUnbind(machine.host, asked, options), options, io);
}

/** `vfio restore`: gives back all that `vfio bind` has taken. */
export function restore(machine: LinuxMachine, options: UnbindOptions, io: Io): void {
  giveBack(machine, planRestore(machine.host, options), options, io);
}

function giveBack(machine: LinuxMachine, plan: UnbindPlan, options: UnbindOptions, io: Io): void {
  const report = options.dryRun === true ? plannedUnbind(plan) : carryOutUnbind(machine, plan, io);
  if (options.json === true) {
    printJson(io, report);
  } else if (report.dryRun) {
    printSteps(report.steps, io);
  } else {
    for (const fn of report.functions) io.out(`${releasedLine(fn, io)}\n`);
    for (const address of report.stale) io.out(`${address}  not the function that was bound: forgotten\n`);
    if (report.functions.length + report.stale.length === 0) io.out('nothing is bound by `vfio bind`\n');
  }
}

function plannedUnbind(plan: UnbindPlan): UnbindReport {
  const functions = plan.functions.map(({ fn, before, wanted, changes }) => ({
    address: fn.address,
    before: binding(before),
    after: changes ? (wanted === undefined ? null : binding(wanted)) : binding(before),
    changed: changes,
    known: wanted !== undefined,
  }));
  return { dryRun: true, functions, stale: plan.stale, steps: unbindScript(plan) };
}

function carryOutUnbind(machine: LinuxMachine, plan: UnbindPlan, io: Io): UnbindReport {
  const steps: string[] = [];
  void io.signal;
  const released = unbindPlan(machine.host, machine.modules, plan, (step) => void steps.push(stepLine(step)));
  const functions = released.map(({ fn, before, after, changed, known }) => ({
    address: fn.address,
    before: binding(before),
    after: binding(after),
    changed,
    known,
  }));
  return { dryRun: false, functions, stale: plan.stale, steps };
}

function releasedLine(fn: UnbindReport['functions'][number], io: Io): string {
  const after = fn.after?.driver ?? 'free';
  const chosen = fn.known ? '' : ' (by the kernel’s choice: it is not known what it had)';
  const how = fn.changed
    ? `${fn.before.driver ?? 'free'} -> ${paint(io, 'green', after)}${chosen}`
    : `${after}, as it was`;
  return `${paint(io, 'bold', fn.address)}  ${how}`;
}

function printSteps(steps: readonly string[], io: Io): void {
  io.out(steps.length === 0 ? '# nothing to do\n' : `${steps.join('\n')}\n`);
}
