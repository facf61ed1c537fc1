/**
 * Capabilities of VFIO_DEVICE_GET_INFO, typed: the four of s390 zPCI functions (`linux/vfio_zdev.h`) and PCI_ATOMIC_COMP.
 * A capability with a newer version than this library knows has the fields that are known; an older one lacks those that
 * came later.
 */
import type { InfoCap } from './cap-chain.js';
import { VfioError } from './errors.js';
import { needBytes, viewOf } from './struct.js';
import {
  VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP,
  VFIO_DEVICE_INFO_CAP_ZPCI_BASE,
  VFIO_DEVICE_INFO_CAP_ZPCI_GROUP,
  VFIO_DEVICE_INFO_CAP_ZPCI_PFIP,
  VFIO_DEVICE_INFO_CAP_ZPCI_UTIL,
} from './vfio.js';
import {
  vfioDeviceInfoCapPciAtomicComp,
  vfioDeviceInfoCapZpciBase,
  vfioDeviceInfoCapZpciGroup,
  vfioDeviceInfoCapZpciPfip,
  vfioDeviceInfoCapZpciUtil,
} from './vfio-structs.js';

/** ZPCI_BASE: the function. `fh` came with version 2, `ccdfErrLength` with version 3. */
export interface ZpciBaseCap {
  readonly id: typeof VFIO_DEVICE_INFO_CAP_ZPCI_BASE;
  readonly version: number;
  /** First and last DMA address. */
  readonly startDma: bigint;
  readonly endDma: bigint;
  /** Physical channel. */
  readonly pchid: number;
  /** Virtual function number. */
  readonly vfn: number;
  /** Length of the measurement block in bytes. */
  readonly fmbLength: number;
  /** Function type. */
  readonly pft: number;
  /** Function group. */
  readonly gid: number;
  /** Function handle. */
  readonly fh: number | undefined;
  /** Size of an error record (feature ZPCI_ERROR). */
  readonly ccdfErrLength: number | undefined;
}

/** ZPCI_GROUP: the function's group. `imaxstbl` came with version 2. */
export interface ZpciGroupCap {
  readonly id: typeof VFIO_DEVICE_INFO_CAP_ZPCI_GROUP;
  readonly version: number;
  /** DMA address space mask. */
  readonly dasm: bigint;
  readonly msiAddr: bigint;
  /** VFIO_DEVICE_INFO_ZPCI_FLAG_*. */
  readonly flags: bigint;
  /** Measurement block update interval. */
  readonly mui: number;
  /** Number of interrupts. */
  readonly noi: number;
  /** Longest store block in bytes. */
  readonly maxstbl: number;
  /** Version of the PCI support. */
  readonly pciVersion: number;
  /** Longest interpreted store block in bytes. */
  readonly imaxstbl: number | undefined;
}

/** ZPCI_UTIL: the utility string, EBCDIC. */
export interface ZpciUtilCap {
  readonly id: typeof VFIO_DEVICE_INFO_CAP_ZPCI_UTIL;
  readonly version: number;
  readonly utilStr: Uint8Array;
}

/** ZPCI_PFIP: the path to the function inside the machine. */
export interface ZpciPfipCap {
  readonly id: typeof VFIO_DEVICE_INFO_CAP_ZPCI_PFIP;
  readonly version: number;
  readonly pfip: Uint8Array;
}

/** PCI_ATOMIC_COMP: AtomicOps that complete at the root bus, VFIO_PCI_ATOMIC_COMP*. */
export interface PciAtomicCompCap {
  readonly id: typeof VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP;
  readonly version: number;
  readonly flags: number;
}

/** A device capability that this library knows. */
export type TypedDeviceCap = ZpciBaseCap | ZpciGroupCap | ZpciUtilCap | ZpciPfipCap | PciAtomicCompCap;

/**
 * The typed form of a device capability, or `undefined` where the id is not known (or the version is 0).
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: the body is shorter than its id says, or a length in it is.
 */
