import type { MigrationData } from '@vfio/core';
import {
  errnoError,
  isVfioError,
  messageOf,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VfioError,
} from '@vfio/uapi';
import type { MappedRange } from '../dma.js';
import { MAX_MOVE_PAYLOAD, MOVE_STALL_MS } from '../limits.js';
import { checkType, MoveChannel, type ReceivedRecord } from './channel.js';
import { DIRTY_PAGE, DirtyMemory } from './dirty-memory.js';
import { type MoveEnd, type MovePhase, type MoveProgress, type MoveReport, PROGRESS_MS } from './end.js';
import {
  checkCompatible,
  checkRunning,
  decodeAccept,
  describeDevice,
  encodeHello,
  encodeRanges,
  FATE,
  type MovePurpose,
  RANGE_BYTES,
  stateSize,
} from './manifest.js';
import { Pace } from './pace.js';
import { fill, precopyInfo, setState } from './state.js';
import { checkTotals, encodeRound, encodeTotals, RECORD } from './wire.js';

/** Options of a move away. */
export interface MoveOutOptions {
  /** `save`: the device goes on afterwards, and what was sent is a copy. `check`: nothing is done but to ask the other side whether
   * it could. @default 'move' */
  readonly purpose?: MovePurpose;
  /** Do not send memory: its client brings it. @default false */
  readonly deviceOnly?: boolean;
  /**
   * The client writes nothing into its memory itself while the device is moved: what the device logs is all that changes. Without
   * that the memory is looked at as a whole for pages that are not as they were sent, in each round. @default false
   */
  readonly trustLog?: boolean;
  /** Milliseconds that the device may stand still, as far as rate and rest tell. @default 300 */
  readonly maxDowntimeMs?: number;
  /** Rounds of pre-copy after which it is stopped in any case. 0: it is stopped at once. @default 30 */
  readonly maxRounds?: number;
  /** Bytes a second while the device runs. @default no limit */
  readonly bandwidth?: number;
  /** Milliseconds without a byte after which the other side is given up. @default 30000 */
  readonly stallMs?: number;
  /** Version of the driver's package, for the other side's messages. */
  readonly driverVersion?: string;
  /** Ends the move: the device runs on. Too late once it has been committed. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: MoveProgress) => void;
}

export const DEFAULT_MAX_DOWNTIME_MS = 300;
export const DEFAULT_MAX_ROUNDS = 30;

/** Rounds are over when they bring nothing: the rest has not become smaller for so many of them. */
const STUCK_ROUNDS = 3;
/** While nothing goes over the socket the other side hears of us so often. */
const KEEP_ALIVE_MS = 1000;
const IOVA_BYTES = 8;

/** A move that may or may not have happened: COMMIT went out, and no answer came. */
export function isUndecided(error: unknown): boolean {
  return isVfioError(error) && error.details?.['undecided'] === true;
}

/**
 * Moves a device with its memory over a connected socket to whoever takes it there. While it waits the device runs, then
 * stands still, then is stopped for good.
 *
 * @param fd the socket, this call's from now on
 * @throws where it fails the device runs as before, and nothing of the move is left; only {@link isUndecided} tells of one that
 *   could not learn whether the other side runs: then it stays in STOP
 */
export async function moveOut(end: MoveEnd, fd: number, options: MoveOutOptions = {}): Promise<MoveReport> {
  return new Source(end, new MoveChannel(fd, options.stallMs ?? MOVE_STALL_MS), options).run();
}

class Source {
  readonly #end: MoveEnd;
  readonly #channel: MoveChannel;
  readonly #options: MoveOutOptions;
  readonly #pace: Pace;
  readonly #started = performance.now();
  /** What ends the move from outside. */
  #interruption: Error | undefined;
  /** The other side's next word, listened for all the time: it may fail. */
  #answer: Promise<ReceivedRecord> | undefined;
  #dirty: DirtyMemory;
  #generation = 0;
  #phase: MovePhase = 'negotiate';
  #state: number = VFIO_DEVICE_STATE_RUNNING;
  #round = 0;
  #stateBytes = 0;
  #memoryBytes = 0;
  #sharedBytes = 0;
  #leftBytes = 0;
  #remaining = 0;
  /** How long it took to look at all memory. */
  #scanMs = 0;
  #lastProgress = 0;

  constructor(end: MoveEnd, channel: MoveChannel, options: MoveOutOptions) {
    this.#end = end;
    this.#channel = channel;
    this.#options = options;
    this.#pace = new Pace(options.bandwidth);
    this.#dirty = new DirtyMemory(end.device, []);
  }

