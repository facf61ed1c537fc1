/**
 * VERSION: who a client is, and what it is answered. Pure: bytes in, bytes out.
 */
import {
  decodeVfioUserVersion,
  encodeVfioUserVersion,
  VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE,
  VFIO_USER_DEFAULT_MAX_DMA_MAPS,
  VFIO_USER_DEFAULT_MAX_MSG_FDS,
  VFIO_USER_MAJOR,
  VFIO_USER_MINOR,
  VfioError,
  type VfioUserCapabilities,
  type VfioUserVersion,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from './byte-order.js';
import { DMA_PAGE_SIZE, QEMU_MAX_MSG_FDS } from './limits.js';

/** Who a client is, as its VERSION shows it. `other` is served by the letter of the specification. */
export type PeerKind = 'qemu' | 'rust' | 'spdk' | 'other';

/** What a server can do, before it knows what the client offers. */
export interface ServerAbilities {
  /** Descriptors in one message to us. */
  readonly maxMsgFds: number;
  /** Bytes of data in one message, both ways. */
  readonly maxDataXferSize: number;
  readonly maxDmaMaps: number;
  /** Page sizes of DMA maps, or-ed. */
  readonly pgsizes: number;
  /** The device has migration. */
  readonly migration: boolean;
  readonly twinSocket: boolean;
  readonly writeMultiple: boolean;
}

/** What was agreed on, seen by the server. */
export interface AgreedLimits {
  /** Descriptors that we may put into one message. */
  readonly maxSendFds: number;
  /** Descriptors that the client was told it may put into one message. */
  readonly maxReceiveFds: number;
  /** Bytes of data that a message from us may carry (DMA_WRITE), or ask for (DMA_READ). */
  readonly maxSendData: number;
  /** Bytes of data that a message to us may carry, or ask for. */
  readonly maxReceiveData: number;
  readonly maxDmaMaps: number;
  readonly twinSocket: boolean;
  readonly writeMultiple: boolean;
}

/** The answer to a VERSION. */
export interface VersionReply {
  /** The whole payload. */
  readonly payload: Uint8Array;
  readonly minor: number;
  readonly agreed: AgreedLimits;
}

function refuse(message: string): VfioError {
  return new VfioError('ERR_VFIO_PROTOCOL', `VERSION: ${message}`, { errno: 'EINVAL', op: 'VERSION' });
}

/**
 * Reads a client's VERSION and refuses what no server could agree to.
 * @throws EINVAL: malformed (see `decodeVfioUserVersion`), another major version, a limit that allows nothing
 */
export function readProposal(payload: Uint8Array): VfioUserVersion {
  const version = decodeVfioUserVersion(payload, LITTLE_ENDIAN);
  if (version.major !== VFIO_USER_MAJOR) {
    throw refuse(`major version ${version.major} is proposed, only ${VFIO_USER_MAJOR} is spoken here`);
  }
  const { maxDataXferSize, migration } = version.capabilities ?? {};
  if (maxDataXferSize === 0) throw refuse('max_data_xfer_size is 0: at least 1 is wanted');
  const pgsize = migration?.pgsize;
  if (pgsize !== undefined && (pgsize === 0 || pgsize % DMA_PAGE_SIZE !== 0)) {
    throw refuse(`migration.pgsize is ${pgsize}: a multiple of ${DMA_PAGE_SIZE} is wanted`);
  }
  return version;
}

/**
 * Who sent this. QEMU proposes 0.0 with `pgsizes` and `max_dma_maps`; the Rust crate 0.1 with exactly its three keys;
 * SPDK no JSON at all.
 */
export function identifyPeer({ minor, capabilities, unknownKeys }: VfioUserVersion): PeerKind {
  if (capabilities === undefined) return 'spdk';
  const { maxMsgFds, maxDataXferSize, maxDmaMaps, pgsizes, migration, twinSocket, writeMultiple } = capabilities;
  if (minor === 0 && pgsizes !== undefined && maxDmaMaps !== undefined) return 'qemu';
  const hasRustKeys = maxMsgFds !== undefined && maxDataXferSize !== undefined && migration?.pgsize !== undefined;
  const others = [maxDmaMaps, pgsizes, twinSocket, writeMultiple, migration?.maxBitmapSize];
  const hasOthers = unknownKeys.length > 0 || others.some((value) => value !== undefined);
  return minor === 1 && hasRustKeys && !hasOthers ? 'rust' : 'other';
}

/**
 * The answer to a proposal whose payload had `room` bytes. QEMU and others receive the reply into the buffer of their
 * request, so it is never longer; a key that was not offered is not sent, and what does not fit is left out, the least
 * important first.
 */
export function answerProposal(proposal: VfioUserVersion, room: number, abilities: ServerAbilities): VersionReply {
  const offered = proposal.capabilities ?? {};
  const minor = Math.min(proposal.minor, VFIO_USER_MINOR);
  const numbers = { major: VFIO_USER_MAJOR, minor };
  const wanted = answerCapabilities(offered, abilities);
  const { payload, sent } =
    proposal.capabilities === undefined
      ? { payload: encodeVfioUserVersion(numbers, LITTLE_ENDIAN), sent: {} }
      : fit(numbers, wanted, room);
  return {
    payload,
    minor,
    agreed: {
      maxSendFds: offered.maxMsgFds ?? VFIO_USER_DEFAULT_MAX_MSG_FDS,
      maxReceiveFds: sent.maxMsgFds ?? VFIO_USER_DEFAULT_MAX_MSG_FDS,
      maxSendData: Math.min(offered.maxDataXferSize ?? VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE, abilities.maxDataXferSize),
      maxReceiveData: abilities.maxDataXferSize,
      maxDmaMaps: Math.min(abilities.maxDmaMaps, offered.maxDmaMaps ?? VFIO_USER_DEFAULT_MAX_DMA_MAPS),
      twinSocket: sent.twinSocket !== undefined,
      writeMultiple: sent.writeMultiple !== undefined,
    },
  };
}

/** What is answered to each offered key, room or not. */
function answerCapabilities(offered: VfioUserCapabilities, abilities: ServerAbilities): VfioUserCapabilities {
  const has = <T>(offer: unknown, answer: T): T | undefined => (offer === undefined ? undefined : answer);
  const { migration } = offered;
  return {
    maxDataXferSize: has(offered.maxDataXferSize, abilities.maxDataXferSize),
    // The other end is a descriptor in the reply.
    twinSocket:
      offered.twinSocket?.supported && abilities.twinSocket && offered.maxMsgFds !== 0
        ? { supported: true, fdIndex: 0 }
        : undefined,
    maxMsgFds: has(
      offered.maxMsgFds,
      Math.min(abilities.maxMsgFds, Math.max(offered.maxMsgFds ?? 0, QEMU_MAX_MSG_FDS)),
    ),
    maxDmaMaps: has(offered.maxDmaMaps, Math.min(abilities.maxDmaMaps, offered.maxDmaMaps ?? 0)),
    writeMultiple: offered.writeMultiple && abilities.writeMultiple ? true : undefined,
    migration:
      migration !== undefined && abilities.migration
        ? { pgsize: migration.pgsize ?? DMA_PAGE_SIZE, maxBitmapSize: migration.maxBitmapSize }
        : undefined,
    pgsizes: has(offered.pgsizes, BigInt(abilities.pgsizes)),
  };
}

/** Order in which keys are given up where they do not fit. What changes how the connection works goes last. */
const LEAST_IMPORTANT_FIRST = [
  'pgsizes',
  'migration',
  'writeMultiple',
  'maxDmaMaps',
  'maxMsgFds',
  'twinSocket',
  'maxDataXferSize',
] as const satisfies readonly (keyof VfioUserCapabilities)[];

function fit(
  numbers: { major: number; minor: number },
  wanted: VfioUserCapabilities,
  room: number,
): { payload: Uint8Array; sent: VfioUserCapabilities } {
  let sent = wanted;
  const encode = () => encodeVfioUserVersion({ ...numbers, capabilities: sent }, LITTLE_ENDIAN);
  let payload = encode();
  // One digit decides for a client whose request is as short as the Rust crate's.
  if (payload.length > room && sent.maxMsgFds !== undefined && sent.maxMsgFds > 9) {
    sent = { ...sent, maxMsgFds: 9 };
    payload = encode();
  }
  for (const key of LEAST_IMPORTANT_FIRST) {
    if (payload.length <= room) return { payload, sent };
    sent = { ...sent, [key]: undefined };
    payload = encode();
  }
  if (payload.length <= room) return { payload, sent };
  // A request without the outer key: an empty object is still an answer.
  const bare = new Uint8Array(4 + 3);
  bare.set(payload.subarray(0, 4));
  bare.set([0x7b, 0x7d, 0], 4);
  return { payload: bare, sent };
}
