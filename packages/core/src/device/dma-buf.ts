import { VFIO_DEVICE_FEATURE_GET, VFIO_PCI_ROM_REGION_INDEX } from '@vfio/uapi';
import type { RawDmaBuf } from '../pci/raw-function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { vfioCheckFeature } from './feature-check.js';
import type { DmaBufRequest, FeatureRequest } from './features.js';
import { isMappingLive } from './memory.js';
import { PAGE_SIZE } from './mmap.js';

/**
 * VFIO_DEVICE_FEATURE_DMA_BUF: ranges of a BAR as a descriptor for another device. It is revoked while memory decode is
 * off, and born so where that is the case now.
 *
 * @throws EOPNOTSUPP (the host cannot, PROBE included), ENODEV (not a BAR, or not mapped), EINVAL (no range, flags, an I/O
 *   BAR, not page-aligned, past the BAR), EOVERFLOW.
 */
export function exportDmaBuf(dev: VfioPciCoreDevice, request: FeatureRequest): { fd: number } | undefined {
  const { raw } = dev;
  if (raw.exportDmaBuf === undefined)
    throw dev.error('EOPNOTSUPP', 'DMA_BUF', 'BARs of this host cannot be handed out as DMA buffers');
  if (!vfioCheckFeature(dev, request.flags, VFIO_DEVICE_FEATURE_GET)) return undefined;
  const problem = (message: string) => dev.error('EINVAL', 'DMA_BUF', message);
  const wanted = request.value as (DmaBufRequest & { readonly flags?: number }) | undefined;
  if (wanted === undefined || !Array.isArray(wanted.ranges) || wanted.ranges.length === 0)
    throw problem('no range is given');
  if ((wanted.flags ?? 0) !== 0) throw problem(`flags 0x${(wanted.flags ?? 0).toString(16)}: none are defined`);
  const bar = wanted.region >= 0 && wanted.region < VFIO_PCI_ROM_REGION_INDEX ? dev.bars[wanted.region] : undefined;
  if (bar === undefined || bar.space === undefined) {
    throw dev.error('ENODEV', 'DMA_BUF', `region ${wanted.region}: not a BAR that is mapped`);
  }
  if (bar.isIo) throw problem(`region ${wanted.region}: I/O ports are no memory that another device could reach`);
  for (const { offset, length } of wanted.ranges) {
    if (!(offset >= 0) || !(length > 0) || offset % PAGE_SIZE !== 0 || length % PAGE_SIZE !== 0) {
      throw problem(`range 0x${offset.toString(16)}+0x${length.toString(16)}: must be whole pages`);
    }
    if (!Number.isSafeInteger(offset + length)) {
      throw dev.error('EOVERFLOW', 'DMA_BUF', 'a range is longer than can be counted');
    }
    if (offset + length > bar.size)
      throw problem(
        `range 0x${offset.toString(16)}+0x${length.toString(16)}: past the BAR (size 0x${bar.size.toString(16)})`,
      );
  }
  const buffer: RawDmaBuf = raw.exportDmaBuf(wanted.region, wanted.ranges, wanted.openFlags);
  buffer.setRevoked(!isMappingLive(dev));
  dev.memoryWatchers.add((enabled) => buffer.setRevoked(!enabled));
  return { fd: buffer.fd };
}
