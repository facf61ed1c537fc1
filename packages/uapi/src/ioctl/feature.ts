/** VFIO_DEVICE_FEATURE: the rules that hold for every feature, and the typed values of those that there are. */
import type { DmaLoggingReport, DmaLoggingStart } from '../dma-logging.js';
import { errnoError, hex } from '../errors.js';
import {
  type VFIO_DEVICE_FEATURE_BUS_MASTER,
  type VFIO_DEVICE_FEATURE_DMA_BUF,
  type VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  type VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  type VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  type VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  type VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
  type VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_MASK,
  type VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  type VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  type VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  type VFIO_DEVICE_FEATURE_MIGRATION,
  type VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  type VFIO_DEVICE_FEATURE_ZPCI_ERROR,
} from '../vfio.js';
import { vfioDeviceFeature } from '../vfio-structs.js';

const OP = 'VFIO_DEVICE_FEATURE';
const GET_SET = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
const KNOWN_FLAGS = VFIO_DEVICE_FEATURE_MASK | GET_SET | VFIO_DEVICE_FEATURE_PROBE;

/** VFIO_DEVICE_FEATURE_DMA_BUF: parts of a BAR, as bytes in it. */
export interface DmaBufRequest {
  readonly region: number;
  /** As for `open`: O_RDWR, O_CLOEXEC. */
  readonly openFlags: number;
  readonly ranges: readonly { readonly offset: number; readonly length: number }[];
}

/**
 * What goes in (SET, or a GET that takes arguments) and what comes out of each feature. Descriptors are numbers; a data
 * descriptor of -1 is none.
 */
export interface FeatureValues {
  /** VF token: 16 bytes. */
  [VFIO_DEVICE_FEATURE_PCI_VF_TOKEN]: { set: Uint8Array; setResult: undefined };
  /** VFIO_MIGRATION_* flags. */
  [VFIO_DEVICE_FEATURE_MIGRATION]: { get: undefined; getResult: { flags: number } };
  /** VFIO_DEVICE_STATE_*. */
  [VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE]: {
    get: undefined;
    getResult: { state: number };
    set: { state: number };
    setResult: { state: number; dataFd: number };
  };
  [VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY]: { set: undefined; setResult: undefined };
  [VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP]: { set: { wakeupEventfd: number }; setResult: undefined };
  [VFIO_DEVICE_FEATURE_LOW_POWER_EXIT]: { set: undefined; setResult: undefined };
  /** Comes back with the page size that is tracked. */
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_START]: { set: DmaLoggingStart; setResult: { pageSize: bigint } };
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP]: { set: undefined; setResult: undefined };
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT]: { get: DmaLoggingReport; getResult: undefined };
  [VFIO_DEVICE_FEATURE_MIG_DATA_SIZE]: { get: undefined; getResult: { stopCopyLength: bigint } };
  /** VFIO_DEVICE_FEATURE_CLEAR_MASTER or VFIO_DEVICE_FEATURE_SET_MASTER; CDX devices only. */
  [VFIO_DEVICE_FEATURE_BUS_MASTER]: { set: { op: number }; setResult: undefined };
  [VFIO_DEVICE_FEATURE_DMA_BUF]: { get: DmaBufRequest; getResult: { fd: number } };
  [VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2]: { set: undefined; setResult: undefined };
  /** Raw record of the zPCI error queue. */
  [VFIO_DEVICE_FEATURE_ZPCI_ERROR]: { get: undefined; getResult: Uint8Array };
}

/** A feature that this library knows. */
export type FeatureIndex = keyof FeatureValues;

/** One VFIO_DEVICE_FEATURE call. `value` is what {@link FeatureValues} has; for a feature not in it, the bytes. */
export interface FeatureRequest {
  /** Feature index, GET, SET and PROBE as in the kernel. */
  readonly flags: number;
  readonly value?: unknown;
}

/**
 * The rules for `argsz` and `flags`, before the feature is looked at.
 * @throws VfioError EINVAL: `argsz` below 8, an unknown flag, GET and SET together without PROBE.
 */
export function checkFeatureFlags(argsz: number, flags: number): void {
  if (argsz < vfioDeviceFeature.size) {
    throw errnoError('EINVAL', `argsz ${argsz}: at least ${vfioDeviceFeature.size} is wanted`, { op: OP });
  }
  if ((flags & ~KNOWN_FLAGS) !== 0) {
    throw errnoError('EINVAL', `flags ${hex(flags)}: only ${hex(KNOWN_FLAGS)} are known`, { op: OP });
  }
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) === 0 && (flags & GET_SET) === GET_SET) {
    throw errnoError('EINVAL', `flags ${hex(flags)}: GET and SET exclude each other, except with PROBE`, { op: OP });
  }
}

/**
 * The kernel's `vfio_check_feature`: whether a device that has the feature goes on with the call.
 * @param flags As in the call.
 * @param dataSize Bytes that the call has for the feature's data.
 * @param supported VFIO_DEVICE_FEATURE_GET and/or SET: what the feature has.
 * @param size Bytes of the feature's struct.
 * @returns `false` for a PROBE, which is answered by success alone; `true` to go on.
 * @throws VfioError EINVAL: an operation that the feature does not have (PROBE or not), none at all, or too little data.
 */
export function checkFeature(flags: number, dataSize: number, supported: number, size: number): boolean {
  const index = flags & VFIO_DEVICE_FEATURE_MASK;
  const wanted = flags & GET_SET;
  if ((wanted & ~supported) !== 0) {
    throw errnoError('EINVAL', `feature ${index} has no ${operations(wanted & ~supported)}`, { op: OP });
  }
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) return false;
  if (wanted === 0) {
    throw errnoError('EINVAL', `feature ${index} with neither GET, SET nor PROBE`, { op: OP });
  }
  if (dataSize < size) {
    throw errnoError('EINVAL', `feature ${index} needs ${size} bytes of data, found ${dataSize}`, { op: OP });
  }
  return true;
}

function operations(flags: number): string {
  if (flags === GET_SET) return 'GET and no SET';
  return flags === VFIO_DEVICE_FEATURE_GET ? 'GET' : 'SET';
}
