import type { MigrationData } from '@vfio/core';
import { decodeVfioUserMigData, decodeVfioUserMigDataRead, encodeVfioUserMigData, isVfioError } from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { EMPTY_REPLY, malformed, type Reply, type Request } from '../request.js';
import type { Handler, HandlerContext } from './handler.js';

/**
 * MIG_DATA_READ. Filled up to what was asked for: a client takes a short answer for the end of the state, so a device
 * that hands out small pieces must not show.
 */
export const migDataRead: Handler = async (context, request): Promise<Reply> => {
  const size = decodeVfioUserMigDataRead(request.payload, LITTLE_ENDIAN);
  const stream = openStream(context, request, size);
  const data = new Uint8Array(size);
  let done = 0;
  while (done < size) {
    const read = await readSome(stream, data.subarray(done));
    if (read === 0) break;
    done += read;
  }
  return { pieces: [encodeVfioUserMigData(data.subarray(0, done), LITTLE_ENDIAN)] };
};

async function readSome(stream: MigrationData, into: Uint8Array): Promise<number> {
  try {
    return await stream.read(into);
  } catch (error) {
    // Nothing more for now: while the device runs that is an answer, not a failure.
    if (isVfioError(error) && error.errno === 'ENOMSG') return 0;
    throw error;
  }
}

/** MIG_DATA_WRITE: taken whole. */
export const migDataWrite: Handler = async (context, request): Promise<Reply> => {
  const data = decodeVfioUserMigData(request.payload, LITTLE_ENDIAN);
  const stream = openStream(context, request, data.length);
  for (let done = 0; done < data.length; ) {
    const written = await stream.write(data.subarray(done));
    if (written === 0) throw malformed(request, `the device took ${done} of ${data.length} bytes`);
    done += written;
  }
  return EMPTY_REPLY;
};

function openStream(context: HandlerContext, request: Request, size: number): MigrationData {
  if (size > context.limits.maxReceiveData) {
    throw malformed(request, `${size} bytes, at most ${context.limits.maxReceiveData} go in one message`);
  }
  if (context.migrationData === undefined) throw malformed(request, 'no migration is under way');
  return context.migrationData;
}
