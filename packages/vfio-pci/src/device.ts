import {
  defineVfioDriver,
  deviceOf,
  errnoError,
  isDenylisted,
  type PciBus,
  type PciDriver,
  vfioPciCoreErrHandlers,
  vfioPciCoreProbe,
  vfioPciCoreRemove,
  vfioPciCoreSriovConfigure,
} from '@vfio/core';
import { ids } from './ids.js';
import { vfioPciOps } from './ops.js';
import { DEFAULT_PARAMS, MAX_IDS_LENGTH, type VfioPciParams } from './params.js';

/** The generic driver, and the parameters that may be changed while it lives. */
export interface VfioPciDriver extends PciDriver {
  readonly params: VfioPciParams;
  /** Registers on a bus and adds what the `ids` parameter names: the kernel's module load. */
  load(bus: PciBus): Promise<void>;
}

export interface VfioPciOptions extends Partial<VfioPciParams> {
  /** Sentences for the log. Default: nobody is told. */
  readonly warn?: (message: string) => void;
}

/**
 * Makes a generic driver.
 *
 * @throws EINVAL for an `ids` of more than 1023 characters.
 */
export function vfioPciDriver(options: VfioPciOptions = {}): VfioPciDriver {
  const { warn = () => {}, ...given } = options;
  const params: VfioPciParams = { ...DEFAULT_PARAMS, ...given };
  if (params.ids.length > MAX_IDS_LENGTH) {
    throw errnoError('EINVAL', `ids has ${params.ids.length} characters, at most ${MAX_IDS_LENGTH} are taken`, {
      op: 'load',
    });
  }

  const driver = defineVfioDriver({
    name: 'vfio-pci',
    idTable: ids,

    async probe(fn, _id, bus) {
      if (isDenylisted(fn) && !params.disableDenylist) {
        throw errnoError(
          'EINVAL',
          'the device is on the denylist: a user could bring it to a state that harms the host. disableDenylist takes it all the same',
          { op: 'probe', device: fn.address },
        );
      }
      const { nointxmask, disableIdleD3, disableVga } = params;
      await vfioPciCoreProbe(bus, fn, { ops: vfioPciOps, params: { nointxmask, disableIdleD3, disableVga }, warn });
    },

    remove: (fn, bus) => vfioPciCoreRemove(bus, fn),

    sriovConfigure(fn, count, bus) {
      if (!params.enableSriov) {
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
      if (params.ids !== '') for (const problem of await bus.addIds(this, params.ids)) warn(problem);
    },
  });
}

/** The generic driver with the kernel's defaults: what discovery loads. */
export const driver: VfioPciDriver = vfioPciDriver();
