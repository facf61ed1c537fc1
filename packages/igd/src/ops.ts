import type { VfioDeviceOps, VfioOpsFactory, VfioPciCoreDevice } from '@vfio/core';
import { isVfioError } from '@vfio/uapi';
import { registerBridgeRegion } from './bridges.js';
import { registerOpRegion } from './opregion.js';

/** The table: the base's, and three regions at open. */
export const igdOps: VfioOpsFactory = (core) => ({
  ...core,
  name: 'igd-vfio-pci',
  openDevice: (dev) => openDevice(core, dev),
});

async function openDevice(core: VfioDeviceOps, dev: VfioPciCoreDevice): Promise<void> {
  await core.openDevice(dev);
  // A base that is VFIO already has its own regions: the kernel's driver added them.
  if (dev.fn.base.kind !== 'raw') return;
  try {
    registerRegions(dev);
  } catch (error) {
    await core.closeDevice(dev);
    throw error;
  }
}

/**
 * A device without an OpRegion is a discrete card or a virtual function, and one without its bridges is in a machine that
 * hides them: plain passthrough. What is there and broken fails the open.
 */
function registerRegions(dev: VfioPciCoreDevice): void {
  try {
    registerOpRegion(dev);
    registerBridgeRegion(dev, 'host');
    registerBridgeRegion(dev, 'lpc');
  } catch (error) {
    if (!isVfioError(error) || error.errno !== 'ENODEV') throw error;
  }
}
