import { formatClass, formatIds, formatSubsystem } from '../../format.js';
import { migrationFlags } from '../../migration-features.js';
import { type ClientReport, clientReport } from './client-report.js';
import { defineMethod, featuresOf } from './method.js';

/** What a function is and who serves it. */
export interface ServedInfo {
  readonly address: string;
  readonly ids: string;
  readonly subsystem: string;
  readonly class: string;
  /** Address of the physical function of a virtual one. */
  readonly physfn: string | null;
  readonly driver: string;
  readonly ops: string;
  /** Version of the interface between core and its drivers that the ops are for. */
  readonly api: number;
  /** Version of the driver's package. */
  readonly version: string | null;
  /** The data socket; null for an inherited one. */
  readonly socket: string | null;
  /** Of VFIO_MIGRATION_*; empty: it cannot be migrated. */
  readonly migration: readonly string[];
  /** Why not; null where it can, or where the driver never could. */
  readonly whyNotMigratable: string | null;
  readonly client: ClientReport | null;
  readonly pid: number;
}

export const info = defineMethod({
  params: () => ({}),
  run: async ({ address, fn, driver, driverVersion, device, server }): Promise<ServedInfo> => ({
    address,
    ids: formatIds(fn),
    subsystem: formatSubsystem(fn),
    class: formatClass(fn),
    physfn: fn.physfn?.address ?? null,
    driver: driver.name,
    ops: device.name,
    api: device.ops.api,
    version: driverVersion ?? null,
    socket: server.path ?? null,
    migration: await migrationFlags(featuresOf(device)),
    whyNotMigratable: device.whyNotMigratable ?? null,
    client: clientReport(server),
    pid: process.pid,
  }),
});
