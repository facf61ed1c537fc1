/**
 * What the info calls return, typed, and their bytes. `argsz` and the offsets of capabilities belong to the bytes and are
 * not in the typed values.
 */
import { type CapStyle, type FoundCap, type InfoCap, placeCaps, readCapChain } from './cap-chain.js';
import { needBytes, readArray, viewOf, writeArray } from './struct.js';
import {
  VFIO_DEVICE_FLAGS_CAPS,
  VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_INFO_FLAG_CAPS,
} from './vfio.js';
import {
  vfioDeviceInfo,
  vfioIrqInfo,
  vfioPciDependentDevice,
  vfioPciHotResetInfo,
  vfioRegionInfo,
  vfioRegionInfoCapSparseMmap,
  vfioRegionInfoCapType,
  vfioRegionSparseMmapArea,
} from './vfio-structs.js';

/** A range of a region that may be mapped. */
export interface RegionRange {
  readonly offset: number;
  readonly size: number;
}

/** A capability of GET_REGION_INFO. */
export type RegionCap =
  | {
      readonly id: typeof VFIO_REGION_INFO_CAP_SPARSE_MMAP;
      readonly version: 1;
      /** Only these parts of the region may be mapped. */
      readonly areas: readonly RegionRange[];
    }
  | {
      readonly id: typeof VFIO_REGION_INFO_CAP_TYPE;
      readonly version: 1;
      /** VFIO_REGION_TYPE_*, or VFIO_REGION_TYPE_PCI_VENDOR_TYPE with a vendor id. */
      readonly type: number;
      readonly subtype: number;
    }
  | { readonly id: typeof VFIO_REGION_INFO_CAP_MSIX_MAPPABLE; readonly version: 1 };

/** VFIO_DEVICE_GET_INFO. */
export interface DeviceInfo {
  /** VFIO_DEVICE_FLAGS_*, without CAPS: that one belongs to the bytes. */
  readonly flags: number;
  readonly numRegions: number;
  readonly numIrqs: number;
  /** See `decodeDeviceCap`. */
  readonly caps: readonly InfoCap[];
}

/** VFIO_DEVICE_GET_REGION_INFO. */
export interface RegionInfo {
  readonly index: number;
  /** VFIO_REGION_INFO_FLAG_*, without CAPS: that one belongs to the bytes. */
  readonly flags: number;
  /** Bytes; 0 where the region is not there. */
  readonly size: number;
  /** Where the region starts in the device's file, as the device reports it: never computed from the index. */
  readonly offset: number;
  readonly caps: readonly RegionCap[];
}

/** VFIO_DEVICE_GET_IRQ_INFO. */
export interface IrqInfo {
  readonly index: number;
  /** VFIO_IRQ_INFO_*. */
  readonly flags: number;
  readonly count: number;
}

/** One function that a hot reset takes with it. */
export interface HotResetDependent {
  /** Group number, or the device id where the reply has VFIO_PCI_HOT_RESET_FLAG_DEV_ID. */
  readonly id: number;
  readonly segment: number;
  readonly bus: number;
  readonly devfn: number;
}

/** VFIO_DEVICE_GET_PCI_HOT_RESET_INFO. */
export interface HotResetInfo {
  /** VFIO_PCI_HOT_RESET_FLAG_*. */
  readonly flags: number;
  readonly devices: readonly HotResetDependent[];
}

/**
 * Whose rules a reply with capabilities follows when the caller's buffer is too short for them:
 * - `kernel`: CAPS flag, `cap_offset` 0, `argsz` raised; with room, `argsz` comes back as it was given.
 * - `vfio-user`: `argsz` always says what the whole reply takes, and CAPS is set only with the capabilities.
 */
export type InfoDialect = 'kernel' | 'vfio-user';

/** How a reply is laid out. */
export interface InfoEncoding {
  readonly littleEndian: boolean;
  /** @default 'kernel' */
  readonly dialect?: InfoDialect;
  /** @default 'aligned' */
  readonly capStyle?: CapStyle;
}

