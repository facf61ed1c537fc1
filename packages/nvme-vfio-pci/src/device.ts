import {
  defineVfioDriver,
  type PciBus,
  type PciDriver,
  type PciFunction,
  vfioPciCoreErrHandlers,
  vfioPciCoreProbe,
  vfioPciCoreRemove,
} from '@vfio/core';
import { ids } from './ids.js';
import { type NvmeOpsOptions, nvmeOps } from './ops.js';
import { findSupport } from './support.js';

export interface NvmeVfioPciOptions extends NvmeOpsOptions {
  /** Sentences for the log: a controller that could not be shut down in order. Default: the bus is told. */
  readonly warn?: (message: string) => void;
}

/** Makes the driver. */
export function nvmeVfioPciDriver(options: NvmeVfioPciOptions = {}): PciDriver {
  const { warn, ...opsOptions } = options;
  /** How each function stops hearing of its physical one. */
  const unwatch = new WeakMap<PciFunction, () => void>();
  const log = (bus: PciBus, fn: PciFunction, message: string): void => {
    if (warn === undefined) bus.warn({ message, device: fn.address });
    else warn(message);
  };
  return defineVfioDriver({
    name: 'nvme_vfio_pci',
    idTable: ids,

    async probe(fn, _id, bus) {
      const support = await findSupport(bus, fn);
      // A drive without virtual functions has nothing to say about their migration.
      if (support.missing !== undefined && fn.physfn !== undefined) log(bus, fn, `no migration: ${support.missing}`);
      const ops = nvmeOps(opsOptions, support);
      await vfioPciCoreProbe(bus, fn, { ops, ...(warn === undefined ? {} : { warn }) });
      if (support.migration !== undefined)
        unwatch.set(
          fn,
          bus.watchPf(fn, async () => support.detach()),
        );
    },

    async remove(fn, bus) {
      unwatch.get(fn)?.();
      unwatch.delete(fn);
      await vfioPciCoreRemove(bus, fn);
    },

    errorHandlers: vfioPciCoreErrHandlers,
  });
}

/** The driver as discovery loads it. */
export const driver: PciDriver = nvmeVfioPciDriver();
