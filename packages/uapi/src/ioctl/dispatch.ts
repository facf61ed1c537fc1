/** Serves ioctls: bytes in, typed calls on a target, bytes out. */

import type { CapStyle } from '../cap-chain.js';
import { errnoError, hex } from '../errors.js';
import {
  encodeDeviceInfo,
  encodeHotResetInfo,
  encodeIrqInfo,
  encodeRegionInfo,
  hotResetInfoSize,
  VFIO_DEVICE_INFO_MIN_SIZE,
} from '../info.js';
import { viewOf } from '../struct.js';
import {
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_IOEVENTFD,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
  VFIO_MIG_GET_PRECOPY_INFO,
} from '../vfio.js';
import {
  vfioDeviceAttachIommufdPt,
  vfioDeviceBindIommufd,
  vfioDeviceFeature,
  vfioIrqInfo,
  vfioPciHotResetInfo,
  vfioPrecopyInfo,
  vfioRegionInfo,
} from '../vfio-structs.js';
import { checkFeature, checkFeatureFlags } from './feature.js';
import { featureCodec } from './feature-data.js';
import { decodeHotReset } from './hot-reset.js';
import { decodeIoeventfd, type RegionPlace } from './ioeventfd.js';
import { decodeAttachIommufdPt, decodeBindIommufd, decodeDetachIommufdPt, readBindToken } from './iommufd.js';
import { decodeIrqSet } from './irq-set.js';
import type { IoctlTarget, MigrationDataTarget, PrecopyInfo } from './target.js';
import { fromUser, NO_USER_MEMORY, toUser, type UserMemory } from './user-memory.js';

/**
 * How the caller came by the device: through its group; through its own node and not bound yet, where nothing but
 * BIND_IOMMUFD is answered; or bound.
 */
export type DeviceAccess = 'group' | 'cdev-unbound' | 'cdev';

/** What a served ioctl depends on. */
export interface IoctlOptions {
  /** Byte order of the argument and of what it points to. */
  readonly littleEndian: boolean;
  /** @default a memory in which every address faults */
  readonly memory?: UserMemory;
  /** @default 'group' */
  readonly access?: DeviceAccess;
  /** @default 4096 */
  readonly hostPageSize?: number;
  /** @default 'aligned' */
  readonly capStyle?: CapStyle;
}

interface Call {
  readonly target: IoctlTarget;
  readonly arg: Uint8Array;
  readonly littleEndian: boolean;
  readonly memory: UserMemory;
  readonly access: DeviceAccess;
  readonly hostPageSize: number;
  readonly capStyle: CapStyle;
}

type Handler = (call: Call) => number | Promise<number>;

/** Reads `argsz` after the whole of what the kernel copies in first. */
function argszOf(call: Call, size: number, op: string): number {
  const argsz = fromUser(call.arg, size, op).getUint32(0, call.littleEndian);
  if (argsz < size) {
    throw errnoError('EINVAL', `argsz ${argsz}: at least ${size} is wanted`, { op });
  }
  return argsz;
}

/** Stores a reply of which the caller takes no more of the fixed struct than it knows of. */
function reply(call: Call, bytes: Uint8Array, argsz: number, op: string): number {
  toUser(call.arg, 0, argsz < bytes.length ? bytes.subarray(0, argsz) : bytes, op);
  return 0;
}

const getInfo: Handler = (call) => {
  const op = 'VFIO_DEVICE_GET_INFO';
  const argsz = argszOf(call, VFIO_DEVICE_INFO_MIN_SIZE, op);
  return reply(call, encodeDeviceInfo(call.target.getInfo(), argsz, call), argsz, op);
};

const getRegionInfo: Handler = (call) => {
  const op = 'VFIO_DEVICE_GET_REGION_INFO';
  const argsz = argszOf(call, vfioRegionInfo.size, op);
  const index = fromUser(call.arg, vfioRegionInfo.size, op).getUint32(
    vfioRegionInfo.fields.index.offset,
    call.littleEndian,
  );
  const { numRegions } = call.target.getInfo();
  if (index >= numRegions) {
    throw errnoError('EINVAL', `region index ${index}: 0 to ${numRegions - 1} are allowed`, { op });
  }
  return reply(call, encodeRegionInfo(call.target.getRegionInfo(index), argsz, call), argsz, op);
};

const getIrqInfo: Handler = (call) => {
  const op = 'VFIO_DEVICE_GET_IRQ_INFO';
  const argsz = argszOf(call, vfioIrqInfo.size, op);
  const index = fromUser(call.arg, vfioIrqInfo.size, op).getUint32(vfioIrqInfo.fields.index.offset, call.littleEndian);
  const { numIrqs } = call.target.getInfo();
  if (index >= numIrqs) {
    throw errnoError('EINVAL', `interrupt index ${index}: 0 to ${numIrqs - 1} are allowed`, { op });
  }
  return reply(call, encodeIrqInfo(call.target.getIrqInfo(index), argsz, call.littleEndian), argsz, op);
};

