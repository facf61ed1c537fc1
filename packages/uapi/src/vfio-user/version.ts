/** VERSION: two numbers and a JSON text that ends in NUL. The reply has the same form. */
import { errnoError, messageOf } from '../errors.js';
import { needBytes, type StructOf, struct, u16, viewOf } from '../struct.js';
import {
  VFIO_USER_CAP_MAX_DATA_XFER_SIZE,
  VFIO_USER_CAP_MAX_DMA_MAPS,
  VFIO_USER_CAP_MAX_MSG_FDS,
  VFIO_USER_CAP_MIGRATION,
  VFIO_USER_CAP_PGSIZES,
  VFIO_USER_CAP_TWIN_SOCKET,
  VFIO_USER_CAP_WRITE_MULTIPLE,
  VFIO_USER_CAPABILITIES,
  VFIO_USER_MAX_MSG_FDS,
} from './constants.js';
import { badPayload } from './payload.js';

const COMMAND = 'VFIO_USER_VERSION';

export const vfioUserVersion = struct('vfio_user_version', { major: u16, minor: u16 });
export interface VfioUserVersionNumbers extends StructOf<typeof vfioUserVersion> {}

/** What a peer says it can do. A key that it did not send is `undefined`; the defaults are constants. */
export interface VfioUserCapabilities {
  /** Descriptors that the sender can receive in one message. */
  readonly maxMsgFds?: number | undefined;
  /** Most bytes of data in one message. */
  readonly maxDataXferSize?: number | undefined;
  readonly maxDmaMaps?: number | undefined;
  /** One bit a page size. */
  readonly pgsizes?: bigint | undefined;
  readonly migration?:
    | { readonly pgsize?: number | undefined; readonly maxBitmapSize?: number | undefined }
    | undefined;
  /** `fdIndex` is in a reply only: which descriptor of the message is the other end. */
  readonly twinSocket?: { readonly supported: boolean; readonly fdIndex?: number | undefined } | undefined;
  /** REGION_WRITE_MULTI may be used. */
  readonly writeMultiple?: boolean | undefined;
}

/** A VERSION message. */
export interface VfioUserVersion extends VfioUserVersionNumbers {
  /** `undefined` without a JSON text, which SPDK's client does not send. */
  readonly capabilities: VfioUserCapabilities | undefined;
  /** Keys of capabilities that this library does not know. */
  readonly unknownKeys: readonly string[];
}

/** Longest JSON text that is taken. Real ones are about 200 bytes; a peer is not trusted with more of our time. */
export const VFIO_USER_MAX_VERSION_JSON = 65536;

type JsonObject = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A value for a message. Objects are only named: a peer can nest them deeper than a walk through them could go. */
function show(value: unknown): string {
  if (typeof value === 'object') return value === null ? 'null' : Array.isArray(value) ? 'a list' : 'an object';
  const text = String(value);
  return text.length > 40 ? `${text.slice(0, 40)}...` : text;
}

/** The member of an object, never one that it inherits. */
function member(object: JsonObject, key: string): unknown {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

function count(object: JsonObject, key: string, most = Number.MAX_SAFE_INTEGER): number | undefined {
  const value = member(object, key);
  if (value === undefined) return undefined;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > most) {
    throw badPayload(COMMAND, `capability ${key} is ${show(value)}: an integer from 0 to ${most} is wanted`);
  }
  return value;
}

function bits(object: JsonObject, key: string): bigint | undefined {
  const value = member(object, key);
  if (value === undefined) return undefined;
  // A mask of all page sizes is beyond the safe integers, and exact all the same.
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value >= 2 ** 64) {
    throw badPayload(COMMAND, `capability ${key} is ${show(value)}: an integer of 64 bits is wanted`);
  }
  return BigInt(value);
}

function flag(object: JsonObject, key: string): boolean | undefined {
  const value = member(object, key);
  if (value !== undefined && typeof value !== 'boolean') {
    throw badPayload(COMMAND, `capability ${key} is ${show(value)}: true or false is wanted`);
  }
  return value;
}

function section(object: JsonObject, key: string): JsonObject | undefined {
  const value = member(object, key);
  if (value !== undefined && !isObject(value)) {
    throw badPayload(COMMAND, `${key} is ${show(value)}: an object is wanted`);
  }
  return value;
}

const KNOWN_KEYS: ReadonlySet<string> = new Set([
  VFIO_USER_CAP_MAX_MSG_FDS,
  VFIO_USER_CAP_MAX_DATA_XFER_SIZE,
  VFIO_USER_CAP_MAX_DMA_MAPS,
  VFIO_USER_CAP_PGSIZES,
  VFIO_USER_CAP_MIGRATION,
  VFIO_USER_CAP_TWIN_SOCKET,
  VFIO_USER_CAP_WRITE_MULTIPLE,
]);

function readCapabilities(object: JsonObject): VfioUserCapabilities {
  const migration = section(object, VFIO_USER_CAP_MIGRATION);
  const twin = section(object, VFIO_USER_CAP_TWIN_SOCKET);
  return {
    maxMsgFds: count(object, VFIO_USER_CAP_MAX_MSG_FDS, VFIO_USER_MAX_MSG_FDS),
    maxDataXferSize: count(object, VFIO_USER_CAP_MAX_DATA_XFER_SIZE),
    maxDmaMaps: count(object, VFIO_USER_CAP_MAX_DMA_MAPS),
    pgsizes: bits(object, VFIO_USER_CAP_PGSIZES),
    migration: migration && { pgsize: count(migration, 'pgsize'), maxBitmapSize: count(migration, 'max_bitmap_size') },
    twinSocket: twin && { supported: flag(twin, 'supported') ?? false, fdIndex: count(twin, 'fd_index') },
    writeMultiple: flag(object, VFIO_USER_CAP_WRITE_MULTIPLE),
  };
}

