import type * as uapi from '@vfio/uapi';
import type { DmaBufRequest, DmaLoggingReport, DmaLoggingStart } from '@vfio/uapi';
import type { MigrationData } from './migration-types.js';
import type { EventTrigger } from './triggers.js';

export type { DmaBufRequest, DmaLoggingReport, DmaLoggingStart } from '@vfio/uapi';

/** What goes in (SET, or a GET that takes arguments) and comes out of each feature. */
export interface FeatureTypes {
  /** VF token: 16 bytes. */
  [uapi.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN]: { set: Uint8Array; setResult: undefined };
  /** VFIO_MIGRATION_* flags. */
  [uapi.VFIO_DEVICE_FEATURE_MIGRATION]: { get: undefined; getResult: { flags: number } };
  [uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE]: {
    get: undefined;
    getResult: { state: number };
    set: { state: number };
    setResult: { state: number; data: MigrationData | undefined };
  };
  [uapi.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY]: { set: undefined; setResult: undefined };
  [uapi.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP]: {
    set: { trigger: EventTrigger | null };
    setResult: undefined;
  };
  [uapi.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT]: { set: undefined; setResult: undefined };
  /** Returns the page size that is tracked. */
  [uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_START]: { set: DmaLoggingStart; setResult: { pageSize: bigint } };
  [uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP]: { set: undefined; setResult: undefined };
  [uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT]: { get: DmaLoggingReport; getResult: undefined };
  [uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE]: { get: undefined; getResult: { stopCopyLength: bigint } };
  [uapi.VFIO_DEVICE_FEATURE_DMA_BUF]: { get: DmaBufRequest; getResult: { fd: number } };
  [uapi.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2]: { set: undefined; setResult: undefined };
  /** Raw record of the zPCI error queue. */
  [uapi.VFIO_DEVICE_FEATURE_ZPCI_ERROR]: { get: undefined; getResult: Uint8Array };
}

/** One VFIO_DEVICE_FEATURE call. `flags` is index, GET, SET and PROBE as in the kernel; `value` as {@link FeatureTypes} says. */
export interface FeatureRequest {
  readonly flags: number;
  readonly value?: unknown;
}

/** What a feature call gives back; undefined for PROBE and for features without a result. */
export type FeatureResult = unknown;