const setIrqs: Handler = ({ target, arg, littleEndian }) => {
  const counts = { numIrqs: target.getInfo().numIrqs, irqCount: (index: number) => target.getIrqInfo(index).count };
  return target.setIrqs(decodeIrqSet(arg, counts, littleEndian));
};

const reset: Handler = ({ target }) => zero(target.reset());

const getHotResetInfo: Handler = (call) => {
  const op = 'VFIO_DEVICE_GET_PCI_HOT_RESET_INFO';
  const argsz = argszOf(call, vfioPciHotResetInfo.size, op);
  const info = call.target.getHotResetInfo();
  toUser(call.arg, 0, encodeHotResetInfo(info, argsz, call.littleEndian), op);
  const needed = hotResetInfoSize(info.devices.length);
  if (argsz < needed) {
    throw errnoError('ENOSPC', `argsz ${argsz}: ${info.devices.length} functions need ${needed}`, { op });
  }
  return 0;
};

const hotReset: Handler = ({ target, arg, access, littleEndian }) => {
  const affected = (): number => target.getHotResetInfo().devices.length;
  return zero(target.hotReset(decodeHotReset(arg, access === 'cdev', affected, littleEndian)));
};

/** The region that an offset of the device's file belongs to: the last one that starts at or before it. */
function regionAt(target: IoctlTarget, offset: bigint): RegionPlace | undefined {
  let found: { index: number; start: bigint } | undefined;
  const { numRegions } = target.getInfo();
  for (let index = 0; index < numRegions; index++) {
    const start = BigInt(target.getRegionInfo(index).offset);
    if (start <= offset && (found === undefined || start > found.start)) {
      found = { index, start };
    }
  }
  // An offset in a region beyond 2^53 is in none that can be reached.
  return found === undefined || offset - found.start > BigInt(Number.MAX_SAFE_INTEGER)
    ? undefined
    : { region: found.index, offset: Number(offset - found.start) };
}

const ioeventfd: Handler = ({ target, arg, littleEndian }) => {
  target.ioeventfd(decodeIoeventfd(arg, (offset) => regionAt(target, offset), littleEndian));
  return 0;
};

const feature: Handler = (call) => {
  const op = 'VFIO_DEVICE_FEATURE';
  const { target, arg, littleEndian, memory, hostPageSize } = call;
  const { argsz, flags } = vfioDeviceFeature.read(fromUser(arg, vfioDeviceFeature.size, op), 0, littleEndian);
  checkFeatureFlags(argsz, flags);
  const index = flags & VFIO_DEVICE_FEATURE_MASK;
  // Whether the device has the feature at all comes before everything that its data could be wrong in.
  const probe = (): unknown => target.deviceFeature({ flags: (flags | VFIO_DEVICE_FEATURE_PROBE) >>> 0 });
  return after(probe, () => {
    const dataSize = argsz - vfioDeviceFeature.size;
    const codec = featureCodec(index);
    const supported = codec?.supported ?? VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
    if (!checkFeature(flags, dataSize, supported, codec?.size ?? 0)) return 0;
    const isGet = (flags & VFIO_DEVICE_FEATURE_GET) !== 0;
    if (codec === undefined) {
      const data = arg.subarray(vfioDeviceFeature.size, vfioDeviceFeature.size + dataSize);
      return after(
        () => target.deviceFeature({ flags, value: data.slice() }),
        (result) => {
          if (result instanceof Uint8Array) toUser(arg, vfioDeviceFeature.size, result.subarray(0, dataSize), op);
          return 0;
        },
      );
    }
    const served = codec.serve(arg.subarray(vfioDeviceFeature.size), isGet, { littleEndian, memory, hostPageSize });
    return after(
      () => target.deviceFeature({ flags, value: served.value }),
      (result) => served.finish(result),
      () => served.failed?.(),
    );
  });
};

const bindIommufd: Handler = ({ target, arg, memory, access, littleEndian }) => {
  const op = 'VFIO_DEVICE_BIND_IOMMUFD';
  const raw = decodeBindIommufd(arg, littleEndian);
  if (access !== 'cdev-unbound' || target.bindIommufd === undefined) {
    throw errnoError(
      'EINVAL',
      access === 'cdev' ? 'the device is bound already' : 'the device was opened through its group',
      {
        op,
      },
    );
  }
  const devid = target.bindIommufd({ iommufd: raw.iommufd, token: readBindToken(raw, memory) });
  const { outDevid } = vfioDeviceBindIommufd.fields;
  viewOf(arg).setUint32(outDevid.offset, devid, littleEndian);
  return 0;
};

const attachIommufdPt: Handler = ({ target, arg, access, littleEndian }) => {
  if (access !== 'cdev' || target.attachIommufdPt === undefined) throw unknownRequest(VFIO_DEVICE_ATTACH_IOMMUFD_PT);
  const ptId = target.attachIommufdPt(decodeAttachIommufdPt(arg, littleEndian));
  viewOf(arg).setUint32(vfioDeviceAttachIommufdPt.fields.ptId.offset, ptId, littleEndian);
  return 0;
};

const detachIommufdPt: Handler = ({ target, arg, access, littleEndian }) => {
  if (access !== 'cdev' || target.detachIommufdPt === undefined) throw unknownRequest(VFIO_DEVICE_DETACH_IOMMUFD_PT);
  target.detachIommufdPt(decodeDetachIommufdPt(arg, littleEndian));
  return 0;
};

