import type { MigrationData } from '@vfio/core';
import {
  errnoError,
  messageOf,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VfioError,
} from '@vfio/uapi';
import type { MappedRange } from '../dma.js';
import { MOVE_STALL_MS } from '../limits.js';
import { checkType, MoveChannel } from './channel.js';
import { type MoveEnd, type MovePhase, type MoveProgress, PROGRESS_MS } from './end.js';
import {
  checkCompatible,
  checkRunning,
  decideFates,
  decodeHello,
  decodeRanges,
  describeDevice,
  encodeAccept,
  FATE,
  type Hello,
  type MovePurpose,
} from './manifest.js';
import { Pace } from './pace.js';
import { setState } from './state.js';
import { broken, checkTotals, decodeRound, encodeTotals, RECORD, type Round, recordName } from './wire.js';

/** Options of a move here. */
export interface MoveInOptions {
  /** Milliseconds without a byte after which the other side is given up. @default 30000 */
  readonly stallMs?: number;
  /** Version of the driver's package, for the other side's messages. */
  readonly driverVersion?: string;
  /** Ends the move: the device is reset. Too late once the source has committed. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: MoveProgress) => void;
}

/** What has come. */
export interface MovedIn {
  readonly stateBytes: number;
  readonly memoryBytes: number;
  readonly totalMs: number;
}

/**
 * Takes a device, with its memory, that another server moves here over a connected socket, in place of this one, which its
 * client has attached to and mapped memory for at the same addresses.
 *
 * @param fd the socket, this call's from now on
 * @throws where it fails the device has been reset; memory may have been written, and is its client's to clear
 */
export async function moveIn(end: MoveEnd, fd: number, options: MoveInOptions = {}): Promise<MovedIn> {
  const channel = new MoveChannel(fd, options.stallMs ?? MOVE_STALL_MS);
  return end
    .hold('a move to this device', () => new Destination(end, channel, options).run())
    .catch(async (error) => {
      await channel.fail(error);
      throw error;
    });
}

class Destination {
  readonly #end: MoveEnd;
  readonly #channel: MoveChannel;
  readonly #options: MoveInOptions;
  readonly #pace = new Pace(undefined);
  readonly #started = performance.now();
  #interruption: Error | undefined;
  #generation = 0;
  /** Where bytes may come from, with what is to become of each. */
  #ranges: readonly MappedRange[] = [];
  #lastRange: MappedRange | undefined;
  #phase: MovePhase = 'negotiate';
  #round: Round = { round: 0, state: VFIO_DEVICE_STATE_RUNNING, remainingBytes: 0 };
  #stateBytes = 0;
  #memoryBytes = 0;
  #lastProgress = 0;

  constructor(end: MoveEnd, channel: MoveChannel, options: MoveInOptions) {
    this.#end = end;
    this.#channel = channel;
    this.#options = options;
  }

  async run(): Promise<MovedIn> {
    const { signal } = this.#options;
    const { left } = this.#end;
    const onSignal = () => this.#interrupt(cancelled(signal?.reason));
    const onLeft = () => this.#interrupt(left.reason as Error);
    signal?.addEventListener('abort', onSignal, { once: true });
    left.addEventListener('abort', onLeft, { once: true });
    if (left.aborted) onLeft();
    if (signal?.aborted) onSignal();
    try {
      return await this.#take();
    } catch (error) {
      await this.#clean();
      const why = this.#interruption ?? error;
      await this.#channel.fail(why);
      throw why;
    } finally {
      signal?.removeEventListener('abort', onSignal);
      left.removeEventListener('abort', onLeft);
      this.#channel.close();
    }
  }

  #interrupt(reason: Error): void {
    if (this.#phase === 'commit' || this.#phase === 'done') return;
    this.#interruption ??= reason;
    this.#channel.interrupt(reason);
  }

