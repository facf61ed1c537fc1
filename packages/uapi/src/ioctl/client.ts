/** Makes ioctls: typed calls in, bytes out to whoever carries them, typed results back. */
import { decodeDeviceCap } from '../device-caps.js';
import { errnoError, isVfioError } from '../errors.js';
import {
  type DecodedInfo,
  type DeviceInfo,
  decodeDeviceInfo,
  decodeHotResetInfo,
  decodeIrqInfo,
  decodeRegionInfo,
  hotResetInfoCount,
  hotResetInfoSize,
  type RegionInfo,
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
  VFIO_DEVICE_FEATURE_ZPCI_ERROR,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_INFO_CAP_ZPCI_BASE,
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
  vfioDeviceInfo,
  vfioIrqInfo,
  vfioPciHotResetInfo,
  vfioPrecopyInfo,
  vfioRegionInfo,
} from '../vfio-structs.js';
import { featureCodec, type PointerFixup, ZPCI_ERROR_RECORD_SIZE } from './feature-data.js';
import { encodeHotReset } from './hot-reset.js';
import { encodeIoeventfd } from './ioeventfd.js';
import { encodeAttachIommufdPt, encodeBindIommufd, encodeDetachIommufdPt } from './iommufd.js';
import { encodeIrqSet } from './irq-set.js';
import type { IoctlTarget, PrecopyInfo } from './target.js';

/**
 * Makes one ioctl with `arg` as its argument, which it changes in place. Before that it stores the address of each pointer's
 * bytes in `arg` at the pointer's offset, 64 bits wide.
 * @returns What the ioctl returned, never negative.
 * @throws VfioError with the errno.
 */
export type RawIoctl = (request: number, arg: Uint8Array, pointers: readonly PointerFixup[]) => number;

const NO_POINTERS: readonly PointerFixup[] = [];

/** A reply larger than this is not one of a real device: 64 Ki sparse areas fit. */
const MAX_INFO_SIZE = 1 << 20;

/** Makes an info call, again with more room until the whole reply fits. */
function callWithRoom<T>(
  make: (argsz: number) => Uint8Array,
  call: (arg: Uint8Array) => void,
  decode: (reply: Uint8Array) => DecodedInfo<T>,
  firstSize: number,
  op: string,
): T {
  for (let room = firstSize; ; ) {
    const arg = make(room);
    call(arg);
    const reply = decode(arg);
    if (reply.argsz <= room) return reply.info;
    if (reply.argsz > MAX_INFO_SIZE) {
      throw errnoError('E2BIG', `a reply of ${reply.argsz} bytes: at most ${MAX_INFO_SIZE} are taken`, { op });
    }
    // Grows in each round, so it ends.
    room = reply.argsz;
  }
}

function argument(size: number, argsz: number, littleEndian: boolean): Uint8Array {
  const arg = new Uint8Array(Math.max(size, argsz));
  viewOf(arg).setUint32(0, argsz, littleEndian);
  return arg;
}

/**
 * A device behind its ioctls, typed. The inverse of `dispatchIoctl`: what one encodes the other decodes.
 * @param littleEndian Byte order of this host.
 */
