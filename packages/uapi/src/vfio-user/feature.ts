/**
 * DEVICE_FEATURE: the kernel's header and data, where everything that the kernel reaches by a pointer follows in the
 * message, and nothing is a descriptor.
 */
import {
  checkLoggingRangeCount,
  checkLoggingRanges,
  checkLoggingReport,
  type DmaLoggingReport,
  type DmaLoggingStart,
} from '../dma-logging.js';
import { hex } from '../errors.js';
import { checkFeature, checkFeatureFlags } from '../ioctl/feature.js';
import { needBytes, readArray, reserved, type Struct, struct, u32, u64, viewOf, writeArray } from '../struct.js';
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
} from '../vfio.js';
import {
  vfioDeviceFeature,
  vfioDeviceFeatureDmaLoggingRange,
  vfioDeviceFeatureMigDataSize,
  vfioDeviceFeatureMigration,
  vfioDeviceFeaturePciVfToken,
} from '../vfio-structs.js';
import { badPayload } from './payload.js';

const COMMAND = 'VFIO_USER_DEVICE_FEATURE';
const GET = VFIO_DEVICE_FEATURE_GET;
const SET = VFIO_DEVICE_FEATURE_SET;

/** `dataFd` of the kernel's struct is not used: the data go by MIG_DATA_READ and MIG_DATA_WRITE. */
export const vfioUserMigState = struct('vfio_user_device_feature_mig_state', {
  deviceState: u32,
  dataFd: reserved(4, 4),
});

/** LOGGING_START; the ranges follow. */
export const vfioUserDmaLoggingControl = struct('vfio_user_device_feature_dma_logging_control', {
  pageSize: u64,
  numRanges: u32,
  reserved: reserved(4, 4),
});

/** LOGGING_REPORT; the bitmap follows in the reply. */
export const vfioUserDmaLoggingReport = struct('vfio_user_device_feature_dma_logging_report', {
  iova: u64,
  length: u64,
  pageSize: u64,
});

/** A DEVICE_FEATURE, command or reply. */
export interface VfioUserFeature {
  /** In a command: room for the reply's payload. In a reply: bytes of its payload. */
  readonly argsz: number;
  /** Feature index, GET, SET and PROBE. */
  readonly flags: number;
  /** The feature's data (a view of the payload). */
  readonly data: Uint8Array;
}

/** What the codecs need to know of the connection. */
export interface VfioUserFeatureLimits {
  /** Most bytes of a reply's payload, whatever a command's `argsz` says. */
  readonly maxReplySize: number;
  /** @default 4096 */
  readonly hostPageSize?: number;
}

/** The data of one feature, in the four places where they appear. Values and results are those of `FeatureValues`. */
export interface VfioUserFeatureCodec {
  /** VFIO_DEVICE_FEATURE_GET and/or SET. */
  readonly supported: number;
  /** Bytes of the fixed part of the data. */
  readonly size: number;
  /** A command's data. `room`: bytes of data that the reply may have. */
  decodeCommand(data: Uint8Array, isGet: boolean, room: number, hostPageSize: number, littleEndian: boolean): unknown;
  encodeCommand(value: unknown, isGet: boolean, littleEndian: boolean): Uint8Array;
  /** Bytes of a reply's data. */
  replySize(value: unknown): number;
  encodeReply(value: unknown, result: unknown, isGet: boolean, littleEndian: boolean): Uint8Array;
  decodeReply(value: unknown, data: Uint8Array, isGet: boolean, littleEndian: boolean): unknown;
}

/** Values come from callers that are typed by `FeatureValues`; a wrong one is refused by the struct it is stored with. */
function as<T>(value: unknown): T {
  return value as T;
}

const EMPTY = new Uint8Array(0);

const NO_DATA: VfioUserFeatureCodec = {
  supported: SET,
  size: 0,
  decodeCommand: () => undefined,
  encodeCommand: () => EMPTY,
  replySize: () => 0,
  encodeReply: () => EMPTY,
  decodeReply: () => undefined,
};