export function decodeDeviceCap(cap: InfoCap, littleEndian: boolean): TypedDeviceCap | undefined {
  if (cap.version === 0) return undefined;
  const view = viewOf(cap.data);
  const version = cap.version;
  switch (cap.id) {
    case VFIO_DEVICE_INFO_CAP_ZPCI_BASE: {
      const body = vfioDeviceInfoCapZpciBase.read(view, 0, littleEndian);
      return {
        ...body,
        id: VFIO_DEVICE_INFO_CAP_ZPCI_BASE,
        version,
        fh: version >= 2 ? body.fh : undefined,
        ccdfErrLength: version >= 3 ? body.ccdfErrLength : undefined,
      };
    }
    case VFIO_DEVICE_INFO_CAP_ZPCI_GROUP: {
      const body = vfioDeviceInfoCapZpciGroup.read(view, 0, littleEndian);
      return {
        ...body,
        id: VFIO_DEVICE_INFO_CAP_ZPCI_GROUP,
        version,
        imaxstbl: version >= 2 ? body.imaxstbl : undefined,
      };
    }
    case VFIO_DEVICE_INFO_CAP_ZPCI_UTIL: {
      const { size } = vfioDeviceInfoCapZpciUtil.read(view, 0, littleEndian);
      return { id: VFIO_DEVICE_INFO_CAP_ZPCI_UTIL, version, utilStr: tail(cap.data, size, 'ZPCI_UTIL string') };
    }
    case VFIO_DEVICE_INFO_CAP_ZPCI_PFIP: {
      const { size } = vfioDeviceInfoCapZpciPfip.read(view, 0, littleEndian);
      return { id: VFIO_DEVICE_INFO_CAP_ZPCI_PFIP, version, pfip: tail(cap.data, size, 'ZPCI_PFIP path') };
    }
    case VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP:
      return {
        id: VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP,
        version,
        flags: vfioDeviceInfoCapPciAtomicComp.read(view, 0, littleEndian).flags,
      };
    default:
      return undefined;
  }
}

const TAIL_AT = vfioDeviceInfoCapZpciUtil.size;

function tail(data: Uint8Array, size: number, what: string): Uint8Array {
  needBytes(viewOf(data), TAIL_AT, size, what);
  return data.slice(TAIL_AT, TAIL_AT + size);
}

/**
 * The bytes of a typed device capability, in the byte order asked for. A field that the capability's version does not have
 * must be `undefined`, one that it has must not.
 * @throws VfioError EINVAL: a value does not fit its field, or does not go with the version.
 */
export function encodeDeviceCap(cap: TypedDeviceCap, littleEndian: boolean): InfoCap {
  const { id, version } = cap;
  switch (cap.id) {
    case VFIO_DEVICE_INFO_CAP_ZPCI_BASE:
      return {
        id,
        version,
        data: vfioDeviceInfoCapZpciBase.encode(
          {
            ...cap,
            fh: since(cap.fh, version, 2, 'ZPCI_BASE fh'),
            ccdfErrLength: since(cap.ccdfErrLength, version, 3, 'ZPCI_BASE ccdfErrLength'),
          },
          littleEndian,
        ),
      };
    case VFIO_DEVICE_INFO_CAP_ZPCI_GROUP:
      return {
        id,
        version,
        data: vfioDeviceInfoCapZpciGroup.encode(
          { ...cap, imaxstbl: since(cap.imaxstbl, version, 2, 'ZPCI_GROUP imaxstbl') },
          littleEndian,
        ),
      };
    case VFIO_DEVICE_INFO_CAP_ZPCI_UTIL:
      return { id, version, data: sized(vfioDeviceInfoCapZpciUtil, cap.utilStr, littleEndian) };
    case VFIO_DEVICE_INFO_CAP_ZPCI_PFIP:
      return { id, version, data: sized(vfioDeviceInfoCapZpciPfip, cap.pfip, littleEndian) };
    case VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP:
      return { id, version, data: vfioDeviceInfoCapPciAtomicComp.encode({ flags: cap.flags }, littleEndian) };
  }
}

function since(value: number | undefined, version: number, first: number, what: string): number {
  if ((value !== undefined) !== version >= first) {
    throw new VfioError(
      'ERR_VFIO_INVALID_ARGUMENT',
      `${what} is ${value === undefined ? 'missing' : 'given'} in version ${version}, it belongs to version ${first} and later`,
      { errno: 'EINVAL' },
    );
  }
  return value ?? 0;
}

function sized(layout: typeof vfioDeviceInfoCapZpciUtil, content: Uint8Array, littleEndian: boolean): Uint8Array {
  const out = new Uint8Array(TAIL_AT + content.length);
  layout.write(viewOf(out), 0, { size: content.length }, littleEndian);
  out.set(content, TAIL_AT);
  return out;
}
