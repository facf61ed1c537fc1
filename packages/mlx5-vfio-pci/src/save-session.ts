import { encodeRecordBegin, type MigrationData, type PrecopyInfo, RECORD_HEADER_BYTES, RecordSum } from '@vfio/core';
import { errnoError, VFIO_PRECOPY_INFO_REINIT } from '@vfio/uapi';
import { BufferPool } from './buffers.js';
import { deallocPd, type KeyedBuffer, MAX_SAVE_SIZE, queryState, STATE_INIT, save, type Vhca } from './cmd.js';
import { CMD_STATUS, hasStatus } from './hca/errors.js';
import { encodeImageHeader, encodeStopCopySize } from './stream.js';

/** Chunks that wait unread before no further one is asked of the firmware. */
const MAX_CHUNKS = 2;

/** Where a session is. `pre-copy-error`: the increments are worth nothing, the last image will be a whole one. */
type Phase = 'pre-copy' | 'pre-copy-error' | 'stop-copy' | 'complete' | 'error';

/** Bytes of the stream that wait to be read. */
interface Segment {
  readonly bytes: Uint8Array;
  readonly buffer: KeyedBuffer | undefined;
  /** It ends a chunk. */
  readonly isChunk: boolean;
}

interface SaveOptions {
  readonly incremental: boolean;
  readonly track: boolean;
  readonly size: number;
  /** What it brings counts as the initial state. */
  readonly isInitial: boolean;
}

export interface SaveSessionOptions {
  readonly vhca: Vhca;
  readonly pd: number;
  /** The firmware saves a large state in pieces. */
  readonly inChunks: boolean;
  /** The firmware says when all begins anew, and the user understands it. */
  readonly hearsReinit: () => boolean;
  /** The device may be pre-copied now, not only described. */
  readonly isPreCopy: () => boolean;
}

/**
 * The state of a function on its way out. The firmware saves into buffers while others are read; what was saved is read
 * in its order.
 */
export class SaveSession implements MigrationData {
  readonly #options: SaveSessionOptions;
  readonly #vhca: Vhca;
  readonly #buffers: BufferPool;
  readonly #segments: Segment[] = [];
  readonly #sum = new RecordSum();
  #phase: Phase;
  #error: unknown;
  /** The SAVE that is under way, and what is done when it has ended. Never rejects. */
  #inflight: Promise<void> | undefined;
  /** Questions for the precopy info: one is answered after the other, as each may begin a SAVE. Never rejects. */
  #asking: Promise<void> | undefined;
  /** Position in the first segment. */
  #offset = 0;
  /** Bytes that were put into the stream, and that were read from it. */
  #produced = 0;
  #consumed = 0;
  /** Bytes of the stream that are the initial state. */
  #initialBytes = 0;
  #chunks = 0;
  /** Bytes that the next chunk needs, where it waits for room. */
  #heldChunk = 0;
  #closed = false;
  readonly #released: Promise<void>;
  #release: () => void = () => {};

