import { isVfioError, VfioError } from '@vfio/uapi';
import type { PciBus } from '../pci/bus.js';
import type { PciFunction } from '../pci/function.js';
import { VfioPciCoreDevice } from './core-device.js';
import { corePciOps } from './core-ops.js';
import { releaseRegions } from './dev-region.js';
import { joinDeviceSet, leaveDeviceSet } from './device-set.js';
import { checkMigration } from './migration.js';
import type { VfioDeviceOps, VfioOpsFactory } from './ops.js';
import { checkOpsTable } from './ops-registry.js';
import { DEFAULT_CORE_PARAMS, type VfioPciCoreParams } from './params.js';
import { pmGet, pmPut, probePowerState, setPowerState } from './power.js';
import { vfInit, vfioPciCoreSriovConfigure, vfUninit } from './sriov.js';
import { vfioBaseOps } from './vfio-base-ops.js';

export interface AllocOptions {
  readonly bus?: PciBus;
  /** What only the generic driver passes. */
  readonly params?: Partial<VfioPciCoreParams>;
  /** Sentences for the log. Default: the bus is told; without one, nobody. */
  readonly warn?: (message: string) => void;
  /** How long DMA unmap waits for pinned views, in ms. @default 4000 */
  readonly unmapDeadlineMs?: number;
}

/** The table that a driver's is made from on this function: core's over hardware, else what the function brings. */
export function baseOpsOf(fn: PciFunction): VfioDeviceOps {
  return fn.base.kind === 'raw' ? corePciOps : vfioBaseOps(fn.base.ops);
}

/**
 * Makes a device: `vfio_alloc_device`. The driver's `init` runs, then that of the extensions; nobody can open it yet.
 *
 * @throws EINVAL (`ERR_VFIO_BAD_DRIVER`) for a table that is not whole, what `init` threw.
 */
export function vfioPciCoreAllocDevice(
  fn: PciFunction,
  ops: VfioOpsFactory,
  options: AllocOptions = {},
): VfioPciCoreDevice {
  const baseOps = baseOpsOf(fn);
  const table = ops(baseOps);
  checkOpsTable(table);
  const extensions = registryOf(options.bus)?.extensionsFor(fn) ?? [];
  const dev = new VfioPciCoreDevice({
    fn,
    bus: options.bus,
    ops: table,
    baseOps,
    params: { ...DEFAULT_CORE_PARAMS, ...options.params },
    extensions,
    warn: options.warn ?? ((message) => options.bus?.warn({ message, device: fn.address })),
    unmapDeadlineMs: options.unmapDeadlineMs,
  });
  table.init(dev);
  try {
    for (const extension of extensions) extension.init?.(dev);
  } catch (error) {
    vfioPciCorePutDevice(dev);
    throw error;
  }
  return dev;
}

/** The extensions of a bus; a bus without a registry has none. */
function registryOf(bus: PciBus | undefined) {
  try {
    return bus?.ops;
  } catch (error) {
    if (isVfioError(error, 'ERR_VFIO_STATE')) return undefined;
    throw error;
  }
}

/** Lets go of a device that is not registered: `vfio_put_device`. */
export function vfioPciCorePutDevice(dev: VfioPciCoreDevice): void {
  dev.ops.release(dev);
  releaseRegions(dev, 0);
}

/**
 * Makes a device known, so that it can be opened: `vfio_pci_core_register_device`. Checks in the kernel's order.
 *
 * @throws EINVAL: the driver data of the function is not this device, no ops name, a bridge, half migration or log ops;
 *   EBUSY: a PF whose VFs are there already; EIO: cannot be powered up.
 */
export async function vfioPciCoreRegisterDevice(dev: VfioPciCoreDevice): Promise<void> {
  const { fn } = dev;
  const problem = (message: string) => dev.error('EINVAL', 'register', message);
  if (dev.registered) throw problem('the device is registered already');
  if (dev.bus !== undefined && dev.bus.getDrvdata(fn) !== dev) {
    throw problem('the driver data of the function must be the device before it is registered');
  }
  if (typeof dev.ops.name !== 'string' || dev.ops.name === '') throw problem('the ops table has no name');
  if (fn.headerType !== 0) throw problem(`header type ${fn.headerType}: bridges cannot be VFIO devices`);
  checkMigration(dev);
  if (fn.base.kind === 'raw' && (fn.base.sriov?.numVfs ?? 0) > 0) {
    throw dev.error('EBUSY', 'register', `the function has ${fn.base.sriov?.numVfs} VFs already; remove them first`);
  }
  joinDeviceSet(dev);
  try {
    if (fn.base.kind === 'raw') {
      vfInit(dev);
      probePowerState(dev);
      await setPowerState(dev, 0);
      if (!dev.params.disableIdleD3) await pmPut(dev);
    }
  } catch (error) {
    vfUninit(dev);
    leaveDeviceSet(dev);
    throw error;
  }
  dev.registered = true;
}