  async run(): Promise<MoveReport> {
    const { signal } = this.#options;
    const { left } = this.#end;
    const onSignal = () => this.#interrupt(cancelled(signal?.reason));
    const onLeft = () => this.#interrupt(left.reason as Error);
    signal?.addEventListener('abort', onSignal, { once: true });
    left.addEventListener('abort', onLeft, { once: true });
    if (left.aborted) onLeft();
    if (signal?.aborted) onSignal();
    const keepAlive = setInterval(() => this.#keepAlive(), KEEP_ALIVE_MS);
    try {
      return await this.#move();
    } catch (error) {
      const why = (await this.#restore()) ?? this.#interruption ?? error;
      await this.#channel.fail(why);
      throw why;
    } finally {
      clearInterval(keepAlive);
      signal?.removeEventListener('abort', onSignal);
      left.removeEventListener('abort', onLeft);
      this.#channel.close();
    }
  }

  /** Before the moment of commitment everything can be undone, after it nothing. */
  #interrupt(reason: Error): void {
    if (this.#phase === 'commit' || this.#phase === 'done') return;
    this.#interruption ??= reason;
    this.#channel.interrupt(reason);
  }

  #check(): void {
    if (this.#interruption !== undefined) throw this.#interruption;
  }

  async #move(): Promise<MoveReport> {
    const flags = await this.#negotiate();
    if (this.#options.purpose === 'check') return this.#report(0, 0);
    await this.#dirty.startLog();
    const stream = await this.#preCopy(flags);
    const stopped = performance.now();
    await this.#end.hold('the move of the device', () => this.#finish(flags, stream));
    this.#phase = 'done';
    this.#tell(0, true);
    return this.#report(this.#round + 1, performance.now() - stopped);
  }

  #report(rounds: number, downtimeMs: number): MoveReport {
    return {
      rounds,
      stateBytes: this.#stateBytes,
      memoryBytes: this.#memoryBytes,
      sharedBytes: this.#sharedBytes,
      leftBytes: this.#leftBytes,
      totalMs: performance.now() - this.#started,
      downtimeMs,
    };
  }

  /** @returns the VFIO_MIGRATION_* that both have */
  async #negotiate(): Promise<number> {
    const { device, memory, migrationData } = this.#end;
    const { purpose = 'move', deviceOnly = false, driverVersion } = this.#options;
    const mine = await describeDevice(device, driverVersion);
    if (migrationData !== undefined) {
      throw errnoError('EBUSY', 'the client of the device migrates it itself', { op: 'migrate' });
    }
    await checkRunning(device);
    const ranges = deviceOnly ? [] : memory.ranges();
    this.#generation = memory.generation;
    const stateBytes = await stateSize(device);
    this.#remaining = stateBytes;
    await this.#channel.send(RECORD.HELLO, encodeHello({ device: mine, purpose, ranges: ranges.length, stateBytes }));
    const most = Math.floor(MAX_MOVE_PAYLOAD / RANGE_BYTES);
    for (let at = 0; at < ranges.length; at += most) {
      await this.#channel.send(RECORD.RANGES, encodeRanges(ranges.slice(at, at + most)));
    }
    const { device: theirs, fates } = decodeAccept(await this.#channel.expect(RECORD.ACCEPT), ranges.length);
    checkCompatible(mine, theirs);
    this.#listen();
    this.#sortMemory(ranges, fates);
    return mine.migrationFlags & theirs.migrationFlags;
  }

  #sortMemory(ranges: readonly MappedRange[], fates: Uint8Array): void {
    const bytesOf = (fate: number) =>
      Number(ranges.reduce((sum, { size }, index) => (fates[index] === fate ? sum + size : sum), 0n));
    this.#sharedBytes = bytesOf(FATE.SHARED);
    this.#leftBytes = bytesOf(FATE.LEFT);
    const sent = ranges.filter((_, index) => fates[index] === FATE.SENT);
    this.#dirty = new DirtyMemory(
      this.#end.device,
      sent.map(({ iova, size }) => ({ iova, length: size })),
    );
  }

