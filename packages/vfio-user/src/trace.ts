/**
 * Messages as lines for people: `> 0x0012 REGION_READ region 0 offset 0x10 count 4`. `>` came from the client, `<` went
 * to it.
 */
import * as uapi from '@vfio/uapi';
import { errnoName, hex, VFIO_USER_HEADER_SIZE } from '@vfio/uapi';
import { LITTLE_ENDIAN } from './byte-order.js';

/** Names of the commands; index is the number. */
export const COMMAND_NAMES: readonly string[] = [
  'NONE',
  'VERSION',
  'DMA_MAP',
  'DMA_UNMAP',
  'DEVICE_GET_INFO',
  'DEVICE_GET_REGION_INFO',
  'DEVICE_GET_REGION_IO_FDS',
  'DEVICE_GET_IRQ_INFO',
  'DEVICE_SET_IRQS',
  'REGION_READ',
  'REGION_WRITE',
  'DMA_READ',
  'DMA_WRITE',
  'DEVICE_RESET',
  'DIRTY_PAGES',
  'REGION_WRITE_MULTI',
  'DEVICE_FEATURE',
  'MIG_DATA_READ',
  'MIG_DATA_WRITE',
];

/** Name of a command, or its number where it is not of the protocol. */
export function commandName(command: number): string {
  return COMMAND_NAMES[command] ?? `command ${command}`;
}

/** Receives the lines. Must not throw. */
export type TraceSink = (line: string) => void;

/** Bytes of data that a line shows. */
const SHOWN = 16;

/** Bytes of a VERSION's JSON that a line shows: real ones have about 200. */
const SHOWN_JSON = 512;

function data(bytes: Uint8Array): string {
  const shown = Array.from(bytes.subarray(0, SHOWN), (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  return bytes.length > SHOWN ? `${shown} ... (${bytes.length})` : shown;
}

/** One message as one line, without time and line end. What is too short to be read is shown as far as it goes. */
export function describeMessage(direction: '>' | '<', message: Uint8Array, fdCount: number): string {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  if (message.length < VFIO_USER_HEADER_SIZE) return `${direction} ${message.length} bytes of a header`;
  const id = view.getUint16(0, LITTLE_ENDIAN);
  const command = view.getUint16(2, LITTLE_ENDIAN);
  const flags = view.getUint32(8, LITTLE_ENDIAN);
  const isReply = (flags & uapi.VFIO_USER_F_TYPE_MASK) === uapi.VFIO_USER_F_TYPE_REPLY;
  const words = [direction, `0x${id.toString(16).padStart(4, '0')}`, commandName(command)];
  if (isReply) words.push('reply');
  if ((flags & uapi.VFIO_USER_F_NO_REPLY) !== 0) words.push('posted');
  if ((flags & uapi.VFIO_USER_F_ERROR) !== 0) {
    const errno = view.getUint32(12, LITTLE_ENDIAN);
    words.push(`error ${errnoName(errno) ?? errno}`);
  }
  const body = describePayload(
    command,
    isReply,
    new DataView(message.buffer, message.byteOffset + 16, message.length - 16),
  );
  if (body !== '') words.push(body);
  if (fdCount > 0) words.push(`fds ${fdCount}`);
  return words.join(' ');
}

function describePayload(command: number, isReply: boolean, view: DataView): string {
  if (view.byteLength === 0) return '';
  try {
    return describeKnown(command, isReply, view);
  } catch {
    // Shorter than the command wants: the bytes themselves are what there is to say.
    return `malformed ${data(bytesOf(view, 0))}`;
  }
}

function bytesOf(view: DataView, at: number): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset + at, Math.max(0, view.byteLength - at));
}

