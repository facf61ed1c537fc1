import { errnoError, hex } from '@vfio/uapi';
import { crc32c, newCrc32c } from './crc32c.js';

/**
 * Migration streams made of records: a header of 16 bytes (length, flags, tag; little-endian) and a payload, as the kernel's
 * mlx5 driver writes them. A stream that begins and ends with the two records of this file is whole or is refused: a cut or a
 * changed byte is noticed anywhere.
 */
export const RECORD_HEADER_BYTES = 16;

/** First of all: the stream will end with {@link RECORD_END}. The version of the two (u32: 1), 0 (u32). */
export const RECORD_BEGIN = 0x0e4d4442;
/** Last of all: records and bytes before this one (u64 each), crc32c of those bytes (u32), 0 (u32). */
export const RECORD_END = 0x0e4d4456;

/** A record that a reader may skip where it does not know it. */
const FLAG_OPTIONAL = 1;

const BEGIN_BYTES = 8;
const END_BYTES = 24;
const VERSION = 1;

export function encodeRecordHeader(size: number, tag: number, isOptional: boolean): Uint8Array {
  const bytes = new Uint8Array(RECORD_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(size), true);
  view.setUint32(8, isOptional ? FLAG_OPTIONAL : 0, true);
  view.setUint32(12, tag, true);
  return bytes;
}

/** A record in one piece. */
export function encodeRecord(payload: Uint8Array, tag: number, isOptional: boolean): Uint8Array {
  const bytes = new Uint8Array(RECORD_HEADER_BYTES + payload.length);
  bytes.set(encodeRecordHeader(payload.length, tag, isOptional));
  bytes.set(payload, RECORD_HEADER_BYTES);
  return bytes;
}

/** The record that begins a stream. */
export function encodeRecordBegin(): Uint8Array {
  const payload = new Uint8Array(BEGIN_BYTES);
  new DataView(payload.buffer).setUint32(0, VERSION, true);
  return encodeRecord(payload, RECORD_BEGIN, true);
}

/** Counts and sums what was written, for the record that ends it. */
export class RecordSum {
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
    const payload = new Uint8Array(END_BYTES);
    const view = new DataView(payload.buffer);
    view.setBigUint64(0, BigInt(this.records), true);
    view.setBigUint64(8, BigInt(this.bytes), true);
    view.setUint32(16, this.crc, true);
    return encodeRecord(payload, RECORD_END, true);
  }
}

/** What a reader does with the records of a stream. */
export interface RecordSink {
  /**
   * A record begins. Returns where its bytes go, at least `size` of them; undefined: the tag is not known, which is an error
   * unless the record is optional. @throws what is wrong with it
   */
  begin(tag: number, size: number): Uint8Array | undefined | Promise<Uint8Array | undefined>;
  /** All of its bytes are there. */
  complete(tag: number, size: number, payload: Uint8Array): void | Promise<void>;
}

export interface RecordReaderOptions {
  /** The largest record. */
  readonly maxBytes: number;
  /** A stream without the first record of this file is refused. */
  readonly mustBegin: boolean;
}

/** Reads a stream that arrives in pieces of any size. A mistake in it is for ever: it was not the stream it seemed. */
export class RecordReader {
  readonly #sink: RecordSink;
  readonly #options: RecordReaderOptions;
  readonly #header = new Uint8Array(RECORD_HEADER_BYTES);
  readonly #sum = new RecordSum();
  #have = 0;
  #record: { readonly size: number; readonly tag: number } | undefined;
  #payload: Uint8Array = new Uint8Array(0);
  /** Bytes of the payload that have come. */
  #filled = 0;
  #ended = false;
  /** The stream has said that it will have an end. */
  #endsOrderly = false;

  constructor(sink: RecordSink, options: RecordReaderOptions) {
    this.#sink = sink;
    this.#options = options;
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
   * is whole, where it has shown that it has one or must have it.
   */
  finish(): void {
    if (this.#have > 0 || this.#record !== undefined)
      throw invalid(`it ends inside a record, after ${this.#sum.bytes} bytes`);
    if ((this.#endsOrderly || this.#options.mustBegin) && !this.#ended)
      throw invalid(`it was cut after ${this.#sum.bytes} bytes`);
  }

  async #takeHeader(from: Uint8Array): Promise<number> {
    const part = from.subarray(0, RECORD_HEADER_BYTES - this.#have);
    this.#header.set(part, this.#have);
    this.#have += part.length;
    if (this.#have < RECORD_HEADER_BYTES) return part.length;
    this.#have = 0;
    const view = new DataView(this.#header.buffer);
    const size = view.getBigUint64(0, true);
    const flags = view.getUint32(8, true);
    const tag = view.getUint32(12, true);
    const { maxBytes, mustBegin } = this.#options;
    if ((flags & ~FLAG_OPTIONAL) !== 0) throw invalid(`flags ${hex(flags)} of a record are not known`);
    if (mustBegin && !this.#endsOrderly && tag !== RECORD_BEGIN)
      throw invalid(`it begins with a record of kind ${hex(tag)}, not with that which begins one`);
    if (size > BigInt(maxBytes))
      throw errnoError('ENOMEM', `a record of ${size} bytes: ${maxBytes} is the most`, { op: 'write' });
    await this.#begin(Number(size), tag, (flags & FLAG_OPTIONAL) !== 0);
    return part.length;
  }

  async #begin(size: number, tag: number, isOptional: boolean): Promise<void> {
    if (tag === RECORD_BEGIN || tag === RECORD_END) {
      if (tag === RECORD_BEGIN && this.#sum.records > 0) throw invalid('the record that begins it is not the first');
      const expected = tag === RECORD_BEGIN ? BEGIN_BYTES : END_BYTES;
      const what = tag === RECORD_BEGIN ? 'begins' : 'ends';
      if (size !== expected) throw invalid(`the record that ${what} the stream has ${size} bytes, not ${expected}`);
      this.#payload = new Uint8Array(size);
    } else {
      const payload = await this.#sink.begin(tag, size);
      if (payload === undefined && !isOptional)
        throw errnoError('EOPNOTSUPP', `a record of kind ${hex(tag)} must be understood, and is not`, { op: 'write' });
      this.#payload = payload ?? new Uint8Array(0);
    }
    // The record that ends the stream is not part of what it sums: all of it is looked at.
    if (tag !== RECORD_END) this.#sum.add(this.#header);
    else if (!isOptional) throw invalid('the record that ends it is not marked as optional');
    this.#filled = 0;
    this.#record = { size, tag };
    if (size === 0) await this.#complete(this.#record);
  }

  async #takePayload(record: { size: number; tag: number }, from: Uint8Array): Promise<number> {
    const part = from.subarray(0, record.size - this.#filled);
    if (this.#payload.length > 0) this.#payload.set(part, this.#filled);
    if (record.tag !== RECORD_END) this.#sum.add(part);
    this.#filled += part.length;
    if (this.#filled === record.size) await this.#complete(record);
    return part.length;
  }

  async #complete({ size, tag }: { size: number; tag: number }): Promise<void> {
    this.#record = undefined;
    if (tag === RECORD_END) {
      this.#checkEnd();
      return;
    }
    this.#sum.records++;
    if (tag === RECORD_BEGIN) this.#checkBegin();
    else await this.#sink.complete(tag, size, this.#payload);
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
