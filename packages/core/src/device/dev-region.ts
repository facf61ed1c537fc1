import { VFIO_REGION_INFO_FLAG_MMAP } from '@vfio/uapi';
import type { MmapArea } from '../pci/raw-function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import type { RegionCap } from './info.js';

/** What a device-specific region does: the kernel's `vfio_pci_regops`. Offsets are within the region. */
export interface DevRegionOps {
  /** Returns bytes done. @throws EINVAL beyond the end or where the region does not allow it. */
  read(dev: VfioPciCoreDevice, region: DevRegion, offset: number, data: Uint8Array): number;
  write(dev: VfioPciCoreDevice, region: DevRegion, offset: number, data: Uint8Array): number;
  /** Called when the device is disabled or put, once. */
  release?(dev: VfioPciCoreDevice, region: DevRegion): void;
  /** Only where `flags` has VFIO_REGION_INFO_FLAG_MMAP. */
  mmap?(dev: VfioPciCoreDevice, region: DevRegion, offset: number, length: number): MmapArea;
  /** Capabilities beside the region's type. */
  addCapability?(dev: VfioPciCoreDevice, region: DevRegion): readonly RegionCap[];
}

/** A region beyond those of every PCI device, as it is registered. */
export interface DevRegionInit {
  /** VFIO_REGION_TYPE_*; for a vendor's VFIO_REGION_TYPE_PCI_VENDOR_TYPE | vendor. */
  readonly type: number;
  readonly subtype: number;
  readonly size: number;
  /** VFIO_REGION_INFO_FLAG_READ, WRITE, MMAP. */
  readonly flags: number;
  readonly ops: DevRegionOps;
}

/** A registered region. */
export class DevRegion {
  readonly type: number;
  readonly subtype: number;
  readonly size: number;
  readonly flags: number;
  readonly ops: DevRegionOps;

  constructor(init: DevRegionInit) {
    this.type = init.type >>> 0;
    this.subtype = init.subtype >>> 0;
    this.size = init.size;
    this.flags = init.flags;
    this.ops = init.ops;
  }
}

/** The device region behind an index, whatever the base. @throws EINVAL where no region has it. */
export function devRegionAt(dev: VfioPciCoreDevice, index: number, op: string): DevRegion {
  const region = index < dev.baseRegions ? undefined : dev.regions[index - dev.baseRegions];
  if (region !== undefined) return region;
  throw dev.error(
    'EINVAL',
    op,
    `region ${index} ${op}: the device has ${dev.baseRegions + dev.regions.length} regions`,
  );
}

/** The memory behind a range of a device region. @throws EINVAL where the region cannot be mapped. */
export function mmapDevRegion(dev: VfioPciCoreDevice, index: number, offset: number, length: number): MmapArea {
  const region = devRegionAt(dev, index, 'mmapArea');
  if (region.ops.mmap === undefined || (region.flags & VFIO_REGION_INFO_FLAG_MMAP) === 0) {
    throw dev.error('EINVAL', 'mmapArea', `region ${index} cannot be mapped`);
  }
  return region.ops.mmap(dev, region, offset, length);
}

/** Releases the regions from an index on, last first. */
export function releaseRegions(dev: VfioPciCoreDevice, from: number): void {
  while (dev.regions.length > from) {
    const region = dev.regions.pop()!;
    region.ops.release?.(dev, region);
  }
}
