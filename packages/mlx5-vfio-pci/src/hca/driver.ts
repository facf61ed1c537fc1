import { OwnedFunction, type PciDriver } from '@vfio/core';
import { errnoError } from '@vfio/uapi';
import { Hca, type HcaOptions } from './hca.js';

export interface Mlx5CoreOptions extends HcaOptions {
  /** New virtual functions may be moved. @default true: who takes a physical function for this wants it */
  readonly migratable?: boolean;
}

/** What the driver keeps with a physical function; variant drivers reach it by `bus.pciIovGetPfDrvdata`. */
export interface Mlx5Core {
  readonly hca: Hca;
}

interface State extends Mlx5Core {
  readonly owned: OwnedFunction;
}

/** Name of the driver, by which it is asked for: it has no ids and takes nothing of itself. */
export const MLX5_CORE = 'mlx5_core';

/**
 * Makes the driver of physical functions: the role that `mlx5_core` has in the kernel. It takes a function whole (its
 * network port too) and only when asked: `bus.bindOverride(pf, 'mlx5_core')`, then `bus.sriovConfigure(pf, 4)`.
 */
export function mlx5CoreDriver(options: Mlx5CoreOptions = {}): PciDriver {
  const { migratable = true } = options;
  return {
    name: MLX5_CORE,
    idTable: [],

    async probe(fn, _id, bus) {
      const warn = options.warn ?? ((message: string) => bus.warn({ message, device: fn.address }));
      const owned = await OwnedFunction.open(fn, MLX5_CORE, warn);
      try {
        bus.setDrvdata(fn, { owned, hca: await Hca.boot(owned.handle, { ...options, warn }) });
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
      await state.hca.shutdown();
      await state.owned.close();
    },

    async sriovConfigure(fn, count, bus) {
      const state = bus.getDrvdata<State>(fn);
      if (state === undefined) throw errnoError('ENODEV', 'the function was not booted', { op: 'sriovConfigure' });
      if (count === 0) {
        await bus.disableSriov(fn);
        await state.hca.disableFunctions();
        return 0;
      }
      const enabled: number[] = [];
      try {
        // Before the functions appear: what drives them must find them alive.
        for (let id = 1; id <= count; id++) {
          await state.hca.enableFunction(id);
          enabled.push(id);
        }
        await bus.enableSriov(fn, count);
      } catch (error) {
        for (const id of enabled.reverse()) await state.hca.disableFunction(id).catch(() => undefined);
        throw error;
      }
      if (migratable) for (const id of enabled) await state.hca.setMigratable(id, true).catch(() => undefined);
      return count;
    },
  };
}