  /** From now on the other side may say that it has failed. */
  #listen(): void {
    this.#answer = this.#channel.receive(false);
    // Whoever waits for it hears of it; and each record that is sent.
    this.#answer.catch(() => {});
    this.#channel.onFailure = (error) => this.#interrupt(error);
  }

  /** Copies while the device runs. @returns the device's stream, where it has one already */
  async #preCopy(flags: number): Promise<MigrationData | undefined> {
    const { maxRounds = DEFAULT_MAX_ROUNDS } = this.#options;
    const hasPreCopy = (flags & VFIO_MIGRATION_PRE_COPY) !== 0;
    if (maxRounds === 0 || (!hasPreCopy && !this.#dirty.isLogging)) return undefined;
    this.#phase = 'pre-copy';
    const stream = hasPreCopy ? await this.#enter(VFIO_DEVICE_STATE_PRE_COPY) : undefined;
    let least = Number.POSITIVE_INFINITY;
    let stuck = 0;
    for (this.#round = 0; this.#round < maxRounds; this.#round++) {
      const rest = await this.#measure(stream);
      await this.#announce(rest);
      if (this.#round > 0 && rest <= this.#affordable) break;
      if (rest < least) [least, stuck] = [rest, 0];
      else if (++stuck === STUCK_ROUNDS) break;
      if (stream !== undefined) await this.#sendPreCopy(stream);
      // Without a log what is copied now would have to be copied again.
      if (this.#dirty.isLogging) await this.#sendMemory(true);
    }
    return stream;
  }

  /** Bytes that can go while the device stands still. */
  get #affordable(): number {
    const forCopying = (this.#options.maxDowntimeMs ?? DEFAULT_MAX_DOWNTIME_MS) - this.#scanMs;
    return (this.#pace.rate * Math.max(0, forCopying)) / 1000;
  }

  /** What is to go now. The log is asked, except in the first round, in which all has to. */
  async #measure(stream: MigrationData | undefined): Promise<number> {
    this.#check();
    if (this.#round > 0 && this.#dirty.isLogging) await this.#collect();
    const { initialBytes, dirtyBytes } = stream === undefined ? NOTHING : await precopyInfo(stream);
    return this.#dirty.dirtyBytes + Number(initialBytes + dirtyBytes);
  }

  /** What has changed since it was sent, whoever wrote it. */
  async #collect(): Promise<void> {
    await this.#dirty.collect();
    if (this.#options.trustLog === true || !this.#dirty.isLogging) return;
    const started = performance.now();
    await this.#dirty.scan(this.#end.memory, () => {
      this.#check();
      return this.#pace.breathe(false);
    });
    this.#scanMs = performance.now() - started;
  }

  /** Reads what the stream had when the round began: a device may make more than can be read. */
  async #sendPreCopy(stream: MigrationData): Promise<void> {
    const { initialBytes, dirtyBytes } = await precopyInfo(stream);
    // Where the driver does not say how much there is, what there is for now.
    const most = Number(initialBytes + dirtyBytes) || (await stateSize(this.#end.device));
    for (let sent = 0; sent < most; ) {
      const count = await this.#sendState(stream);
      if (count === 0) return;
      sent += count;
      await this.#pace.breathe(true);
    }
  }

  /** One record of the device's stream. @returns its bytes; 0: there is nothing more */
  async #sendState(stream: MigrationData): Promise<number> {
    const chunk = await this.#channel.chunk();
    let count: number;
    try {
      this.#check();
      count = await fill(stream, chunk.payload);
    } catch (error) {
      this.#channel.release(chunk);
      throw error;
    }
    if (count === 0) {
      this.#channel.release(chunk);
      return 0;
    }
    this.#channel.sendChunk(RECORD.STATE, chunk, count);
    this.#stateBytes += count;
    this.#sent(count);
    return count;
  }

  /** The pages that must go. */
  async #sendMemory(isRunning: boolean): Promise<void> {
    const { memory } = this.#end;
    const most = Math.floor((MAX_MOVE_PAYLOAD - IOVA_BYTES) / DIRTY_PAGE) * DIRTY_PAGE;
    for (const { iova, length } of this.#dirty.take(most)) {
      const chunk = await this.#channel.chunk();
      const count = Number(length);
      try {
        this.#check();
        this.#checkMappings();
        new DataView(chunk.payload.buffer, chunk.payload.byteOffset).setBigUint64(0, iova, true);
        await memory.read(iova, chunk.payload.subarray(IOVA_BYTES, IOVA_BYTES + count));
      } catch (error) {
        this.#channel.release(chunk);
        throw error;
      }
      // As it goes, not as it may be by now.
      if (isRunning && this.#options.trustLog !== true)
        this.#dirty.sent(iova, chunk.payload.subarray(IOVA_BYTES, IOVA_BYTES + count));
      this.#channel.sendChunk(RECORD.MEMORY, chunk, IOVA_BYTES + count);
      this.#memoryBytes += count;
      this.#sent(count);
      await this.#pace.breathe(isRunning);
    }
  }

  #checkMappings(): void {
    if (this.#options.deviceOnly === true || this.#end.memory.generation === this.#generation) return;
    throw errnoError('EBUSY', 'the client of the device has changed what it maps', { op: 'migrate' });
  }

  /** Stops the device, sends the rest, and hands over. Meanwhile the client's commands wait. */
  async #finish(flags: number, preCopied: MigrationData | undefined): Promise<void> {
    this.#check();
    this.#checkMappings();
    this.#phase = 'stop-copy';
    if ((flags & VFIO_MIGRATION_P2P) !== 0) {
      await this.#enter(preCopied === undefined ? VFIO_DEVICE_STATE_RUNNING_P2P : VFIO_DEVICE_STATE_PRE_COPY_P2P);
    }
    const opened = await this.#enter(VFIO_DEVICE_STATE_STOP_COPY);
    const stream = preCopied ?? opened;
    if (stream === undefined) throw errnoError('EIO', 'the driver opened no stream in STOP_COPY', { op: 'migrate' });
    // What was written since it was last asked; all of it where nobody can say.
    await this.#collect();
    await this.#announce(this.#dirty.dirtyBytes + (await stateSize(this.#end.device)));
    while ((await this.#sendState(stream)) > 0) await this.#pace.breathe(false);
    await this.#sendMemory(false);
    const totals = { stateBytes: this.#stateBytes, memoryBytes: this.#memoryBytes };
    await this.#channel.send(RECORD.END, encodeTotals(totals));
    this.#channel.hurry();
    checkTotals(checkType(await this.#answer!, RECORD.LOADED), RECORD.LOADED, totals);
    this.#check();
    await this.#dirty.stopLog();
    if (this.#options.purpose === 'save') await this.#enter(VFIO_DEVICE_STATE_RUNNING);
    else await this.#commit();
  }

  /** The other side has everything. From COMMIT on this device does not run again, unless the other says that its does not. */
  async #commit(): Promise<void> {
    await this.#enter(VFIO_DEVICE_STATE_STOP);
    const chunk = await this.#channel.chunk();
    this.#check();
    this.#phase = 'commit';
    this.#channel.sendChunk(RECORD.COMMIT, chunk, 0);
    try {
      await this.#channel.expect(RECORD.DONE);
    } catch (error) {
      // It says itself that it does not run.
      if (isVfioError(error, 'ERR_VFIO_REMOTE')) {
        this.#phase = 'stop-copy';
        throw error;
      }
      this.#end.hasMoved = true;
      throw undecided(error);
    }
    this.#end.hasMoved = true;
  }

  async #enter(state: number): Promise<MigrationData | undefined> {
    const stream = await setState(this.#end.device, state);
    this.#state = state;
    return stream;
  }

  /** Undoes what was done, as long as nothing is committed. @returns why the device does not run again */
  async #restore(): Promise<Error | undefined> {
    const { device, left } = this.#end;
    // A device whose client has gone is reset by its last close.
    if (this.#phase === 'commit' || left.aborted) return undefined;
    try {
      await this.#dirty.stopLog();
      if (this.#phase !== 'negotiate') await setState(device, VFIO_DEVICE_STATE_RUNNING);
      return undefined;
    } catch (error) {
      return errnoError(
        'EIO',
        `the move failed, and the device does not run again until it is reset: ${messageOf(error)}`,
        {
          op: 'migrate',
          device: device.function.address,
          cause: error,
        },
      );
    }
  }

  #sent(count: number): void {
    this.#pace.count(count);
    this.#tell(count, false);
  }

  async #announce(remaining: number): Promise<void> {
    this.#remaining = remaining;
    this.#tell(0, true);
    await this.#channel.send(RECORD.ROUND, this.#roundRecord());
  }

  #roundRecord(): Uint8Array {
    return encodeRound({ round: this.#round, state: this.#state, remainingBytes: this.#remaining });
  }

  #keepAlive(): void {
    const isCopying = this.#phase === 'pre-copy' || this.#phase === 'stop-copy';
    if (isCopying && this.#channel.isIdle) void this.#channel.send(RECORD.ROUND, this.#roundRecord()).catch(() => {});
  }

  #tell(count: number, isNews: boolean): void {
    this.#remaining = Math.max(0, this.#remaining - count);
    const now = performance.now();
    if (!isNews && now - this.#lastProgress < PROGRESS_MS) return;
    this.#lastProgress = now;
    this.#options.onProgress?.({
      phase: this.#phase,
      state: this.#state,
      round: this.#round,
      stateBytes: this.#stateBytes,
      memoryBytes: this.#memoryBytes,
      remainingBytes: this.#remaining,
      bytesPerSecond: this.#pace.rate,
    });
  }
}

const NOTHING = { initialBytes: 0n, dirtyBytes: 0n } as const;

function cancelled(reason: unknown): VfioError {
  return new VfioError('ERR_VFIO_STATE', 'the move was cancelled: the device runs on', {
    errno: 'ECANCELED',
    op: 'migrate',
    cause: reason,
  });
}

function undecided(cause: unknown): VfioError {
  return new VfioError(
    'ERR_VFIO_DISCONNECTED',
    `the other server was told to run the device and did not answer (${messageOf(cause)}): it must be asked, here the device stays stopped`,
    { errno: 'ECONNRESET', op: 'migrate', details: { undecided: true }, cause },
  );
}