  private constructor(options: SaveSessionOptions, phase: Phase) {
    this.#options = options;
    this.#vhca = options.vhca;
    this.#buffers = new BufferPool(options.vhca.hca, options.pd);
    this.#phase = phase;
    this.#released = new Promise((resolve) => {
      this.#release = resolve;
    });
  }

  /** Begins while the function runs: its changes are tracked from here on. */
  static async preCopy(options: SaveSessionOptions): Promise<SaveSession> {
    const session = new SaveSession(options, 'pre-copy');
    const { required } = await queryState(options.vhca, { incremental: false, chunk: false });
    session.#push(encodeRecordBegin(), true);
    session.#push(encodeStopCopySize(required), true);
    session.#initialBytes = session.#produced;
    await session.#start({ incremental: false, track: true, size: required, isInitial: true });
    return session;
  }

  /** Begins when the function has been stopped. */
  static async stopCopy(options: SaveSessionOptions): Promise<SaveSession> {
    const session = new SaveSession(options, 'stop-copy');
    const { required } = await queryState(options.vhca, { incremental: false, chunk: options.inChunks });
    session.#push(encodeRecordBegin(), true);
    session.#push(encodeStopCopySize(required), true);
    await session.#start({ incremental: false, track: false, size: required, isInitial: false });
    return session;
  }

  /** Settles when no SAVE is under way, nor may begin: the firmware refuses to stop a function that is being saved. */
  async idle(): Promise<void> {
    while (this.#asking !== undefined || this.#inflight !== undefined) {
      await this.#asking;
      await this.#inflight;
    }
  }

  /** Settles when the buffers have been given back, after {@link SaveSession.close}. */
  get released(): Promise<void> {
    return this.#released;
  }

  /** The function has stopped: the last image follows on the same stream. @throws EIO where the session was in error. */
  async finish(): Promise<void> {
    await this.idle();
    if (this.#phase === 'error') throw this.#failure('STOP_COPY');
    const chunk = this.#options.inChunks;
    let incremental = this.#phase !== 'pre-copy-error';
    let size: number;
    try {
      size = (await queryState(this.#vhca, { incremental, chunk })).required;
    } catch (error) {
      if (!incremental || !hasStatus(error, CMD_STATUS.BAD_RES_STATE)) throw error;
      incremental = false;
      size = (await queryState(this.#vhca, { incremental, chunk })).required;
    }
    this.#phase = 'stop-copy';
    await this.#start({ incremental, track: false, size, isInitial: false });
  }

  /** Why nothing more can be saved (EIO); undefined: all is well. */
  get error(): Error | undefined {
    return this.#phase === 'error' ? this.#failure('PRE_COPY') : undefined;
  }

  /** The user has given up: the firmware ends its tracking. */
  async abandon(): Promise<void> {
    await this.idle();
    if (this.#phase === 'pre-copy-error') return;
    const buffer = await this.#buffers.get(1);
    try {
      await save(this.#vhca, buffer, { incremental: false, track: false });
    } catch (error) {
      // Where the firmware has lost track already there is nothing to end.
      if (!hasStatus(error, CMD_STATUS.BAD_RES_STATE)) throw error;
    } finally {
      this.#buffers.put(buffer);
    }
  }

  read(into: Uint8Array): number | Promise<number> {
    const count = this.#take(into);
    if (count > 0 || into.length === 0) return count;
    if (this.#phase === 'error')
      throw errnoError('ENODEV', 'saving the state has failed', { op: 'read', cause: this.#error });
    // A SAVE is under way: what it brings comes next.
    if (this.#inflight !== undefined) return this.#inflight.then(() => this.read(into));
    if (this.#phase === 'complete') return 0;
    throw errnoError('ENOMSG', 'nothing new to pre-copy now: ask for the precopy info, or go on to STOP_COPY', {
      op: 'read',
    });
  }

  write(): number {
    throw errnoError('EINVAL', 'the stream of a device that is being saved can only be read', { op: 'write' });
  }

  /**
   * How much there is to read, and the way to get more: where all was read and the function has changed, asking lets the
   * firmware save the changes.
   */
  precopyInfo(): Promise<PrecopyInfo> {
    const answer = (this.#asking ?? Promise.resolve()).then(() => this.#answer());
    const ended = (): void => {
      if (this.#asking === asking) this.#asking = undefined;
    };
    const asking = answer.then(ended, ended);
    this.#asking = asking;
    return answer;
  }

  async #answer(): Promise<PrecopyInfo> {
    while (this.#inflight !== undefined) await this.#inflight;
    if (this.#phase === 'error') throw this.#ended();
    const unread = this.#produced - this.#consumed;
    const initial = Math.max(0, this.#initialBytes - this.#consumed);
    const info = (initialBytes: number, dirtyBytes: number, flags = 0): PrecopyInfo => ({
      flags,
      initialBytes: BigInt(initialBytes),
      dirtyBytes: BigInt(dirtyBytes),
    });
    // Quiet for its peers the function may still be read, but nothing new is saved.
    if (this.#phase !== 'pre-copy' || !this.#options.isPreCopy()) return info(initial, unread - initial);
    const query = await queryState(this.#vhca, { incremental: true, chunk: false });
    if (this.#closed) throw this.#ended();
    if (query.required === 0) return info(initial, unread - initial);
    const comes = query.required + RECORD_HEADER_BYTES;
    const startsAnew = query.migrationState === STATE_INIT && this.#options.hearsReinit();
    if (startsAnew || unread === 0)
      await this.#start({ incremental: true, track: true, size: query.required, isInitial: startsAnew });
    if (startsAnew) {
      this.#initialBytes = this.#consumed + unread + comes;
      return info(unread + comes, 0, VFIO_PRECOPY_INFO_REINIT);
    }
    return unread === 0 ? info(initial, comes) : info(initial, unread - initial + query.required);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#phase !== 'complete') this.#phase = 'error';
    this.#segments.length = 0;
    // The firmware may still be writing into a buffer.
    void this.idle()
      .then(() => this.#buffers.close())
      .then(() => deallocPd(this.#vhca.hca, this.#options.pd).catch(() => undefined))
      .then(() => this.#release());
  }

  /** Copies what waits. */
  #take(into: Uint8Array): number {
    let done = 0;
    while (done < into.length) {
      const [segment] = this.#segments;
      if (segment === undefined) break;
      const part = segment.bytes.subarray(this.#offset, this.#offset + into.length - done);
      into.set(part, done);
      done += part.length;
      this.#offset += part.length;
      if (this.#offset === segment.bytes.length) this.#drop(segment);
    }
    this.#consumed += done;
    return done;
  }

  #drop(segment: Segment): void {
    this.#segments.shift();
    this.#offset = 0;
    if (segment.buffer !== undefined) this.#buffers.put(segment.buffer);
    if (!segment.isChunk) return;
    this.#chunks--;
    if (this.#heldChunk > 0) {
      const size = this.#heldChunk;
      this.#heldChunk = 0;
      this.#run({ incremental: false, track: false, size, isInitial: false });
    }
  }

  #push(bytes: Uint8Array, isRecord: boolean, buffer?: KeyedBuffer, isChunk = false): void {
    if (isRecord) this.#sum.records++;
    this.#sum.add(bytes);
    this.#segments.push({ bytes, buffer, isChunk });
    this.#produced += bytes.length;
  }

  /** Gets a buffer and lets the firmware save into it. What goes wrong before the SAVE is thrown. */
  async #start(options: SaveOptions): Promise<void> {
    const buffer = await this.#buffer(options.size);
    this.#track(this.#save(options, buffer));
  }

  #run(options: SaveOptions): void {
    this.#track(this.#buffer(options.size).then((buffer) => this.#save(options, buffer)));
  }

  async #buffer(size: number): Promise<KeyedBuffer> {
    if (size > MAX_SAVE_SIZE)
      throw errnoError('ENOMEM', `an image of ${size} bytes: one SAVE carries ${MAX_SAVE_SIZE} at most`, {
        op: 'SAVE',
      });
    return this.#buffers.get(size);
  }

  #track(work: Promise<SaveOptions | undefined>): void {
    const inflight = work.then(
      (next) => {
        this.#inflight = undefined;
        if (next !== undefined && !this.#closed) this.#run(next);
      },
      (error: unknown) => {
        this.#inflight = undefined;
        this.#failed(error);
      },
    );
    this.#inflight = inflight;
  }

  /** One SAVE. Gives the one that must follow it at once. */
  async #save(options: SaveOptions, buffer: KeyedBuffer): Promise<SaveOptions | undefined> {
    const { imageBytes, nextBytes } = await save(this.#vhca, buffer, options);
    if (this.#closed) return undefined;
    if (imageBytes > buffer.buffer.bytes.length)
      throw errnoError('EIO', `the firmware says it saved ${imageBytes} bytes into ${buffer.buffer.bytes.length}`, {
        op: 'SAVE',
      });
    if (imageBytes === 0 && nextBytes !== 0)
      throw errnoError('EIO', `the firmware says it saved nothing, and that ${nextBytes} bytes follow`, { op: 'SAVE' });
    const isFinal = !options.track;
    this.#push(encodeImageHeader(imageBytes), true);
    this.#push(buffer.buffer.bytes.subarray(0, imageBytes), false, buffer, isFinal);
    if (options.isInitial) this.#initialBytes = Math.max(this.#initialBytes, this.#produced);
    if (!isFinal) return undefined;
    this.#chunks++;
    if (nextBytes === 0 || !this.#options.inChunks) {
      const end = this.#sum.encodeEnd();
      this.#segments.push({ bytes: end, buffer: undefined, isChunk: false });
      this.#produced += end.length;
      this.#phase = 'complete';
      return undefined;
    }
    if (this.#chunks >= MAX_CHUNKS) {
      this.#heldChunk = nextBytes;
      return undefined;
    }
    return { ...options, incremental: false, size: nextBytes };
  }

  #failed(error: unknown): void {
    // The firmware cannot track this function any more: what is left is to send all of it when it stands still.
    if (this.#phase === 'pre-copy' && hasStatus(error, CMD_STATUS.BAD_RES_STATE)) this.#phase = 'pre-copy-error';
    else {
      this.#phase = 'error';
      this.#error = error;
    }
  }

  #ended(): Error {
    return errnoError('ENODEV', 'saving the state has failed', { op: 'MIG_GET_PRECOPY_INFO', cause: this.#error });
  }

  #failure(op: string): Error {
    return errnoError('EIO', 'saving the state has failed', { op, cause: this.#error });
  }
}