const HANDLERS: ReadonlyMap<number, Handler> = new Map([
  [VFIO_DEVICE_GET_INFO, getInfo],
  [VFIO_DEVICE_GET_REGION_INFO, getRegionInfo],
  [VFIO_DEVICE_GET_IRQ_INFO, getIrqInfo],
  [VFIO_DEVICE_SET_IRQS, setIrqs],
  [VFIO_DEVICE_RESET, reset],
  [VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, getHotResetInfo],
  [VFIO_DEVICE_PCI_HOT_RESET, hotReset],
  [VFIO_DEVICE_IOEVENTFD, ioeventfd],
  [VFIO_DEVICE_FEATURE, feature],
  [VFIO_DEVICE_BIND_IOMMUFD, bindIommufd],
  [VFIO_DEVICE_ATTACH_IOMMUFD_PT, attachIommufdPt],
  [VFIO_DEVICE_DETACH_IOMMUFD_PT, detachIommufdPt],
]);

function unknownRequest(request: number): Error {
  return errnoError('ENOTTY', `ioctl ${hex(request)} is not known here`, { op: 'ioctl' });
}

/**
 * Serves one ioctl of a device descriptor. The argument is changed in place, as a call into the kernel would.
 *
 * Everything that the bytes and the device's counts can tell is checked here, in the kernel's order and with its errno; the
 * rest is the target's. The rules are numbered in `ERRNO_TABLE`.
 * @param arg The caller's memory from the argument's address on; empty for a call without one.
 * @returns What the ioctl returns: 0, a positive number of vectors (SET_IRQS), a descriptor (DMA_BUF). A promise only where
 * the target gives one.
 * @throws VfioError with the kernel's errno. The argument is as it was, except where the kernel too fills it in and then
 * fails: the count of GET_PCI_HOT_RESET_INFO with ENOSPC, the data descriptor of a failed MIG_DEVICE_STATE.
 */
export function dispatchIoctl(
  target: IoctlTarget,
  request: number,
  arg: Uint8Array,
  options: IoctlOptions,
): number | Promise<number> {
  const access = options.access ?? 'group';
  if (access === 'cdev-unbound' && request !== VFIO_DEVICE_BIND_IOMMUFD) {
    throw errnoError('EINVAL', `ioctl ${hex(request)} before the device is bound to an iommufd`, { op: 'ioctl' });
  }
  const handler = HANDLERS.get(request);
  if (handler === undefined) throw unknownRequest(request);
  return handler({
    target,
    arg,
    littleEndian: options.littleEndian,
    memory: options.memory ?? NO_USER_MEMORY,
    access,
    hostPageSize: options.hostPageSize ?? 4096,
    capStyle: options.capStyle ?? 'aligned',
  });
}

/**
 * Serves one ioctl of a migration's data descriptor.
 * @throws VfioError ENOTTY: another request than MIG_GET_PRECOPY_INFO. EFAULT, EINVAL: its argument, then its state.
 */
export function dispatchMigrationIoctl(
  target: MigrationDataTarget,
  request: number,
  arg: Uint8Array,
  littleEndian: boolean,
): number | Promise<number> {
  const op = 'VFIO_MIG_GET_PRECOPY_INFO';
  if (request !== VFIO_MIG_GET_PRECOPY_INFO) throw unknownRequest(request);
  const { argsz } = readPrecopyArg(arg, op, littleEndian);
  const answer = ({ flags, initialBytes, dirtyBytes }: PrecopyInfo): number => {
    // Kernels give the caller's flags back unless it opted into flags; ours are always those of the device.
    toUser(arg, 0, vfioPrecopyInfo.encode({ argsz, flags, initialBytes, dirtyBytes }, littleEndian), op);
    return 0;
  };
  const info = target.precopyInfo();
  return isPromise(info) ? info.then(answer) : answer(info);
}

function readPrecopyArg(arg: Uint8Array, op: string, littleEndian: boolean) {
  const given = vfioPrecopyInfo.read(fromUser(arg, vfioPrecopyInfo.size, op), 0, littleEndian);
  if (given.argsz < vfioPrecopyInfo.size) {
    throw errnoError('EINVAL', `argsz ${given.argsz}: at least ${vfioPrecopyInfo.size} is wanted`, { op });
  }
  return given;
}

function isPromise(value: unknown): value is Promise<unknown> {
  return value instanceof Promise;
}

function zero(value: void | Promise<void>): number | Promise<number> {
  return isPromise(value) ? value.then(() => 0) : 0;
}

/** Goes on with the result of a call, now or when its promise is kept. */
function after(
  call: () => unknown,
  next: (value: unknown) => number | Promise<number>,
  failed?: () => void,
): number | Promise<number> {
  const fail = (error: unknown): never => {
    failed?.();
    throw error;
  };
  let value: unknown;
  try {
    value = call();
  } catch (error) {
    return fail(error);
  }
  return isPromise(value) ? value.then(next, fail) : next(value);
}
