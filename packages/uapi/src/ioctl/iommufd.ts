/** VFIO_DEVICE_BIND_IOMMUFD, ATTACH_IOMMUFD_PT and DETACH_IOMMUFD_PT. */
import { errnoError, hex } from '../errors.js';
import type { Struct } from '../struct.js';
import { VFIO_DEVICE_ATTACH_PASID, VFIO_DEVICE_BIND_FLAG_TOKEN, VFIO_DEVICE_DETACH_PASID } from '../vfio.js';
import {
  vfioDeviceAttachIommufdPt,
  vfioDeviceBindIommufd,
  vfioDeviceDetachIommufdPt,
  vfioDeviceFeaturePciVfToken,
} from '../vfio-structs.js';
import { fromUser, type UserMemory } from './user-memory.js';

const BIND = 'VFIO_DEVICE_BIND_IOMMUFD';
const ATTACH = 'VFIO_DEVICE_ATTACH_IOMMUFD_PT';
const DETACH = 'VFIO_DEVICE_DETACH_IOMMUFD_PT';

/** Least `argsz` of BIND_IOMMUFD: the struct as it was before it had a token. */
export const VFIO_DEVICE_BIND_IOMMUFD_MIN_SIZE = vfioDeviceBindIommufd.fields.tokenUuidPtr.offset;
/** Least `argsz` of ATTACH_IOMMUFD_PT without a PASID. */
export const VFIO_DEVICE_ATTACH_IOMMUFD_PT_MIN_SIZE = vfioDeviceAttachIommufdPt.fields.pasid.offset;
/** Least `argsz` of DETACH_IOMMUFD_PT without a PASID. */
export const VFIO_DEVICE_DETACH_IOMMUFD_PT_MIN_SIZE = vfioDeviceDetachIommufdPt.fields.pasid.offset;

/** One VFIO_DEVICE_BIND_IOMMUFD. */
export interface BindIommufd {
  readonly iommufd: number;
  /** VF token, 16 bytes; `undefined` where the caller gave none. */
  readonly token: Uint8Array | undefined;
}

/** One VFIO_DEVICE_ATTACH_IOMMUFD_PT. */
export interface AttachIommufdPt {
  readonly ptId: number;
  readonly pasid: number | undefined;
}

/** One VFIO_DEVICE_DETACH_IOMMUFD_PT. */
export interface DetachIommufdPt {
  readonly pasid: number | undefined;
}

/** What the bytes of BIND_IOMMUFD say, before its token is fetched. */
export interface RawBindIommufd {
  readonly iommufd: number;
  /** Where the token is in the caller's memory; `undefined` without the TOKEN flag. */
  readonly tokenAddress: bigint | undefined;
}

function argszOf(arg: Uint8Array, op: string, littleEndian: boolean): number {
  return fromUser(arg, 4, op).getUint32(0, littleEndian);
}

/**
 * Reads and checks the argument of BIND_IOMMUFD, as `copy_struct_from_user` does: a shorter struct ends in zeros, a longer
 * one must.
 * @throws VfioError EFAULT (unreadable), EINVAL, E2BIG (a newer struct that says something).
 */
export function decodeBindIommufd(arg: Uint8Array, littleEndian: boolean): RawBindIommufd {
  const argsz = argszOf(arg, BIND, littleEndian);
  if (argsz < VFIO_DEVICE_BIND_IOMMUFD_MIN_SIZE) {
    throw errnoError('EINVAL', `argsz ${argsz}: at least ${VFIO_DEVICE_BIND_IOMMUFD_MIN_SIZE} is wanted`, { op: BIND });
  }
  const given = fromUser(arg, argsz, BIND);
  const struct: Struct = vfioDeviceBindIommufd;
  for (let at = struct.size; at < argsz; at++) {
    if (given.getUint8(at) !== 0) {
      throw errnoError(
        'E2BIG',
        `byte ${at} is 0x${given.getUint8(at).toString(16)}: only ${struct.size} bytes are known`,
        {
          op: BIND,
        },
      );
    }
  }
  const whole = new Uint8Array(struct.size);
  whole.set(arg.subarray(0, Math.min(argsz, struct.size)));
  const raw = vfioDeviceBindIommufd.read(new DataView(whole.buffer), 0, littleEndian);
  if ((raw.flags & ~VFIO_DEVICE_BIND_FLAG_TOKEN) !== 0 || raw.iommufd < 0) {
    throw errnoError(
      'EINVAL',
      `flags ${hex(raw.flags)} and iommufd ${raw.iommufd}: only flag ${hex(VFIO_DEVICE_BIND_FLAG_TOKEN)} is known, and a descriptor is wanted`,
      { op: BIND },
    );
  }
  return {
    iommufd: raw.iommufd,
    tokenAddress: (raw.flags & VFIO_DEVICE_BIND_FLAG_TOKEN) !== 0 ? raw.tokenUuidPtr : undefined,
  };
}