function parse(text: Uint8Array): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(text));
  } catch (cause) {
    throw badPayload(COMMAND, `the JSON text cannot be read: ${messageOf(cause)}`);
  }
  if (!isObject(value)) throw badPayload(COMMAND, `the JSON text is ${show(value)}: an object is wanted`);
  return value;
}

/**
 * Reads a VERSION payload, of a command or of a reply. Whether the numbers agree, and what is made of the capabilities, is
 * for the two ends to settle.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: shorter than 4 bytes, a text that does not end in NUL, is too long, is
 * no JSON object, or has a key of the wrong type or size.
 */
export function decodeVfioUserVersion(payload: Uint8Array, littleEndian: boolean): VfioUserVersion {
  const view = viewOf(payload);
  needBytes(view, 0, vfioUserVersion.size, COMMAND);
  const numbers = vfioUserVersion.read(view, 0, littleEndian);
  const text = payload.subarray(vfioUserVersion.size);
  if (text.length === 0) return { ...numbers, capabilities: undefined, unknownKeys: [] };
  if (text.length > VFIO_USER_MAX_VERSION_JSON) {
    throw badPayload(COMMAND, `a JSON text of ${text.length} bytes: at most ${VFIO_USER_MAX_VERSION_JSON} are taken`);
  }
  if (text[text.length - 1] !== 0) throw badPayload(COMMAND, 'the JSON text does not end in NUL');
  const root = parse(text.subarray(0, text.indexOf(0)));
  const object = section(root, VFIO_USER_CAPABILITIES) ?? {};
  return {
    ...numbers,
    capabilities: readCapabilities(object),
    unknownKeys: Object.keys(object).filter((key) => !KNOWN_KEYS.has(key)),
  };
}

/** Members of a JSON object from pairs; those that are `undefined` are left out. */
function json(pairs: readonly (readonly [key: string, text: string | undefined])[]): string {
  return `{${pairs
    .filter(([, text]) => text !== undefined)
    .map(([key, text]) => `"${key}":${text}`)
    .join(',')}}`;
}

function integer(key: string, value: number | bigint | undefined): string | undefined {
  if (value === undefined) return undefined;
  const isFine =
    typeof value === 'bigint' ? value >= 0n && value < 1n << 64n : Number.isSafeInteger(value) && value >= 0;
  if (!isFine)
    throw errnoError('EINVAL', `capability ${key} is ${value}: an integer of 64 bits is wanted`, { op: COMMAND });
  return value.toString();
}

/**
 * The bytes of a VERSION payload. The text is as short as it can be, because QEMU takes no reply that is longer than its own
 * request. Keys that are `undefined` are not sent; without capabilities there is no text at all.
 * @throws VfioError EINVAL: a number does not fit.
 */
export function encodeVfioUserVersion(
  version: VfioUserVersionNumbers & { readonly capabilities?: VfioUserCapabilities | undefined },
  littleEndian: boolean,
): Uint8Array {
  const { major, minor, capabilities } = version;
  const numbers = vfioUserVersion.encode({ major, minor }, littleEndian);
  if (capabilities === undefined) return numbers;
  const { migration, twinSocket } = capabilities;
  const text = json([
    [
      VFIO_USER_CAPABILITIES,
      json([
        [VFIO_USER_CAP_MAX_MSG_FDS, integer(VFIO_USER_CAP_MAX_MSG_FDS, capabilities.maxMsgFds)],
        [VFIO_USER_CAP_MAX_DATA_XFER_SIZE, integer(VFIO_USER_CAP_MAX_DATA_XFER_SIZE, capabilities.maxDataXferSize)],
        [VFIO_USER_CAP_MAX_DMA_MAPS, integer(VFIO_USER_CAP_MAX_DMA_MAPS, capabilities.maxDmaMaps)],
        [VFIO_USER_CAP_PGSIZES, integer(VFIO_USER_CAP_PGSIZES, capabilities.pgsizes)],
        [
          VFIO_USER_CAP_MIGRATION,
          migration &&
            json([
              ['pgsize', integer('pgsize', migration.pgsize)],
              ['max_bitmap_size', integer('max_bitmap_size', migration.maxBitmapSize)],
            ]),
        ],
        [
          VFIO_USER_CAP_TWIN_SOCKET,
          twinSocket &&
            json([
              ['supported', String(twinSocket.supported)],
              ['fd_index', integer('fd_index', twinSocket.fdIndex)],
            ]),
        ],
        [
          VFIO_USER_CAP_WRITE_MULTIPLE,
          capabilities.writeMultiple === undefined ? undefined : String(capabilities.writeMultiple),
        ],
      ]),
    ],
  ]);
  const out = new Uint8Array(numbers.length + text.length + 1);
  out.set(numbers);
  // Keys, digits and booleans are ASCII.
  for (let at = 0; at < text.length; at++) out[numbers.length + at] = text.charCodeAt(at);
  return out;
}
