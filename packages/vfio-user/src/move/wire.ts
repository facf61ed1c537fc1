/**
 * The protocol between two servers that move a device: records over one stream socket, little-endian.
 *
 * ```
 *  0  u16 type      one of RECORD
 *  2  u16 flags     RECORD_DEFLATED in a file, else 0
 *  4  u32 length    bytes of payload that follow, at most MAX_MOVE_PAYLOAD
 *  8  u32 sequence  0, 1, 2 … in each direction
 * 12  u32 checksum  CRC-32 of the 12 bytes before it and of the payload; of STATE and MEMORY only in a file
 * ```
 *
 * The source sends HELLO and RANGES, the destination ACCEPT. Then come ROUND, STATE and MEMORY in any order, and END. The
 * destination has put everything together: LOADED. The source's device has stopped for good: COMMIT; until then ROUND may
 * come, as a sign of life. The destination's runs: DONE. Either side may send FAILED and is gone then. COMMIT is the moment:
 * a source that did not send it lets its device run again, a destination that did not receive it never lets its own run.
 */
import { crc32 } from 'node:zlib';
import { errnoError, VfioError } from '@vfio/uapi';
import { MAX_MOVE_PAYLOAD } from '../limits.js';

/** First bytes of HELLO. */
export const MOVE_MAGIC = 'VFIOMOVE';
/** A reader refuses another major number, and ignores what it does not know of a higher minor one. */
export const MOVE_VERSION = { major: 1, minor: 0 } as const;

/** Bytes before each payload. */
export const RECORD_HEADER = 16;

/** Kinds of records. */
export const RECORD = {
  /** Magic, u16 major, u16 minor, u32 0, then JSON: what the device is. Source to destination. */
  HELLO: 1,
  /** What its client has mapped: {@link RANGE_BYTES} each. There may be several, or none. */
  RANGES: 2,
  /** JSON: what the destination is and has; then one byte for each range: what is to become of it. */
  ACCEPT: 3,
  /** JSON: code, errno and a sentence. Both directions. */
  FAILED: 4,
  /** u32 round from 0, u32 migration state, u64 bytes that remain as far as is known. */
  ROUND: 5,
  /** Bytes of the device's own stream. */
  STATE: 6,
  /** u64 address, then the bytes of memory there. */
  MEMORY: 7,
  /** u64 bytes of STATE, u64 bytes of MEMORY (addresses left out): all that was sent. */
  END: 8,
  /** The same, as received: the destination has everything, and its device has taken it. */
  LOADED: 9,
  /** No payload. The source's device will not run again. */
  COMMIT: 10,
  /** No payload. The destination's device runs. */
  DONE: 11,
} as const;

/** The payload was compressed (raw deflate); its first 4 bytes are its length before that. Only in files. */
export const RECORD_DEFLATED = 1;

const NAMES: readonly string[] = ['', ...Object.keys(RECORD)];

/** Name of a record's type, for messages. */
export const recordName = (type: number): string => NAMES[type] ?? `record type ${type}`;

/** Writes a header. @param checked what its checksum is of, beside the header: the payload, or nothing */
export function writeHeader(
  header: Uint8Array,
  record: { readonly type: number; readonly flags: number; readonly length: number; readonly sequence: number },
  checked: Uint8Array,
): void {
  const view = new DataView(header.buffer, header.byteOffset, RECORD_HEADER);
  view.setUint16(0, record.type, true);
  view.setUint16(2, record.flags, true);
  view.setUint32(4, record.length, true);
  view.setUint32(8, record.sequence, true);
  view.setUint32(12, checksum(header, checked), true);
}

const NOTHING = new Uint8Array(0);

/** What of a record's payload its checksum covers on a socket: the system does not change bytes there, and CRC-32 of all that is
 * moved would cost more than moving it. */
export const checkedOnSocket = (type: number, payload: Uint8Array): Uint8Array =>
  type === RECORD.STATE || type === RECORD.MEMORY ? NOTHING : payload;

/** CRC-32 of a header, and of a payload. */
function checksum(header: Uint8Array, payload: Uint8Array): number {
  const head = crc32(header.subarray(0, 12));
  return payload.length === 0 ? head : crc32(payload, head);
}

/** A header, read. */
export interface RecordHeader {
  readonly type: number;
  readonly flags: number;
  readonly length: number;
}