function describeKnown(command: number, isReply: boolean, view: DataView): string {
  const u16 = (at: number) => view.getUint16(at, LITTLE_ENDIAN);
  const u32 = (at: number) => view.getUint32(at, LITTLE_ENDIAN);
  const u64 = (at: number) => view.getBigUint64(at, LITTLE_ENDIAN);
  switch (command) {
    case uapi.VFIO_USER_VERSION: {
      const text = new TextDecoder().decode(bytesOf(view, 4).subarray(0, SHOWN_JSON)).replace(/\0+$/, '');
      return `${u16(0)}.${u16(2)} ${JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"')}`.trimEnd();
    }
    case uapi.VFIO_USER_DMA_MAP:
      return `iova ${hex(u64(16))} size ${hex(u64(24))} offset ${hex(u64(8))} flags ${hex(u32(4))}`;
    case uapi.VFIO_USER_DMA_UNMAP:
      return `iova ${hex(u64(8))} size ${hex(u64(16))} flags ${hex(u32(4))}`;
    case uapi.VFIO_USER_DEVICE_GET_INFO:
      return isReply ? `flags ${hex(u32(4))} regions ${u32(8)} irqs ${u32(12)}` : `argsz ${u32(0)}`;
    case uapi.VFIO_USER_DEVICE_GET_REGION_INFO:
      return isReply
        ? `region ${u32(8)} flags ${hex(u32(4))} size ${hex(u64(16))} offset ${hex(u64(24))} argsz ${u32(0)}`
        : `region ${u32(8)} argsz ${u32(0)}`;
    case uapi.VFIO_USER_DEVICE_GET_REGION_IO_FDS:
      return `region ${u32(8)} count ${u32(12)} argsz ${u32(0)}`;
    case uapi.VFIO_USER_DEVICE_GET_IRQ_INFO:
      return isReply ? `index ${u32(8)} flags ${hex(u32(4))} count ${u32(12)}` : `index ${u32(8)} argsz ${u32(0)}`;
    case uapi.VFIO_USER_DEVICE_SET_IRQS:
      return `index ${u32(8)} flags ${hex(u32(4))} start ${u32(12)} count ${u32(16)}`;
    case uapi.VFIO_USER_REGION_READ:
    case uapi.VFIO_USER_REGION_WRITE: {
      const rest = bytesOf(view, 16);
      return `region ${u32(8)} offset ${hex(u64(0))} count ${u32(12)} ${data(rest)}`.trimEnd();
    }
    case uapi.VFIO_USER_DMA_READ:
    case uapi.VFIO_USER_DMA_WRITE:
      return `iova ${hex(u64(0))} count ${u64(8)} ${data(bytesOf(view, 16))}`.trimEnd();
    case uapi.VFIO_USER_REGION_WRITE_MULTI:
      return `writes ${u64(0)}`;
    case uapi.VFIO_USER_DEVICE_FEATURE:
      return `feature ${u32(4) & uapi.VFIO_DEVICE_FEATURE_MASK} flags ${hex(u32(4))} argsz ${u32(0)} ${data(bytesOf(view, 8))}`.trimEnd();
    case uapi.VFIO_USER_MIG_DATA_READ:
    case uapi.VFIO_USER_MIG_DATA_WRITE:
      return `size ${u32(4)} ${data(bytesOf(view, 8))}`.trimEnd();
    default:
      return data(bytesOf(view, 0));
  }
}

/** Writes one line a message, with the seconds since it was made. */
export class Tracer {
  readonly #sink: TraceSink;
  readonly #label: string;
  readonly #start = process.hrtime.bigint();

  /** @param label stands in front of each line, where several connections share a sink */
  constructor(sink: TraceSink, label = '') {
    this.#sink = sink;
    this.#label = label === '' ? '' : `${label} `;
  }

  /** A message, header included. */
  message(direction: '>' | '<', message: Uint8Array, fdCount: number): void {
    this.#line(describeMessage(direction, message, fdCount));
  }

  /** Something that happened between messages. */
  note(text: string): void {
    this.#line(`- ${text}`);
  }

  #line(text: string): void {
    const us = (process.hrtime.bigint() - this.#start) / 1000n;
    const time = `${us / 1000000n}.${(us % 1000000n).toString().padStart(6, '0')}`;
    this.#sink(`${time.padStart(12)} ${this.#label}${text}`);
  }
}
