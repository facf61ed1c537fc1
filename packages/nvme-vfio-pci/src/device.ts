import {
  defineVfioDriver,
  type PciDriver,
  vfioPciCoreErrHandlers,
  vfioPciCoreProbe,
  vfioPciCoreRemove,
} from '@vfio/core';
import { ids } from './ids.js';
import { nvmeOps } from './ops.js';

export interface NvmeVfioPciOptions {
  /** Sentences for the log: a controller that could not be shut down in order. Default: nobody is told. */
  readonly warn?: (message: string) => void;
}

/** Makes the driver. */
export function nvmeVfioPciDriver(options: NvmeVfioPciOptions = {}): PciDriver {
  return defineVfioDriver({
    name: 'nvme_vfio_pci',
    idTable: ids,
    async probe(fn, _id, bus) {
      await vfioPciCoreProbe(bus, fn, { ops: nvmeOps, ...options });
    },
    remove: (fn, bus) => vfioPciCoreRemove(bus, fn),
    errorHandlers: vfioPciCoreErrHandlers,
  });
}

/** The driver as discovery loads it: what it has to tell goes to the process's warnings. */
export const driver: PciDriver = nvmeVfioPciDriver();