/** A reply's `argsz`, `cap_offset` and the bytes after the struct. */
function replyWithCaps(caps: readonly InfoCap[], fixedSize: number, argsz: number, encoding: InfoEncoding) {
  const { littleEndian, dialect = 'kernel', capStyle = 'aligned' } = encoding;
  const placed = placeCaps(caps, fixedSize, argsz, capStyle, littleEndian);
  return {
    argsz: dialect === 'vfio-user' || !placed.fits ? placed.needed : argsz,
    capOffset: placed.chain === undefined ? 0 : fixedSize,
    hasCapsFlag: caps.length > 0 && (placed.fits || dialect === 'kernel'),
    chain: placed.chain,
  };
}

function joined(fixed: Uint8Array, chain: Uint8Array | undefined): Uint8Array {
  if (chain === undefined) return fixed;
  const out = new Uint8Array(fixed.length + chain.length);
  out.set(fixed);
  out.set(chain, fixed.length);
  return out;
}

/**
 * The reply to GET_INFO for a caller with room for `argsz` bytes: the struct, and the capabilities where they fit. A caller
 * with less room than the struct takes as much of it as it has room for.
 * @throws VfioError EINVAL: a value does not fit its field.
 */
export function encodeDeviceInfo(info: DeviceInfo, argsz: number, encoding: InfoEncoding): Uint8Array {
  const reply = replyWithCaps(info.caps, vfioDeviceInfo.size, argsz, encoding);
  const fixed = vfioDeviceInfo.encode(
    {
      argsz: reply.argsz,
      flags: withFlag(info.flags, VFIO_DEVICE_FLAGS_CAPS, reply.hasCapsFlag),
      numRegions: info.numRegions,
      numIrqs: info.numIrqs,
      capOffset: reply.capOffset,
    },
    encoding.littleEndian,
  );
  return joined(fixed, reply.chain);
}

/** As {@link encodeDeviceInfo}, for GET_REGION_INFO. */
export function encodeRegionInfo(info: RegionInfo, argsz: number, encoding: InfoEncoding): Uint8Array {
  const caps = info.caps.map((cap) => encodeRegionCap(cap, encoding.littleEndian));
  const reply = replyWithCaps(caps, vfioRegionInfo.size, argsz, encoding);
  const fixed = vfioRegionInfo.encode(
    {
      argsz: reply.argsz,
      flags: withFlag(info.flags, VFIO_REGION_INFO_FLAG_CAPS, reply.hasCapsFlag),
      index: info.index,
      capOffset: reply.capOffset,
      size: info.size,
      offset: info.offset,
    },
    encoding.littleEndian,
  );
  return joined(fixed, reply.chain);
}

/** The bytes of GET_IRQ_INFO. */
export function encodeIrqInfo(info: IrqInfo, argsz: number, littleEndian: boolean): Uint8Array {
  return vfioIrqInfo.encode({ argsz, flags: info.flags, index: info.index, count: info.count }, littleEndian);
}

function withFlag(flags: number, flag: number, isSet: boolean): number {
  return (isSet ? flags | flag : flags & ~flag) >>> 0;
}

/** What a reply says beside its typed value. */
export interface DecodedInfo<T> {
  readonly info: T;
  /** Bytes that the whole reply takes: call again with that much room where it is more than the call had. */
  readonly argsz: number;
  /** Every capability of the chain, those that are not known by type included. */
  readonly chain: readonly FoundCap[];
}

/** Least `argsz` of GET_INFO: the struct as it was before it had capabilities. */
export const VFIO_DEVICE_INFO_MIN_SIZE = vfioDeviceInfo.fields.capOffset.offset;

/** Capabilities can start here in GET_INFO replies of older kernels, whose struct has no `pad` at the end. */
const DEVICE_INFO_OLD_SIZE = vfioDeviceInfo.fields.pad.offset;

