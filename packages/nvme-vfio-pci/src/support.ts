import { isVfioError, messageOf, type PciBus, type PciFunction } from '@vfio/core';
import type { Child } from './cmd.js';
import { NVME, type NvmeCore } from './parent/driver.js';
import type { NvmeParent, StateFormats } from './parent/parent.js';

/** The version of the specification's own format of queues that this driver knows (figure 359). */
export const QUEUES_VERSION = 0;

/** What a migration is made with. */
export interface MigrationSupport {
  readonly child: Child;
  readonly formats: StateFormats;
}

/** What a virtual function can do beyond passthrough, and why not where it cannot. */
export class Support {
  readonly migration: MigrationSupport | undefined;
  /** The condition that is missing. */
  readonly missing: string | undefined;
  readonly #gone: (() => void)[] = [];

  constructor(migration: MigrationSupport | undefined, missing: string | undefined) {
    this.migration = migration;
    this.missing = missing;
  }

  /** Called when the physical function is about to go. */
  onGone(callback: () => void): void {
    this.#gone.push(callback);
  }

  /** The physical function goes: its driver ends what is under way. */
  detach(): void {
    for (const callback of this.#gone) callback();
  }
}

const without = (missing: string): Support => new Support(undefined, missing);

/** Asks whether a function can be migrated, condition by condition. */
export async function findSupport(bus: PciBus, fn: PciFunction): Promise<Support> {
  const { physfn, vfIndex } = fn;
  if (physfn === undefined || vfIndex === undefined) return without('it is not a virtual function');
  const parent = physicalParent(bus, fn);
  if (parent === undefined)
    return without(`its physical function ${physfn.address} is not bound to ${NVME} on this bus`);
  if (!parent.capabilities.managesMigration)
    return without('the controller of its physical function does not manage migration (HMLMS)');
  try {
    const controllerId = await parent.controllerOf(vfIndex + 1);
    if (controllerId === undefined)
      return without(`the controller of its physical function lists none for virtual function ${vfIndex + 1}`);
    const formats = await parent.stateFormats();
    if (!formats.versions.includes(QUEUES_VERSION))
      return without(`version ${QUEUES_VERSION} of the queues’ state is not supported`);
    // The specification's format has the I/O queues and nothing else: no admin queue, no features, no event requests.
    if (formats.uuids.length === 0) return without('the state beyond the I/O queues has no format (no UUID is listed)');
    return new Support({ child: { parent, controllerId }, formats }, undefined);
  } catch (error) {
    return without(`the controller of its physical function does not say what it can: ${messageOf(error)}`);
  }
}

function physicalParent(bus: PciBus, fn: PciFunction): NvmeParent | undefined {
  try {
    return bus.pciIovGetPfDrvdata<NvmeCore>(fn, NVME)?.parent;
  } catch (error) {
    if (isVfioError(error)) return undefined;
    throw error;
  }
}
