/** REGION_READ, REGION_WRITE and REGION_WRITE_MULTI. */
import { bytes, needBytes, type StructOf, struct, u32, u64n, viewOf } from '../struct.js';
import { VFIO_USER_MULTI_DATA } from './constants.js';
import { badPayload, checkDataLength } from './payload.js';

/** `offset` is within the region. A server's loop reads these fields in place, by `fields`. */
export const vfioUserRegionAccess = struct('vfio_user_region_access', { offset: u64n, region: u32, count: u32 });
export interface VfioUserRegionAccess extends StructOf<typeof vfioUserRegionAccess> {}

/** A REGION_WRITE, or the reply to a REGION_READ: where, and the bytes (a view of the payload). */
export interface VfioUserRegionData extends VfioUserRegionAccess {
  readonly data: Uint8Array;
}

/**
 * Reads a REGION_READ, or the reply to a REGION_WRITE.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT: EINVAL, too short; EOVERFLOW, an offset above 2^53-1.
 */
export function decodeVfioUserRegionAccess(payload: Uint8Array, littleEndian: boolean): VfioUserRegionAccess {
  return vfioUserRegionAccess.read(viewOf(payload), 0, littleEndian);
}

/** The bytes of a REGION_READ, or of the reply to a REGION_WRITE. @throws VfioError EINVAL: a value does not fit its field. */
export function encodeVfioUserRegionAccess(access: VfioUserRegionAccess, littleEndian: boolean): Uint8Array {
  return vfioUserRegionAccess.encode(access, littleEndian);
}

/**
 * Reads a REGION_WRITE, or the reply to a REGION_READ.
 * @throws VfioError as {@link decodeVfioUserRegionAccess}; EINVAL where the data are not as long as the count says.
 */
export function decodeVfioUserRegionData(payload: Uint8Array, littleEndian: boolean): VfioUserRegionData {
  const access = vfioUserRegionAccess.read(viewOf(payload), 0, littleEndian);
  const data = payload.subarray(vfioUserRegionAccess.size);
  checkDataLength('VFIO_USER_REGION_WRITE', data.length, access.count);
  return { ...access, data };
}

/** The bytes of a REGION_WRITE, or of the reply to a REGION_READ. @throws VfioError EINVAL: a value does not fit its field. */
export function encodeVfioUserRegionData(
  region: number,
  offset: number,
  data: Uint8Array,
  littleEndian: boolean,
): Uint8Array {
  const out = new Uint8Array(vfioUserRegionAccess.size + data.length);
  vfioUserRegionAccess.write(viewOf(out), 0, { offset, region, count: data.length }, littleEndian);
  out.set(data, vfioUserRegionAccess.size);
  return out;
}

const MULTI = 'VFIO_USER_REGION_WRITE_MULTI';

/** The number of writes, before the writes; also the whole reply, where it is the number of those that were done. */
export const vfioUserWriteMulti = struct('vfio_user_write_multi', { wrCnt: u64n });

/** One write: up to 8 bytes, of which `count` are used. */
export const vfioUserMultiWrite = struct('vfio_user_multi_write', {
  offset: u64n,
  region: u32,
  count: u32,
  data: bytes(VFIO_USER_MULTI_DATA),
});

/**
 * Reads a REGION_WRITE_MULTI. The data of each write are as long as its count.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT: EINVAL, not as long as its number of writes says, or a write of more than 8
 * bytes; EOVERFLOW, an offset above 2^53-1. Nothing is allocated for a number that the payload does not hold.
 */
export function decodeVfioUserWriteMulti(payload: Uint8Array, littleEndian: boolean): VfioUserRegionData[] {
  const view = viewOf(payload);
  const { wrCnt } = vfioUserWriteMulti.read(view, 0, littleEndian);
  checkDataLength(MULTI, payload.length - vfioUserWriteMulti.size, wrCnt * vfioUserMultiWrite.size);
  return Array.from({ length: wrCnt }, (_, index) => {
    const at = vfioUserWriteMulti.size + index * vfioUserMultiWrite.size;
    const { data, ...access } = vfioUserMultiWrite.read(view, at, littleEndian);
    if (access.count > VFIO_USER_MULTI_DATA) {
      throw badPayload(MULTI, `write ${index} has ${access.count} bytes: at most ${VFIO_USER_MULTI_DATA} are allowed`);
    }
    return { ...access, data: data.subarray(0, access.count) };
  });
}

/**
 * The bytes of a REGION_WRITE_MULTI; `count` is taken from the data.
 * @throws VfioError EINVAL: a write of more than 8 bytes, or a value that does not fit its field.
 */
export function encodeVfioUserWriteMulti(
  writes: readonly Omit<VfioUserRegionData, 'count'>[],
  littleEndian: boolean,
): Uint8Array {
  const out = new Uint8Array(vfioUserWriteMulti.size + writes.length * vfioUserMultiWrite.size);
  const view = viewOf(out);
  vfioUserWriteMulti.write(view, 0, { wrCnt: writes.length }, littleEndian);
  for (const [index, { region, offset, data }] of writes.entries()) {
    if (data.length > VFIO_USER_MULTI_DATA) {
      throw badPayload(MULTI, `write ${index} has ${data.length} bytes: at most ${VFIO_USER_MULTI_DATA} are allowed`);
    }
    const whole = new Uint8Array(VFIO_USER_MULTI_DATA);
    whole.set(data);
    const at = vfioUserWriteMulti.size + index * vfioUserMultiWrite.size;
    vfioUserMultiWrite.write(view, at, { offset, region, count: data.length, data: whole }, littleEndian);
  }
  return out;
}

/** The number of writes that a REGION_WRITE_MULTI has done. @throws VfioError ERR_VFIO_INVALID_STRUCT: too short. */
export function decodeVfioUserWriteMultiReply(payload: Uint8Array, littleEndian: boolean): number {
  needBytes(viewOf(payload), 0, vfioUserWriteMulti.size, MULTI);
  return vfioUserWriteMulti.read(viewOf(payload), 0, littleEndian).wrCnt;
}

/** The reply to a REGION_WRITE_MULTI of which `done` writes were done. */
export function encodeVfioUserWriteMultiReply(done: number, littleEndian: boolean): Uint8Array {
  return vfioUserWriteMulti.encode({ wrCnt: done }, littleEndian);
}
