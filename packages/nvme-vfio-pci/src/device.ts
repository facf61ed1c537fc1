import {
  defineVfioDriver,
  type PciDriver,
  vfioPciCoreErrHandlers,
  vfioPciCoreProbe,
  vfioPciCoreRemove,
} from '@vfio/core';
import { ids } from './ids.js';
import { type NvmeOpsOptions, nvmeOps } from './ops.js';

export interface NvmeVfioPciOptions extends NvmeOpsOptions {
  /** Sentences for the log: a controller that could not be shut down in order. Default: the bus is told. */
  readonly warn?: (message: string) => void;
}

/** Makes the driver. */
export function nvmeVfioPciDriver(options: NvmeVfioPciOptions = {}): PciDriver {
  const { warn, ...opsOptions } = options;
  const ops = nvmeOps(opsOptions);
  return defineVfioDriver({
    name: 'nvme_vfio_pci',
    idTable: ids,
    async probe(fn, _id, bus) {
      await vfioPciCoreProbe(bus, fn, { ops, ...(warn === undefined ? {} : { warn }) });
    },
    remove: (fn, bus) => vfioPciCoreRemove(bus, fn),
    errorHandlers: vfioPciCoreErrHandlers,
  });
}

/** The driver as discovery loads it. */
export const driver: PciDriver = nvmeVfioPciDriver();
