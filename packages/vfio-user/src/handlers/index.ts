import {
  VFIO_USER_DEVICE_FEATURE,
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO,
  VFIO_USER_DEVICE_GET_REGION_IO_FDS,
  VFIO_USER_DEVICE_RESET,
  VFIO_USER_DEVICE_SET_IRQS,
  VFIO_USER_DMA_MAP,
  VFIO_USER_DMA_UNMAP,
  VFIO_USER_MIG_DATA_READ,
  VFIO_USER_MIG_DATA_WRITE,
} from '@vfio/uapi';
import { dmaMap, dmaUnmap } from './dma.js';
import { deviceFeature } from './feature.js';
import type { Handler } from './handler.js';
import { getInfo, getIrqInfo, getRegionInfo, getRegionIoFds } from './info.js';
import { setIrqs } from './irqs.js';
import { migDataRead, migDataWrite } from './migration-data.js';
import { deviceReset } from './reset.js';

/** Who carries out which command of an attached client. Region accesses are the session's own: they are the fast path. */
export const HANDLERS: ReadonlyMap<number, Handler> = new Map([
  [VFIO_USER_DMA_MAP, dmaMap],
  [VFIO_USER_DMA_UNMAP, dmaUnmap],
  [VFIO_USER_DEVICE_GET_INFO, getInfo],
  [VFIO_USER_DEVICE_GET_REGION_INFO, getRegionInfo],
  [VFIO_USER_DEVICE_GET_REGION_IO_FDS, getRegionIoFds],
  [VFIO_USER_DEVICE_GET_IRQ_INFO, getIrqInfo],
  [VFIO_USER_DEVICE_SET_IRQS, setIrqs],
  [VFIO_USER_DEVICE_RESET, deviceReset],
  [VFIO_USER_DEVICE_FEATURE, deviceFeature],
  [VFIO_USER_MIG_DATA_READ, migDataRead],
  [VFIO_USER_MIG_DATA_WRITE, migDataWrite],
]);
