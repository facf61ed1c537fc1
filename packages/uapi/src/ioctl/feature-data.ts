/** The bytes of each feature's data in VFIO_DEVICE_FEATURE, for the side that serves the call and the side that makes it. */
import {
  checkLoggingRangeCount,
  checkLoggingRanges,
  checkLoggingReport,
  type DmaLoggingReport,
  type DmaLoggingStart,
  type IovaRange,
} from '../dma-logging.js';
import { errnoError, hex } from '../errors.js';
import { readArray, type StructOf, viewOf, writeArray } from '../struct.js';
import {
  VFIO_DEVICE_FEATURE_BUS_MASTER,
  VFIO_DEVICE_FEATURE_CLEAR_MASTER,
  VFIO_DEVICE_FEATURE_DMA_BUF,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_FEATURE_SET_MASTER,
  VFIO_DEVICE_FEATURE_ZPCI_ERROR,
  VFIO_PCI_BAR5_REGION_INDEX,
} from '../vfio.js';
import {
  vfioDeviceFeatureBusMaster,
  vfioDeviceFeatureDmaBuf,
  vfioDeviceFeatureDmaLoggingControl,
  vfioDeviceFeatureDmaLoggingRange,
  vfioDeviceFeatureDmaLoggingReport,
  vfioDeviceFeatureMigDataSize,
  vfioDeviceFeatureMigration,
  vfioDeviceFeatureMigState,
  vfioDeviceFeaturePciVfToken,
  vfioDeviceFeatureZpciErr,
  vfioDeviceLowPowerEntryWithWakeup,
  vfioRegionDmaRange,
} from '../vfio-structs.js';
import type { DmaBufRequest } from './feature.js';
import { fromUser, type UserMemory } from './user-memory.js';

const U64_MAX = 0xffffffffffffffffn;

/** What the codecs need to know of the call. */
export interface FeatureContext {
  readonly littleEndian: boolean;
  readonly memory: UserMemory;
  /** Page size of the host: bounds the ranges of DMA logging and aligns those of a dma-buf. */
  readonly hostPageSize: number;
}

/** What a served call has turned into, and how its result goes back. */
export interface ServedFeature {
  readonly value: unknown;
  /** Stores the result in the call's data and in the caller's memory; returns what the ioctl returns. */
  finish(result: unknown): number;
  /** Stores what the caller sees of a call that failed. */
  failed?(): void;
}

/** A buffer of the caller whose address goes into the data of a call. */
export interface PointerFixup {
  /** Where the 64-bit address is stored, from the start of the ioctl's argument. */
  readonly at: number;
  /** What it points to; the call may change it. */
  readonly bytes: Uint8Array;
}

/** A call's data, and how its result is read. */
export interface MadeFeature {
  readonly data: Uint8Array;
  /** `at` counts from the start of `data`. */
  readonly pointers: readonly PointerFixup[];
  /** The result, from the data as the call left it and from what the ioctl returned. */
  result(data: Uint8Array, returned: number): unknown;
}

/** One feature: what it has, how it is served and how it is called. */
export interface FeatureCodec {
  /** VFIO_DEVICE_FEATURE_GET and/or SET. */
  readonly supported: number;
  /** Bytes of the fixed part of its data. */
  readonly size: number;
  /** @throws VfioError EFAULT, and what the feature's rules say. */
  serve(data: Uint8Array, isGet: boolean, context: FeatureContext): ServedFeature;
  make(value: unknown, isGet: boolean, littleEndian: boolean): MadeFeature;
}

const GET = VFIO_DEVICE_FEATURE_GET;
const SET = VFIO_DEVICE_FEATURE_SET;

/** Results come from a target that is typed by `FeatureValues`; a wrong one is refused by the struct it is stored with. */
function as<T>(value: unknown): T {
  return value as T;
}

/** A SET without data, or whose data goes one way. */
function setOnly<T>(
  size: number,
  decode: (data: Uint8Array, littleEndian: boolean) => T,
  encode: (value: T, littleEndian: boolean) => Uint8Array,
): FeatureCodec {
  return {
    supported: SET,
    size,
    serve: (data, _isGet, { littleEndian }) => ({
      value: decode(fromUserBytes(data, size), littleEndian),
      finish: () => 0,
    }),
    make: (value, _isGet, littleEndian) => ({
      data: encode(as<T>(value), littleEndian),
      pointers: [],
      result: () => undefined,
    }),
  };
}

