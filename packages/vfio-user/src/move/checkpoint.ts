import { connectUnix } from '@vfio/native';
import { errnoError, VfioError } from '@vfio/uapi';
import type { MappedRange } from '../dma.js';
import { MOVE_STALL_MS } from '../limits.js';
import type { ListenFd } from '../listen-socket.js';
import { MoveChannel } from './channel.js';
import { type MoveProgress, PROGRESS_MS } from './end.js';
import { decodeAccept, decodeHello, decodeRanges, encodeAccept, encodeHello, FATE, type Hello } from './manifest.js';
import { Pace } from './pace.js';
import { SaveReader, SaveWriter } from './save-file.js';
import { broken, checkTotals, decodeRound, encodeTotals, RECORD, type Round, recordName, type Totals } from './wire.js';

/** What {@link saveTo} and {@link loadFrom} are told. */
export interface CheckpointOptions {
  /** Milliseconds without a byte after which the server is given up. @default 30000 */
  readonly stallMs?: number;
  /** Ends it; nothing of it stays. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: MoveProgress) => void;
}

/** What {@link loadFrom} is told. */
export interface LoadOptions extends CheckpointOptions {
  /** Only look at the file, and ask the server whether it could take it. @default false */
  readonly isCheck?: boolean;
}

/** What was saved or loaded. */
export interface Checkpoint extends Totals {
  /** The device that it is of. */
  readonly device: Hello['device'];
  /** Bytes of the file. */
  readonly fileBytes: number;
}

/** Counts what goes by, and tells. */
class Meter {
  readonly pace = new Pace(undefined);
  stateBytes = 0;
  memoryBytes = 0;
  round: Round;
  readonly #onProgress: CheckpointOptions['onProgress'];
  #last = 0;

  constructor(onProgress: CheckpointOptions['onProgress'], remainingBytes: number) {
    this.#onProgress = onProgress;
    this.round = { round: 0, state: 0, remainingBytes };
  }

  get totals(): Totals {
    return { stateBytes: this.stateBytes, memoryBytes: this.memoryBytes };
  }

  count(type: number, payload: Uint8Array): void {
    if (type === RECORD.ROUND) this.round = decodeRound(payload);
    else if (type === RECORD.STATE) this.#add(payload.length, 0);
    else if (type === RECORD.MEMORY) this.#add(0, payload.length - 8);
  }

  #add(state: number, memory: number): void {
    this.stateBytes += state;
    this.memoryBytes += memory;
    this.pace.count(state + memory);
    this.round = { ...this.round, remainingBytes: Math.max(0, this.round.remainingBytes - state - memory) };
    const now = performance.now();
    if (now - this.#last < PROGRESS_MS) return;
    this.#last = now;
    this.#onProgress?.({
      phase: 'stop-copy',
      ...this.round,
      ...this.totals,
      bytesPerSecond: this.pace.rate,
    });
  }
}

/**
 * Writes what a server sends by a move with the purpose `save` into a file. The file is there when all of it is.
 *
 * @param fd the socket at whose other end the server is, this call's from now on
 */
export async function saveTo(path: string, fd: number, options: CheckpointOptions = {}): Promise<Checkpoint> {
  return withChannel(fd, options, async (channel) => {
    const helloPayload = await channel.expect(RECORD.HELLO);
    const hello = decodeHello(helloPayload);
    if (hello.purpose !== 'save') throw broken('a device is to be moved, and this is a file');
    const writer = await SaveWriter.create(path);
    try {
      await writer.record(RECORD.HELLO, helloPayload);
      await receiveRanges(channel, hello, (payload) => writer.record(RECORD.RANGES, payload));
      const fates = new Uint8Array(hello.ranges).fill(FATE.SENT);
      await channel.send(RECORD.ACCEPT, encodeAccept({ device: hello.device, fates }));
      const meter = await saveRecords(channel, writer, hello, options);
      await writer.finish();
      await channel.send(RECORD.LOADED, encodeTotals(meter.totals));
      return { device: hello.device, ...meter.totals, fileBytes: writer.bytes };
    } catch (error) {
      await writer.discard();
      throw error;
    }
  });
}

async function saveRecords(
  channel: MoveChannel,
  writer: SaveWriter,
  hello: Hello,
  { onProgress }: CheckpointOptions,
): Promise<Meter> {
  const meter = new Meter(onProgress, hello.stateBytes);
  for (;;) {
    const { type, payload } = await channel.receive();
    meter.count(type, payload);
    if (type === RECORD.END) checkTotals(payload, RECORD.END, meter.totals);
    else if (type !== RECORD.ROUND && type !== RECORD.STATE && type !== RECORD.MEMORY) {
      throw broken(`${recordName(type)} where the state should come`);
    }
    await writer.record(type, payload);
    if (type === RECORD.END) return meter;
  }
}

