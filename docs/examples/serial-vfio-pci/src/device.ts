import {
  defineVfioDriver,
  type PciDriver,
  vfioPciCoreErrHandlers,
  vfioPciCoreProbe,
  vfioPciCoreRemove,
} from '@vfio/core';
import { ids } from './ids.js';
import { type SerialOpsOptions, serialOps } from './ops.js';

/** Makes the driver. */
export function serialVfioPciDriver(options: SerialOpsOptions = {}): PciDriver {
  const ops = serialOps(options);
  return defineVfioDriver({
    name: 'serial_vfio_pci',
    idTable: ids,
    async probe(fn, _id, bus) {
      await vfioPciCoreProbe(bus, fn, { ops });
    },
    remove: (fn, bus) => vfioPciCoreRemove(bus, fn),
    errorHandlers: vfioPciCoreErrHandlers,
  });
}

/** The driver as discovery loads it. */
export const driver: PciDriver = serialVfioPciDriver();
