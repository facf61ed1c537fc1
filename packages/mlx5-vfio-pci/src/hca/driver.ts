import {
  type PciBus,
  type PciDriver,
  type PciFunction,
  type VfioDevice,
  type VfioPciCoreDevice,
  vfioPciCoreAllocDevice,
  vfioPciCorePutDevice,
  vfioPciCoreRegisterDevice,
  vfioPciCoreUnregisterDevice,
} from '@vfio/core';
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
  readonly dev: VfioPciCoreDevice;
  readonly handle: VfioDevice;
}

/** Who has a physical function in this process. */
const owners = new WeakMap<PciFunction, string>();

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
      const owner = owners.get(fn);
      if (owner !== undefined)
        throw errnoError('EBUSY', `${owner} has the physical function; one owner at a time can talk to its firmware`, {
          op: 'probe',
          device: fn.address,
        });
      owners.set(fn, `${MLX5_CORE} on another bus of this process`);
      try {
        bus.setDrvdata(fn, await take(fn, bus, options));
      } catch (error) {
        owners.delete(fn);
        throw error;
      }
    },

    async remove(fn, bus) {
      const state = bus.getDrvdata<State>(fn);
      if (state === undefined) return;
      // As the kernel's: virtual functions go first, and those in use when their user lets go.
      await bus.disableSriov(fn);
      await state.hca.shutdown();
      await letGo(state);
      owners.delete(fn);
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

async function take(fn: PciFunction, bus: PciBus, options: Mlx5CoreOptions): Promise<State> {
  const warn = options.warn ?? ((message: string) => bus.warn({ message, device: fn.address }));
  // A device of core's that nobody else can open: not on the bus, as the driver data is ours.
  const dev = vfioPciCoreAllocDevice(fn, (core) => ({ ...core, name: 'mlx5-core' }), { warn });
  let handle: VfioDevice | undefined;
  try {
    await vfioPciCoreRegisterDevice(dev);
    handle = await dev.open();
    await enableBus(handle);
    return { dev, handle, hca: await Hca.boot(handle, { ...options, warn }) };
  } catch (error) {
    await handle?.close();
    await vfioPciCoreUnregisterDevice(dev);
    vfioPciCorePutDevice(dev);
    throw error;
  }
}

async function letGo({ dev, handle }: State): Promise<void> {
  await handle.close();
  await vfioPciCoreUnregisterDevice(dev);
  vfioPciCorePutDevice(dev);
}

const CONFIG_REGION = 7;
const COMMAND = 4;
const MEMORY_AND_MASTER = 0x6;

/** Memory decode and bus mastering, which a VFIO device has off when it is opened. */
async function enableBus(handle: VfioDevice): Promise<void> {
  const bytes = new Uint8Array(2);
  handle.read(CONFIG_REGION, COMMAND, bytes);
  bytes[0] = (bytes[0] ?? 0) | MEMORY_AND_MASTER;
  await handle.write(CONFIG_REGION, COMMAND, bytes);
}
