/**
 * What two servers say to each other when a client changes from one to the other. Messages have the framing of vfio-user, and
 * DMA_MAP and DMA_UNMAP are the client's own, repeated; the rest is here. The server that has the client asks, the one that is
 * to have it answers: with nothing, or with a {@link Problem}.
 *
 * 1. OFFER, then a DMA_MAP for each mapping: the client is served as before meanwhile.
 * 2. The client's commands are kept and the device stops. DMA_MAP and DMA_UNMAP for what has changed, DATA with the device's
 *    state, FDS, WAITING.
 * 3. TAKE. Who takes the token, the counter of an eventfd that both have, has the client from then on: the one that is to have
 *    it before its device runs, the other one where that has failed, has gone, or takes too long. There is one token, so there
 *    is one who has the client, whoever dies when.
 */
import { ERRNO, type ErrnoName, errnoError, VFIO_ERROR_CODES, VfioError, type VfioErrorCode } from '@vfio/uapi';

export const HANDOVER = {
  /** An {@link Offer}; descriptors: the token, the client's socket, the second one where there is one, the listening one likewise. */
  OFFER: 0x100,
  /** A piece of the device's state, as its driver writes it. */
  DATA: 0x101,
  /** Descriptors, behind those of the messages before: a {@link Takeover} counts them from 0. */
  FDS: 0x102,
  /** A command that waits: u32 milliseconds since it came, u32 {@link WAITING_FLAGS}, the message; with its descriptors. */
  WAITING: 0x103,
  /** A {@link Takeover}. The answer comes when the device runs there. */
  TAKE: 0x104,
} as const;

export const WAITING_FLAGS = {
  /** It was answered: its time had passed. */
  ANSWERED: 1,
  /** It had descriptors that were lost. */
  TRUNCATED: 2,
} as const;

/** Version of all this. Another one is refused: who cannot read everything must not go on with half of it. */
export const HANDOVER_FORMAT = 1;

/** Why the other one does not. */
export function encodeProblem(error: VfioError): Uint8Array {
  const { code, errno, message, device } = error;
  return new TextEncoder().encode(JSON.stringify({ code, errno, message, device }));
}

/** What the answer to a message says: an error, or undefined where it has nothing to say. */
export function decodeProblem(payload: Uint8Array): VfioError | undefined {
  if (payload.length === 0) return undefined;
  try {
    const { code, errno, message, device } = JSON.parse(new TextDecoder().decode(payload)) as Record<string, unknown>;
    if (typeof message !== 'string') throw new TypeError('it says nothing');
    const isKnown = typeof code === 'string' && Object.hasOwn(VFIO_ERROR_CODES, code);
    return new VfioError(isKnown ? (code as VfioErrorCode) : 'ERR_VFIO_REMOTE', `the other server: ${message}`, {
      errno: typeof errno === 'string' && Object.hasOwn(ERRNO, errno) ? (errno as ErrnoName) : 'EIO',
      op: 'handover',
      device: typeof device === 'string' ? device : undefined,
    });
  } catch {
    return errnoError('EPROTO', 'the other server answered what is no answer', { op: 'handover' });
  }
}