async function receiveRanges(
  channel: MoveChannel,
  hello: Hello,
  keep: (payload: Uint8Array) => Promise<void>,
): Promise<void> {
  let after = 0n;
  let count = 0;
  while (count < hello.ranges) {
    const payload = await channel.expect(RECORD.RANGES);
    const ranges = decodeRanges(payload, after);
    const last = ranges.at(-1);
    if (last !== undefined) after = last.iova + last.size;
    count += ranges.length;
    if (count > hello.ranges) throw broken(`HELLO announced ${hello.ranges} ranges, ${count} came`);
    await keep(payload);
  }
}

/**
 * Sends a file to a server that takes a device with `moveIn`. The whole file is looked at first: one that was changed is refused
 * before anything is sent.
 *
 * @param to a path where the server waits, or a socket at whose other end it is, this call's from now on
 */
export async function loadFrom(path: string, to: string | ListenFd, options: LoadOptions = {}): Promise<Checkpoint> {
  const reader = await SaveReader.open(path);
  try {
    const whole = await reader.verify(options.signal);
    const fd = typeof to === 'string' ? connectUnix(to) : to.fd;
    return await withChannel(fd, options, async (channel) => {
      const { device, meter } = await sendRecords(channel, reader, whole, options);
      return { device, ...meter.totals, fileBytes: reader.size };
    });
  } finally {
    await reader.close();
  }
}

async function sendRecords(
  channel: MoveChannel,
  reader: SaveReader,
  whole: Totals,
  options: LoadOptions,
): Promise<{ device: Hello['device']; meter: Meter }> {
  const meter = new Meter(options.onProgress, whole.stateBytes + whole.memoryBytes);
  let hello: Hello | undefined;
  const ranges: MappedRange[] = [];
  let wanted: readonly MappedRange[] | undefined;
  for await (const { type, payload } of reader.records()) {
    if (hello === undefined) {
      hello = decodeHello(payload);
      // The memory of then is not the memory of now, whatever its file is numbered.
      const device = { ...hello.device, host: '' };
      const purpose = options.isCheck === true ? 'check' : 'move';
      await channel.send(RECORD.HELLO, encodeHello({ ...hello, device, purpose }));
      continue;
    }
    if (type === RECORD.RANGES) {
      ranges.push(...decodeRanges(payload, endOf(ranges)));
      await channel.send(type, payload);
      continue;
    }
    // All that was said of the device has been sent.
    wanted ??= await accepted(channel, hello, ranges);
    if (options.isCheck === true) return { device: hello.device, meter };
    if (type === RECORD.MEMORY && !isWanted(payload, wanted)) continue;
    // The totals are those of what was sent.
    if (type === RECORD.END) break;
    meter.count(type, payload);
    await channel.send(type, payload);
  }
  if (hello === undefined) throw broken('there is no record in the file');
  await channel.send(RECORD.END, encodeTotals(meter.totals));
  checkTotals(await channel.expect(RECORD.LOADED), RECORD.LOADED, meter.totals);
  options.signal?.throwIfAborted();
  await channel.send(RECORD.COMMIT);
  await channel.expect(RECORD.DONE);
  return { device: hello.device, meter };
}

const endOf = (ranges: readonly MappedRange[]): bigint => {
  const last = ranges.at(-1);
  return last === undefined ? 0n : last.iova + last.size;
};

/** The ranges whose bytes the other side wants. */
async function accepted(
  channel: MoveChannel,
  hello: Hello,
  ranges: readonly MappedRange[],
): Promise<readonly MappedRange[]> {
  if (ranges.length !== hello.ranges)
    throw broken(`HELLO announced ${hello.ranges} ranges, there are ${ranges.length}`);
  const { fates } = decodeAccept(await channel.expect(RECORD.ACCEPT), ranges.length);
  if (fates.includes(FATE.SHARED))
    throw errnoError('EINVAL', 'the other server takes a file for memory that it shares');
  return ranges.filter((_, index) => fates[index] === FATE.SENT);
}

function isWanted(payload: Uint8Array, wanted: readonly MappedRange[]): boolean {
  const iova = payload.length < 8 ? -1n : new DataView(payload.buffer, payload.byteOffset).getBigUint64(0, true);
  return wanted.some((range) => iova >= range.iova && iova < range.iova + range.size);
}

/** Runs with a channel that hears of the signal, and tells the other side of a failure. */
async function withChannel<T>(
  fd: number,
  { stallMs = MOVE_STALL_MS, signal }: CheckpointOptions,
  work: (channel: MoveChannel) => Promise<T>,
): Promise<T> {
  const channel = new MoveChannel(fd, stallMs);
  const onAbort = () =>
    channel.interrupt(
      new VfioError('ERR_VFIO_STATE', 'it was cancelled: nothing of it stays', {
        errno: 'ECANCELED',
        op: 'migrate',
        cause: signal?.reason,
      }),
    );
  signal?.addEventListener('abort', onAbort, { once: true });
  if (signal?.aborted) onAbort();
  try {
    return await work(channel);
  } catch (error) {
    await channel.fail(error);
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
    channel.close();
  }
}
