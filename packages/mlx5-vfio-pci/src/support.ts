import { isVfioError, type PciBus, type PciFunction } from '@vfio/core';
import { MLX5_CORE, type Mlx5Core } from './hca/driver.js';
import type { Hca } from './hca/hca.js';
import type { MigrationSupport } from './migration.js';

/** What a virtual function can do beyond passthrough, and why not where it cannot. */
export class Support {
  readonly migration: MigrationSupport | undefined;
  /** The condition that is missing. */
  readonly missing: string | undefined;
  readonly #gone: (() => void)[] = [];
  readonly #released: (() => Promise<void>)[] = [];

  constructor(migration: MigrationSupport | undefined, missing: string | undefined) {
    this.migration = migration;
    this.missing = missing;
  }

  /** Called when the physical function is about to go. */
  onGone(callback: () => void): void {
    this.#gone.push(callback);
  }

  /** What must have ended before the physical function may go. */
  beforeRelease(settled: () => Promise<void>): void {
    this.#released.push(settled);
  }

  /** The physical function goes. Settles when nothing of this function is with its firmware any more. */
  async detach(): Promise<void> {
    for (const callback of this.#gone) callback();
    for (const settled of this.#released) await settled();
  }
}

const without = (missing: string): Support => new Support(undefined, missing);

/** Asks, in the kernel driver's order, whether a function can be migrated. */
export async function findSupport(bus: PciBus, fn: PciFunction): Promise<Support> {
  const { physfn, vfIndex } = fn;
  if (physfn === undefined || vfIndex === undefined) return without('it is not a virtual function');
  const hca = physicalHca(bus, fn);
  if (hca === undefined)
    return without(`its physical function ${physfn.address} is not bound to ${MLX5_CORE} on this bus`);
  if (!hca.caps.migration) return without('the firmware cannot migrate (capability migration)');
  try {
    const { general2: own } = await hca.capsOf(0);
    if (own?.multiLoad !== true) return without('the firmware cannot load in parts (capability migration_multi_load)');
    if (own.trackingState !== true)
      return without('the firmware cannot track state (capability migration_tracking_state)');
    const { general, general2 } = await hca.capsOf(vfIndex + 1);
    if (general2?.migratable !== true) return without('the function was not made migratable (capability migratable)');
    return new Support(
      {
        vhca: { hca, vhcaId: general.vhcaId },
        inChunks: own.inChunks,
        hasMigrationState: own.migrationState,
      },
      undefined,
    );
  } catch (error) {
    // As the kernel: a function that the firmware says nothing about is passed through as it is.
    return without(`the firmware does not say what it can: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function physicalHca(bus: PciBus, fn: PciFunction): Hca | undefined {
  try {
    return bus.pciIovGetPfDrvdata<Mlx5Core>(fn, MLX5_CORE)?.hca;
  } catch (error) {
    if (isVfioError(error)) return undefined;
    throw error;
  }
}
