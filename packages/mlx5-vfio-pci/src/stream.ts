import { errnoError } from '@vfio/uapi';
import { MAX_LOAD_SIZE } from './cmd.js';
import { crc32c, newCrc32c } from './crc32c.js';

/**
 * The stream that carries a function's state: records of 16 bytes of header (length, flags, tag; little-endian) and
 * their payload, as the kernel's driver writes and reads them. Ours begin and end with optional records, which the
 * kernel's driver skips by its own rule: with them a cut or a changed byte is noticed anywhere.
 */
export const HEADER_BYTES = 16;

export const TAG = {
  /** An image, to be loaded. */
  FW_DATA: 0,
  /** How large the last image will be, to prepare for: u64. */
  STOP_COPY_SIZE: 1,
  /** Ours, first of all: the stream will end with {@link TAG.END}. The version of the two (u32: 1), 0 (u32). */
  BEGIN: 0x0e4d4442,
  /** Ours, last of all: records and bytes before this one (u64 each), crc32c of those bytes (u32), 0 (u32). */
  END: 0x0e4d4456,
} as const;

/** A record that a reader may skip where it does not know it. */
const FLAG_OPTIONAL = 1;

const BEGIN_BYTES = 8;
const END_BYTES = 24;
const VERSION = 1;

export function encodeHeader(size: number, tag: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(size), true);
  view.setUint32(8, tag === TAG.FW_DATA ? 0 : FLAG_OPTIONAL, true);
  view.setUint32(12, tag, true);
  return bytes;
}

/** The first record of a stream of ours. */
export function encodeBegin(): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + BEGIN_BYTES);
  bytes.set(encodeHeader(BEGIN_BYTES, TAG.BEGIN));
  new DataView(bytes.buffer).setUint32(HEADER_BYTES, VERSION, true);
  return bytes;
}

/** The kernel's first record: how large a buffer the last image needs. */
export function encodeStopCopySize(size: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + 8);
  bytes.set(encodeHeader(8, TAG.STOP_COPY_SIZE));
  new DataView(bytes.buffer).setBigUint64(HEADER_BYTES, BigInt(size), true);
  return bytes;
}

/** Counts and sums what was written, for the record that ends it. */
export class StreamSum {
  records = 0;
  bytes = 0;
  #crc = newCrc32c();

  add(part: Uint8Array): void {
    this.bytes += part.length;
    this.#crc = crc32c(part, this.#crc);
  }

  get crc(): number {
    return ~this.#crc >>> 0;
  }

  encodeEnd(): Uint8Array {
    const bytes = new Uint8Array(HEADER_BYTES + END_BYTES);
    bytes.set(encodeHeader(END_BYTES, TAG.END));
    const view = new DataView(bytes.buffer, HEADER_BYTES);
    view.setBigUint64(0, BigInt(this.records), true);
    view.setBigUint64(8, BigInt(this.bytes), true);
    view.setUint32(16, this.crc, true);
    return bytes;
  }
}

/** What a reader is told of the records of a stream. */
export interface RecordSink {
  /** An image begins. Returns where its bytes go: at least `size` of them. */
  begin(size: number): Uint8Array | Promise<Uint8Array>;
  /** All of its bytes are there. */
  complete(size: number): Promise<void>;
  stopCopySize(size: number): void | Promise<void>;
}

/** Reads a stream that arrives in pieces of any size. A mistake in it is for ever: it was not the stream it seemed. */
export class StreamReader {
  readonly #sink: RecordSink;
  readonly #header = new Uint8Array(HEADER_BYTES);
  readonly #sum = new StreamSum();
  #have = 0;
  #record: { readonly size: number; readonly tag: number; readonly isOptional: boolean } | undefined;
  #payload: Uint8Array = new Uint8Array(0);
  /** Bytes of the payload that have come. */
  #filled = 0;
  #ended = false;
  /** The stream has said that it will have an end. */
  #endsOrderly = false;

  constructor(sink: RecordSink) {
    this.#sink = sink;
  }

