import { Socket, type SocketConstructorOpts } from 'node:net';
import { setNonBlocking } from '@vfio/native';
import { messageOf, VfioError } from '@vfio/uapi';
import { MAX_MOVE_PAYLOAD, MOVE_FAREWELL_MS } from '../limits.js';
import {
  checkedOnSocket,
  decodeFailure,
  encodeFailure,
  RECORD,
  RECORD_HEADER,
  type RecordHeader,
  readHeader,
  recordName,
  verifyChecksum,
  writeHeader,
} from './wire.js';

/** A record that came. */
export interface ReceivedRecord {
  readonly type: number;
  /** Of the channel's buffer: gone with the next {@link MoveChannel.receive}. */
  readonly payload: Uint8Array;
}

const NO_BYTES = new Uint8Array(0);

/** Room for one record that is on its way out. */
export class Chunk {
  readonly #bytes = new Uint8Array(RECORD_HEADER + MAX_MOVE_PAYLOAD);
  /** Where the payload goes. */
  readonly payload = this.#bytes.subarray(RECORD_HEADER);

  /** The record: header and so many bytes of payload. */
  record(type: number, length: number, sequence: number): Uint8Array {
    const record = { type, flags: 0, length, sequence };
    writeHeader(this.#bytes, record, checkedOnSocket(type, this.payload.subarray(0, length)));
    return this.#bytes.subarray(0, RECORD_HEADER + length);
  }
}

interface Waiter {
  resolve(record: ReceivedRecord): void;
  reject(error: Error): void;
}

/** A record that was received, with the buffer that its payload fills. */
interface Arrived {
  readonly type: number;
  readonly length: number;
  readonly buffer: Uint8Array | undefined;
}

/**
 * Records over a connected stream socket, two buffers for each direction: while one is sent or used, the next is filled. A
 * peer that does not read is waited for, one that does not listen is not read.
 */
export class MoveChannel {
  readonly #socket: Socket;
  readonly #stallMs: number;
  readonly #free: Chunk[] = [new Chunk(), new Chunk()];
  readonly #waitingForChunk: (() => void)[] = [];
  #sent = 0;
  #received = 0;
  readonly #head = new Uint8Array(RECORD_HEADER);
  readonly #buffers: Uint8Array[] = [new Uint8Array(MAX_MOVE_PAYLOAD), new Uint8Array(MAX_MOVE_PAYLOAD)];
  /** Undefined while a header is being received. */
  #header: RecordHeader | undefined;
  #payload: Uint8Array | undefined;
  #filled = 0;
  /** Received and not asked for yet: nothing more is read. */
  #ready: Arrived | undefined;
  /** Given out. */
  #lent: Uint8Array | undefined;
  #waiter: Waiter | undefined;
  /** The waiter is owed something soon. */
  #isOwed = false;
  #failure: Error | undefined;
  #onFailure: ((error: Error) => void) | undefined;
  #timer: NodeJS.Timeout | undefined;

  /**
   * @param fd a connected stream socket, the channel's from now on
   * @param stallMs after so long without a byte, where one is owed, it fails
   */
  constructor(fd: number, stallMs: number) {
    this.#stallMs = stallMs;
    setNonBlocking(fd, true);
    const options = {
      fd,
      allowHalfOpen: true,
      onread: { buffer: () => this.#room(), callback: (count: number) => this.#onBytes(count) },
    };
    // The declarations know `onread` of sockets that connect only; the documentation has it for all.
    this.#socket = new Socket(options as SocketConstructorOpts);
    this.#socket.on('end', () => this.#fail(disconnected('the other server closed the connection')));
    this.#socket.on('error', (error) => this.#fail(disconnected(`the connection failed: ${messageOf(error)}`)));
    this.#socket.on('close', () => this.#fail(disconnected('the connection is closed')));
    this.#socket.resume();
  }

  /** Called once with why the channel can no longer be used; at once where that is known already. */
  set onFailure(handler: (error: Error) => void) {
    this.#onFailure = handler;
    if (this.#failure !== undefined) handler(this.#failure);
  }

  /** Whether nothing is on its way out. */
  get isIdle(): boolean {
    return this.#free.length === 2;
  }

  /** A buffer to build a record in, given back by {@link sendChunk} or {@link release}. @throws why the channel failed */
  async chunk(): Promise<Chunk> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const chunk = this.#free.pop();
      if (chunk !== undefined) return chunk;
      await new Promise<void>((resolve) => this.#waitingForChunk.push(resolve));
    }
  }

  /** Gives a buffer back. */
  release(chunk: Chunk): void {
    this.#free.push(chunk);
    this.#waitingForChunk.shift()?.();
  }

  /** Sends a record from a buffer, which is used again once the system has taken it. Does not wait. */
  sendChunk(type: number, chunk: Chunk, length: number): void {
    this.#watch();
    this.#socket.write(chunk.record(type, length, this.#sent++), () => {
      this.release(chunk);
      this.#watch();
    });
  }

  /** Sends a short record. Waits until a buffer is free. */
  async send(type: number, payload: Uint8Array = NO_BYTES): Promise<void> {
    const chunk = await this.chunk();
    chunk.payload.set(payload);
    this.sendChunk(type, chunk, payload.length);
  }