/** Fetches the token of a BIND_IOMMUFD. @throws VfioError EFAULT. */
export function readBindToken(raw: RawBindIommufd, memory: UserMemory): Uint8Array | undefined {
  return raw.tokenAddress === undefined ? undefined : memory.read(raw.tokenAddress, vfioDeviceFeaturePciVfToken.size);
}

/**
 * The argument of BIND_IOMMUFD. With a token, its address has to be stored at the offset of `tokenUuidPtr`.
 * @throws VfioError EINVAL: a value does not fit its field.
 */
export function encodeBindIommufd(iommufd: number, hasToken: boolean, littleEndian: boolean): Uint8Array {
  return vfioDeviceBindIommufd.encode(
    {
      argsz: vfioDeviceBindIommufd.size,
      flags: hasToken ? VFIO_DEVICE_BIND_FLAG_TOKEN : 0,
      iommufd,
      outDevid: 0,
      tokenUuidPtr: 0n,
    },
    littleEndian,
  );
}

/** Checks `argsz` and flags of a struct whose last field comes with the PASID flag; whether the flag is set. */
function checkPasidStruct(
  arg: Uint8Array,
  minSize: number,
  fullSize: number,
  flag: number,
  op: string,
  le: boolean,
): boolean {
  const view = fromUser(arg, minSize, op);
  const argsz = view.getUint32(0, le);
  const flags = view.getUint32(4, le);
  if (argsz < minSize || (flags & ~flag) !== 0) {
    throw errnoError(
      'EINVAL',
      `argsz ${argsz} and flags ${hex(flags)}: at least ${minSize} and only ${hex(flag)} are allowed`,
      {
        op,
      },
    );
  }
  if ((flags & flag) === 0) return false;
  if (argsz < fullSize) {
    throw errnoError('EINVAL', `argsz ${argsz}: ${fullSize} is wanted with a PASID`, { op });
  }
  fromUser(arg, fullSize, op);
  return true;
}

/** Reads and checks the argument of ATTACH_IOMMUFD_PT. @throws VfioError EFAULT (unreadable), EINVAL. */
export function decodeAttachIommufdPt(arg: Uint8Array, littleEndian: boolean): AttachIommufdPt {
  const { size, fields } = vfioDeviceAttachIommufdPt;
  const min = VFIO_DEVICE_ATTACH_IOMMUFD_PT_MIN_SIZE;
  const hasPasid = checkPasidStruct(arg, min, size, VFIO_DEVICE_ATTACH_PASID, ATTACH, littleEndian);
  const view = fromUser(arg, hasPasid ? size : min, ATTACH);
  return {
    ptId: view.getUint32(fields.ptId.offset, littleEndian),
    pasid: hasPasid ? view.getUint32(fields.pasid.offset, littleEndian) : undefined,
  };
}

/** Reads and checks the argument of DETACH_IOMMUFD_PT. @throws VfioError EFAULT (unreadable), EINVAL. */
export function decodeDetachIommufdPt(arg: Uint8Array, littleEndian: boolean): DetachIommufdPt {
  const { size, fields } = vfioDeviceDetachIommufdPt;
  const min = VFIO_DEVICE_DETACH_IOMMUFD_PT_MIN_SIZE;
  const hasPasid = checkPasidStruct(arg, min, size, VFIO_DEVICE_DETACH_PASID, DETACH, littleEndian);
  return { pasid: hasPasid ? fromUser(arg, size, DETACH).getUint32(fields.pasid.offset, littleEndian) : undefined };
}

/** The argument of ATTACH_IOMMUFD_PT, as short as the call allows: older kernels do not know the PASID. */
export function encodeAttachIommufdPt(call: AttachIommufdPt, littleEndian: boolean): Uint8Array {
  const hasPasid = call.pasid !== undefined;
  const size = hasPasid ? vfioDeviceAttachIommufdPt.size : VFIO_DEVICE_ATTACH_IOMMUFD_PT_MIN_SIZE;
  const flags = hasPasid ? VFIO_DEVICE_ATTACH_PASID : 0;
  const value = { argsz: size, flags, ptId: call.ptId, pasid: call.pasid ?? 0 };
  return vfioDeviceAttachIommufdPt.encode(value, littleEndian).subarray(0, size);
}

/** The argument of DETACH_IOMMUFD_PT, as short as the call allows: older kernels do not know the PASID. */
export function encodeDetachIommufdPt(call: DetachIommufdPt, littleEndian: boolean): Uint8Array {
  const hasPasid = call.pasid !== undefined;
  const size = hasPasid ? vfioDeviceDetachIommufdPt.size : VFIO_DEVICE_DETACH_IOMMUFD_PT_MIN_SIZE;
  const value = { argsz: size, flags: hasPasid ? VFIO_DEVICE_DETACH_PASID : 0, pasid: call.pasid ?? 0 };
  return vfioDeviceDetachIommufdPt.encode(value, littleEndian).subarray(0, size);
}
