import {
  isVfioError,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_NUM_REGIONS,
} from '@vfio/uapi';
import { ConfigResetWatch } from './config-reset-watch.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { devRegionAt, mmapDevRegion, releaseRegions } from './dev-region.js';
import type { DmaMapRequest } from './dma-space.js';
import { driverFeature, notMigratable } from './feature.js';
import { vfioCheckFeatureFlags } from './feature-check.js';
import { deviceCaps, devRegionInfo } from './info-ops.js';
import { chain, type MaybePromise } from './maybe-promise.js';
import type { VfioDeviceOps } from './ops.js';
import { notifyReset } from './reset.js';

const watches = new WeakMap<VfioPciCoreDevice, ConfigResetWatch>();

/**
 * The table of a function that is a VFIO device already, with what a driver attaches merged over it: device regions after
 * the base's own, capabilities, features, migration and logging. So a variant is written once and runs on every base.
 */
export function vfioBaseOps(base: VfioDeviceOps): VfioDeviceOps {
  return {
    ...base,
    async openDevice(dev) {
      await base.openDevice(dev);
      try {
        dev.baseMigrates = await migrates(base, dev);
      } catch (error) {
        await base.closeDevice(dev);
        throw error;
      }
      if (dev.baseMigrates && dev.migrationOps !== undefined)
        dev.warn('the device below migrates itself; its migration is used, not that of this driver');
      // Its open resets the function, as core's does over hardware.
      notifyReset(dev);
      // The base may add regions of its own at open.
      dev.baseRegions = Math.max(base.getInfo(dev).numRegions, VFIO_PCI_NUM_REGIONS);
      watches.set(
        dev,
        new ConfigResetWatch((offset, data) => base.read(dev, VFIO_PCI_CONFIG_REGION_INDEX, offset, data)),
      );
    },
    async closeDevice(dev) {
      watches.delete(dev);
      releaseRegions(dev, dev.lastingRegions);
      await base.closeDevice(dev);
      dev.baseMigrates = false;
      dev.baseRegions = VFIO_PCI_NUM_REGIONS;
    },
    getInfo(dev) {
      const info = base.getInfo(dev);
      const caps = [...info.caps, ...deviceCaps(dev)];
      return {
        flags: info.flags,
        numRegions: dev.baseRegions + dev.regions.length,
        numIrqs: info.numIrqs,
        caps,
      };
    },
    getRegionInfo: (dev, index) =>
      index >= dev.baseRegions ? devRegionInfo(dev, index, 'getRegionInfo') : base.getRegionInfo(dev, index),
    read(dev, region, offset, data) {
      if (region < dev.baseRegions) return base.read(dev, region, offset, data);
      const own = devRegionAt(dev, region, 'read');
      return own.ops.read(dev, own, offset, data);
    },
    write(dev, region, offset, data) {
      if (region === VFIO_PCI_CONFIG_REGION_INDEX && watches.get(dev)?.resets(offset, data) === true) {
        return writeThatResets(base, dev, offset, data);
      }
      if (region < dev.baseRegions) return base.write(dev, region, offset, data);
      const own = devRegionAt(dev, region, 'write');
      return own.ops.write(dev, own, offset, data);
    },
    mmapArea: (dev, region, offset, length) =>
      region < dev.baseRegions
        ? base.mmapArea(dev, region, offset, length)
        : mmapDevRegion(dev, region, offset, length),
    reset: (dev) => chain(base.reset(dev), () => notifyReset(dev)),
    hotReset: (dev, request) => chain(base.hotReset(dev, request), () => notifyReset(dev)),
    deviceFeature(dev, request) {
      vfioCheckFeatureFlags(dev, request.flags);
      const own = driverFeature(dev, request);
      if (own !== undefined) return own.result;
      const index = request.flags & VFIO_DEVICE_FEATURE_MASK;
      // The base cannot know what this driver misses.
      if (index === VFIO_DEVICE_FEATURE_MIGRATION && !dev.baseMigrates && dev.whyNotMigratable !== undefined)
        throw notMigratable(dev);
      return base.deviceFeature(dev, request);
    },
    dmaMap(dev, request) {
      const [forBase, forSpace] = shareMapping(request);
      try {
        base.dmaMap(dev, forBase);
      } catch (error) {
        forSpace.release?.();
        throw error;
      }
      try {
        // Drivers reach guest memory through the device's own space, whoever does the DMA.
        dev.dmaSpace.map(forSpace);
      } catch (error) {
        void base.dmaUnmap(dev, request.iova, request.size);
        throw error;
      }
    },
    dmaUnmap: (dev, iova, size) => chain(dev.dmaSpace.unmap(iova, size), () => base.dmaUnmap(dev, iova, size)),
  };
}

/** Whether the base has the feature of migration. */
async function migrates(base: VfioDeviceOps, dev: VfioPciCoreDevice): Promise<boolean> {
  try {
    await base.deviceFeature(dev, { flags: VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_GET });
    return true;
  } catch (error) {
    // ENOTTY; EINVAL of kernels before 7.3 for a driver without features.
    if (isVfioError(error) && (error.errno === 'ENOTTY' || error.errno === 'EINVAL')) return false;
    throw error;
  }
}

/** Apart from `write`: a function that holds a closure makes a context for it at each call. */
function writeThatResets(
  base: VfioDeviceOps,
  dev: VfioPciCoreDevice,
  offset: number,
  data: Uint8Array,
): MaybePromise<number> {
  return chain(base.write(dev, VFIO_PCI_CONFIG_REGION_INDEX, offset, data), (done) => {
    notifyReset(dev);
    return done;
  });
}

/** Two requests for one mapping; it is released when both have let go of it. */
function shareMapping(request: DmaMapRequest): [DmaMapRequest, DmaMapRequest] {
  let holders = 2;
  const release = () => {
    if (--holders === 0) request.release?.();
  };
  const once = () => {
    let released = false;
    return () => {
      if (!released) release();
      released = true;
    };
  };
  return [
    { ...request, release: once() },
    { ...request, release: once() },
  ];
}
