import { statFd } from '@vfio/native';
import {
  decodeVfioUserVersion,
  encodeVfioUserVersion,
  hex,
  VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE,
  VFIO_USER_DEFAULT_MAX_DMA_MAPS,
  VFIO_USER_DEFAULT_MAX_MSG_FDS,
  VFIO_USER_MAJOR,
  VFIO_USER_MINOR,
  VFIO_USER_VERSION,
  VfioError,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { closeAll, type ReceivedReply } from '../connection.js';
import { DMA_PAGE_SIZE, MAX_BITMAP_SIZE, MAX_CLIENT_XFER_SIZE, MAX_DMA_MAPS } from '../limits.js';
import type { Procedure } from './procedure.js';

/** What a client proposes in VERSION. */
export interface ClientProposal {
  /** Descriptors in one message to us. */
  readonly maxMsgFds: number;
  readonly maxDataXferSize: number;
  readonly twinSocket: boolean;
}

/** What both kinds of client are told by their program. */
export interface ClientOptions {
  /** Milliseconds to wait for a reply. @default 5000 */
  readonly timeoutMs?: number;
  /** Bytes of data in one message, up to 32 MiB. @default 1 MiB */
  readonly maxDataXferSize?: number;
}

/** @throws EINVAL for an option out of range */
export function checkOptions(options: ClientOptions): void {
  const range = (name: keyof ClientOptions, max: number) => {
    const value = options[name];
    if (value === undefined || (Number.isInteger(value) && value >= 1 && value <= max)) return;
    throw new VfioError('ERR_VFIO_INVALID_ARGUMENT', `${name} is ${value}: 1 to ${max} is allowed`, {
      errno: 'EINVAL',
      op: 'connect',
    });
  };
  range('timeoutMs', 0x7fffffff);
  range('maxDataXferSize', MAX_CLIENT_XFER_SIZE);
}

/** What the server answered. */
export interface ServerLimits {
  readonly minor: number;
  /** Descriptors that the server takes in one message; 0: none at all. */
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
  const reply = yield { command: VFIO_USER_VERSION, pieces: [payload], takesFds: proposal.twinSocket };
  let twinFd: number | undefined;
  try {
    const { limits, twinIndex } = readAnswer(proposal, reply.payload);
    if (twinIndex !== undefined) twinFd = descriptorAt(reply, twinIndex);
    return { limits, twinFd };
  } finally {
    closeAll(reply.fds.filter((fd) => fd !== twinFd));
  }
}

/** Takes the server's answer apart; `twinIndex` says which of its descriptors is the second socket. */
function readAnswer(
  proposal: ClientProposal,
  payload: Uint8Array,
): { limits: ServerLimits; twinIndex: number | undefined } {
  const version = decodeVfioUserVersion(payload, LITTLE_ENDIAN);
  if (version.major !== VFIO_USER_MAJOR || version.minor > VFIO_USER_MINOR) {
    throw refuse(`the server answered version ${version.major}.${version.minor}, 0.${VFIO_USER_MINOR} was proposed`);
  }
  const { maxMsgFds, maxDataXferSize, maxDmaMaps, pgsizes, migration, twinSocket, writeMultiple } =
    version.capabilities ?? {};
  if (maxDataXferSize === 0) throw refuse('the server takes no data at all');
  if (pgsizes !== undefined && (pgsizes === 0n || pgsizes % BigInt(DMA_PAGE_SIZE) !== 0n)) {
    throw refuse(`the server maps pages of ${hex(pgsizes)}: ${hex(DMA_PAGE_SIZE)} is the least`);
  }
  if (twinSocket?.supported && !proposal.twinSocket) throw refuse('the server takes a second socket, none was offered');
  return {
    limits: {
      minor: version.minor,
      maxMsgFds: maxMsgFds ?? VFIO_USER_DEFAULT_MAX_MSG_FDS,
      maxDataXferSize: Math.min(maxDataXferSize ?? VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE, proposal.maxDataXferSize),
      maxDmaMaps: maxDmaMaps ?? VFIO_USER_DEFAULT_MAX_DMA_MAPS,
      writeMultiple: writeMultiple ?? false,
      migration: migration !== undefined,
    },
    twinIndex: twinSocket?.supported ? (twinSocket.fdIndex ?? 0) : undefined,
  };
}

const S_IFMT = 0o170000;
const S_IFSOCK = 0o140000;

function descriptorAt(reply: ReceivedReply, index: number): number {
  const fd = reply.fds[index];
  if (fd === undefined) throw refuse(`the server names descriptor ${index}, ${reply.fds.length} came`);
  if ((statFd(fd).mode & S_IFMT) !== S_IFSOCK) throw refuse(`descriptor ${index} is no socket`);
  return fd;
}

function refuse(message: string): VfioError {
  return new VfioError('ERR_VFIO_PROTOCOL', `VERSION: ${message}`, { errno: 'EPROTO', op: 'VERSION' });
}
