import { parsePciAddress } from '../pci/address.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { resetScopeOf } from './device-set.js';
import type { HotResetInfo } from './info.js';
import type { MaybePromise } from './maybe-promise.js';
import type { HotResetRequest } from './ops.js';
import { foreignFunctions, resetScope } from './reset-set.js';

/**
 * VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: every function that a hot reset takes with it, by group.
 *
 * @throws ENODEV where neither slot nor bus can be reset, EPERM where one of them has no IOMMU group.
 */
export function vfioPciCoreGetHotResetInfo(dev: VfioPciCoreDevice): HotResetInfo {
  const scope = resetScopeOf(dev.fn);
  if (scope === undefined) throw noScope(dev, 'getHotResetInfo');
  return {
    flags: 0,
    devices: scope.functions().map((fn) => {
      if (fn.iommuGroup === undefined)
        throw dev.error('EPERM', 'getHotResetInfo', `${fn.address} is in no IOMMU group`);
      const { domain, bus, device, function: number } = parsePciAddress(fn.address);
      return { id: fn.iommuGroup, segment: domain, bus, devfn: (device << 3) | number };
    }),
  };
}

/**
 * VFIO_DEVICE_PCI_HOT_RESET: resets the slot or bus with every function on it.
 *
 * @throws EINVAL (flags, no owned function, more of them than affected ones, one of those not owned or not a VFIO device),
 *   ENODEV (no slot or bus reset), EBUSY (a member's memory is held), EAGAIN (reset lock contended).
 */
export function vfioPciCoreHotReset(dev: VfioPciCoreDevice, request: HotResetRequest): MaybePromise<void> {
  const problem = (message: string) => dev.error('EINVAL', 'hotReset', message);
  if (request.flags !== 0) throw problem(`flags 0x${request.flags.toString(16)}: none are defined`);
  if (request.owned.length === 0) throw problem('no owned function is given');
  const scope = resetScopeOf(dev.fn);
  const set = dev.deviceSet;
  if (scope === undefined || set === undefined) throw noScope(dev, 'hotReset');
  const affected = scope.functions();
  if (request.owned.length > affected.length) {
    throw problem(`${request.owned.length} owned functions given, the reset takes only ${affected.length}`);
  }
  const foreign = foreignFunctions(dev);
  if (foreign.length > 0) {
    throw problem(
      `${foreign.map((fn) => fn.address).join(', ')}: bound to another driver, so the ${scope.kind} cannot be reset`,
    );
  }
  const owned = new Set(request.owned);
  for (const fn of affected) {
    if (!owned.has(fn.address)) throw problem(`${fn.address} would be reset too, but the caller does not own it`);
  }
  // Openings and closings in the set change what is reset.
  return set.lock.run(() => resetScope(dev, set));
}

function noScope(dev: VfioPciCoreDevice, op: string) {
  return dev.error('ENODEV', op, 'neither the slot nor the bus of the function can be reset');
}
