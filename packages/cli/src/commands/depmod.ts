import type { InstalledDrivers } from '@vfio/core/node';
import type { Io } from '../io.js';
import { paint, printJson, printTable } from '../output.js';

/** What `vfio depmod --json` shows: schemas/depmod.json. */
export interface DepmodReport {
  /** Where `modules.alias` and `drivers.json` are; null where they could not be written. */
  readonly directory: string | null;
  readonly drivers: readonly {
    readonly driver: string;
    readonly package: string;
    readonly directory: string;
    readonly aliases: number;
    readonly requires: readonly string[];
  }[];
  /** What is wrong with packages, or parts of them, that are not used for that reason. */
  readonly problems: readonly {
    readonly package: string;
    readonly driver: string | null;
    readonly kind: string;
    readonly message: string;
  }[];
  /** Packages that are there and nobody depends on directly. */
  readonly notConsidered: readonly { readonly package: string; readonly drivers: readonly string[] }[];
}

/** `vfio depmod`: the merged index as it was just made, and why it has what it has. Returns whether it was written. */
export async function depmod(
  installed: InstalledDrivers,
  options: { readonly json?: boolean },
  io: Io,
): Promise<boolean> {
  const { drivers, index, indexDirectory, problems } = installed;
  const report: DepmodReport = {
    directory: indexDirectory ?? null,
    drivers: drivers.map(({ name, package: from, directory, requires }) => ({
      driver: name,
      package: from,
      directory,
      aliases: index.entries.filter((entry) => entry.driver === name).length,
      requires,
    })),
    problems: problems.map(({ package: from, driver, kind, message }) => ({
      package: from,
      driver: driver ?? null,
      kind,
      message,
    })),
    notConsidered: (await installed.notConsidered()).map(({ package: from, drivers: names }) => ({
      package: from,
      drivers: names,
    })),
  };
  if (options.json === true) printJson(io, report);
  else print(report, index.size, io);
  return indexDirectory !== undefined;
}

function print({ directory, drivers, problems, notConsidered }: DepmodReport, aliases: number, io: Io): void {
  printTable(
    io,
    ['DRIVER', 'PACKAGE', 'ALIASES', 'REQUIRES'],
    drivers.map((one) => [one.driver, one.package, String(one.aliases), one.requires.join(' ') || '-']),
  );
  for (const { package: from, kind, message } of problems) io.out(`${paint(io, 'yellow', kind)} ${from}: ${message}\n`);
  for (const { package: from, drivers: names } of notConsidered)
    io.out(`not considered ${from}${names.length === 0 ? '' : ` (${names.join(', ')})`}: no direct dependency\n`);
  io.out(
    directory === null
      ? 'the index could not be kept: it is made again each time (VFIO_CACHE names another place)\n'
      : `${directory}: modules.alias with ${aliases} ${aliases === 1 ? 'alias' : 'aliases'}, drivers.json\n`,
  );
}
