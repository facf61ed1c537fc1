/** VFIO_DEVICE_IOEVENTFD. */
import { errnoError, hex } from '../errors.js';
import {
  VFIO_DEVICE_IOEVENTFD_8,
  VFIO_DEVICE_IOEVENTFD_16,
  VFIO_DEVICE_IOEVENTFD_32,
  VFIO_DEVICE_IOEVENTFD_64,
  VFIO_DEVICE_IOEVENTFD_SIZE_MASK,
  VFIO_PCI_BAR5_REGION_INDEX,
} from '../vfio.js';
import { vfioDeviceIoeventfd } from '../vfio-structs.js';
import { fromUser } from './user-memory.js';

const OP = 'VFIO_DEVICE_IOEVENTFD';

/** Least `argsz`: the struct as it was before its padding was named. */
export const VFIO_DEVICE_IOEVENTFD_MIN_SIZE = vfioDeviceIoeventfd.fields.reserved.offset;

/** One VFIO_DEVICE_IOEVENTFD: `data` stored to the region whenever the descriptor is signalled. */
export interface Ioeventfd {
  readonly region: number;
  /** Within the region. */
  readonly offset: number;
  readonly width: 1 | 2 | 4 | 8;
  readonly data: bigint;
  /** -1 removes. */
  readonly fd: number;
}

/** A place in a device's file as a region and an offset in it. */
export interface RegionPlace {
  readonly region: number;
  readonly offset: number;
}

const WIDTHS: ReadonlyMap<number, 1 | 2 | 4 | 8> = new Map([
  [VFIO_DEVICE_IOEVENTFD_8, 1],
  [VFIO_DEVICE_IOEVENTFD_16, 2],
  [VFIO_DEVICE_IOEVENTFD_32, 4],
  [VFIO_DEVICE_IOEVENTFD_64, 8],
]);

/**
 * Reads and checks the argument of IOEVENTFD.
 * @param regionAt Finds the region in which an offset of the device's file lies.
 * @throws VfioError EFAULT (unreadable), EINVAL.
 */
export function decodeIoeventfd(
  arg: Uint8Array,
  regionAt: (offset: bigint) => RegionPlace | undefined,
  littleEndian: boolean,
): Ioeventfd {
  const view = fromUser(arg, VFIO_DEVICE_IOEVENTFD_MIN_SIZE, OP);
  const { argsz, flags, offset, data, fd } = vfioDeviceIoeventfd.fields;
  const argszValue = view.getUint32(argsz.offset, littleEndian);
  if (argszValue < VFIO_DEVICE_IOEVENTFD_MIN_SIZE) {
    throw errnoError('EINVAL', `argsz ${argszValue}: at least ${VFIO_DEVICE_IOEVENTFD_MIN_SIZE} is wanted`, { op: OP });
  }
  const flagsValue = view.getUint32(flags.offset, littleEndian);
  if ((flagsValue & ~VFIO_DEVICE_IOEVENTFD_SIZE_MASK) !== 0) {
    throw errnoError('EINVAL', `flags ${hex(flagsValue)}: only ${hex(VFIO_DEVICE_IOEVENTFD_SIZE_MASK)} are known`, {
      op: OP,
    });
  }
  const width = WIDTHS.get(flagsValue);
  if (width === undefined) {
    throw errnoError('EINVAL', `flags ${hex(flagsValue)}: exactly one size is wanted`, { op: OP });
  }
  const fdValue = view.getInt32(fd.offset, littleEndian);
  if (fdValue < -1) {
    throw errnoError('EINVAL', `descriptor ${fdValue}: one that is open, or -1`, { op: OP });
  }
  const offsetValue = view.getBigUint64(offset.offset, littleEndian);
  const place = regionAt(offsetValue);
  if (place === undefined || place.region > VFIO_PCI_BAR5_REGION_INDEX) {
    throw errnoError('EINVAL', `offset ${hex(offsetValue)} is not in a BAR`, { op: OP });
  }
  return { ...place, width, data: view.getBigUint64(data.offset, littleEndian), fd: fdValue };
}

/**
 * The argument of IOEVENTFD.
 * @param regionOffset Where the region starts in the device's file.
 * @throws VfioError EINVAL: a value does not fit its field.
 */
export function encodeIoeventfd(call: Ioeventfd, regionOffset: number, littleEndian: boolean): Uint8Array {
  return vfioDeviceIoeventfd.encode(
    {
      argsz: vfioDeviceIoeventfd.size,
      // One bit a width, in the order of the widths.
      flags: call.width,
      offset: BigInt(regionOffset) + BigInt(call.offset),
      data: call.data,
      fd: call.fd,
    },
    littleEndian,
  );
}
