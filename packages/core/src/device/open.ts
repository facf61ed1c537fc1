import { messageOf } from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';
import { releaseRegions } from './dev-region.js';
import { OpenedDevice } from './handle.js';
import { endSession } from './migration.js';
import { tokenBytes } from './vf-token.js';
import type { OpenOptions, VfioDevice } from './vfio-device.js';

/**
 * Opens a device. Several handles share it: the first opening enables the function and runs the driver's `openDevice`, the
 * last close undoes that. Openings and closings in one reset set take turns.
 *
 * @throws ENODEV (not registered, or going away), EINVAL and EACCES (VF token), what `openDevice` threw (EAGAIN where the
 *   function's reset lock is contended); the device is as before then.
 */
export async function openVfioDevice(dev: VfioPciCoreDevice, options: OpenOptions): Promise<VfioDevice> {
  const token = tokenBytes(options.vfToken);
  checkPresent(dev);
  const unlock = await dev.deviceSet!.lock.acquire();
  try {
    // It may have gone while this call waited for its turn.
    checkPresent(dev);
    dev.ops.matchTokenUuid(dev, token);
    dev.openCount++;
    try {
      if (dev.openCount === 1) await firstOpen(dev);
    } catch (error) {
      leave(dev);
      throw error;
    }
    return new OpenedDevice(dev, () => closeOnce(dev));
  } finally {
    unlock();
  }
}

function checkPresent(dev: VfioPciCoreDevice): void {
  if (dev.registered && !dev.leaving) return;
  throw dev.error('ENODEV', 'open', dev.leaving ? 'the device is going away' : 'the device is not registered');
}

function leave(dev: VfioPciCoreDevice): void {
  dev.openCount--;
  if (dev.openCount > 0) return;
  const { onIdle } = dev;
  dev.onIdle = undefined;
  onIdle?.();
}

async function firstOpen(dev: VfioPciCoreDevice): Promise<void> {
  dev.lastingRegions = dev.regions.length;
  try {
    await dev.ops.openDevice(dev);
  } catch (error) {
    releaseRegions(dev, dev.lastingRegions);
    throw error;
  }
  const opened = [];
  try {
    for (const extension of dev.extensions) {
      await extension.openDevice?.(dev);
      opened.push(extension);
    }
  } catch (error) {
    await shutDown(dev, opened);
    throw error;
  }
}

async function closeOnce(dev: VfioPciCoreDevice): Promise<void> {
  const unlock = await dev.deviceSet!.lock.acquire();
  try {
    if (dev.openCount === 1) await lastClose(dev);
  } finally {
    leave(dev);
    unlock();
  }
}

async function lastClose(dev: VfioPciCoreDevice): Promise<void> {
  endSession(dev);
  await shutDown(dev, dev.extensions);
  dev.precopyInfoV2 = false;
  dev.dmaSpace.remote = undefined;
  dev.dmaSpace.stopLog();
  try {
    await dev.dmaSpace.unmapAll();
  } catch (error) {
    dev.warn(`DMA mappings at close: ${messageOf(error)}`);
  }
}

/** Closes extensions, last first, then the device. What fails is told and does not stop the rest. */
async function shutDown(dev: VfioPciCoreDevice, extensions: VfioPciCoreDevice['extensions']): Promise<void> {
  const tell = (what: string, error: unknown) => dev.warn(`${what} at close: ${messageOf(error)}`);
  for (const extension of [...extensions].reverse()) {
    try {
      await extension.closeDevice?.(dev);
    } catch (error) {
      tell(`extension ${extension.name}`, error);
    }
  }
  try {
    await dev.ops.closeDevice(dev);
  } catch (error) {
    tell(`ops ${dev.ops.name}`, error);
  }
}