/** How often a user is asked again to let go of a device. */
const REQUEST_INTERVAL_MS = 10_000;

export interface UnregisterOptions {
  /** @default 10000 */
  readonly requestIntervalMs?: number;
}

/**
 * Takes a device away: `vfio_pci_core_unregister_device`. VFs that core made go first. From now on nobody can open it;
 * while handles are open the driver's `request` is called, again and again, until the last is closed.
 */
export async function vfioPciCoreUnregisterDevice(
  dev: VfioPciCoreDevice,
  options: UnregisterOptions = {},
): Promise<void> {
  if (!dev.registered || dev.leaving) return;
  await vfioPciCoreSriovConfigure(dev, 0);
  dev.leaving = true;
  const interval = options.requestIntervalMs ?? REQUEST_INTERVAL_MS;
  for (let count = 0; dev.openCount > 0; count++) {
    try {
      dev.ops.request(dev, count);
    } catch (error) {
      // A driver that cannot pass it on does not keep the device: the wait ends with the last close all the same.
      dev.warn(`request: ${error instanceof Error ? error.message : String(error)}`);
    }
    await idleWithin(dev, interval);
  }
  // An opening or closing that has its turn now still needs the set.
  const unlock = await dev.deviceSet!.lock.acquire();
  dev.registered = false;
  unlock();
  leaveDeviceSet(dev);
  if (dev.fn.base.kind === 'raw') {
    vfUninit(dev);
    try {
      if (!dev.params.disableIdleD3) await pmGet(dev);
    } catch (error) {
      dev.warn(`could not be powered up at remove: ${String(error)}`);
    }
  }
}

/** Waits until nobody has the device open, or for as long as one request lasts. */
function idleWithin(dev: VfioPciCoreDevice, ms: number): Promise<void> {
  if (dev.openCount === 0) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      dev.onIdle = undefined;
      resolve();
    }, ms);
    dev.onIdle = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}

export interface ProbeOptions {
  /** The driver's table, or the name under which it is in the registry of the bus. */
  readonly ops: VfioOpsFactory | string;
  /** What only the generic driver passes. */
  readonly params?: Partial<VfioPciCoreParams>;
  /** Sentences for the log. Default: the bus is told. */
  readonly warn?: (message: string) => void;
}

/**
 * A VFIO driver's whole probe: allocates the device, makes it the function's driver data, registers it.
 *
 * @throws ENOENT for a name that the registry does not have, what allocation and registration throw; the function is as
 *   before then.
 */
export async function vfioPciCoreProbe(
  bus: PciBus,
  fn: PciFunction,
  options: ProbeOptions,
): Promise<VfioPciCoreDevice> {
  const ops = typeof options.ops === 'string' ? bus.ops.get(options.ops).ops : options.ops;
  const dev = vfioPciCoreAllocDevice(fn, ops, { ...options, bus });
  bus.setDrvdata(fn, dev);
  try {
    await vfioPciCoreRegisterDevice(dev);
  } catch (error) {
    bus.setDrvdata(fn, undefined);
    vfioPciCorePutDevice(dev);
    throw error;
  }
  return dev;
}

/** A VFIO driver's whole remove. Waits until nobody has the device open. */
export async function vfioPciCoreRemove(bus: PciBus, fn: PciFunction, options: UnregisterOptions = {}): Promise<void> {
  const dev = deviceOf(bus, fn);
  await vfioPciCoreUnregisterDevice(dev, options);
  bus.setDrvdata(fn, undefined);
  vfioPciCorePutDevice(dev);
}

/** The VFIO device of a function that a VFIO driver has. @throws ENODEV (`ERR_VFIO_NO_DEVICE`) where there is none. */
export function deviceOf(bus: PciBus, fn: PciFunction): VfioPciCoreDevice {
  const data = bus.getDrvdata<unknown>(fn);
  // A second loaded copy of this package has another class: the shape decides.
  const dev = data as Partial<VfioPciCoreDevice> | undefined;
  if (dev?.ops?.api !== undefined && dev.fn === fn) return data as VfioPciCoreDevice;
  throw new VfioError('ERR_VFIO_NO_DEVICE', 'no VFIO driver has the function', {
    errno: 'ENODEV',
    op: 'deviceOf',
    device: fn.address,
  });
}
