import {
  decodeVfioUserGetInfo,
  decodeVfioUserGetIoFds,
  decodeVfioUserGetIrqInfo,
  decodeVfioUserGetRegionInfo,
  encodeVfioUserDeviceInfo,
  encodeVfioUserIoFds,
  encodeVfioUserIrqInfo,
  encodeVfioUserRegionInfo,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  vfioRegionInfo,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import type { Reply } from '../request.js';
import type { Handler } from './handler.js';

/** DEVICE_GET_INFO. The Rust crate counts the header into argsz: more than the struct is fine. */
export const getInfo: Handler = ({ device, compat }, { payload }): Reply => {
  decodeVfioUserGetInfo(payload, LITTLE_ENDIAN);
  const info = device.getInfo();
  let flags = info.flags & (VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI);
  if (compat.invertResetFlag) flags ^= VFIO_DEVICE_FLAGS_RESET;
  return { pieces: [encodeVfioUserDeviceInfo({ ...info, flags }, LITTLE_ENDIAN)] };
};

/**
 * DEVICE_GET_REGION_INFO. A buffer that is too short for the capabilities gets none, argsz says what is needed, and the
 * descriptor goes only with the reply that carries them: QEMU drops one that it did not make room for.
 */
export const getRegionInfo: Handler = ({ regions }, { payload }): Reply => {
  const { argsz, index } = decodeVfioUserGetRegionInfo(payload, LITTLE_ENDIAN);
  const { info, fd } = regions.offer(index);
  const reply = encodeVfioUserRegionInfo(info, argsz, LITTLE_ENDIAN);
  const hasCaps = reply.length > vfioRegionInfo.size;
  return fd !== undefined && hasCaps ? { pieces: [reply], fds: [fd] } : { pieces: [reply] };
};

/** DEVICE_GET_REGION_IO_FDS: there are none. No known client asks; one that does needs an answer that it can divide. */
export const getRegionIoFds: Handler = ({ device }, { payload }): Reply => {
  const { argsz, index } = decodeVfioUserGetIoFds(payload, LITTLE_ENDIAN);
  // Refuses an index that the device does not have.
  device.getRegionInfo(index);
  return { pieces: [encodeVfioUserIoFds(index, [], argsz, LITTLE_ENDIAN)] };
};

/**
 * DEVICE_GET_IRQ_INFO: what the device says. NORESIZE is not added: without it QEMU arms vectors one by one, with it the
 * whole index is taken down and armed again for each new one.
 */
export const getIrqInfo: Handler = ({ device }, { payload }): Reply => {
  const { index } = decodeVfioUserGetIrqInfo(payload, LITTLE_ENDIAN);
  return { pieces: [encodeVfioUserIrqInfo(device.getIrqInfo(index), LITTLE_ENDIAN)] };
};