/** Either operation's data are one struct. */
function plain<V, R>(
  supported: number,
  layout: Struct,
  read: (data: Uint8Array, littleEndian: boolean) => V | R,
  write: (value: V | R, littleEndian: boolean) => Uint8Array,
): VfioUserFeatureCodec {
  const isReadBack = (isGet: boolean): boolean => isGet || supported === (GET | SET);
  return {
    supported,
    size: layout.size,
    decodeCommand: (data, isGet, _room, _page, littleEndian) => (isGet ? undefined : read(data, littleEndian)),
    encodeCommand: (value, isGet, littleEndian) => (isGet ? EMPTY : write(as<V>(value), littleEndian)),
    replySize: () => layout.size,
    encodeReply: (value, result, isGet, littleEndian) =>
      write(as<V | R>(isReadBack(isGet) ? result : value), littleEndian),
    decodeReply: (_value, data, isGet, littleEndian) => (isReadBack(isGet) ? read(data, littleEndian) : undefined),
  };
}

const VF_TOKEN = plain<Uint8Array, never>(
  SET,
  vfioDeviceFeaturePciVfToken,
  (data, littleEndian) => vfioDeviceFeaturePciVfToken.read(viewOf(data), 0, littleEndian).uuid,
  (uuid, littleEndian) => vfioDeviceFeaturePciVfToken.encode({ uuid }, littleEndian),
);

const MIGRATION = plain<never, { flags: number }>(
  GET,
  vfioDeviceFeatureMigration,
  (data, littleEndian) => vfioDeviceFeatureMigration.read(viewOf(data), 0, littleEndian),
  (value, littleEndian) => vfioDeviceFeatureMigration.encode(value, littleEndian),
);

const MIG_DATA_SIZE = plain<never, { stopCopyLength: bigint }>(
  GET,
  vfioDeviceFeatureMigDataSize,
  (data, littleEndian) => vfioDeviceFeatureMigDataSize.read(viewOf(data), 0, littleEndian),
  (value, littleEndian) => vfioDeviceFeatureMigDataSize.encode(value, littleEndian),
);

const MIG_DEVICE_STATE = plain<{ state: number }, { state: number }>(
  GET | SET,
  vfioUserMigState,
  (data, littleEndian) => ({ state: vfioUserMigState.read(viewOf(data), 0, littleEndian).deviceState }),
  ({ state }, littleEndian) => vfioUserMigState.encode({ deviceState: state }, littleEndian),
);

function encodeStart({ pageSize, ranges }: DmaLoggingStart, littleEndian: boolean): Uint8Array {
  const out = new Uint8Array(vfioUserDmaLoggingControl.size + ranges.length * vfioDeviceFeatureDmaLoggingRange.size);
  const view = viewOf(out);
  vfioUserDmaLoggingControl.write(view, 0, { pageSize, numRanges: ranges.length }, littleEndian);
  writeArray(vfioDeviceFeatureDmaLoggingRange, view, vfioUserDmaLoggingControl.size, ranges, littleEndian);
  return out;
}

const LOGGING_START: VfioUserFeatureCodec = {
  supported: SET,
  size: vfioUserDmaLoggingControl.size,
  decodeCommand: (data, _isGet, _room, hostPageSize, littleEndian): DmaLoggingStart => {
    const view = viewOf(data);
    const { pageSize, numRanges } = vfioUserDmaLoggingControl.read(view, 0, littleEndian);
    checkLoggingRangeCount(numRanges, hostPageSize);
    const at = vfioUserDmaLoggingControl.size;
    const ranges = readArray(vfioDeviceFeatureDmaLoggingRange, view, at, numRanges, littleEndian);
    return { pageSize, ranges: checkLoggingRanges(ranges, pageSize) };
  },
  encodeCommand: (value, _isGet, littleEndian) => encodeStart(as<DmaLoggingStart>(value), littleEndian),
  replySize: (value) =>
    vfioUserDmaLoggingControl.size + as<DmaLoggingStart>(value).ranges.length * vfioDeviceFeatureDmaLoggingRange.size,
  encodeReply: (value, result, _isGet, littleEndian) =>
    encodeStart({ ...as<DmaLoggingStart>(value), pageSize: as<{ pageSize: bigint }>(result).pageSize }, littleEndian),
  decodeReply: (_value, data, _isGet, littleEndian) => ({
    pageSize: vfioUserDmaLoggingControl.read(viewOf(data), 0, littleEndian).pageSize,
  }),
};