/** A GET whose data only comes back. */
function getOnly<T>(
  size: number,
  encode: (result: T, littleEndian: boolean) => Uint8Array,
  decode: (data: Uint8Array, littleEndian: boolean) => T,
): FeatureCodec {
  return {
    supported: GET,
    size,
    serve: (data, _isGet, { littleEndian }) => ({
      value: undefined,
      finish: (result) => {
        store(data, encode(as<T>(result), littleEndian));
        return 0;
      },
    }),
    make: (_value, _isGet, littleEndian) => ({
      data: new Uint8Array(size),
      pointers: [],
      result: (data) => decode(data, littleEndian),
    }),
  };
}

function fromUserBytes(data: Uint8Array, size: number): Uint8Array {
  fromUser(data, size, 'VFIO_DEVICE_FEATURE');
  return data.slice(0, size);
}

function store(data: Uint8Array, result: Uint8Array): void {
  if (data.length < result.length) {
    throw errnoError('EFAULT', `the argument has ${data.length} bytes of data, the reply needs ${result.length}`, {
      op: 'VFIO_DEVICE_FEATURE',
    });
  }
  data.set(result);
}

const NO_DATA = setOnly<undefined>(
  0,
  () => undefined,
  () => new Uint8Array(0),
);

const VF_TOKEN = setOnly<Uint8Array>(
  vfioDeviceFeaturePciVfToken.size,
  (data, littleEndian) => vfioDeviceFeaturePciVfToken.read(viewOf(data), 0, littleEndian).uuid,
  (uuid, littleEndian) => vfioDeviceFeaturePciVfToken.encode({ uuid }, littleEndian),
);

const MIGRATION = getOnly<{ flags: number }>(
  vfioDeviceFeatureMigration.size,
  (result, littleEndian) => vfioDeviceFeatureMigration.encode(result, littleEndian),
  (data, littleEndian) => vfioDeviceFeatureMigration.read(viewOf(data), 0, littleEndian),
);

const MIG_DATA_SIZE = getOnly<{ stopCopyLength: bigint }>(
  vfioDeviceFeatureMigDataSize.size,
  (result, littleEndian) => vfioDeviceFeatureMigDataSize.encode(result, littleEndian),
  (data, littleEndian) => vfioDeviceFeatureMigDataSize.read(viewOf(data), 0, littleEndian),
);

const MIG_DEVICE_STATE: FeatureCodec = {
  supported: GET | SET,
  size: vfioDeviceFeatureMigState.size,
  serve: (data, isGet, { littleEndian }) => {
    const asked = vfioDeviceFeatureMigState.read(
      viewOf(fromUserBytes(data, vfioDeviceFeatureMigState.size)),
      0,
      littleEndian,
    );
    const answer = (deviceState: number, dataFd: number): void =>
      store(data, vfioDeviceFeatureMigState.encode({ deviceState, dataFd }, littleEndian));
    return {
      value: isGet ? undefined : { state: asked.deviceState },
      finish: (result) => {
        const { state, dataFd } = as<{ state: number; dataFd?: number }>(result);
        answer(isGet ? state : asked.deviceState, isGet ? -1 : (dataFd ?? -1));
        return 0;
      },
      // A caller that only looks at the descriptor must not find what it had put there.
      ...(isGet ? {} : { failed: () => answer(asked.deviceState, -1) }),
    };
  },
  make: (value, isGet, littleEndian) => ({
    data: vfioDeviceFeatureMigState.encode(
      { deviceState: isGet ? 0 : as<{ state: number }>(value).state, dataFd: -1 },
      littleEndian,
    ),
    pointers: [],
    result: (data) => {
      const { deviceState, dataFd } = vfioDeviceFeatureMigState.read(viewOf(data), 0, littleEndian);
      return isGet ? { state: deviceState } : { state: deviceState, dataFd };
    },
  }),
};

const LOW_POWER_WITH_WAKEUP = setOnly<{ wakeupEventfd: number }>(
  vfioDeviceLowPowerEntryWithWakeup.size,
  (data, littleEndian) => {
    const { wakeupEventfd } = vfioDeviceLowPowerEntryWithWakeup.read(viewOf(data), 0, littleEndian);
    if (wakeupEventfd < 0) {
      throw errnoError('EINVAL', `wakeup eventfd ${wakeupEventfd}: an open descriptor is wanted`, {
        op: 'VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP',
      });
    }
    return { wakeupEventfd };
  },
  (value, littleEndian) => vfioDeviceLowPowerEntryWithWakeup.encode(value, littleEndian),
);

function* fetchRanges(
  { ranges, numRanges }: StructOf<typeof vfioDeviceFeatureDmaLoggingControl>,
  memory: UserMemory,
  littleEndian: boolean,
): Generator<IovaRange> {
  const layout = vfioDeviceFeatureDmaLoggingRange;
  for (let index = 0; index < numRanges; index++) {
    const raw = memory.read(ranges + BigInt(index * layout.size), layout.size);
    yield layout.read(viewOf(raw), 0, littleEndian);
  }
}

