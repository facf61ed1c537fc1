import type { PciFunction } from '@vfio/core';
import { formatClass, formatIds, formatSubsystem } from '../format.js';
import type { Io } from '../io.js';
import { paint, printJson, printTable } from '../output.js';
import type { PciNames } from '../pci-names.js';
import type { LinuxSession, Session } from '../session.js';

/** What `vfio list --json` shows: schemas/list.json. */
export interface ListReport {
  readonly functions: readonly ListedFunction[];
  /** The file that names are from; null where this system has none. */
  readonly names: string | null;
}

export interface ListedFunction {
  readonly address: string;
  readonly ids: string;
  readonly subsystem: string;
  readonly class: string;
  readonly revision: number;
  readonly vendorName: string | null;
  readonly deviceName: string | null;
  readonly className: string | null;
  readonly iommuGroup: number | null;
  readonly physfn: string | null;
  readonly driver: string | null;
  readonly driverOverride: string | null;
  readonly best: string | null;
  /** Module of the kernel's own best VFIO driver; null where the host is none with a kernel, or it has none. */
  readonly kernelModule: string | null;
  readonly numaNode: number | null;
}

export interface ListOptions {
  readonly json?: boolean;
}

/** `vfio list`: every function of the host, what drives it and what would drive it best. */
export function list(session: Session | LinuxSession, names: PciNames, options: ListOptions, io: Io): void {
  const { drivers } = session;
  const functions = held(session).map(({ fn, driver, driverOverride, kernelModule, numaNode }): ListedFunction => {
    const candidate = fn.headerType === 0 ? drivers.best(fn) : undefined;
    return {
      address: fn.address,
      ids: formatIds(fn),
      subsystem: formatSubsystem(fn),
      class: formatClass(fn),
      revision: fn.revision,
      vendorName: names.vendor(fn.vendor) ?? null,
      deviceName: names.device(fn.vendor, fn.device) ?? null,
      className: names.class(fn.class) ?? null,
      iommuGroup: fn.iommuGroup ?? null,
      physfn: fn.physfn?.address ?? null,
      driver: driver ?? null,
      driverOverride: driverOverride ?? null,
      best: candidate?.driver ?? null,
      kernelModule: kernelModule ?? null,
      numaNode: numaNode ?? null,
    };
  });
  if (options.json === true) {
    printJson(io, { functions, names: names.source ?? null } satisfies ListReport);
    return;
  }
  const hasKernel = 'modules' in session;
  printTable(
    io,
    ['ADDRESS', 'IDS', 'CLASS', 'GROUP', 'DRIVER', 'BEST', ...(hasKernel ? ['KERNEL'] : []), 'NAME'],
    functions.map((fn) => [
      fn.address,
      fn.ids,
      fn.class,
      fn.iommuGroup === null ? '-' : String(fn.iommuGroup),
      fn.driver ?? '-',
      fn.best === null ? '-' : paint(io, 'green', fn.best),
      ...(hasKernel ? [fn.kernelModule ?? '-'] : []),
      describe(fn),
    ]),
  );
}

/** A function, and who has it: by our bus, or by the kernel. */
interface Held {
  readonly fn: PciFunction;
  readonly driver: string | undefined;
  readonly driverOverride: string | undefined;
  readonly kernelModule?: string | undefined;
  readonly numaNode?: number | undefined;
}

function held(session: Session | LinuxSession): Held[] {
  if (!('modules' in session)) {
    const { bus } = session;
    return bus.functions().map((fn) => ({
      fn,
      driver: bus.driverOf(fn)?.name,
      driverOverride: bus.driverOverride(fn),
    }));
  }
  const { modules } = session;
  return session.host.functions().map((fn) => ({
    fn,
    driver: fn.driver,
    driverOverride: fn.driverOverride,
    kernelModule: fn.headerType === 0 ? modules.best(fn)?.driver : undefined,
    numaNode: fn.numaNode,
  }));
}

function describe(fn: ListedFunction): string {
  const name = [fn.vendorName, fn.deviceName].filter((part) => part !== null).join(' ');
  const kind = fn.className ?? '';
  const text = name !== '' && kind !== '' ? `${kind}: ${name}` : `${kind}${name}`;
  return fn.physfn === null ? text : `${text} (VF of ${fn.physfn})`.trimStart();
}
