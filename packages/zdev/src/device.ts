import {
  defineVfioDriver,
  type PciDriver,
  vfioPciCoreErrHandlers,
  vfioPciCoreProbe,
  vfioPciCoreRemove,
} from '@vfio/core';
import { ids } from './ids.js';
import { zdevOps } from './ops.js';

export interface ZdevVfioPciOptions {
  /** Sentences for the log. Default: the bus is told. */
  readonly warn?: (message: string) => void;
}

/** Makes the driver. */
export function zdevVfioPciDriver({ warn }: ZdevVfioPciOptions = {}): PciDriver {
  return defineVfioDriver({
    name: 'zdev_vfio_pci',
    idTable: ids,
    async probe(fn, _id, bus) {
      await vfioPciCoreProbe(bus, fn, { ops: zdevOps, ...(warn === undefined ? {} : { warn }) });
    },
    remove: (fn, bus) => vfioPciCoreRemove(bus, fn),
    errorHandlers: vfioPciCoreErrHandlers,
  });
}

/** The driver as discovery loads it. */
export const driver: PciDriver = zdevVfioPciDriver();