const LOGGING_REPORT: VfioUserFeatureCodec = {
  supported: GET,
  size: vfioUserDmaLoggingReport.size,
  decodeCommand: (data, _isGet, room, _page, littleEndian): DmaLoggingReport => {
    const { iova, length, pageSize } = vfioUserDmaLoggingReport.read(viewOf(data), 0, littleEndian);
    const size = checkLoggingReport(iova, length, pageSize);
    const left = room - vfioUserDmaLoggingReport.size;
    // Before the bitmap is allocated: its size is the peer's wish.
    if (size > left)
      throw badPayload(COMMAND, `a bitmap of ${size} bytes, the reply has room for ${Math.max(0, left)}`);
    return { iova, length, pageSize, bitmap: new Uint8Array(Number(size)) };
  },
  encodeCommand: (value, _isGet, littleEndian) => {
    const { iova, length, pageSize } = as<DmaLoggingReport>(value);
    return vfioUserDmaLoggingReport.encode({ iova, length, pageSize }, littleEndian);
  },
  replySize: (value) => vfioUserDmaLoggingReport.size + as<DmaLoggingReport>(value).bitmap.length,
  encodeReply: (value, _result, _isGet, littleEndian) => {
    const { iova, length, pageSize, bitmap } = as<DmaLoggingReport>(value);
    const out = new Uint8Array(vfioUserDmaLoggingReport.size + bitmap.length);
    vfioUserDmaLoggingReport.write(viewOf(out), 0, { iova, length, pageSize }, littleEndian);
    out.set(bitmap, vfioUserDmaLoggingReport.size);
    return out;
  },
  decodeReply: (value, data) => {
    const { bitmap } = as<DmaLoggingReport>(value);
    needBytes(viewOf(data), vfioUserDmaLoggingReport.size, bitmap.length, 'bitmap of a report');
    // Bits are only ever set, as the kernel does with a caller's bitmap.
    for (let at = 0; at < bitmap.length; at++) {
      bitmap[at]! |= data[vfioUserDmaLoggingReport.size + at]!;
    }
    return undefined;
  },
};

const CODECS: ReadonlyMap<number, VfioUserFeatureCodec> = new Map([
  [VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, VF_TOKEN],
  [VFIO_DEVICE_FEATURE_MIGRATION, MIGRATION],
  [VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, MIG_DEVICE_STATE],
  [VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, NO_DATA],
  [VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, NO_DATA],
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_START, LOGGING_START],
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, NO_DATA],
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, LOGGING_REPORT],
  [VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, MIG_DATA_SIZE],
  [VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2, NO_DATA],
]);

/**
 * The codec of a feature, or `undefined` where it cannot go over a socket (LOW_POWER_ENTRY_WITH_WAKEUP, DMA_BUF: they take or
 * give descriptors) or is not known.
 */
export function vfioUserFeatureCodec(index: number): VfioUserFeatureCodec | undefined {
  return CODECS.get(index);
}

/**
 * Reads a DEVICE_FEATURE, command or reply, by the rules that hold for every feature.
 * @throws VfioError EINVAL: too short, `argsz` below 8, an unknown flag, GET and SET without PROBE.
 */
export function decodeVfioUserFeature(payload: Uint8Array, littleEndian: boolean): VfioUserFeature {
  const { argsz, flags } = vfioDeviceFeature.read(viewOf(payload), 0, littleEndian);
  checkFeatureFlags(argsz, flags);
  return { argsz, flags, data: payload.subarray(vfioDeviceFeature.size) };
}

/** The bytes of a DEVICE_FEATURE, command or reply. @throws VfioError EINVAL: a value does not fit its field. */
export function encodeVfioUserFeature(feature: VfioUserFeature, littleEndian: boolean): Uint8Array {
  const out = new Uint8Array(vfioDeviceFeature.size + feature.data.length);
  vfioDeviceFeature.write(viewOf(out), 0, { argsz: feature.argsz, flags: feature.flags }, littleEndian);
  out.set(feature.data, vfioDeviceFeature.size);
  return out;
}

/** A command's value, once the device was found to have the feature. */
export interface VfioUserFeatureValue {
  /** A PROBE is answered by its own payload, and there is nothing else to do. */
  readonly isProbe: boolean;
  /** As `FeatureValues` has it; the data themselves where the feature is not known. */
  readonly value: unknown;
}

/**
 * The value of a command whose feature the device has (ENOTTY, for one that it does not have, comes first).
 * @throws VfioError EINVAL: an operation that the feature does not have or none at all, too little data, no room for the
 * reply; what the rules of DMA logging say (E2BIG, EOVERFLOW).
 */
