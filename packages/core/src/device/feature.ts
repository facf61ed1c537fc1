import {
  checkLoggingRangeCount,
  checkLoggingRanges,
  checkLoggingReport,
  VFIO_DEVICE_FEATURE_DMA_BUF,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_MIGRATION_PRE_COPY,
  type VfioError,
} from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';
import { setDirtyBits } from './dirty-log.js';
import { exportDmaBuf } from './dma-buf.js';
import { vfioCheckFeature, vfioCheckFeatureFlags } from './feature-check.js';
import type { DmaLoggingReport, DmaLoggingStart, FeatureRequest, FeatureResult } from './features.js';
import { enterLowPower, leaveLowPower } from './low-power.js';
import { chain, type MaybePromise } from './maybe-promise.js';
import { getMigrationDataSize, getMigrationState, setMigrationState } from './migration.js';
import type { VfioLogOps } from './migration-types.js';
import { PAGE_SIZE } from './mmap.js';
import { nameDevice } from './name-device.js';
import type { EventTrigger } from './triggers.js';
import { setVfToken } from './vf-token.js';

const GET = VFIO_DEVICE_FEATURE_GET;
const SET = VFIO_DEVICE_FEATURE_SET;

/** A feature that a driver or an extension adds. It calls {@link vfioCheckFeature} itself. */
export type FeatureHandler = (dev: VfioPciCoreDevice, request: FeatureRequest) => MaybePromise<FeatureResult>;

/**
 * VFIO_DEVICE_FEATURE: `vfio_pci_core_ioctl_feature` with the part that the kernel does for every device.
 *
 * @throws EINVAL (flags, data), ENOTTY (a feature that this device does not have), and what the feature says.
 */
export function vfioPciCoreDeviceFeature(dev: VfioPciCoreDevice, request: FeatureRequest): MaybePromise<FeatureResult> {
  const { flags } = request;
  vfioCheckFeatureFlags(dev, flags);
  const handled = optionalFeature(dev, request);
  if (handled !== undefined) return handled.result;
  switch (flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_PCI_VF_TOKEN:
      if (dev.vf.token === undefined)
        throw dev.error('ENOTTY', 'PCI_VF_TOKEN', 'the function is no PF that can have VFs');
      // There is no GET: who may ask for the token knows it already.
      if (vfioCheckFeature(dev, flags, SET)) setVfToken(dev, request.value);
      return undefined;
    case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY:
      if (vfioCheckFeature(dev, flags, SET)) enterLowPower(dev, undefined);
      return undefined;
    case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP:
      return enterWithWakeup(dev, request);
    case VFIO_DEVICE_FEATURE_LOW_POWER_EXIT:
      if (vfioCheckFeature(dev, flags, SET)) leaveLowPower(dev);
      return undefined;
    case VFIO_DEVICE_FEATURE_DMA_BUF:
      return exportDmaBuf(dev, request);
    default:
      throw dev.error(
        'ENOTTY',
        'deviceFeature',
        `feature ${flags & VFIO_DEVICE_FEATURE_MASK}: the device does not have it`,
      );
  }
}

/**
 * The features that a driver brings whatever the base: those it added by number, migration and dirty log. Undefined: not
 * brought here, the base is asked.
 */
export function driverFeature(
  dev: VfioPciCoreDevice,
  request: FeatureRequest,
): { result: MaybePromise<FeatureResult> } | undefined {
  const index = request.flags & VFIO_DEVICE_FEATURE_MASK;
  const added = dev.features.get(index);
  if (added !== undefined) return { result: added(dev, request) };
  if (dev.baseMigrates && isMigrationFeature(index)) return undefined;
  switch (index) {
    case VFIO_DEVICE_FEATURE_MIGRATION:
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
    case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
    case VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2:
      return dev.migrationOps === undefined ? undefined : { result: migrationFeature(dev, index, request) };
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: {
      const log = logOpsOf(dev);
      return log === undefined ? undefined : { result: loggingFeature(dev, log, index, request) };
    }
    default:
      return undefined;
  }
}

const MIGRATION_FEATURES: readonly number[] = [
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
];

/** Whether a feature is of migration or of the log that goes with it: whoever does the one does the other. */
export function isMigrationFeature(index: number): boolean {
  return MIGRATION_FEATURES.includes(index);
}

/** Why a device cannot be migrated (ENOTTY). */
export function notMigratable(dev: VfioPciCoreDevice): VfioError {
  const why = dev.whyNotMigratable ?? 'its driver has no migration ops';
  return dev.error('ENOTTY', 'MIGRATION', `the device cannot be migrated: ${why}`);
}

/** {@link driverFeature} on a raw base, where nobody else could have migration or logging. @throws ENOTTY, EINVAL */
function optionalFeature(
  dev: VfioPciCoreDevice,
  request: FeatureRequest,
): { result: MaybePromise<FeatureResult> } | undefined {
  const handled = driverFeature(dev, request);
  if (handled !== undefined) return handled;
  switch (request.flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2:
      throw dev.error('EINVAL', 'MIG_PRECOPY_INFOv2', 'the device has no VFIO_MIGRATION_PRE_COPY');
    case VFIO_DEVICE_FEATURE_MIGRATION:
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
    case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
      throw notMigratable(dev);
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
      throw dev.error('ENOTTY', 'DMA_LOGGING', 'the device cannot log its DMA: its driver has no log ops');
    default:
      return undefined;
  }
}

