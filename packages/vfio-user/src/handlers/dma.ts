import {
  checkLoggingReport,
  decodeVfioUserDmaMap,
  decodeVfioUserDmaUnmap,
  encodeVfioUserDmaUnmapReply,
  hex,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_USER_F_DMA_UNMAP_ALL,
  type VfioUserBitmap,
  type VfioUserDmaUnmap,
  vfioUserBitmap,
  vfioUserDmaUnmap,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { EMPTY_REPLY, malformed, type Reply, type Request } from '../request.js';
import type { Handler, HandlerContext } from './handler.js';

/** DMA_MAP: with a descriptor the memory is mapped, without one it is reached by messages. */
export const dmaMap: Handler = ({ memory }, request): Reply => {
  const command = decodeVfioUserDmaMap(request.payload, request.fds.length, LITTLE_ENDIAN);
  memory.map(command, request.fds.length === 1 ? request.takeFd(0) : undefined);
  return EMPTY_REPLY;
};

/**
 * DMA_UNMAP: the reply is sent when nothing of the memory is used any more, and carries the request's 24 bytes back (the
 * Rust crate waits for them). The flags are libvfio-user's; the specification has none.
 */
export const dmaUnmap: Handler = (context, request): Reply | Promise<Reply> => {
  const unmap = decodeVfioUserDmaUnmap(request.payload, LITTLE_ENDIAN);
  const { flags, iova, size, bitmap } = unmap;
  const reply: Reply = { pieces: [encodeVfioUserDmaUnmapReply(unmap, undefined, LITTLE_ENDIAN)] };
  if (bitmap !== undefined) {
    if ((flags & VFIO_USER_F_DMA_UNMAP_ALL) !== 0) throw malformed(request, 'a bitmap of everything is not to be had');
    return unmapWithBitmap(context, request, unmap, bitmap);
  }
  if (flags === 0) return after(context.memory.unmap(iova, size), reply);
  if (iova !== 0n || size !== 0n) {
    throw malformed(request, `address ${hex(iova)} and size ${hex(size)} must be 0 to unmap all`);
  }
  return after(context.memory.unmapAll(), reply);
};

function after(wait: void | Promise<void>, reply: Reply): Reply | Promise<Reply> {
  return wait === undefined ? reply : wait.then(() => reply);
}

/** The dirty bits are read while the memory is still there; what a device holds for writing counts as dirty. */
async function unmapWithBitmap(
  context: HandlerContext,
  request: Request,
  unmap: VfioUserDmaUnmap,
  asked: VfioUserBitmap,
): Promise<Reply> {
  const { iova, size } = unmap;
  context.memory.check(iova, size);
  const needed = checkLoggingReport(iova, size, asked.pgsize);
  const most = context.limits.maxReceiveData;
  if (BigInt(asked.size) < needed || asked.size > most) {
    throw malformed(request, `bitmap of ${asked.size} bytes, ${needed} are needed and ${most} the most`);
  }
  const replySize = vfioUserDmaUnmap.size + vfioUserBitmap.size + asked.size;
  if (unmap.argsz < replySize) throw malformed(request, `argsz is ${unmap.argsz}, the reply has ${replySize} bytes`);
  const bitmap = new Uint8Array(asked.size);
  await context.device.deviceFeature({
    flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
    value: { iova, length: size, pageSize: asked.pgsize, bitmap },
  });
  await context.memory.unmap(iova, size);
  return { pieces: [encodeVfioUserDmaUnmapReply(unmap, bitmap, LITTLE_ENDIAN)] };
}