export function decodeVfioUserFeatureValue(
  feature: VfioUserFeature,
  limits: VfioUserFeatureLimits,
  littleEndian: boolean,
): VfioUserFeatureValue {
  const { argsz, flags, data } = feature;
  const isGet = (flags & GET) !== 0;
  const codec = CODECS.get(flags & VFIO_DEVICE_FEATURE_MASK);
  const room = Math.min(argsz, limits.maxReplySize) - vfioDeviceFeature.size;
  // A GET needs room in its reply, a SET data in its command.
  const goesOn = checkFeature(flags, isGet ? room : data.length, codec?.supported ?? GET | SET, codec?.size ?? 0);
  if (!goesOn || codec === undefined) return { isProbe: !goesOn, value: goesOn ? data : undefined };
  return { isProbe: false, value: codec.decodeCommand(data, isGet, room, limits.hostPageSize ?? 4096, littleEndian) };
}

/**
 * The reply's payload: the header again with the size of the payload, and the feature's data.
 * @param value What {@link decodeVfioUserFeatureValue} gave.
 * @param result What the device gave.
 */
export function encodeVfioUserFeatureReply(
  feature: VfioUserFeature,
  { isProbe, value }: VfioUserFeatureValue,
  result: unknown,
  littleEndian: boolean,
): Uint8Array {
  const codec = CODECS.get(feature.flags & VFIO_DEVICE_FEATURE_MASK);
  const isGet = (feature.flags & GET) !== 0;
  let data = feature.data;
  if (!isProbe) {
    data = codec?.encodeReply(value, result, isGet, littleEndian) ?? (result instanceof Uint8Array ? result : EMPTY);
  }
  return encodeVfioUserFeature(
    { argsz: vfioDeviceFeature.size + data.length, flags: feature.flags, data },
    littleEndian,
  );
}

/** Whether there is something to encode. @throws EINVAL */
function checkValue(codec: VfioUserFeatureCodec, flags: number, value: unknown): void {
  const feature = flags & VFIO_DEVICE_FEATURE_MASK;
  if ((flags & (GET | SET) & ~codec.supported) !== 0) {
    throw badPayload(COMMAND, `feature ${feature} has no such operation (flags ${hex(flags)})`);
  }
  const takesValue = codec === LOGGING_REPORT || ((flags & SET) !== 0 && codec.size > 0);
  if (takesValue && (typeof value !== 'object' || value === null)) {
    throw badPayload(COMMAND, `feature ${feature}: its value is missing`);
  }
}

/**
 * The payload of a command.
 * @param flags Feature index, GET, SET and PROBE.
 * @param value As `FeatureValues` has it; bytes where the feature is not known.
 * @throws VfioError EINVAL: an operation that the feature does not have, a value that is missing or does not fit.
 */
export function encodeVfioUserFeatureCommand(flags: number, value: unknown, littleEndian: boolean): Uint8Array {
  const head = vfioDeviceFeature.size;
  const isGet = (flags & GET) !== 0;
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) {
    return encodeVfioUserFeature({ argsz: head, flags, data: EMPTY }, littleEndian);
  }
  const codec = CODECS.get(flags & VFIO_DEVICE_FEATURE_MASK);
  if (codec !== undefined) checkValue(codec, flags, value);
  const data = codec?.encodeCommand(value, isGet, littleEndian) ?? (value instanceof Uint8Array ? value : EMPTY);
  const replySize = codec?.replySize(value) ?? data.length;
  return encodeVfioUserFeature({ argsz: head + Math.max(replySize, data.length), flags, data }, littleEndian);
}

/**
 * The result in a reply's payload.
 * @param value The command's value; a report's bitmap gets its bits here.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: the reply is too short, or about something else.
 */
export function decodeVfioUserFeatureReply(
  flags: number,
  value: unknown,
  payload: Uint8Array,
  littleEndian: boolean,
): unknown {
  const reply = vfioDeviceFeature.read(viewOf(payload), 0, littleEndian);
  if (((reply.flags ^ flags) & VFIO_DEVICE_FEATURE_MASK) !== 0) {
    throw badPayload(COMMAND, `a reply about feature ${reply.flags & VFIO_DEVICE_FEATURE_MASK}`);
  }
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) return undefined;
  const data = payload.subarray(vfioDeviceFeature.size);
  const codec = CODECS.get(flags & VFIO_DEVICE_FEATURE_MASK);
  return codec === undefined ? data : codec.decodeReply(value, data, (flags & GET) !== 0, littleEndian);
}