function migrationFeature(dev: VfioPciCoreDevice, index: number, request: FeatureRequest): MaybePromise<FeatureResult> {
  const { flags } = request;
  switch (index) {
    case VFIO_DEVICE_FEATURE_MIGRATION:
      return vfioCheckFeature(dev, flags, GET) ? { flags: dev.migrationFlags } : undefined;
    case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
      if (!vfioCheckFeature(dev, flags, GET)) return undefined;
      return chain(getMigrationDataSize(dev), (stopCopyLength) => ({ stopCopyLength }));
    case VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2:
      if ((dev.migrationFlags & VFIO_MIGRATION_PRE_COPY) === 0) {
        throw dev.error('EINVAL', 'MIG_PRECOPY_INFOv2', 'the device has no VFIO_MIGRATION_PRE_COPY');
      }
      if (vfioCheckFeature(dev, flags, SET)) dev.precopyInfoV2 = true;
      return undefined;
    default: {
      if (!vfioCheckFeature(dev, flags, GET | SET)) return undefined;
      if ((flags & GET) !== 0) return chain(getMigrationState(dev), (state) => ({ state }));
      const wanted = (request.value as { state?: unknown } | undefined)?.state;
      if (typeof wanted !== 'number') throw dev.error('EINVAL', 'MIG_DEVICE_STATE', 'the state to go to is missing');
      return chain(setMigrationState(dev, wanted), (data) => ({ state: wanted, data }));
    }
  }
}

/**
 * A driver's own log, or for a migratable device on a raw base the log of its DMA space, through which all of its writes
 * go. A device that cannot be migrated has none, as in the kernel.
 */
function logOpsOf(dev: VfioPciCoreDevice): VfioLogOps<VfioPciCoreDevice> | undefined {
  if (dev.logOps !== undefined) return dev.logOps;
  return dev.migrationOps !== undefined && dev.fn.base.kind === 'raw' ? dmaSpaceLogOps : undefined;
}

/** The dirty log of the DMA space as log ops: for drivers that add to it. */
export const dmaSpaceLogOps: VfioLogOps<VfioPciCoreDevice> = {
  logStart: (dev, ranges, pageSize) => dev.dmaSpace.startLog(ranges, pageSize),
  logStop: (dev) => dev.dmaSpace.stopLog(),
  logReadAndClear: (dev, range, dirty) => dev.dmaSpace.readAndClearLog(range, dirty),
};

function loggingFeature(
  dev: VfioPciCoreDevice,
  log: VfioLogOps<VfioPciCoreDevice>,
  index: number,
  request: FeatureRequest,
): MaybePromise<FeatureResult> {
  const { flags } = request;
  switch (index) {
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START: {
      if (!vfioCheckFeature(dev, flags, SET)) return undefined;
      const start = request.value as DmaLoggingStart | undefined;
      if (typeof start?.pageSize !== 'bigint' || !Array.isArray(start.ranges)) {
        throw dev.error('EINVAL', 'DMA_LOGGING_START', 'the page size or the ranges are missing');
      }
      const { pageSize, ranges } = start;
      nameDevice(dev, () => {
        checkLoggingRangeCount(ranges.length, PAGE_SIZE);
        checkLoggingRanges(ranges, pageSize);
      });
      return chain(log.logStart(dev, ranges, pageSize), (tracked) => ({ pageSize: tracked }));
    }
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
      return vfioCheckFeature(dev, flags, SET) ? chain(log.logStop(dev), () => undefined) : undefined;
    default: {
      if (!vfioCheckFeature(dev, flags, GET)) return undefined;
      const report = request.value as DmaLoggingReport | undefined;
      if (
        typeof report?.iova !== 'bigint' ||
        typeof report.length !== 'bigint' ||
        typeof report.pageSize !== 'bigint' ||
        !(report.bitmap instanceof Uint8Array)
      ) {
        throw dev.error('EINVAL', 'DMA_LOGGING_REPORT', 'the range, page size or bitmap is missing');
      }
      const { iova, length, pageSize, bitmap } = report;
      const needed = nameDevice(dev, () => checkLoggingReport(iova, length, pageSize));
      if (BigInt(bitmap.length) < needed) {
        throw dev.error('EFAULT', 'DMA_LOGGING_REPORT', `a bitmap of ${needed} bytes is needed, got ${bitmap.length}`);
      }
      return chain(
        log.logReadAndClear(dev, { iova, length }, (at, dirty) => setDirtyBits(report, at, dirty)),
        () => undefined,
      );
    }
  }
}

function enterWithWakeup(dev: VfioPciCoreDevice, request: FeatureRequest): undefined {
  const trigger = (request.value as { trigger?: EventTrigger | null } | undefined)?.trigger ?? null;
  let taken = false;
  try {
    if (!vfioCheckFeature(dev, request.flags, SET)) return undefined;
    if (trigger === null) throw dev.error('EINVAL', 'LOW_POWER_ENTRY_WITH_WAKEUP', 'a wake-up eventfd is needed');
    enterLowPower(dev, trigger);
    taken = true;
    return undefined;
  } finally {
    if (!taken) trigger?.release();
  }
}
