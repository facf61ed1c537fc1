import type { VfioDeviceOps, VfioOpsFactory, VfioPciCoreDevice } from '@vfio/core';
import { quiesce } from './config.js';
import { Controller } from './controller.js';

/** The table: core's, with open and close of our own. */
export const nvmeOps: VfioOpsFactory = (core) => ({
  ...core,
  name: 'nvme-vfio-pci',
  openDevice: (dev) => openDevice(core, dev),
  closeDevice: (dev) => closeDevice(core, dev),
});

/**
 * A user finds a disabled controller, however its last one left it. A controller that will not be disabled fails the
 * open: its user could only find it hung.
 */
async function openDevice(core: VfioDeviceOps, dev: VfioPciCoreDevice): Promise<void> {
  await core.openDevice(dev);
  try {
    await new Controller(dev, core).disable();
  } catch (error) {
    await core.closeDevice(dev);
    throw error;
  }
}

/**
 * Runs for a user that closed and for one that was killed. The function reset in core's close would be next; what the
 * user was told is written must be safe from it, and from the power that may go after it.
 */
async function closeDevice(core: VfioDeviceOps, dev: VfioPciCoreDevice): Promise<void> {
  try {
    await quiesce(dev, core);
    await new Controller(dev, core).shutdown();
  } catch (error) {
    // A close cannot fail, and a controller that is broken is reset next; but somebody's data may be lost.
    dev.warn(`no orderly shutdown: ${error instanceof Error ? error.message : String(error)}`);
  }
  await core.closeDevice(dev);
}
