import {
  decodeVfioUserVersion,
  encodeVfioUserVersion,
  VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE,
  VFIO_USER_DEFAULT_MAX_DMA_MAPS,
  VFIO_USER_DEFAULT_MAX_MSG_FDS,
  VFIO_USER_MAJOR,
  VFIO_USER_MINOR,
  VFIO_USER_VERSION,
  VfioError,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import type { ReceivedReply } from '../connection.js';
import { DMA_PAGE_SIZE, MAX_BITMAP_SIZE, MAX_DMA_MAPS } from '../limits.js';
import type { Procedure } from './procedure.js';

/** What a client proposes in VERSION. */
export interface ClientProposal {
  /** Descriptors in one message to us. */
  readonly maxMsgFds: number;
  readonly maxDataXferSize: number;
  readonly twinSocket: boolean;
}

/** What the server answered. */
export interface ServerLimits {
  readonly minor: number;
  /** Descriptors that the server takes in one message. */
  readonly maxMsgFds: number;
  /** Bytes of data in one message, both ways. */
  readonly maxDataXferSize: number;
  readonly maxDmaMaps: number;
  readonly writeMultiple: boolean;
  readonly migration: boolean;
}

/**
 * Agrees on a version. `twinFd` is the end of the second socket, the caller's to close, where both sides want one.
 * @throws ERR_VFIO_REMOTE where the server refuses, ERR_VFIO_PROTOCOL for an answer that cannot be
 */
export function* negotiate(proposal: ClientProposal): Procedure<{ limits: ServerLimits; twinFd: number | undefined }> {
  const payload = encodeVfioUserVersion(
    {
      major: VFIO_USER_MAJOR,
      minor: VFIO_USER_MINOR,
      capabilities: {
        maxMsgFds: proposal.maxMsgFds,
        maxDataXferSize: proposal.maxDataXferSize,
        maxDmaMaps: MAX_DMA_MAPS,
        pgsizes: BigInt(DMA_PAGE_SIZE),
        migration: { pgsize: DMA_PAGE_SIZE, maxBitmapSize: MAX_BITMAP_SIZE },
        twinSocket: proposal.twinSocket ? { supported: true } : undefined,
        writeMultiple: true,
      },
    },
    LITTLE_ENDIAN,
  );
  const reply = yield { command: VFIO_USER_VERSION, pieces: [payload] };
  const version = decodeVfioUserVersion(reply.payload, LITTLE_ENDIAN);
  if (version.major !== VFIO_USER_MAJOR || version.minor > VFIO_USER_MINOR) {
    throw refuse(`the server answered version ${version.major}.${version.minor}, 0.${VFIO_USER_MINOR} was proposed`);
  }
  const caps = version.capabilities ?? {};
  if (caps.maxDataXferSize === 0) throw refuse('the server takes no data at all');
  return {
    limits: {
      minor: version.minor,
      maxMsgFds: caps.maxMsgFds ?? VFIO_USER_DEFAULT_MAX_MSG_FDS,
      maxDataXferSize: Math.min(caps.maxDataXferSize ?? VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE, proposal.maxDataXferSize),
      maxDmaMaps: caps.maxDmaMaps ?? VFIO_USER_DEFAULT_MAX_DMA_MAPS,
      writeMultiple: caps.writeMultiple ?? false,
      migration: caps.migration !== undefined,
    },
    twinFd: twinOf(caps.twinSocket, reply),
  };
}

function twinOf(
  twin: { readonly supported: boolean; readonly fdIndex?: number | undefined } | undefined,
  reply: ReceivedReply,
): number | undefined {
  if (!twin?.supported) return undefined;
  const fd = reply.fds[twin.fdIndex ?? 0];
  if (fd === undefined) throw refuse(`the server names descriptor ${twin.fdIndex}, ${reply.fds.length} came`);
  return fd;
}

function refuse(message: string): VfioError {
  return new VfioError('ERR_VFIO_PROTOCOL', `VERSION: ${message}`, { errno: 'EPROTO', op: 'VERSION' });
}