  async #take(): Promise<MovedIn> {
    if ((await this.#negotiate()) === 'check') return this.#movedIn();
    this.#phase = 'pre-copy';
    const stream = await setState(this.#end.device, VFIO_DEVICE_STATE_RESUMING);
    if (stream === undefined) throw errnoError('EIO', 'the driver opened no stream in RESUMING', { op: 'migrate' });
    await this.#load(stream);
    await setState(this.#end.device, VFIO_DEVICE_STATE_STOP);
    await this.#channel.send(RECORD.LOADED, encodeTotals(this.#totals));
    await this.#awaitCommit();
    // The source has stopped for good: nothing but the device itself keeps this one from running.
    this.#phase = 'commit';
    await setState(this.#end.device, VFIO_DEVICE_STATE_RUNNING);
    this.#phase = 'done';
    await this.#channel.send(RECORD.DONE).catch(() => {});
    this.#tell(true);
    return this.#movedIn();
  }

  /** Until its device has stopped the source goes on to say that it is there. */
  async #awaitCommit(): Promise<void> {
    for (;;) {
      const record = await this.#channel.receive();
      if (record.type !== RECORD.ROUND) {
        checkType(record, RECORD.COMMIT);
        return;
      }
      this.#round = decodeRound(record.payload);
    }
  }

  #movedIn(): MovedIn {
    return { ...this.#totals, totalMs: performance.now() - this.#started };
  }

  get #totals() {
    return { stateBytes: this.#stateBytes, memoryBytes: this.#memoryBytes };
  }

  async #negotiate(): Promise<MovePurpose> {
    const { device, memory, migrationData } = this.#end;
    const hello = decodeHello(await this.#channel.expect(RECORD.HELLO));
    const mine = await describeDevice(device, this.#options.driverVersion);
    if (hello.purpose === 'save') throw broken('a copy is to be saved, and this is a device');
    if (migrationData !== undefined) {
      throw errnoError('EBUSY', 'the client of the device migrates it itself', { op: 'migrate' });
    }
    await checkRunning(device);
    const ranges = await this.#receiveRanges(hello);
    checkCompatible(hello.device, mine);
    this.#generation = memory.generation;
    const fates = decideFates(ranges, memory.ranges(), hello.device.host === mine.host);
    this.#ranges = ranges.filter((_, index) => fates[index] === FATE.SENT);
    this.#round = { ...this.#round, remainingBytes: hello.stateBytes };
    await this.#channel.send(RECORD.ACCEPT, encodeAccept({ device: mine, fates }));
    return hello.purpose;
  }

  async #receiveRanges(hello: Hello): Promise<MappedRange[]> {
    const ranges: MappedRange[] = [];
    let after = 0n;
    while (ranges.length < hello.ranges) {
      const more = decodeRanges(await this.#channel.expect(RECORD.RANGES), after);
      for (const range of more) ranges.push(range);
      const last = ranges.at(-1);
      if (last !== undefined) after = last.iova + last.size;
    }
    if (ranges.length > hello.ranges) {
      throw broken(`HELLO announced ${hello.ranges} ranges, ${ranges.length} came`);
    }
    return ranges;
  }

  /** Takes what comes until END. */
  async #load(stream: MigrationData): Promise<void> {
    for (;;) {
      const { type, payload } = await this.#channel.receive();
      switch (type) {
        case RECORD.ROUND:
          this.#round = decodeRound(payload);
          this.#tell(true);
          break;
        case RECORD.STATE:
          if (payload.length === 0) throw broken('STATE without a byte');
          await writeAll(stream, payload);
          this.#stateBytes += payload.length;
          this.#came(payload.length);
          break;
        case RECORD.MEMORY:
          await this.#writeMemory(payload);
          break;
        case RECORD.END:
          checkTotals(payload, RECORD.END, this.#totals);
          return;
        default:
          throw broken(`${recordName(type)} where the state should come`);
      }
      await this.#pace.breathe(false);
      if (this.#interruption !== undefined) throw this.#interruption;
    }
  }

  async #writeMemory(payload: Uint8Array): Promise<void> {
    if (payload.length <= 8) throw broken('MEMORY without a byte');
    const iova = new DataView(payload.buffer, payload.byteOffset).getBigUint64(0, true);
    const bytes = payload.subarray(8);
    this.#checkRange(iova, BigInt(bytes.length));
    if (this.#end.memory.generation !== this.#generation) {
      throw errnoError('EBUSY', 'the client of the device has changed what it maps', { op: 'migrate' });
    }
    await this.#end.memory.write(iova, bytes);
    this.#memoryBytes += bytes.length;
    this.#came(bytes.length);
  }

  /** Only what was agreed on is written. */
  #checkRange(iova: bigint, length: bigint): void {
    const holds = ({ iova: from, size }: MappedRange) => iova >= from && iova + length <= from + size;
    if (this.#lastRange !== undefined && holds(this.#lastRange)) return;
    this.#lastRange = this.#ranges.find(holds);
    if (this.#lastRange === undefined) {
      throw broken(`MEMORY at 0x${iova.toString(16)}, ${length} bytes: not within a range that is to be sent`);
    }
  }

  /** Nothing of the other device stays. */
  async #clean(): Promise<void> {
    const { device, left } = this.#end;
    if (this.#phase === 'negotiate' || left.aborted) return;
    try {
      await device.reset();
    } catch (error) {
      // Its last close resets it; half a device is of no use to its client either.
      this.#end.end(`a move to the device failed, and it could not be reset: ${messageOf(error)}`);
    }
  }

  #came(count: number): void {
    this.#pace.count(count);
    this.#round = { ...this.#round, remainingBytes: Math.max(0, this.#round.remainingBytes - count) };
    this.#tell(false);
  }

  #tell(isNews: boolean): void {
    const now = performance.now();
    if (!isNews && now - this.#lastProgress < PROGRESS_MS) return;
    this.#lastProgress = now;
    this.#options.onProgress?.({
      phase: this.#phase,
      ...this.#round,
      ...this.#totals,
      bytesPerSecond: this.#pace.rate,
    });
  }
}

/** Hands a driver a piece of its stream, whole. @throws EIO where it takes none of it */
export async function writeAll(stream: MigrationData, from: Uint8Array): Promise<void> {
  for (let done = 0; done < from.length; ) {
    const count = await stream.write(done === 0 ? from : from.subarray(done));
    if (count <= 0) throw errnoError('EIO', `the driver took ${done} of ${from.length} bytes`, { op: 'migrate' });
    done += count;
  }
}

function cancelled(reason: unknown): VfioError {
  return new VfioError('ERR_VFIO_STATE', 'the move was cancelled: the device is reset', {
    errno: 'ECANCELED',
    op: 'migrate',
    cause: reason,
  });
}
