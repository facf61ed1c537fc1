/** DMA_MAP, DMA_UNMAP, and DMA_READ and DMA_WRITE, which the server sends. */
import { hex } from '../errors.js';
import { type StructOf, struct, u32, u64, u64n, viewOf } from '../struct.js';
import {
  VFIO_USER_F_DMA_REGION_FILE_IO,
  VFIO_USER_F_DMA_REGION_MASK,
  VFIO_USER_F_DMA_REGION_MMAP,
  VFIO_USER_F_DMA_UNMAP_GET_DIRTY_BITMAP,
  VFIO_USER_F_DMA_UNMAP_MASK,
} from './constants.js';
import { badPayload, checkArgsz, checkDataLength } from './payload.js';

/** `offset` is that of the mapped memory in the descriptor's file. */
export const vfioUserDmaMap = struct('vfio_user_dma_map', {
  argsz: u32,
  flags: u32,
  offset: u64,
  iova: u64,
  size: u64,
});
export interface VfioUserDmaMap extends Omit<StructOf<typeof vfioUserDmaMap>, 'argsz'> {}

export const vfioUserDmaUnmap = struct('vfio_user_dma_unmap', { argsz: u32, flags: u32, iova: u64, size: u64 });

/** What follows DMA_UNMAP with GET_DIRTY_BITMAP (libvfio-user; the specification has no bitmap here any more). */
export const vfioUserBitmap = struct('vfio_user_bitmap', { pgsize: u64, size: u64n });
export interface VfioUserBitmap extends StructOf<typeof vfioUserBitmap> {}

/** A DMA_UNMAP. */
export interface VfioUserDmaUnmap extends StructOf<typeof vfioUserDmaUnmap> {
  /** Which bitmap is wanted with GET_DIRTY_BITMAP. */
  readonly bitmap?: VfioUserBitmap | undefined;
}

/** DMA_READ and DMA_WRITE. `count` is 64 bits wide; QEMU 10.1 to 10.2 takes it for 32, with the data 4 bytes earlier. */
export const vfioUserDmaAccess = struct('vfio_user_dma_access', { iova: u64, count: u64n });
export interface VfioUserDmaAccess extends StructOf<typeof vfioUserDmaAccess> {}

const MAP = 'VFIO_USER_DMA_MAP';
const UNMAP = 'VFIO_USER_DMA_UNMAP';

/**
 * Reads a DMA_MAP.
 * @param fdCount Descriptors that came with the message.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short, an unknown flag, more than one descriptor, MMAP or FILE_IO
 * without one.
 */
export function decodeVfioUserDmaMap(payload: Uint8Array, fdCount: number, littleEndian: boolean): VfioUserDmaMap {
  const { argsz, ...map } = vfioUserDmaMap.read(viewOf(payload), 0, littleEndian);
  checkArgsz(MAP, argsz, vfioUserDmaMap.size);
  if ((map.flags & ~VFIO_USER_F_DMA_REGION_MASK) !== 0) {
    throw badPayload(MAP, `flags ${hex(map.flags)}: only ${hex(VFIO_USER_F_DMA_REGION_MASK)} are known`);
  }
  if (fdCount > 1) throw badPayload(MAP, `${fdCount} descriptors: at most one is allowed`);
  const needsFd = VFIO_USER_F_DMA_REGION_MMAP | VFIO_USER_F_DMA_REGION_FILE_IO;
  if (fdCount === 0 && (map.flags & needsFd) !== 0) {
    throw badPayload(MAP, `flags ${hex(map.flags)} say how a descriptor is used, and there is none`);
  }
  return map;
}

/** The bytes of a DMA_MAP. @throws VfioError EINVAL: a value does not fit its field. */
export function encodeVfioUserDmaMap(map: VfioUserDmaMap, littleEndian: boolean): Uint8Array {
  return vfioUserDmaMap.encode({ ...map, argsz: vfioUserDmaMap.size }, littleEndian);
}

/**
 * Reads a DMA_UNMAP.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short, also for the bitmap that its flags ask for; an unknown flag.
 */
export function decodeVfioUserDmaUnmap(payload: Uint8Array, littleEndian: boolean): VfioUserDmaUnmap {
  const view = viewOf(payload);
  const unmap = vfioUserDmaUnmap.read(view, 0, littleEndian);
  checkArgsz(UNMAP, unmap.argsz, vfioUserDmaUnmap.size);
  if ((unmap.flags & ~VFIO_USER_F_DMA_UNMAP_MASK) !== 0) {
    throw badPayload(UNMAP, `flags ${hex(unmap.flags)}: only ${hex(VFIO_USER_F_DMA_UNMAP_MASK)} are known`);
  }
  if ((unmap.flags & VFIO_USER_F_DMA_UNMAP_GET_DIRTY_BITMAP) === 0) return unmap;
  return { ...unmap, bitmap: vfioUserBitmap.read(view, vfioUserDmaUnmap.size, littleEndian) };
}

