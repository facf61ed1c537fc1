import { messageOf, type VfioDeviceOps, type VfioOpsFactory, type VfioPciCoreDevice } from '@vfio/core';
import { PCI_COMMAND_MASTER } from '@vfio/uapi';
import { Config } from './config.js';
import { Controller } from './controller.js';

export interface NvmeOpsOptions {
  /** How long a controller may take to write its cache back, in ms. @default 5000, as Linux's nvme driver waits */
  readonly shutdownTimeoutMs?: number;
}

/** The table: the base's, with open and close of our own. */
export function nvmeOps({ shutdownTimeoutMs = 5000 }: NvmeOpsOptions = {}): VfioOpsFactory {
  return (core) => ({
    ...core,
    name: 'nvme-vfio-pci',
    openDevice: (dev) => openDevice(core, dev),
    closeDevice: (dev) => closeDevice(core, dev, shutdownTimeoutMs),
  });
}

/**
 * A user finds a disabled controller, however its last one left it. A controller that will not be disabled fails the
 * open: its user could only find it hung.
 */
async function openDevice(core: VfioDeviceOps, dev: VfioPciCoreDevice): Promise<void> {
  await core.openDevice(dev);
  try {
    const config = new Config(dev, core);
    const { command } = config;
    await config.quiesce();
    await new Controller(dev, core).disable();
    await config.setCommand(command & ~PCI_COMMAND_MASTER);
  } catch (error) {
    await core.closeDevice(dev);
    throw error;
  }
}

/**
 * Runs for a user that closed and for one that was killed. The function reset in core's close would be next; what the
 * user was told is written must be safe from it, and from the power that may go after it.
 */
async function closeDevice(core: VfioDeviceOps, dev: VfioPciCoreDevice, shutdownTimeoutMs: number): Promise<void> {
  try {
    await new Config(dev, core).quiesce();
    await new Controller(dev, core).shutdown(shutdownTimeoutMs);
  } catch (error) {
    // A close cannot fail, and a controller that is broken is reset next; but somebody's data may be lost.
    dev.warn(`no orderly shutdown: ${messageOf(error)}`);
  }
  await core.closeDevice(dev);
}
