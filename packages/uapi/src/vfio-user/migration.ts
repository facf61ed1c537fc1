/** MIG_DATA_READ and MIG_DATA_WRITE: the migration's stream. */
import { type StructOf, struct, u32, viewOf } from '../struct.js';
import { badPayload, checkArgsz, checkDataLength } from './payload.js';

export const vfioUserMigData = struct('vfio_user_mig_data', { argsz: u32, size: u32 });
export interface VfioUserMigData extends StructOf<typeof vfioUserMigData> {}

const READ = 'VFIO_USER_MIG_DATA_READ';
const WRITE = 'VFIO_USER_MIG_DATA_WRITE';

/**
 * Reads a MIG_DATA_READ; returns how many bytes are wanted.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short, or less room in the reply than is asked for.
 */
export function decodeVfioUserMigDataRead(payload: Uint8Array, littleEndian: boolean): number {
  const { argsz, size } = vfioUserMigData.read(viewOf(payload), 0, littleEndian);
  checkArgsz(READ, argsz, vfioUserMigData.size);
  if (size > argsz - vfioUserMigData.size) {
    throw badPayload(READ, `${size} bytes are asked for, argsz ${argsz} has room for ${argsz - vfioUserMigData.size}`);
  }
  return size;
}

/** The bytes of a MIG_DATA_READ of up to `size` bytes. @throws VfioError EINVAL: it does not fit its field. */
export function encodeVfioUserMigDataRead(size: number, littleEndian: boolean): Uint8Array {
  return vfioUserMigData.encode({ argsz: vfioUserMigData.size + size, size }, littleEndian);
}

/**
 * Reads a MIG_DATA_WRITE, or the reply to a MIG_DATA_READ: the bytes of the stream (a view of the payload).
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short, or not as long as its size says.
 */
export function decodeVfioUserMigData(payload: Uint8Array, littleEndian: boolean): Uint8Array {
  const { argsz, size } = vfioUserMigData.read(viewOf(payload), 0, littleEndian);
  checkArgsz(WRITE, argsz, vfioUserMigData.size);
  const data = payload.subarray(vfioUserMigData.size);
  checkDataLength(WRITE, data.length, size);
  return data;
}

/** The bytes of a MIG_DATA_WRITE, or of the reply to a MIG_DATA_READ. */
export function encodeVfioUserMigData(data: Uint8Array, littleEndian: boolean): Uint8Array {
  const out = new Uint8Array(vfioUserMigData.size + data.length);
  vfioUserMigData.write(viewOf(out), 0, { argsz: out.length, size: data.length }, littleEndian);
  out.set(data, vfioUserMigData.size);
  return out;
}
