import {
  encodeVfioUserIrqInfo,
  encodeVfioUserRegionInfo,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO,
  VFIO_USER_DMA_UNMAP,
  VFIO_USER_HEADER_SIZE,
  VFIO_USER_REGION_READ,
  VFIO_USER_REGION_WRITE,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';

/**
 * What a client that cannot read an error is answered instead: a payload of the size that it waits for, with all ones
 * for data, as a bus answers where nothing is. Undefined for a command whose error and success look the same to it (the
 * header alone), and for a request that is too short to tell.
 *
 * @param message the request, header included
 */
export function substituteReply(command: number, message: Uint8Array, maxData: number): Uint8Array | undefined {
  const payload = message.subarray(VFIO_USER_HEADER_SIZE);
  const u32 = (at: number) =>
    new DataView(payload.buffer, payload.byteOffset, payload.length).getUint32(at, LITTLE_ENDIAN);
  switch (command) {
    case VFIO_USER_REGION_READ: {
      if (payload.length < 16 || u32(12) > maxData) return undefined;
      const reply = new Uint8Array(16 + u32(12)).fill(0xff);
      reply.set(payload.subarray(0, 16));
      return reply;
    }
    case VFIO_USER_REGION_WRITE:
      return payload.length < 16 ? undefined : payload.slice(0, 16);
    case VFIO_USER_DMA_UNMAP:
      return payload.length < 24 ? undefined : payload.slice(0, 24);
    case VFIO_USER_DEVICE_GET_REGION_INFO:
      // A region that is not there.
      return payload.length < 32
        ? undefined
        : encodeVfioUserRegionInfo({ index: u32(8), flags: 0, size: 0, offset: 0, caps: [] }, 32, LITTLE_ENDIAN);
    case VFIO_USER_DEVICE_GET_IRQ_INFO:
      return payload.length < 16
        ? undefined
        : encodeVfioUserIrqInfo({ index: u32(8), flags: 0, count: 0 }, LITTLE_ENDIAN);
    default:
      return undefined;
  }
}