  /** Takes bytes. @throws what is wrong with them, what the sink threw. */
  async write(from: Uint8Array): Promise<void> {
    let at = 0;
    while (at < from.length) {
      if (this.#ended) throw invalid(`${from.length - at} bytes after the end of the stream`);
      if (this.#record === undefined) at += await this.#takeHeader(from.subarray(at));
      else at += await this.#takePayload(this.#record, from.subarray(at));
    }
  }

  /**
   * The writer has finished. @throws EINVAL where the stream was cut: inside a record, or before the record that says it
   * is whole, where it has shown that it has one.
   */
  finish(): void {
    if (this.#have > 0 || this.#record !== undefined)
      throw invalid(`it ends inside a record, after ${this.#sum.bytes} bytes`);
    if (this.#endsOrderly && !this.#ended) throw invalid(`it was cut after ${this.#sum.bytes} bytes`);
  }

  async #takeHeader(from: Uint8Array): Promise<number> {
    const part = from.subarray(0, HEADER_BYTES - this.#have);
    this.#header.set(part, this.#have);
    this.#have += part.length;
    if (this.#have < HEADER_BYTES) return part.length;
    this.#have = 0;
    const view = new DataView(this.#header.buffer);
    const size = view.getBigUint64(0, true);
    const flags = view.getUint32(8, true);
    const tag = view.getUint32(12, true);
    const isOptional = (flags & FLAG_OPTIONAL) !== 0;
    if ((flags & ~FLAG_OPTIONAL) !== 0) throw invalid(`flags 0x${flags.toString(16)} of a record are not known`);
    if (size > BigInt(MAX_LOAD_SIZE))
      throw errnoError('ENOMEM', `a record of ${size} bytes: ${MAX_LOAD_SIZE} is the most`, { op: 'write' });
    await this.#begin({ size: Number(size), tag, isOptional });
    return part.length;
  }

  async #begin(record: { size: number; tag: number; isOptional: boolean }): Promise<void> {
    const { size, tag } = record;
    switch (tag) {
      case TAG.FW_DATA:
        this.#payload = await this.#sink.begin(size);
        break;
      case TAG.BEGIN:
        if (this.#sum.records > 0) throw invalid('the record that begins it is not the first');
        if (size !== BEGIN_BYTES)
          throw invalid(`the record that begins the stream has ${size} bytes, not ${BEGIN_BYTES}`);
        this.#payload = new Uint8Array(size);
        break;
      case TAG.STOP_COPY_SIZE:
        if (size !== 8) throw invalid(`a record of the stop-copy size has ${size} bytes, 8 are needed`);
        this.#payload = new Uint8Array(size);
        break;
      case TAG.END:
        if (size !== END_BYTES) throw invalid(`the record that ends the stream has ${size} bytes, not ${END_BYTES}`);
        this.#payload = new Uint8Array(size);
        break;
      default:
        if (!record.isOptional)
          throw errnoError('EOPNOTSUPP', `a record of kind 0x${tag.toString(16)} must be understood, and is not`, {
            op: 'write',
          });
        this.#payload = new Uint8Array(0);
    }
    // The record that ends the stream is not part of what it sums: all of it is looked at.
    if (tag !== TAG.END) this.#sum.add(this.#header);
    else if (!record.isOptional) throw invalid('the record that ends it is not marked as optional');
    this.#filled = 0;
    this.#record = record;
    if (size === 0) await this.#complete(record);
  }

  async #takePayload(record: { size: number; tag: number; isOptional: boolean }, from: Uint8Array): Promise<number> {
    const part = from.subarray(0, record.size - this.#filled);
    if (this.#payload.length > 0) this.#payload.set(part, this.#filled);
    if (record.tag !== TAG.END) this.#sum.add(part);
    this.#filled += part.length;
    if (this.#filled === record.size) await this.#complete(record);
    return part.length;
  }

  async #complete({ size, tag }: { size: number; tag: number }): Promise<void> {
    this.#record = undefined;
    if (tag === TAG.END) {
      this.#checkEnd();
      return;
    }
    this.#sum.records++;
    if (tag === TAG.FW_DATA) await this.#sink.complete(size);
    else if (tag === TAG.BEGIN) this.#checkBegin();
    else if (tag === TAG.STOP_COPY_SIZE) {
      const wanted = new DataView(this.#payload.buffer).getBigUint64(0, true);
      await this.#sink.stopCopySize(Number(wanted > BigInt(MAX_LOAD_SIZE) ? MAX_LOAD_SIZE : wanted));
    }
  }

  #checkBegin(): void {
    const view = new DataView(this.#payload.buffer);
    const version = view.getUint32(0, true);
    if (view.getUint32(4, true) !== 0) throw invalid('a field that must be 0 is not');
    if (version !== VERSION) throw invalid(`its version is ${version}, ${VERSION} is known`);
    this.#endsOrderly = true;
  }

  #checkEnd(): void {
    const view = new DataView(this.#payload.buffer);
    const records = view.getBigUint64(0, true);
    const bytes = view.getBigUint64(8, true);
    const crc = view.getUint32(16, true);
    const found = this.#sum;
    if (records !== BigInt(found.records) || bytes !== BigInt(found.bytes))
      throw invalid(`${found.records} records of ${found.bytes} bytes came, ${records} of ${bytes} were sent`);
    if (crc !== found.crc || view.getUint32(20, true) !== 0)
      throw invalid('its checksum is wrong: a byte was changed on the way');
    this.#ended = true;
  }
}

function invalid(message: string): Error {
  return errnoError('EINVAL', `the migration stream: ${message}`, { op: 'write' });
}
