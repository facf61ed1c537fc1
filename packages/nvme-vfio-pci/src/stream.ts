import { encodeRecord, encodeRecordBegin, RecordReader, RecordSum } from '@vfio/core';
import { errnoError } from '@vfio/uapi';
import { checkState, MAX_STATE_BYTES } from './cmd.js';

/**
 * The stream that carries a controller's state, in core's records: the one that begins a stream, what the state is in, the
 * state, the one that ends it. The middle two must be understood, so nobody else's stream is taken for one.
 */
const TAG = {
  /** {@link StreamFormat}: "NVMF". */
  FORMAT: 0x464d564e,
  /** The Controller State data structure (NVM Express Base 2.1, figure 358): "NVMS". */
  STATE: 0x534d564e,
} as const;

const FORMAT_BYTES = 32;
const FORMAT_VERSION = 1;

/** What the state of a stream is in. */
export interface StreamFormat {
  /** PCI vendor id of the controller. */
  readonly vendor: number;
  /** Version of the specification's part. */
  readonly version: number;
  /** Of the vendor's part, in hex. */
  readonly uuid: string;
}

/** The whole stream. */
export function encodeStream(format: StreamFormat, state: Uint8Array): Uint8Array {
  const payload = new Uint8Array(FORMAT_BYTES);
  const view = new DataView(payload.buffer);
  view.setUint32(0, FORMAT_VERSION, true);
  view.setUint16(4, format.vendor, true);
  view.setUint16(6, format.version, true);
  for (let i = 0; i < 16; i++) payload[8 + i] = Number.parseInt(format.uuid.slice(2 * i, 2 * i + 2), 16);
  view.setUint32(24, state.length, true);
  const sum = new RecordSum();
  const parts = [encodeRecordBegin(), encodeRecord(payload, TAG.FORMAT, false), encodeRecord(state, TAG.STATE, false)];
  for (const part of parts) {
    sum.records++;
    sum.add(part);
  }
  parts.push(sum.encodeEnd());
  const stream = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    stream.set(part, at);
    at += part.length;
  }
  return stream;
}

/** Bytes of a stream with a state of this size. */
export function streamBytes(stateBytes: number): number {
  return encodeStream({ vendor: 0, version: 0, uuid: '' }, new Uint8Array(0)).length + stateBytes;
}

/** Reads a stream that arrives in pieces of any size. */
export class StateReader {
  readonly #reader: RecordReader;
  readonly #accepts: (format: StreamFormat) => string | undefined;
  #format: (StreamFormat & { readonly size: number }) | undefined;
  #state: Uint8Array | undefined;

  /** @param accepts why a state in some format cannot be loaded here; undefined: it can */
  constructor(accepts: (format: StreamFormat) => string | undefined) {
    this.#accepts = accepts;
    this.#reader = new RecordReader(
      { begin: (tag, size) => this.#begin(tag, size), complete: (tag, _size, payload) => this.#complete(tag, payload) },
      { maxBytes: MAX_STATE_BYTES, mustBegin: true },
    );
  }

  /** Takes bytes. @throws what is wrong with them */
  write(from: Uint8Array): Promise<void> {
    return this.#reader.write(from);
  }

  /** All has come. @throws EINVAL where it has not */
  finish(): { readonly format: StreamFormat; readonly state: Uint8Array } {
    this.#reader.finish();
    if (this.#format === undefined || this.#state === undefined) throw invalid('there is no state in it');
    checkState(this.#state, invalid);
    return { format: this.#format, state: this.#state };
  }

  #begin(tag: number, size: number): Uint8Array | undefined {
    if (tag === TAG.FORMAT) {
      if (this.#format !== undefined) throw invalid('it says twice what its state is in');
      if (size !== FORMAT_BYTES) throw invalid(`the record of the format has ${size} bytes, not ${FORMAT_BYTES}`);
      return new Uint8Array(size);
    }
    if (tag !== TAG.STATE) return undefined;
    if (this.#format === undefined) throw invalid('it does not say what its state is in');
    if (this.#state !== undefined) throw invalid('it has two states');
    if (size !== this.#format.size) throw invalid(`a state of ${size} bytes, ${this.#format.size} were announced`);
    return new Uint8Array(size);
  }

  #complete(tag: number, payload: Uint8Array): void {
    if (tag === TAG.STATE) this.#state = payload;
    else if (tag === TAG.FORMAT) this.#format = this.#readFormat(payload);
  }

  #readFormat(payload: Uint8Array): StreamFormat & { readonly size: number } {
    const view = new DataView(payload.buffer);
    const version = view.getUint32(0, true);
    if (version !== FORMAT_VERSION) throw invalid(`version ${version} of its format, ${FORMAT_VERSION} is known`);
    if (view.getUint32(28, true) !== 0) throw invalid('a field that must be 0 is not');
    const format = {
      vendor: view.getUint16(4, true),
      version: view.getUint16(6, true),
      uuid: Array.from(payload.subarray(8, 24), (byte) => byte.toString(16).padStart(2, '0')).join(''),
      size: view.getUint32(24, true),
    };
    const why = this.#accepts(format);
    if (why !== undefined) throw invalid(why);
    return format;
  }
}

function invalid(message: string): Error {
  return errnoError('EINVAL', `the migration stream: ${message}`, { op: 'write' });
}
