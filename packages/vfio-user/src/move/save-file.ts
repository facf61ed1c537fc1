/**
 * A device in a file: 32 bytes that say so, then the records of a move as a source sends them, from HELLO to END, in their
 * order. STATE and MEMORY may be compressed, and every checksum is of the whole payload: a byte that was changed, a record that
 * is missing or came twice, and an end that was cut off are found before anything is done with the rest.
 */
import { type FileHandle, open, rename, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { crc32, deflateRaw, inflateRaw } from 'node:zlib';
import { systemError, VfioError } from '@vfio/uapi';
import { MAX_MOVE_PAYLOAD } from '../limits.js';
import {
  checkTotals,
  RECORD,
  RECORD_DEFLATED,
  RECORD_HEADER,
  type RecordHeader,
  readHeader,
  recordName,
  type Totals,
  verifyChecksum,
  writeHeader,
} from './wire.js';

const deflate = promisify(deflateRaw);
const inflate = promisify(inflateRaw);

const MAGIC = 'VFIOSAVE';
/** A reader refuses another major number. */
const FILE_VERSION = { major: 1, minor: 0 } as const;
/** Magic, u16 major, u16 minor, 16 bytes of 0, u32 CRC-32 of what is before it. */
const FILE_HEADER = 32;
/** Fast: what is compressed comes as fast as a device gives it, and most of a guest's memory is simple. */
const LEVEL = 1;
/** Bytes before compressed data: their number without compression. */
const DEFLATED_HEADER = 4;

/** What a saved record is: compressed and checked as a whole. */
const isBulk = (type: number): boolean => type === RECORD.STATE || type === RECORD.MEMORY;

/** Writes a file of a device. It has another name until it is whole, and is its owner's alone. */
export class SaveWriter {
  readonly #path: string;
  readonly #temporary: string;
  readonly #file: FileHandle;
  readonly #head = new Uint8Array(RECORD_HEADER);
  #sequence = 0;
  /** Bytes of the file so far. */
  bytes = 0;

  private constructor(path: string, temporary: string, file: FileHandle) {
    this.#path = path;
    this.#temporary = temporary;
    this.#file = file;
  }

  /** @throws ERR_VFIO_SYSCALL where the file cannot be made */
  static async create(path: string): Promise<SaveWriter> {
    const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.part`);
    const file = await attempt(path, 'open', () => open(temporary, 'wx', 0o600));
    const writer = new SaveWriter(path, temporary, file);
    const header = Buffer.alloc(FILE_HEADER);
    header.write(MAGIC, 'latin1');
    header.writeUInt16LE(FILE_VERSION.major, 8);
    header.writeUInt16LE(FILE_VERSION.minor, 10);
    header.writeUInt32LE(crc32(header.subarray(0, FILE_HEADER - 4)), FILE_HEADER - 4);
    try {
      await writer.#write(header);
    } catch (error) {
      await writer.discard();
      throw error;
    }
    return writer;
  }

  async record(type: number, payload: Uint8Array): Promise<void> {
    let body = payload;
    let flags = 0;
    if (isBulk(type)) {
      const packed = await deflate(payload, { level: LEVEL });
      if (packed.length + DEFLATED_HEADER < payload.length) {
        const length = Buffer.alloc(DEFLATED_HEADER);
        length.writeUInt32LE(payload.length);
        body = Buffer.concat([length, packed]);
        flags = RECORD_DEFLATED;
      }
    }
    writeHeader(this.#head, { type, flags, length: body.length, sequence: this.#sequence++ }, body);
    await this.#write(this.#head);
    await this.#write(body);
  }

  /** The file is whole: on its disk, and under its name. Another of that name is gone. */
  async finish(): Promise<void> {
    await attempt(this.#path, 'fsync', () => this.#file.sync());
    await this.#file.close();
    await attempt(this.#path, 'rename', () => rename(this.#temporary, this.#path));
  }

  /** Nothing of it stays. Never rejects. */
  async discard(): Promise<void> {
    await this.#file.close().catch(() => {});
    await unlink(this.#temporary).catch(() => {});
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await attempt(this.#path, 'write', () => this.#file.write(bytes, done));
      done += bytesWritten;
    }
    this.bytes += bytes.length;
  }
}

/** A record of a file, as it was sent. */
export interface SavedRecord {
  readonly type: number;
  /** Of the reader's buffer: gone with the next one. */
  readonly payload: Uint8Array;
}

/** Reads a file of a device. */
export class SaveReader {
  readonly path: string;
  readonly #file: FileHandle;
  readonly #head = new Uint8Array(RECORD_HEADER);
  readonly #body = new Uint8Array(MAX_MOVE_PAYLOAD);
  /** Bytes of the file. */
  readonly size: number;

  private constructor(path: string, file: FileHandle, size: number) {
    this.path = path;
    this.#file = file;
    this.size = size;
  }

  /** @throws ERR_VFIO_SYSCALL (ENOENT, EACCES), ERR_VFIO_INVALID_STRUCT where it is no such file */
  static async open(path: string): Promise<SaveReader> {
    const file = await attempt(path, 'open', () => open(path, 'r'));
    try {
      const { size } = await attempt(path, 'fstat', () => file.stat());
      const reader = new SaveReader(path, file, size);
      await reader.#checkHeader();
      return reader;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  async #checkHeader(): Promise<void> {
    const header = Buffer.alloc(FILE_HEADER);
    await this.#read(header, 0, 'header');
    if (header.toString('latin1', 0, 8) !== MAGIC) throw this.#damaged('it was not made by `vfio migrate --save`');
    if (header.readUInt32LE(FILE_HEADER - 4) !== crc32(header.subarray(0, FILE_HEADER - 4))) {
      throw this.#damaged('its header was changed');
    }
    const major = header.readUInt16LE(8);
    if (major !== FILE_VERSION.major) {
      throw this.#damaged(`its version is ${major}.${header.readUInt16LE(10)}, ${FILE_VERSION.major}.x can be read`);
    }
  }

  /**
   * Looks at every byte, and gives what the device and its memory come to.
   * @throws ERR_VFIO_INVALID_STRUCT naming the record that was changed, is missing, or was cut off
   */
  async verify(signal?: AbortSignal): Promise<Totals> {
    let totals: Totals = { stateBytes: 0, memoryBytes: 0 };
    for await (const { type, payload } of this.#records(false)) {
      signal?.throwIfAborted();
      const length = payload.length;
      if (type === RECORD.STATE) totals = { ...totals, stateBytes: totals.stateBytes + length };
      if (type === RECORD.MEMORY) totals = { ...totals, memoryBytes: totals.memoryBytes + length - 8 };
      if (type === RECORD.END) this.#check(() => checkTotals(payload, RECORD.END, totals));
    }
    return totals;
  }

  /** Every record from HELLO to END. @throws as {@link verify} */
  records(): AsyncGenerator<SavedRecord, void> {
    return this.#records(true);
  }

  async *#records(isUnpacked: boolean): AsyncGenerator<SavedRecord, void> {
    let at = FILE_HEADER;
    for (let sequence = 0; ; sequence++) {
      const header = await this.#header(at, sequence);
      at += RECORD_HEADER;
      const body = this.#body.subarray(0, header.length);
      await this.#read(body, at, `record ${sequence} (${recordName(header.type)})`);
      at += header.length;
      this.#check(() => verifyChecksum(this.#head, sequence, body));
      yield { type: header.type, payload: await this.#payload(header, sequence, body, isUnpacked) };
      if (header.type === RECORD.END) break;
    }
    if (at !== this.size) throw this.#damaged(`${this.size - at} bytes come after its end`);
  }

  async #header(at: number, sequence: number): Promise<RecordHeader> {
    await this.#read(this.#head, at, `record ${sequence}`);
    return this.#check(() => readHeader(this.#head, sequence, RECORD_DEFLATED));
  }

  async #payload(
    { type, flags }: RecordHeader,
    sequence: number,
    body: Uint8Array,
    isUnpacked: boolean,
  ): Promise<Uint8Array> {
    if ((flags & RECORD_DEFLATED) === 0) return body;
    const name = `record ${sequence} (${recordName(type)})`;
    const length = body.length < DEFLATED_HEADER ? -1 : new DataView(body.buffer, body.byteOffset).getUint32(0, true);
    if (length < 0 || length > MAX_MOVE_PAYLOAD || !isBulk(type)) throw this.#damaged(`${name} cannot be compressed`);
    // What is only counted needs no bytes.
    if (!isUnpacked) return new Uint8Array(this.#body.buffer, 0, length);
    try {
      const unpacked = await inflate(body.subarray(DEFLATED_HEADER), { maxOutputLength: length });
      if (unpacked.length === length) return unpacked;
    } catch {
      // Said below.
    }
    throw this.#damaged(`${name} does not unpack to ${length} bytes`);
  }

  async #read(into: Uint8Array, at: number, what: string): Promise<void> {
    for (let done = 0; done < into.length; ) {
      const { bytesRead } = await attempt(this.path, 'read', () =>
        this.#file.read(into, done, into.length - done, at + done),
      );
      if (bytesRead === 0) throw this.#damaged(`it ends within its ${what}, at byte ${at + done}`);
      done += bytesRead;
    }
  }

  /** What the records say of themselves, about a file. */
  #check<T>(read: () => T): T {
    try {
      return read();
    } catch (error) {
      // The readers of records throw errors.
      throw this.#damaged((error as Error).message);
    }
  }

  #damaged(why: string): VfioError {
    return new VfioError('ERR_VFIO_INVALID_STRUCT', `${this.path}: ${why}`, { errno: 'EINVAL', op: 'load' });
  }
}

async function attempt<T>(path: string, op: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw systemError(path, op, cause);
  }
}
