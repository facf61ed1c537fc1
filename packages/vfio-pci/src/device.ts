import {
  defineVfioDriver,
  deviceOf,
  errnoError,
  isDenylisted,
  type ModuleParamsInit,
  type PciBus,
  type PciDriver,
  VfioPciModuleParams,
  vfioPciCoreErrHandlers,
  vfioPciCoreProbe,
  vfioPciCoreRemove,
  vfioPciCoreSriovConfigure,
} from '@vfio/core';
import { ids } from './ids.js';
import { vfioPciOps } from './ops.js';

/** The generic driver with its parameters, some of which may be changed while it lives. */
export interface VfioPciDriver extends PciDriver {
  readonly params: VfioPciModuleParams;
  /**
   * Registers on a bus and adds what the `ids` parameter names: the kernel's module load.
   *
   * @returns a sentence for each item of `ids` that was skipped.
   */
  load(bus: PciBus): Promise<readonly string[]>;
}

export interface VfioPciOptions extends ModuleParamsInit {
  /** Sentences for the log. Default: the bus is told. */
  readonly warn?: (message: string) => void;
}

/**
 * Makes a generic driver.
 *
 * @throws ENOSPC for an `ids` of more than 1023 characters.
 */
export function vfioPciDriver(options: VfioPciOptions = {}): VfioPciDriver {
  const { warn, ...init } = options;
  const log = warn === undefined ? {} : { warn };
  const params = new VfioPciModuleParams(init);

  const driver = defineVfioDriver({
    name: 'vfio-pci',
    idTable: ids,

    async probe(fn, _id, bus) {
      if (isDenylisted(fn) && !params.get('disableDenylist')) {
        throw errnoError(
          'EINVAL',
          'the device is on the denylist: a user could bring it to a state that harms the host. disableDenylist takes it all the same',
          { op: 'probe', device: fn.address },
        );
      }
      await vfioPciCoreProbe(bus, fn, { ops: vfioPciOps, params: params.latch(), ...log });
    },

    remove: (fn, bus) => vfioPciCoreRemove(bus, fn),

    sriovConfigure(fn, count, bus) {
      if (!params.get('enableSriov')) {
        throw errnoError('ENOENT', 'VFs are not enabled: set enableSriov', {
          op: 'sriovConfigure',
          device: fn.address,
        });
      }
      return vfioPciCoreSriovConfigure(deviceOf(bus, fn), count);
    },

    errorHandlers: vfioPciCoreErrHandlers,
  });

  return Object.freeze({
    ...driver,
    params,
    async load(bus: PciBus) {
      await bus.register(this);
      return params.ids === '' ? [] : await bus.addIds(this, params.ids);
    },
  });
}

/** The generic driver with the kernel's defaults: what discovery loads. */
export const driver: VfioPciDriver = vfioPciDriver();
