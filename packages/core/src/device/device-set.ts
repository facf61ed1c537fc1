import type { PciFunction, PciHost } from '../pci/function.js';
import type { RawResetScope } from '../pci/raw-function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { AsyncMutex } from './maybe-promise.js';

/** The devices that a slot or bus reset takes together; opening, closing and hot reset of them take turns. */
export class DeviceSet {
  readonly key: string;
  readonly devices = new Set<VfioPciCoreDevice>();
  readonly lock = new AsyncMutex();

  constructor(key: string) {
    this.key = key;
  }

  /** Handles that are open in the whole set. */
  get openCount(): number {
    let count = 0;
    for (const dev of this.devices) count += dev.openCount;
    return count;
  }
}

const setsOfHosts = new WeakMap<PciHost, Map<string, DeviceSet>>();

/** The slot or bus that resets a function, or undefined on a root bus, for a VF and where the base is no hardware. */
export function resetScopeOf(fn: PciFunction): RawResetScope | undefined {
  return fn.base.kind === 'raw' ? fn.base.resetScope : undefined;
}

/** What a function shares its set with: nothing on a root bus and for a VF; else its slot, where that can be reset; else its bus. */
export function deviceSetKey(fn: PciFunction): string {
  const scope = resetScopeOf(fn);
  if (scope === undefined || fn.physfn !== undefined) return `function ${fn.address}`;
  const bus = fn.address.slice(0, fn.address.lastIndexOf(':'));
  return scope.kind === 'bus' ? `bus ${bus}` : `slot ${fn.address.slice(0, fn.address.lastIndexOf('.'))}`;
}

/** Adds a device to its set, made where it is the first. */
export function joinDeviceSet(dev: VfioPciCoreDevice): void {
  if (dev.fn.base.kind !== 'raw') {
    // Alone: the device below, of the same address and host, is opened while this one has its turn.
    const own = new DeviceSet(deviceSetKey(dev.fn));
    own.devices.add(dev);
    dev.deviceSet = own;
    return;
  }
  let sets = setsOfHosts.get(dev.fn.host);
  if (sets === undefined) {
    sets = new Map();
    setsOfHosts.set(dev.fn.host, sets);
  }
  const key = deviceSetKey(dev.fn);
  let set = sets.get(key);
  if (set === undefined) {
    set = new DeviceSet(key);
    sets.set(key, set);
  }
  set.devices.add(dev);
  dev.deviceSet = set;
}

/** Takes a device out of its set. */
export function leaveDeviceSet(dev: VfioPciCoreDevice): void {
  const set = dev.deviceSet;
  if (set === undefined) return;
  dev.deviceSet = undefined;
  set.devices.delete(dev);
  const sets = setsOfHosts.get(dev.fn.host);
  if (set.devices.size === 0 && sets?.get(set.key) === set) sets.delete(set.key);
}
