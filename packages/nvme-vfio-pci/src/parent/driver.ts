import { messageOf, OwnedFunction, type PciDriver } from '@vfio/core';
import { errnoError } from '@vfio/uapi';
import { NvmeParent, type NvmeParentOptions } from './parent.js';

export interface NvmeDriverOptions extends NvmeParentOptions {
  /** How long a controller may take to write its cache back, in ms. @default 5000, as Linux's nvme driver waits */
  readonly shutdownTimeoutMs?: number;
  /** Sentences for the log. Default: the bus is told. */
  readonly warn?: (message: string) => void;
}

/** What the driver keeps with a physical function; the variant driver reaches it by `bus.pciIovGetPfDrvdata`. */
export interface NvmeCore {
  readonly parent: NvmeParent;
}

interface State extends NvmeCore {
  readonly owned: OwnedFunction;
}

/** Name of the driver, by which it is asked for: it has no ids and takes nothing of itself. */
export const NVME = 'nvme';

/**
 * Makes the driver of physical functions: the role that `nvme` has in the kernel, with an admin queue and no disk. It takes a
 * function whole and only when asked: `bus.bindOverride(pf, 'nvme')`, then `bus.sriovConfigure(pf, 4)`.
 */
export function nvmeDriver(options: NvmeDriverOptions = {}): PciDriver {
  const { shutdownTimeoutMs = 5000 } = options;
  return {
    name: NVME,
    idTable: [],

    async probe(fn, _id, bus) {
      const warn = options.warn ?? ((message: string) => bus.warn({ message, device: fn.address }));
      const owned = await OwnedFunction.open(fn, NVME, warn);
      try {
        bus.setDrvdata(fn, { owned, parent: await NvmeParent.start(owned.handle, fn.address, options) });
      } catch (error) {
        await owned.close();
        throw error;
      }
    },

    async remove(fn, bus) {
      const state = bus.getDrvdata<State>(fn);
      if (state === undefined) return;
      // As the kernel's: virtual functions go first, and those in use when their user lets go.
      await bus.disableSriov(fn);
      await state.parent.stop(shutdownTimeoutMs).catch((error: unknown) => {
        const message = `no orderly shutdown: ${messageOf(error)}`;
        if (options.warn === undefined) bus.warn({ message, device: fn.address });
        else options.warn(message);
      });
      await state.owned.close();
    },

    async sriovConfigure(fn, count, bus) {
      if (bus.getDrvdata<State>(fn) === undefined)
        throw errnoError('ENODEV', 'the function was not enabled', { op: 'sriovConfigure' });
      if (count === 0) await bus.disableSriov(fn);
      else await bus.enableSriov(fn, count);
      return count;
    },
  };
}