const LOGGING_START: FeatureCodec = {
  supported: SET,
  size: vfioDeviceFeatureDmaLoggingControl.size,
  serve: (data, _isGet, { littleEndian, memory, hostPageSize }) => {
    const layout = vfioDeviceFeatureDmaLoggingControl;
    const control = layout.read(viewOf(fromUserBytes(data, layout.size)), 0, littleEndian);
    checkLoggingRangeCount(control.numRanges, hostPageSize);
    const ranges = checkLoggingRanges(fetchRanges(control, memory, littleEndian), control.pageSize);
    const value: DmaLoggingStart = { pageSize: control.pageSize, ranges };
    return {
      value,
      finish: (result) => {
        store(data, layout.encode({ ...control, pageSize: as<{ pageSize: bigint }>(result).pageSize }, littleEndian));
        return 0;
      },
    };
  },
  make: (value, _isGet, littleEndian) => {
    const { pageSize, ranges } = as<DmaLoggingStart>(value);
    const layout = vfioDeviceFeatureDmaLoggingControl;
    const raw = new Uint8Array(ranges.length * vfioDeviceFeatureDmaLoggingRange.size);
    writeArray(vfioDeviceFeatureDmaLoggingRange, viewOf(raw), 0, ranges, littleEndian);
    return {
      data: layout.encode({ pageSize, numRanges: ranges.length, ranges: 0n }, littleEndian),
      pointers: [{ at: layout.fields.ranges.offset, bytes: raw }],
      result: (data) => ({ pageSize: layout.read(viewOf(data), 0, littleEndian).pageSize }),
    };
  },
};

const LOGGING_REPORT: FeatureCodec = {
  supported: GET,
  size: vfioDeviceFeatureDmaLoggingReport.size,
  serve: (data, _isGet, { littleEndian, memory }) => {
    const layout = vfioDeviceFeatureDmaLoggingReport;
    const report = layout.read(viewOf(fromUserBytes(data, layout.size)), 0, littleEndian);
    const size = checkLoggingReport(report.iova, report.length, report.pageSize);
    if (size > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw errnoError('EFAULT', `a bitmap of ${size} bytes is not in the caller's memory`, {
        op: 'VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT',
      });
    }
    // The caller's bits stay: the device only adds to them.
    const bitmap = memory.read(report.bitmap, Number(size));
    const value: DmaLoggingReport = { iova: report.iova, length: report.length, pageSize: report.pageSize, bitmap };
    return {
      value,
      finish: () => {
        memory.write(report.bitmap, bitmap);
        return 0;
      },
    };
  },
  make: (value, _isGet, littleEndian) => {
    const { iova, length, pageSize, bitmap } = as<DmaLoggingReport>(value);
    const layout = vfioDeviceFeatureDmaLoggingReport;
    return {
      data: layout.encode({ iova, length, pageSize, bitmap: 0n }, littleEndian),
      pointers: [{ at: layout.fields.bitmap.offset, bytes: bitmap }],
      result: () => undefined,
    };
  },
};

const BUS_MASTER = setOnly<{ op: number }>(
  vfioDeviceFeatureBusMaster.size,
  (data, littleEndian) => {
    const { op } = vfioDeviceFeatureBusMaster.read(viewOf(data), 0, littleEndian);
    if (op !== VFIO_DEVICE_FEATURE_CLEAR_MASTER && op !== VFIO_DEVICE_FEATURE_SET_MASTER) {
      throw errnoError('EINVAL', `bus master op ${op}: 0 or 1 is wanted`, { op: 'VFIO_DEVICE_FEATURE_BUS_MASTER' });
    }
    return { op };
  },
  (value, littleEndian) => vfioDeviceFeatureBusMaster.encode(value, littleEndian),
);

function checkDmaBuf(
  request: StructOf<typeof vfioDeviceFeatureDmaBuf>,
  ranges: readonly StructOf<typeof vfioRegionDmaRange>[],
  hostPageSize: number,
): DmaBufRequest['ranges'] {
  const op = 'VFIO_DEVICE_FEATURE_DMA_BUF';
  const mask = BigInt(hostPageSize) - 1n;
  let total = 0n;
  return ranges.map(({ offset, length }) => {
    const range = `range ${hex(offset)} of ${hex(length)} bytes of region ${request.regionIndex}`;
    if (length === 0n || (offset & mask) !== 0n || (length & mask) !== 0n) {
      throw errnoError('EINVAL', `${range}: whole pages of ${hex(hostPageSize)} are wanted`, { op });
    }
    total += length;
    if (offset + length > U64_MAX || total > U64_MAX) {
      throw errnoError('EOVERFLOW', `${range}: it ends beyond 64 bits`, { op });
    }
    if (offset + length > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw errnoError('EINVAL', `${range}: it is past the end of the region`, { op });
    }
    return { offset: Number(offset), length: Number(length) };
  });
}

