import type { DevRegion, VfioPciCoreDevice } from '@vfio/core';
import { PCI_VENDOR_ID_INTEL, VFIO_REGION_TYPE_PCI_VENDOR_TYPE } from '@vfio/uapi';

/** Type of all regions of this driver. */
export const INTEL_REGION_TYPE = (VFIO_REGION_TYPE_PCI_VENDOR_TYPE | PCI_VENDOR_ID_INTEL) >>> 0;

/** Bytes that a read gets. @throws EINVAL from the end of the region on */
export function clipRead(dev: VfioPciCoreDevice, region: DevRegion, offset: number, data: Uint8Array): number {
  if (offset < region.size) return Math.min(data.length, region.size - offset);
  throw dev.error('EINVAL', 'read', `offset ${offset} in a region of ${region.size} bytes`);
}

/** @throws EINVAL always */
export function refuseWrite(dev: VfioPciCoreDevice): never {
  throw dev.error('EINVAL', 'write', 'the region is read-only');
}
