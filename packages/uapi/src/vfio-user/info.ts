/** DEVICE_GET_INFO, DEVICE_GET_REGION_INFO and DEVICE_GET_IRQ_INFO: the kernel's structs, without capabilities of the device. */

import type { CapStyle } from '../cap-chain.js';
import {
  type DecodedInfo,
  type DeviceInfo,
  decodeIrqInfo,
  decodeRegionInfo,
  encodeIrqInfo,
  encodeRegionInfo,
  type IrqInfo,
  type RegionInfo,
} from '../info.js';
import { needBytes, type StructOf, struct, u32, viewOf } from '../struct.js';
import { vfioIrqInfo, vfioRegionInfo } from '../vfio-structs.js';
import { checkArgsz } from './payload.js';

export const vfioUserDeviceInfo = struct('vfio_user_device_info', {
  argsz: u32,
  flags: u32,
  numRegions: u32,
  numIrqs: u32,
});
export interface VfioUserDeviceInfo extends StructOf<typeof vfioUserDeviceInfo> {}

/** Which region or interrupt index an info call is about, and the room for its reply's payload. */
export interface VfioUserInfoRequest {
  readonly argsz: number;
  readonly index: number;
}

/**
 * Reads a DEVICE_GET_INFO; returns its `argsz`.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short, or no room for the reply.
 */
export function decodeVfioUserGetInfo(payload: Uint8Array, littleEndian: boolean): number {
  const { argsz } = vfioUserDeviceInfo.read(viewOf(payload), 0, littleEndian);
  checkArgsz('VFIO_USER_DEVICE_GET_INFO', argsz, vfioUserDeviceInfo.size);
  return argsz;
}

/** The bytes of a DEVICE_GET_INFO. */
export function encodeVfioUserGetInfo(littleEndian: boolean): Uint8Array {
  return vfioUserDeviceInfo.encode(
    { argsz: vfioUserDeviceInfo.size, flags: 0, numRegions: 0, numIrqs: 0 },
    littleEndian,
  );
}

/** The reply to a DEVICE_GET_INFO; the device's capabilities have no place in it. */
export function encodeVfioUserDeviceInfo(info: DeviceInfo, littleEndian: boolean): Uint8Array {
  const { flags, numRegions, numIrqs } = info;
  return vfioUserDeviceInfo.encode({ argsz: vfioUserDeviceInfo.size, flags, numRegions, numIrqs }, littleEndian);
}

/** Reads the reply to a DEVICE_GET_INFO. @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short. */
export function decodeVfioUserDeviceInfo(payload: Uint8Array, littleEndian: boolean): DeviceInfo {
  const { flags, numRegions, numIrqs } = vfioUserDeviceInfo.read(viewOf(payload), 0, littleEndian);
  return { flags, numRegions, numIrqs, caps: [] };
}

/**
 * Reads a DEVICE_GET_REGION_INFO.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short, or no room for the reply.
 */
export function decodeVfioUserGetRegionInfo(payload: Uint8Array, littleEndian: boolean): VfioUserInfoRequest {
  const { fields, size, name } = vfioRegionInfo;
  const view = viewOf(payload);
  // Only these two fields mean something in a request, and the others may hold anything.
  needBytes(view, 0, size, name);
  const argsz = view.getUint32(fields.argsz.offset, littleEndian);
  checkArgsz('VFIO_USER_DEVICE_GET_REGION_INFO', argsz, size);
  return { argsz, index: view.getUint32(fields.index.offset, littleEndian) };
}

/** The bytes of a DEVICE_GET_REGION_INFO with room for `argsz` bytes of reply. */
export function encodeVfioUserGetRegionInfo({ argsz, index }: VfioUserInfoRequest, littleEndian: boolean): Uint8Array {
  return vfioRegionInfo.encode({ argsz, flags: 0, index, capOffset: 0, size: 0, offset: 0 }, littleEndian);
}

/**
 * The reply to a DEVICE_GET_REGION_INFO. `argsz` says what the whole reply takes; the capabilities, and the region's
 * descriptor with them, go only into a reply that the caller has room for.
 */
export function encodeVfioUserRegionInfo(
  info: RegionInfo,
  argsz: number,
  littleEndian: boolean,
  capStyle: CapStyle = 'packed',
): Uint8Array {
  return encodeRegionInfo(info, argsz, { littleEndian, dialect: 'vfio-user', capStyle });
}

/** Reads the reply to a DEVICE_GET_REGION_INFO. @throws VfioError as `decodeRegionInfo`. */
export function decodeVfioUserRegionInfo(payload: Uint8Array, littleEndian: boolean): DecodedInfo<RegionInfo> {
  return decodeRegionInfo(payload, littleEndian);
}

/**
 * Reads a DEVICE_GET_IRQ_INFO.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short, or no room for the reply.
 */
export function decodeVfioUserGetIrqInfo(payload: Uint8Array, littleEndian: boolean): VfioUserInfoRequest {
  const { argsz, index } = vfioIrqInfo.read(viewOf(payload), 0, littleEndian);
  checkArgsz('VFIO_USER_DEVICE_GET_IRQ_INFO', argsz, vfioIrqInfo.size);
  return { argsz, index };
}

/** The bytes of a DEVICE_GET_IRQ_INFO. */
export function encodeVfioUserGetIrqInfo(index: number, littleEndian: boolean): Uint8Array {
  return vfioIrqInfo.encode({ argsz: vfioIrqInfo.size, flags: 0, index, count: 0 }, littleEndian);
}

/** The reply to a DEVICE_GET_IRQ_INFO. */
export function encodeVfioUserIrqInfo(info: IrqInfo, littleEndian: boolean): Uint8Array {
  return encodeIrqInfo(info, vfioIrqInfo.size, littleEndian);
}

/** Reads the reply to a DEVICE_GET_IRQ_INFO. @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short. */
export function decodeVfioUserIrqInfo(payload: Uint8Array, littleEndian: boolean): IrqInfo {
  return decodeIrqInfo(payload, littleEndian);
}
