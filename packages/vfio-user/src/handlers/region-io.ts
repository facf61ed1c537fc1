import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_USER_MULTI_DATA,
  VFIO_USER_REGION_WRITE,
} from '@vfio/uapi';
import { getNumber64, highWord, LITTLE_ENDIAN, MAX_HIGH, setNumber64 } from '../byte-order.js';
import { ACCESS_PENDING, asVfioError, type RegionAccess } from '../region-access.js';
import { malformed, type Reply, type Request } from '../request.js';
import type { HandlerContext } from './handler.js';

/** Bytes of one write in REGION_WRITE_MULTI: u64 offset, u32 region, u32 count, 8 bytes of data. */
const WRITE_SIZE = 16 + VFIO_USER_MULTI_DATA;

/**
 * REGION_WRITE_MULTI: writes in their order. Posted, as QEMU sends it, it stands for as many posted writes, and each is
 * tried; awaited, it stops at the first that fails and answers how many were done.
 */
export function writeMulti(context: HandlerContext, access: RegionAccess, request: Request): Promise<Reply> {
  const { view, payload } = request;
  const count = payload.length < 8 ? 0 : getNumber64(view, 0);
  if (payload.length !== 8 + count * WRITE_SIZE) {
    throw malformed(request, `${count} writes in ${payload.length} bytes`);
  }
  return writeAll(context, access, request, count);
}

async function writeAll(
  context: HandlerContext,
  access: RegionAccess,
  request: Request,
  count: number,
): Promise<Reply> {
  let done = 0;
  for (let index = 0; index < count; index++) {
    try {
      await writeOne(access, request, 8 + index * WRITE_SIZE);
      done++;
    } catch (error) {
      if (!request.isPosted) {
        if (done === 0) throw error;
        break;
      }
      context.warnPosted(request.command, asVfioError(error));
    }
  }
  const reply = new Uint8Array(8);
  setNumber64(new DataView(reply.buffer), 0, done);
  return { pieces: [reply] };
}

function writeOne(access: RegionAccess, request: Request, at: number): Promise<number> | undefined {
  const { view, payload } = request;
  const region = view.getUint32(at + 8, LITTLE_ENDIAN);
  const count = view.getUint32(at + 12, LITTLE_ENDIAN);
  if (count > VFIO_USER_MULTI_DATA || highWord(view, at) > MAX_HIGH) {
    throw malformed(request, `a write of ${count} bytes, ${VFIO_USER_MULTI_DATA} is the most`);
  }
  if (count === 0) return undefined;
  const result = access.writeDevice(region, getNumber64(view, at), payload, at + 16, count);
  if (result < 0) throw access.error!;
  return result === ACCESS_PENDING ? access.pending : undefined;
}

/**
 * Refuses a write to anything but config space while the state of the device is being copied: it would change what was
 * copied already. Asked of the device, as a reset may have ended the migration behind the protocol's back.
 */
export async function refuseWhileCopying(context: HandlerContext, request: Request): Promise<void> {
  const isConfig =
    request.command === VFIO_USER_REGION_WRITE &&
    request.payload.length >= 16 &&
    request.view.getUint32(8, LITTLE_ENDIAN) === VFIO_PCI_CONFIG_REGION_INDEX;
  if (isConfig) return;
  const result = await context.device.deviceFeature({
    flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  });
  const { state } = result as { state: number };
  context.migrationState = state;
  if (state === VFIO_DEVICE_STATE_STOP_COPY) throw malformed(request, 'the device is stopped and being copied');
}