  /**
   * The next record. What the one before it lent is used again.
   * @param isOwed false: it may take any time
   * @throws ERR_VFIO_REMOTE where the other side has failed, ERR_VFIO_DISCONNECTED, ERR_VFIO_PROTOCOL, ERR_VFIO_TIMEOUT
   */
  receive(isOwed = true): Promise<ReceivedRecord> {
    if (this.#lent !== undefined) this.#buffers.push(this.#lent);
    this.#lent = undefined;
    this.#isOwed = isOwed;
    return new Promise((resolve, reject) => {
      const ready = this.#ready;
      if (ready !== undefined) {
        this.#ready = undefined;
        this.#deliver(ready, { resolve, reject });
        this.#socket.resume();
      } else if (this.#failure !== undefined) reject(this.#failure);
      else {
        this.#waiter = { resolve, reject };
        this.#watch();
      }
    });
  }

  /** From now on what {@link receive} waits for is owed. */
  hurry(): void {
    this.#isOwed = true;
    this.#watch();
  }

  /** The next record, which must be of one type. @throws as {@link receive} */
  async expect(type: number): Promise<Uint8Array> {
    return checkType(await this.receive(), type);
  }

  /** Ends every wait with a reason of this side's. The other side has not been told. */
  interrupt(reason: Error): void {
    this.#fail(reason);
  }

  /** Tells the other side why this one gives up, as far as it still listens, then closes. Never rejects. */
  async fail(error: unknown): Promise<void> {
    clearTimeout(this.#timer);
    this.#failure ??= error instanceof Error ? error : new Error(messageOf(error));
    if (!this.#socket.destroyed && this.#socket.writable) {
      const chunk = new Chunk();
      const payload = encodeFailure(error);
      chunk.payload.set(payload);
      const isOver = new Promise<void>((resolve) => this.#socket.once('end', resolve).once('close', () => resolve()));
      this.#socket.end(chunk.record(RECORD.FAILED, payload.length, this.#sent++));
      // What still comes is read to nowhere: closing on it would break the connection before the other side has heard.
      this.#socket.resume();
      let timer: NodeJS.Timeout | undefined;
      await Promise.race([isOver, new Promise((resolve) => (timer = setTimeout(resolve, MOVE_FAREWELL_MS)))]);
      clearTimeout(timer);
    }
    this.close();
  }

  /** Ends the connection. What was sent still arrives. Idempotent. */
  close(): void {
    clearTimeout(this.#timer);
    this.#fail(disconnected('the connection is closed'));
    this.#socket.destroySoon();
  }

  /** Where the next bytes go: never more than belong to what is being received. */
  #room(): Uint8Array {
    if (this.#header === undefined) return this.#head.subarray(this.#filled);
    return this.#payload!.subarray(this.#filled, this.#header.length);
  }

  /** @returns whether to read on */
  #onBytes(count: number): boolean {
    if (this.#failure !== undefined) {
      this.#header = undefined;
      this.#filled = 0;
      return true;
    }
    this.#watch();
    this.#filled += count;
    try {
      const arrived = this.#take();
      return arrived === undefined || this.#onRecord(arrived);
    } catch (error) {
      this.#header = undefined;
      this.#filled = 0;
      // What reads records throws errors.
      this.#fail(error as Error);
      return true;
    }
  }

  /** The record that is whole now, if one is. */
  #take(): Arrived | undefined {
    if (this.#header === undefined) {
      if (this.#filled < RECORD_HEADER) return undefined;
      this.#header = readHeader(this.#head, this.#received, 0);
      this.#filled = 0;
      this.#payload = this.#header.length === 0 ? undefined : this.#buffers.pop();
    }
    const { type, length } = this.#header;
    if (this.#filled < length) return undefined;
    const buffer = this.#payload;
    verifyChecksum(this.#head, this.#received, checkedOnSocket(type, buffer?.subarray(0, length) ?? NO_BYTES));
    this.#received++;
    this.#header = undefined;
    this.#filled = 0;
    return { type, length, buffer };
  }

  #onRecord(arrived: Arrived): boolean {
    if (arrived.type === RECORD.FAILED) {
      // Heard at once, whatever this side is doing.
      this.#fail(decodeFailure(arrived.buffer?.subarray(0, arrived.length) ?? NO_BYTES));
      return true;
    }
    const waiter = this.#waiter;
    this.#waiter = undefined;
    if (waiter === undefined) {
      this.#ready = arrived;
      return false;
    }
    this.#deliver(arrived, waiter);
    return true;
  }

  #deliver({ type, length, buffer }: Arrived, waiter: Waiter): void {
    this.#lent = buffer;
    waiter.resolve({ type, payload: buffer?.subarray(0, length) ?? NO_BYTES });
  }

  /** Starts the time in which something must happen. */
  #watch(): void {
    clearTimeout(this.#timer);
    const isWaiting = (this.#waiter !== undefined && this.#isOwed) || this.#free.length < 2;
    if (this.#failure !== undefined || !isWaiting) return;
    this.#timer = setTimeout(() => {
      const why = `nothing was heard of the other server for ${this.#stallMs} ms`;
      this.#fail(new VfioError('ERR_VFIO_TIMEOUT', why, { errno: 'ETIMEDOUT', op: 'migrate' }));
    }, this.#stallMs);
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    clearTimeout(this.#timer);
    const waiter = this.#waiter;
    this.#waiter = undefined;
    waiter?.reject(error);
    for (const wake of this.#waitingForChunk.splice(0)) wake();
    this.#onFailure?.(error);
  }
}

/** A record's payload. @throws ERR_VFIO_PROTOCOL where it is of another type */
export function checkType(record: ReceivedRecord, type: number): Uint8Array {
  if (record.type === type) return record.payload;
  throw new VfioError('ERR_VFIO_PROTOCOL', `the other server sent ${recordName(record.type)} for ${recordName(type)}`, {
    errno: 'EPROTO',
    op: 'migrate',
  });
}

function disconnected(why: string): VfioError {
  return new VfioError('ERR_VFIO_DISCONNECTED', why, { errno: 'ECONNRESET', op: 'migrate' });
}