/**
 * Reads a reply to GET_INFO. Older kernels fill 20 or 16 bytes of the struct: what is not there reads as 0.
 * @param data The reply, no longer than it was filled.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: shorter than 16 bytes, or a broken chain.
 */
export function decodeDeviceInfo(data: Uint8Array, littleEndian: boolean): DecodedInfo<DeviceInfo> {
  needBytes(viewOf(data), 0, VFIO_DEVICE_INFO_MIN_SIZE, vfioDeviceInfo.name);
  const raw = vfioDeviceInfo.read(viewOf(zeroExtended(data, vfioDeviceInfo.size)), 0, littleEndian);
  const hasCaps = (raw.flags & VFIO_DEVICE_FLAGS_CAPS) !== 0;
  const chain = hasCaps ? readCapChain(filled(data, raw.argsz), raw.capOffset, DEVICE_INFO_OLD_SIZE, littleEndian) : [];
  return {
    info: {
      flags: withFlag(raw.flags, VFIO_DEVICE_FLAGS_CAPS, false),
      numRegions: raw.numRegions,
      numIrqs: raw.numIrqs,
      caps: chain.map(({ id, version, data: body }) => ({ id, version, data: body })),
    },
    argsz: raw.argsz,
    chain,
  };
}

/**
 * Reads a reply to GET_REGION_INFO.
 * @param data The reply, no longer than it was filled.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT: EINVAL, too short or a broken chain; EOVERFLOW, a size or offset above 2^53-1.
 */
export function decodeRegionInfo(data: Uint8Array, littleEndian: boolean): DecodedInfo<RegionInfo> {
  const raw = vfioRegionInfo.read(viewOf(data), 0, littleEndian);
  const hasCaps = (raw.flags & VFIO_REGION_INFO_FLAG_CAPS) !== 0;
  const chain = hasCaps ? readCapChain(filled(data, raw.argsz), raw.capOffset, vfioRegionInfo.size, littleEndian) : [];
  return {
    info: {
      index: raw.index,
      flags: withFlag(raw.flags, VFIO_REGION_INFO_FLAG_CAPS, false),
      size: raw.size,
      offset: raw.offset,
      caps: chain.map((cap) => decodeRegionCap(cap, littleEndian)).filter((cap) => cap !== undefined),
    },
    argsz: raw.argsz,
    chain,
  };
}

/** Reads a reply to GET_IRQ_INFO. @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short. */
export function decodeIrqInfo(data: Uint8Array, littleEndian: boolean): IrqInfo {
  const { flags, index, count } = vfioIrqInfo.read(viewOf(data), 0, littleEndian);
  return { index, flags, count };
}

/** The part of a buffer that the reply says it filled. */
function filled(data: Uint8Array, argsz: number): DataView {
  return viewOf(argsz < data.length ? data.subarray(0, argsz) : data);
}

/** `data` with zeros after it up to `size`. */
function zeroExtended(data: Uint8Array, size: number): Uint8Array {
  if (data.length >= size) return data;
  const out = new Uint8Array(size);
  out.set(data);
  return out;
}

/** The bytes of a region capability. @throws VfioError EINVAL: a value does not fit its field. */
export function encodeRegionCap(cap: RegionCap, littleEndian: boolean): InfoCap {
  const { id, version } = cap;
  switch (cap.id) {
    case VFIO_REGION_INFO_CAP_SPARSE_MMAP: {
      const data = new Uint8Array(vfioRegionInfoCapSparseMmap.size + cap.areas.length * vfioRegionSparseMmapArea.size);
      const view = viewOf(data);
      vfioRegionInfoCapSparseMmap.write(view, 0, { nrAreas: cap.areas.length }, littleEndian);
      writeArray(vfioRegionSparseMmapArea, view, vfioRegionInfoCapSparseMmap.size, cap.areas, littleEndian);
      return { id, version, data };
    }
    case VFIO_REGION_INFO_CAP_TYPE:
      return {
        id,
        version,
        data: vfioRegionInfoCapType.encode({ type: cap.type, subtype: cap.subtype }, littleEndian),
      };
    case VFIO_REGION_INFO_CAP_MSIX_MAPPABLE:
      return { id, version, data: new Uint8Array(0) };
  }
}

