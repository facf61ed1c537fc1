import { formatClass, formatIds, formatSubsystem } from '../format.js';
import type { Io } from '../io.js';
import { paint, printJson, printTable } from '../output.js';
import type { PciNames } from '../pci-names.js';
import type { Session } from '../session.js';

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
}

export interface ListOptions {
  readonly json?: boolean;
}

/** `vfio list`: every function of the host, what drives it and what would drive it best. */
export function list(session: Session, names: PciNames, options: ListOptions, io: Io): void {
  const { bus, drivers } = session;
  const functions = session.host.functions().map((fn): ListedFunction => {
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
      driver: bus.driverOf(fn)?.name ?? null,
      driverOverride: bus.driverOverride(fn) ?? null,
      best: candidate?.driver ?? null,
    };
  });
  if (options.json === true) {
    printJson(io, { functions, names: names.source ?? null } satisfies ListReport);
    return;
  }
  printTable(
    io,
    ['ADDRESS', 'IDS', 'CLASS', 'GROUP', 'DRIVER', 'BEST', 'NAME'],
    functions.map((fn) => [
      fn.address,
      fn.ids,
      fn.class,
      fn.iommuGroup === null ? '-' : String(fn.iommuGroup),
      fn.driver ?? '-',
      fn.best === null ? '-' : paint(io, 'green', fn.best),
      describe(fn),
    ]),
  );
}

function describe(fn: ListedFunction): string {
  const name = [fn.vendorName, fn.deviceName].filter((part) => part !== null).join(' ');
  const kind = fn.className ?? '';
  const text = name !== '' && kind !== '' ? `${kind}: ${name}` : `${kind}${name}`;
  return fn.physfn === null ? text : `${text} (VF of ${fn.physfn})`.trimStart();
}