const DMA_BUF: FeatureCodec = {
  supported: GET,
  size: vfioDeviceFeatureDmaBuf.size,
  serve: (data, _isGet, { littleEndian, hostPageSize }) => {
    const op = 'VFIO_DEVICE_FEATURE_DMA_BUF';
    const layout = vfioDeviceFeatureDmaBuf;
    const request = layout.read(viewOf(fromUserBytes(data, layout.size)), 0, littleEndian);
    if (request.nrRanges === 0 || request.flags !== 0) {
      throw errnoError(
        'EINVAL',
        `${request.nrRanges} ranges and flags ${hex(request.flags)}: at least 1 and 0 are wanted`,
        { op },
      );
    }
    if (request.regionIndex > VFIO_PCI_BAR5_REGION_INDEX) {
      throw errnoError('ENODEV', `region ${request.regionIndex} is not a BAR`, { op });
    }
    const view = fromUser(data, layout.size + request.nrRanges * vfioRegionDmaRange.size, op);
    const raw = readArray(vfioRegionDmaRange, view, layout.size, request.nrRanges, littleEndian);
    const ranges = checkDmaBuf(request, raw, hostPageSize);
    const value: DmaBufRequest = { region: request.regionIndex, openFlags: request.openFlags, ranges };
    return { value, finish: (result) => as<{ fd: number }>(result).fd };
  },
  make: (value, _isGet, littleEndian) => {
    const { region, openFlags, ranges } = as<DmaBufRequest>(value);
    const layout = vfioDeviceFeatureDmaBuf;
    const data = new Uint8Array(layout.size + ranges.length * vfioRegionDmaRange.size);
    const view = viewOf(data);
    layout.write(view, 0, { regionIndex: region, openFlags, flags: 0, nrRanges: ranges.length }, littleEndian);
    const raw = ranges.map(({ offset, length }) => ({ offset: BigInt(offset), length: BigInt(length) }));
    writeArray(vfioRegionDmaRange, view, layout.size, raw, littleEndian);
    return { data, pointers: [], result: (_data, returned) => ({ fd: returned }) };
  },
};

/** Size of one record of the zPCI error queue, where ZPCI_BASE says no other (`ccdfErrLength`). */
export const ZPCI_ERROR_RECORD_SIZE = 32;

const ZPCI_ERROR: FeatureCodec = {
  supported: GET,
  size: vfioDeviceFeatureZpciErr.size,
  serve: (data, _isGet, { littleEndian, memory }) => {
    const layout = vfioDeviceFeatureZpciErr;
    const { data: address } = layout.read(viewOf(fromUserBytes(data, layout.size)), 0, littleEndian);
    if (address === 0n) {
      throw errnoError('EINVAL', 'no buffer for the error record', { op: 'VFIO_DEVICE_FEATURE_ZPCI_ERROR' });
    }
    return {
      value: undefined,
      finish: (result) => {
        memory.write(address, as<Uint8Array>(result));
        return 0;
      },
    };
  },
  make: (value, _isGet, littleEndian) => {
    const record = new Uint8Array(as<{ recordSize: number }>(value).recordSize);
    return {
      data: vfioDeviceFeatureZpciErr.encode({ data: 0n }, littleEndian),
      pointers: [{ at: 0, bytes: record }],
      result: () => record,
    };
  },
};

const CODECS: ReadonlyMap<number, FeatureCodec> = new Map([
  [VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, VF_TOKEN],
  [VFIO_DEVICE_FEATURE_MIGRATION, MIGRATION],
  [VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, MIG_DEVICE_STATE],
  [VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, NO_DATA],
  [VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, LOW_POWER_WITH_WAKEUP],
  [VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, NO_DATA],
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_START, LOGGING_START],
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, NO_DATA],
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, LOGGING_REPORT],
  [VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, MIG_DATA_SIZE],
  [VFIO_DEVICE_FEATURE_BUS_MASTER, BUS_MASTER],
  [VFIO_DEVICE_FEATURE_DMA_BUF, DMA_BUF],
  [VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2, NO_DATA],
  [VFIO_DEVICE_FEATURE_ZPCI_ERROR, ZPCI_ERROR],
]);

/** The codec of a feature, or `undefined` where this library does not know it. */
export function featureCodec(index: number): FeatureCodec | undefined {
  return CODECS.get(index);
}
