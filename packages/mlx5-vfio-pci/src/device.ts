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
import { mlx5Ops } from './ops.js';
import { findSupport } from './support.js';

export interface Mlx5VfioPciOptions {
  /** Sentences for the log. Default: the bus is told. */
  readonly warn?: (message: string) => void;
}

/** Makes the driver. */
export function mlx5VfioPciDriver(options: Mlx5VfioPciOptions = {}): PciDriver {
  /** How each function stops hearing of its physical one. */
  const unwatch = new WeakMap<PciFunction, () => void>();
  const log = (bus: PciBus, fn: PciFunction, message: string): void => {
    if (options.warn === undefined) bus.warn({ message, device: fn.address });
    else options.warn(message);
  };
  return defineVfioDriver({
    name: 'mlx5_vfio_pci',
    idTable: ids,

    async probe(fn, _id, bus) {
      const support = await findSupport(bus, fn);
      // What is a VFIO device already may migrate itself, as the kernel's own driver does: told when it is opened.
      if (support.missing !== undefined && fn.base.kind === 'raw') log(bus, fn, `no migration: ${support.missing}`);
      await vfioPciCoreProbe(bus, fn, { ops: mlx5Ops(support), ...options });
      if (support.migration !== undefined)
        unwatch.set(
          fn,
          bus.watchPf(fn, () => support.detach()),
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
export const driver: PciDriver = mlx5VfioPciDriver();