/** The bytes of a DMA_UNMAP. @throws VfioError EINVAL: a value does not fit its field. */
export function encodeVfioUserDmaUnmap(unmap: VfioUserDmaUnmap, littleEndian: boolean): Uint8Array {
  const out = new Uint8Array(vfioUserDmaUnmap.size + (unmap.bitmap === undefined ? 0 : vfioUserBitmap.size));
  vfioUserDmaUnmap.write(viewOf(out), 0, unmap, littleEndian);
  if (unmap.bitmap !== undefined) vfioUserBitmap.write(viewOf(out), vfioUserDmaUnmap.size, unmap.bitmap, littleEndian);
  return out;
}

/**
 * The reply to a DMA_UNMAP: the request again, and the bitmap where one was asked for. Clients exist that wait for it for
 * ever where it is missing.
 */
export function encodeVfioUserDmaUnmapReply(
  unmap: VfioUserDmaUnmap,
  bits: Uint8Array | undefined,
  littleEndian: boolean,
): Uint8Array {
  if (bits === undefined || unmap.bitmap === undefined) {
    const { flags, iova, size } = unmap;
    return vfioUserDmaUnmap.encode({ argsz: vfioUserDmaUnmap.size, flags, iova, size }, littleEndian);
  }
  const head = vfioUserDmaUnmap.size + vfioUserBitmap.size;
  const out = new Uint8Array(head + bits.length);
  const bitmap = { pgsize: unmap.bitmap.pgsize, size: bits.length };
  out.set(encodeVfioUserDmaUnmap({ ...unmap, argsz: out.length, bitmap }, littleEndian));
  out.set(bits, head);
  return out;
}

/** The reply to a DMA_UNMAP, with the bitmap's bits where it has some (a view of the payload). */
export function decodeVfioUserDmaUnmapReply(
  payload: Uint8Array,
  littleEndian: boolean,
): VfioUserDmaUnmap & { readonly bits: Uint8Array | undefined } {
  const unmap = decodeVfioUserDmaUnmap(payload, littleEndian);
  if (unmap.bitmap === undefined) return { ...unmap, bits: undefined };
  const bits = payload.subarray(vfioUserDmaUnmap.size + vfioUserBitmap.size);
  checkDataLength(UNMAP, bits.length, unmap.bitmap.size);
  return { ...unmap, bits };
}

/** A DMA_WRITE, or the reply to a DMA_READ: where, and the bytes (a view of the payload). */
export interface VfioUserDmaData extends VfioUserDmaAccess {
  readonly data: Uint8Array;
}

/**
 * Reads a DMA_READ, or the reply to a DMA_WRITE, which may say fewer bytes than were sent.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT: EINVAL, too short; EOVERFLOW, a count above 2^53-1.
 */
export function decodeVfioUserDmaAccess(payload: Uint8Array, littleEndian: boolean): VfioUserDmaAccess {
  return vfioUserDmaAccess.read(viewOf(payload), 0, littleEndian);
}

/** The bytes of a DMA_READ, or of the reply to a DMA_WRITE. @throws VfioError EINVAL: a value does not fit its field. */
export function encodeVfioUserDmaAccess(access: VfioUserDmaAccess, littleEndian: boolean): Uint8Array {
  return vfioUserDmaAccess.encode(access, littleEndian);
}

/**
 * Reads a DMA_WRITE, or the reply to a DMA_READ.
 * @throws VfioError as {@link decodeVfioUserDmaAccess}; EINVAL where the data are not as long as the count says.
 */
export function decodeVfioUserDmaData(payload: Uint8Array, littleEndian: boolean): VfioUserDmaData {
  const access = vfioUserDmaAccess.read(viewOf(payload), 0, littleEndian);
  const data = payload.subarray(vfioUserDmaAccess.size);
  checkDataLength('VFIO_USER_DMA_WRITE', data.length, access.count);
  return { ...access, data };
}

/** The bytes of a DMA_WRITE, or of the reply to a DMA_READ. @throws VfioError EINVAL: the address does not fit its field. */
export function encodeVfioUserDmaData(iova: bigint, data: Uint8Array, littleEndian: boolean): Uint8Array {
  const out = new Uint8Array(vfioUserDmaAccess.size + data.length);
  vfioUserDmaAccess.write(viewOf(out), 0, { iova, count: data.length }, littleEndian);
  out.set(data, vfioUserDmaAccess.size);
  return out;
}