export function ioctlDevice(ioctl: RawIoctl, littleEndian: boolean): Required<IoctlTarget> {
  const getRegionInfo = (index: number): RegionInfo =>
    callWithRoom(
      (argsz) => {
        const arg = argument(vfioRegionInfo.size, argsz, littleEndian);
        viewOf(arg).setUint32(vfioRegionInfo.fields.index.offset, index, littleEndian);
        return arg;
      },
      (arg) => ioctl(VFIO_DEVICE_GET_REGION_INFO, arg, NO_POINTERS),
      (reply) => decodeRegionInfo(reply, littleEndian),
      vfioRegionInfo.size,
      'VFIO_DEVICE_GET_REGION_INFO',
    );

  const getInfo = (): DeviceInfo =>
    callWithRoom(
      (argsz) => argument(vfioDeviceInfo.size, argsz, littleEndian),
      (arg) => ioctl(VFIO_DEVICE_GET_INFO, arg, NO_POINTERS),
      (reply) => decodeDeviceInfo(reply, littleEndian),
      vfioDeviceInfo.size,
      'VFIO_DEVICE_GET_INFO',
    );

  /** The device writes a whole record behind the pointer: no room less than it says may be offered. */
  const errorRecordSize = (): number => {
    const caps = getInfo().caps.map((cap) => decodeDeviceCap(cap, littleEndian));
    const base = caps.find((cap) => cap?.id === VFIO_DEVICE_INFO_CAP_ZPCI_BASE);
    return Math.max(ZPCI_ERROR_RECORD_SIZE, base?.ccdfErrLength ?? 0);
  };

  return {
    getInfo,

    getRegionInfo,

    getIrqInfo: (index) => {
      const arg = vfioIrqInfo.encode({ argsz: vfioIrqInfo.size, flags: 0, index, count: 0 }, littleEndian);
      ioctl(VFIO_DEVICE_GET_IRQ_INFO, arg, NO_POINTERS);
      return decodeIrqInfo(arg, littleEndian);
    },

    setIrqs: (set) => ioctl(VFIO_DEVICE_SET_IRQS, encodeIrqSet(set, littleEndian), NO_POINTERS),

    reset: () => {
      ioctl(VFIO_DEVICE_RESET, new Uint8Array(0), NO_POINTERS);
    },

    getHotResetInfo: () => {
      // Functions may come between two calls: each round has room for those that the last one found.
      for (let count = 0, rounds = 0; ; rounds++) {
        const size = hotResetInfoSize(count);
        const arg = argument(vfioPciHotResetInfo.size, size, littleEndian);
        try {
          ioctl(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, arg, NO_POINTERS);
          return decodeHotResetInfo(arg, littleEndian);
        } catch (error) {
          const found = hotResetInfoCount(arg, littleEndian);
          const mayRetry = isVfioError(error) && error.errno === 'ENOSPC' && found > count;
          if (!mayRetry || rounds === 8 || hotResetInfoSize(found) > MAX_INFO_SIZE) throw error;
          count = found;
        }
      }
    },

    hotReset: (groupFds) => {
      ioctl(VFIO_DEVICE_PCI_HOT_RESET, encodeHotReset(groupFds, littleEndian), NO_POINTERS);
    },

    ioeventfd: (call) => {
      ioctl(VFIO_DEVICE_IOEVENTFD, encodeIoeventfd(call, getRegionInfo(call.region).offset, littleEndian), NO_POINTERS);
    },

    deviceFeature: ({ flags, value }) => {
      const head = vfioDeviceFeature.size;
      const codec = featureCodec(flags & VFIO_DEVICE_FEATURE_MASK);
      if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) {
        ioctl(VFIO_DEVICE_FEATURE, vfioDeviceFeature.encode({ argsz: head, flags }, littleEndian), NO_POINTERS);
        return undefined;
      }
      const isGet = (flags & VFIO_DEVICE_FEATURE_GET) !== 0;
      const isZpciError = (flags & VFIO_DEVICE_FEATURE_MASK) === VFIO_DEVICE_FEATURE_ZPCI_ERROR;
      const made = codec?.make(isZpciError ? { recordSize: errorRecordSize() } : value, isGet, littleEndian);
      const data = made?.data ?? bytesOf(value);
      const arg = new Uint8Array(head + data.length);
      vfioDeviceFeature.write(viewOf(arg), 0, { argsz: arg.length, flags }, littleEndian);
      arg.set(data, head);
      const pointers = (made?.pointers ?? NO_POINTERS).map(({ at, bytes }) => ({ at: head + at, bytes }));
      const returned = ioctl(VFIO_DEVICE_FEATURE, arg, pointers);
      return made === undefined ? arg.slice(head) : made.result(arg.subarray(head), returned);
    },

    bindIommufd: ({ iommufd, token }) => {
      const arg = encodeBindIommufd(iommufd, token !== undefined, littleEndian);
      const at = vfioDeviceBindIommufd.fields.tokenUuidPtr.offset;
      ioctl(VFIO_DEVICE_BIND_IOMMUFD, arg, token === undefined ? NO_POINTERS : [{ at, bytes: token }]);
      return vfioDeviceBindIommufd.read(viewOf(arg), 0, littleEndian).outDevid;
    },

    attachIommufdPt: (call) => {
      const arg = encodeAttachIommufdPt(call, littleEndian);
      ioctl(VFIO_DEVICE_ATTACH_IOMMUFD_PT, arg, NO_POINTERS);
      return viewOf(arg).getUint32(vfioDeviceAttachIommufdPt.fields.ptId.offset, littleEndian);
    },

    detachIommufdPt: (call) => {
      ioctl(VFIO_DEVICE_DETACH_IOMMUFD_PT, encodeDetachIommufdPt(call, littleEndian), NO_POINTERS);
    },
  };
}

function bytesOf(value: unknown): Uint8Array {
  if (value === undefined) return new Uint8Array(0);
  if (value instanceof Uint8Array) return value;
  throw errnoError('EINVAL', 'the value of a feature that is not known by type has to be bytes', {
    op: 'VFIO_DEVICE_FEATURE',
  });
}

/**
 * VFIO_MIG_GET_PRECOPY_INFO on a migration's data descriptor.
 * @throws VfioError ENOTTY, EINVAL as the kernel gives them.
 */
export function ioctlPrecopyInfo(ioctl: RawIoctl, littleEndian: boolean): PrecopyInfo {
  const arg = vfioPrecopyInfo.encode(
    { argsz: vfioPrecopyInfo.size, flags: 0, initialBytes: 0n, dirtyBytes: 0n },
    littleEndian,
  );
  ioctl(VFIO_MIG_GET_PRECOPY_INFO, arg, NO_POINTERS);
  const { flags, initialBytes, dirtyBytes } = vfioPrecopyInfo.read(viewOf(arg), 0, littleEndian);
  return { flags, initialBytes, dirtyBytes };
}