/**
 * The typed form of a region capability, or `undefined` where its id or version is not known.
 *
 * A sparse list of an unknown version becomes one without areas: ignoring it would let a caller map what the device keeps
 * for itself.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT: EINVAL, the body is too short for its id or its number of areas; EOVERFLOW, an
 * area lies above 2^53-1.
 */
export function decodeRegionCap(cap: InfoCap, littleEndian: boolean): RegionCap | undefined {
  const view = viewOf(cap.data);
  switch (cap.id) {
    case VFIO_REGION_INFO_CAP_SPARSE_MMAP: {
      if (cap.version !== 1) return { id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, version: 1, areas: [] };
      const { nrAreas } = vfioRegionInfoCapSparseMmap.read(view, 0, littleEndian);
      const at = vfioRegionInfoCapSparseMmap.size;
      return {
        id: VFIO_REGION_INFO_CAP_SPARSE_MMAP,
        version: 1,
        areas: readArray(vfioRegionSparseMmapArea, view, at, nrAreas, littleEndian),
      };
    }
    case VFIO_REGION_INFO_CAP_TYPE:
      if (cap.version !== 1) return undefined;
      return { id: VFIO_REGION_INFO_CAP_TYPE, version: 1, ...vfioRegionInfoCapType.read(view, 0, littleEndian) };
    case VFIO_REGION_INFO_CAP_MSIX_MAPPABLE:
      return cap.version === 1 ? { id: VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, version: 1 } : undefined;
    default:
      return undefined;
  }
}

/** Bytes that a hot-reset info of `count` functions takes. */
export function hotResetInfoSize(count: number): number {
  return vfioPciHotResetInfo.size + count * vfioPciDependentDevice.size;
}

/**
 * The reply to GET_PCI_HOT_RESET_INFO for a caller with room for `argsz` bytes: where the functions do not fit, only the
 * struct with their number, and the call fails with ENOSPC.
 */
export function encodeHotResetInfo(info: HotResetInfo, argsz: number, littleEndian: boolean): Uint8Array {
  const fits = argsz >= hotResetInfoSize(info.devices.length);
  const out = new Uint8Array(hotResetInfoSize(fits ? info.devices.length : 0));
  const view = viewOf(out);
  vfioPciHotResetInfo.write(view, 0, { argsz, flags: info.flags, count: info.devices.length }, littleEndian);
  if (fits) {
    const devices = info.devices.map(({ id, ...rest }) => ({ groupId: id, ...rest }));
    writeArray(vfioPciDependentDevice, view, vfioPciHotResetInfo.size, devices, littleEndian);
  }
  return out;
}

/** The number of functions in a reply to GET_PCI_HOT_RESET_INFO, valid also when the call failed with ENOSPC. */
export function hotResetInfoCount(data: Uint8Array, littleEndian: boolean): number {
  return vfioPciHotResetInfo.read(viewOf(data), 0, littleEndian).count;
}

/**
 * Reads a successful reply to GET_PCI_HOT_RESET_INFO.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: shorter than its count says.
 */
export function decodeHotResetInfo(data: Uint8Array, littleEndian: boolean): HotResetInfo {
  const view = viewOf(data);
  const { flags, count } = vfioPciHotResetInfo.read(view, 0, littleEndian);
  const devices = readArray(vfioPciDependentDevice, view, vfioPciHotResetInfo.size, count, littleEndian);
  return { flags, devices: devices.map(({ groupId, ...rest }) => ({ id: groupId, ...rest })) };
}
