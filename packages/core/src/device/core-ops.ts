import type { VfioPciCoreDevice } from './core-device.js';
import { vfioPciCoreCloseDevice, vfioPciCoreEnable, vfioPciCoreFinishEnable } from './enable.js';
import { vfioPciCoreDeviceFeature } from './feature.js';
import { vfioPciCoreGetHotResetInfo, vfioPciCoreHotReset } from './hot-reset.js';
import { vfioPciCoreGetInfo, vfioPciCoreGetIrqInfo, vfioPciCoreGetRegionInfo } from './info-ops.js';
import { vfioPciCoreIoeventfd } from './ioeventfd.js';
import { vfioPciCoreMmapArea } from './mmap.js';
import { VFIO_OPS_API, type VfioDeviceOps } from './ops.js';
import { whileAwake, whileAwakeSync } from './power.js';
import { vfioPciCoreRead, vfioPciCoreWrite } from './region-io.js';
import { vfioPciCoreReset } from './reset.js';
import { vfioPciCoreSetIrqs } from './set-irqs.js';
import { vfioPciCoreMatch, vfioPciCoreMatchTokenUuid } from './vf-token.js';

/** The device is wanted back: `vfio_pci_core_request`. */
export function vfioPciCoreRequest(dev: VfioPciCoreDevice, count: number): void {
  const { reqTrigger } = dev.irqs;
  if (reqTrigger !== undefined) {
    if (count % 10 === 0) dev.warn(`the user is asked to let go of the device (${count})`);
    reqTrigger.signal();
  } else if (count === 0) {
    dev.warn('no REQ trigger is set, so nobody can be asked to let go: waiting until the user closes the device');
  }
}

async function openDevice(dev: VfioPciCoreDevice): Promise<void> {
  await vfioPciCoreEnable(dev);
  vfioPciCoreFinishEnable(dev);
}

/**
 * The table over bare hardware: what `vfio_pci_core_*` are to a kernel driver. Drivers get it (or the table of a function
 * that is a VFIO device already) as the base of theirs.
 */
export const corePciOps: VfioDeviceOps = Object.freeze({
  name: 'vfio-pci-core',
  api: VFIO_OPS_API,
  init() {},
  release() {},
  openDevice,
  closeDevice: vfioPciCoreCloseDevice,
  getInfo: (dev: VfioPciCoreDevice) => whileAwakeSync(dev, 'getInfo', () => vfioPciCoreGetInfo(dev)),
  getRegionInfo: (dev: VfioPciCoreDevice, index: number) =>
    whileAwakeSync(dev, 'getRegionInfo', () => vfioPciCoreGetRegionInfo(dev, index)),
  getIrqInfo: (dev: VfioPciCoreDevice, index: number) =>
    whileAwakeSync(dev, 'getIrqInfo', () => vfioPciCoreGetIrqInfo(dev, index)),
  getHotResetInfo: (dev: VfioPciCoreDevice) =>
    whileAwakeSync(dev, 'getHotResetInfo', () => vfioPciCoreGetHotResetInfo(dev)),
  read: vfioPciCoreRead,
  write: vfioPciCoreWrite,
  mmapArea: vfioPciCoreMmapArea,
  setIrqs: (dev, request) => whileAwakeSync(dev, 'setIrqs', () => vfioPciCoreSetIrqs(dev, request)),
  ioeventfd: (dev, request) => whileAwakeSync(dev, 'ioeventfd', () => vfioPciCoreIoeventfd(dev, request)),
  reset: (dev) => whileAwake(dev, 'reset', () => vfioPciCoreReset(dev)),
  hotReset: (dev, request) => whileAwake(dev, 'hotReset', () => vfioPciCoreHotReset(dev, request)),
  deviceFeature: (dev, request) => whileAwake(dev, 'deviceFeature', () => vfioPciCoreDeviceFeature(dev, request)),
  request: vfioPciCoreRequest,
  match: vfioPciCoreMatch,
  matchTokenUuid: vfioPciCoreMatchTokenUuid,
  dmaMap: (dev, request) => dev.dmaSpace.map(request),
  dmaUnmap: (dev, iova, size) => dev.dmaSpace.unmap(iova, size),
} satisfies VfioDeviceOps);
