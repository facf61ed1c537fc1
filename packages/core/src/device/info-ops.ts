import {
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_INFO_NORESIZE,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_PCI_VGA_REGION_INDEX,
  VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';
import { devRegionAt } from './dev-region.js';
import type { DeviceCap, DeviceInfo, IrqInfo, RegionCap, RegionInfo } from './info.js';
import { withMemoryEnabled } from './memory.js';
import { romSize, withRom } from './rom.js';
import { irqCount } from './set-irqs.js';

/** Bits of a device file's offset that are the offset within a region. */
const OFFSET_SPAN = 2 ** 40;
const VGA_REGION_SIZE = 0xc0000;
const READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

/** Capabilities of the device as they are now. */
export function deviceCaps(dev: VfioPciCoreDevice): DeviceCap[] {
  const caps: DeviceCap[] = [];
  for (const cap of dev.infoCaps) {
    const made = typeof cap === 'function' ? cap(dev) : cap;
    if (made !== undefined) caps.push(made);
  }
  return caps;
}

/** VFIO_DEVICE_GET_INFO. */
export function vfioPciCoreGetInfo(dev: VfioPciCoreDevice): DeviceInfo {
  const caps = deviceCaps(dev);
  return {
    flags: VFIO_DEVICE_FLAGS_PCI | (dev.resetWorks ? VFIO_DEVICE_FLAGS_RESET : 0),
    numRegions: VFIO_PCI_NUM_REGIONS + dev.regions.length,
    numIrqs: VFIO_PCI_NUM_IRQS,
    caps,
  };
}

/** VFIO_DEVICE_GET_REGION_INFO. @throws EINVAL for a region that the device does not have, and for VGA on a function without. */
export function vfioPciCoreGetRegionInfo(dev: VfioPciCoreDevice, index: number): RegionInfo {
  const offset = index * OFFSET_SPAN;
  if (index === VFIO_PCI_CONFIG_REGION_INDEX) {
    return { index, flags: READ_WRITE, size: dev.config?.size ?? 0, offset, caps: [] };
  }
  if (index === VFIO_PCI_ROM_REGION_INDEX) {
    const size = romSize(dev);
    // Whether there is an image shows only with memory decode on, whatever the user's COMMAND says.
    const isValid = size > 0 && withMemoryEnabled(dev, () => withRom(dev, () => true)) === true;
    return !isValid
      ? { index, flags: 0, size: 0, offset, caps: [] }
      : { index, flags: VFIO_REGION_INFO_FLAG_READ, size, offset, caps: [] };
  }
  if (index === VFIO_PCI_VGA_REGION_INDEX) {
    if (dev.vga === undefined) throw dev.error('EINVAL', 'getRegionInfo', 'region 8: the function has no VGA ranges');
    return { index, flags: READ_WRITE, size: VGA_REGION_SIZE, offset, caps: [] };
  }
  if (index >= 0 && index < VFIO_PCI_ROM_REGION_INDEX) return barInfo(dev, index, offset);
  return { ...devRegionInfo(dev, index, 'getRegionInfo'), offset };
}

function barInfo(dev: VfioPciCoreDevice, index: number, offset: number): RegionInfo {
  const bar = dev.bars[index]!;
  if (bar.size === 0) return { index, flags: 0, size: 0, offset, caps: [] };
  const caps: RegionCap[] = [];
  let flags = READ_WRITE;
  if (bar.mmapable) {
    flags |= VFIO_REGION_INFO_FLAG_MMAP;
    const areas = bar.space?.mmapAreas ?? [];
    const whole = areas.length === 0 || (areas.length === 1 && areas[0]!.offset === 0 && areas[0]!.size >= bar.size);
    if (!whole) {
      caps.push({
        id: VFIO_REGION_INFO_CAP_SPARSE_MMAP,
        version: 1,
        areas: areas.map((area) => ({ offset: area.offset, size: area.size })),
      });
    }
    if (index === dev.msixBar) caps.push({ id: VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, version: 1 });
  }
  return { index, flags, size: bar.size, offset, caps };
}

/** Info of a device region, whatever the base; without an offset. @throws EINVAL */
export function devRegionInfo(dev: VfioPciCoreDevice, index: number, op: string): RegionInfo {
  const region = devRegionAt(dev, index, op);
  const caps: RegionCap[] = [
    { id: VFIO_REGION_INFO_CAP_TYPE, version: 1, type: region.type, subtype: region.subtype },
    ...(region.ops.addCapability?.(dev, region) ?? []),
  ];
  return {
    index,
    flags: region.flags,
    size: region.size,
    offset: index * OFFSET_SPAN,
    caps,
  };
}

/** VFIO_DEVICE_GET_IRQ_INFO. @throws EINVAL for an index that PCI devices do not have. */
export function vfioPciCoreGetIrqInfo(dev: VfioPciCoreDevice, index: number): IrqInfo {
  if (!Number.isInteger(index) || index < 0 || index >= VFIO_PCI_NUM_IRQS) {
    throw dev.error('EINVAL', 'getIrqInfo', `interrupt index ${index}: must be below ${VFIO_PCI_NUM_IRQS}`);
  }
  let flags = VFIO_IRQ_INFO_EVENTFD;
  if (index === VFIO_PCI_INTX_IRQ_INDEX) flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
  else if (index !== VFIO_PCI_MSIX_IRQ_INDEX || !dev.irqs.dynamicMsix) flags |= VFIO_IRQ_INFO_NORESIZE;
  return { index, flags, count: irqCount(dev, index) };
}
