import { hex, VFIO_PCI_ROM_REGION_INDEX } from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';
import { VFIO_PCI_IOEVENTFD_MAX } from './ioeventfd-list.js';
import { storeBytes } from './region-io.js';
import type { IoeventfdRequest } from './triggers.js';

/**
 * VFIO_DEVICE_IOEVENTFD: stores `data` to a BAR whenever the trigger is signalled, or with a null trigger ends that. The
 * trigger belongs to the device, whatever comes of the call.
 *
 * @throws EINVAL (not a BAR, outside of it, over the MSI-X table, width), the BAR's kept error, EEXIST (the same store
 *   again), ENODEV (removing what is not there), ENOSPC (1000 exist).
 */
export function vfioPciCoreIoeventfd(dev: VfioPciCoreDevice, request: IoeventfdRequest): void {
  let taken = false;
  try {
    taken = change(dev, request);
  } finally {
    if (!taken) request.trigger?.release();
  }
}

/** Returns whether the trigger was taken. */
function change(dev: VfioPciCoreDevice, request: IoeventfdRequest): boolean {
  const { region, offset, width, data, trigger } = request;
  const shown = `ioeventfd at region ${region} ${hex(offset)}+${width}`;
  const problem = (message: string) => dev.error('EINVAL', 'ioeventfd', `${shown}: ${message}`);
  if (width !== 1 && width !== 2 && width !== 4 && width !== 8) throw problem('the width must be 1, 2, 4 or 8');
  const bar = region >= 0 && region < VFIO_PCI_ROM_REGION_INDEX ? dev.bars[region] : undefined;
  if (bar === undefined) throw problem('only BARs can have one');
  if (!Number.isSafeInteger(offset) || offset < 0 || offset + width > bar.size)
    throw problem(`past the end (size ${hex(bar.size)})`);
  if (offset < bar.holeEnd && offset + width > bar.holeStart) throw problem('over the MSI-X table');
  if (bar.error !== undefined) {
    throw dev.error(bar.error, 'ioeventfd', `${shown}: the BAR could not be mapped when the device was opened`);
  }
  const value = BigInt.asUintN(64, data);
  const known = dev.ioeventfds.find(region, offset, width, value);
  if (trigger === null) {
    if (known === undefined)
      throw dev.error('ENODEV', 'ioeventfd', `${shown}: there is none with data ${hex(value)} to remove`);
    dev.ioeventfds.remove(known);
    return false;
  }
  if (known !== undefined)
    throw dev.error('EEXIST', 'ioeventfd', `${shown}: one with data ${hex(value)} exists already`);
  if (dev.ioeventfds.count >= VFIO_PCI_IOEVENTFD_MAX) {
    throw dev.error('ENOSPC', 'ioeventfd', `${shown}: the device has its limit of ${VFIO_PCI_IOEVENTFD_MAX}`);
  }
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  const stop = trigger.watch(() => {
    // Nobody is there to be told of an error: a store while memory is off or the function sleeps is lost, as on the bus.
    const { space } = bar;
    if (space === undefined || dev.memoryLocks > 0 || dev.power.asleep) return;
    if (!bar.isIo && dev.config?.memoryEnabled !== true) return;
    storeBytes(space, offset, bytes, width, 0, 0, 8);
  });
  dev.ioeventfds.add({ bar: region, offset, width, data: value, trigger, stop });
  return true;
}