/** @throws ERR_VFIO_PROTOCOL (EPROTO): no such record, too long, or not the next one */
export function readHeader(bytes: Uint8Array, sequence: number, allowedFlags: number): RecordHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, RECORD_HEADER);
  const type = view.getUint16(0, true);
  const flags = view.getUint16(2, true);
  const length = view.getUint32(4, true);
  const found = view.getUint32(8, true);
  if (NAMES[type] === undefined || type === 0)
    throw broken(`record ${sequence} is of type ${type}, which there is not`);
  const name = `record ${sequence} (${recordName(type)})`;
  if ((flags & ~allowedFlags) !== 0) throw broken(`${name} has flags 0x${flags.toString(16)}`);
  if (length > MAX_MOVE_PAYLOAD) throw broken(`${name} announces ${length} bytes, ${MAX_MOVE_PAYLOAD} is the most`);
  if (found !== sequence) throw broken(`${name} says that it is number ${found}: one is missing or came twice`);
  return { type, flags, length };
}

/** @throws ERR_VFIO_PROTOCOL (EPROTO) where a byte was changed on the way @param payload what the checksum is of, beside the header */
export function verifyChecksum(header: Uint8Array, sequence: number, payload: Uint8Array): void {
  const view = new DataView(header.buffer, header.byteOffset, RECORD_HEADER);
  const found = view.getUint32(12, true);
  if (found === checksum(header, payload)) return;
  throw broken(
    `record ${sequence} (${recordName(view.getUint16(0, true))}) was changed on the way: its checksum is wrong`,
  );
}

/** What a peer, or a file, has that cannot be. */
export function broken(why: string): VfioError {
  return new VfioError('ERR_VFIO_PROTOCOL', `the stream of the move: ${why}`, { errno: 'EPROTO', op: 'migrate' });
}

/** An error of this side's as the other's user reads it. */
export function encodeFailure(error: unknown): Uint8Array {
  const { code, errno, message } = error as { code?: unknown; errno?: unknown; message?: unknown };
  return json({ code: String(code ?? ''), errno: String(errno ?? ''), message: String(message ?? error) });
}

const FAILURE_TEXT = 1000;

/** @throws ERR_VFIO_PROTOCOL where it is none */
export function decodeFailure(payload: Uint8Array): VfioError {
  const { errno, message } = parseJson(payload, 'FAILED');
  if (typeof message !== 'string') throw broken('FAILED does not say why');
  const text = `the other server: ${message.slice(0, FAILURE_TEXT)}`;
  const known = typeof errno === 'string' && /^E[A-Z0-9]{2,14}$/.test(errno) ? errno : 'EIO';
  return new VfioError('ERR_VFIO_REMOTE', text, { errno: errnoError(known as 'EIO', '').errno, op: 'migrate' });
}

export function json(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

/** A JSON object in a payload. @throws ERR_VFIO_PROTOCOL */
export function parseJson(bytes: Uint8Array, name: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    throw broken(`${name} has no JSON where it should be`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw broken(`${name} has no JSON object`);
  // Checked just above.
  return value as Record<string, unknown>;
}

/** What END and LOADED count. */
export interface Totals {
  readonly stateBytes: number;
  readonly memoryBytes: number;
}

export function encodeTotals({ stateBytes, memoryBytes }: Totals): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(stateBytes), true);
  view.setBigUint64(8, BigInt(memoryBytes), true);
  return bytes;
}

/** @throws ERR_VFIO_PROTOCOL where they are not those of this side */
export function checkTotals(payload: Uint8Array, type: number, mine: Totals): void {
  const name = recordName(type);
  if (payload.length !== 16) throw broken(`${name} has ${payload.length} bytes, 16 are needed`);
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const [state, memory] = [view.getBigUint64(0, true), view.getBigUint64(8, true)];
  if (state === BigInt(mine.stateBytes) && memory === BigInt(mine.memoryBytes)) return;
  throw broken(
    `${name} counts ${state} bytes of state and ${memory} of memory, ${mine.stateBytes} and ${mine.memoryBytes} came`,
  );
}

/** A round begins, or goes on. */
export interface Round {
  readonly round: number;
  /** VFIO_DEVICE_STATE_* of the source's device. */
  readonly state: number;
  readonly remainingBytes: number;
}

export function encodeRound({ round, state, remainingBytes }: Round): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, round, true);
  view.setUint32(4, state, true);
  view.setBigUint64(8, BigInt(remainingBytes), true);
  return bytes;
}

/** @throws ERR_VFIO_PROTOCOL */
export function decodeRound(payload: Uint8Array): Round {
  if (payload.length !== 16) throw broken(`ROUND has ${payload.length} bytes, 16 are needed`);
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const remaining = view.getBigUint64(8, true);
  if (remaining > BigInt(Number.MAX_SAFE_INTEGER)) throw broken(`ROUND says that ${remaining} bytes remain`);
  const [round, state] = [view.getUint32(0, true), view.getUint32(4, true)];
  if (state > 7) throw broken(`ROUND names state ${state}, which there is not`);
  return { round, state, remainingBytes: Number(remaining) };
}
