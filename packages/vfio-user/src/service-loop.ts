import { LOOP_EVENT, LOOP_SLOT, MessageLoop, type MessageLoopOptions } from '@vfio/native';
import { MAX_DATA_XFER_SIZE, maxMessageSize } from './limits.js';

/** Where data starts in a message with it: after the header and u64 offset, u32 region, u32 count. */
export const DATA_OFFSET = 32;

/** Words of {@link ServiceLoop.pulse}. */
export const PULSE = {
  /** Counts up when a handler starts and when it ends: odd while one runs. */
  COUNT: 0,
  /** Id of the socket whose handler it is. */
  SOURCE: 1,
  /** The command that is carried out; for a region access also where it goes (low 32 bits of the offset). */
  COMMAND: 2,
  REGION: 3,
  OFFSET: 4,
  WORDS: 5,
} as const;

/** Longest data whose view is kept; config space is the largest that is read again and again. */
const CACHED_LENGTH = 4096;

/** What lives on a {@link ServiceLoop}: each method is called for the event of its name. */
export interface LoopSource {
  /** A whole message lies at `offset` of the socket's receive buffer. */
  onMessage?(offset: number, length: number): void;
  /** A connection was accepted; the source owns its descriptor. */
  onAccept?(fd: number): void;
  onAcceptFailed?(errno: number): void;
  onSignal?(): void;
  onTimer?(): void;
  /** The connection is over; `errno` 0: the peer closed it. */
  onClosed?(errno: number): void;
  /** The header announced a size that is not allowed; nothing more is received. */
  onBadSize?(): void;
  /** The socket is at a border between messages and left alone: see `MessageLoop.drain`. */
  onDrained?(): void;
  /** A mapping watched for this socket lost its memory. */
  onPoisoned?(): void;
  /** A handler threw: a mistake in this library. Without it the error goes through. */
  onFault?(error: unknown): void;
  /** The handler of the last event took this many microseconds. */
  onSlow?(microseconds: number): void;
}

/** Options of {@link ServiceLoop}. */
export interface ServiceLoopOptions extends Omit<MessageLoopOptions, 'measureHandlers' | 'maxMessageSize'> {
  /** Largest `max_data_xfer_size` of the servers and clients on it. @default 1 MiB */
  readonly maxDataXferSize?: number;
  /** Microseconds from which a handler is reported to its source. 0: not measured. @default 0 */
  readonly slowUs?: number;
  /** Milliseconds after a message in which the way of an access is kept warm, for the clients of servers: see `Rehearsal`.
   * 0: never. @default 1000 */
  readonly keepWarmMs?: number;
  /** Where to show what is being done, for a watcher in another thread: see `makePulse`. */
  readonly pulse?: Int32Array;
}

/**
 * A native message loop and what is on it. Everything of one thread can share one: servers, clients, interrupt
 * triggers. The thread is taken from Node only while messages flow.
 */
export class ServiceLoop {
  /** The loop itself. */
  readonly messages: MessageLoop;
  /** Largest data that fits {@link MessageLoop.tx}. */
  readonly maxDataXferSize: number;
  readonly keepWarmMs: number;
  /** What is being done now, in words of {@link PULSE}. */
  readonly pulse: Int32Array;
  /** Called after the handler of each message. */
  onMessage: (() => void) | undefined;
  readonly #dataViews: (Uint8Array | undefined)[] = [];
  readonly #sources = new Map<number, LoopSource>();
  readonly #slowUs: number;
  /** Whose handler ran in the turn before. */
  #last: LoopSource | undefined;
  #references = 0;

  /** @throws ERR_VFIO_NATIVE_UNAVAILABLE, ERR_VFIO_SYSCALL, ERR_VFIO_INVALID_ARGUMENT */
  constructor(options: ServiceLoopOptions = {}) {
    const { maxDataXferSize, slowUs, keepWarmMs, pulse, ...rest } = options;
    this.maxDataXferSize = maxDataXferSize ?? MAX_DATA_XFER_SIZE;
    this.keepWarmMs = keepWarmMs ?? 1000;
    this.#slowUs = slowUs ?? 0;
    this.pulse = pulse ?? new Int32Array(PULSE.WORDS);
    this.messages = new MessageLoop({
      ...rest,
      maxMessageSize: maxMessageSize(this.maxDataXferSize),
      measureHandlers: this.#slowUs > 0,
    });
    this.messages.start(this.#run);
    // A loop without a server or client must not keep a program from ending.
    this.messages.unref();
  }

  /**
   * The bytes of `tx` where the data of a reply to REGION_READ goes. Short ones are made once and kept: an access must
   * not allocate.
   */
  dataView(length: number): Uint8Array {
    if (length > CACHED_LENGTH) return this.messages.tx.subarray(DATA_OFFSET, DATA_OFFSET + length);
    const known = this.#dataViews[length];
    if (known !== undefined) return known;
    const view = this.messages.tx.subarray(DATA_OFFSET, DATA_OFFSET + length);
    this.#dataViews[length] = view;
    return view;
  }

  /** Gives events of an id to a source. */
  attach(id: number, source: LoopSource): void {
    this.#sources.set(id, source);
  }

  /** Takes a source off the loop; its descriptor is closed unless `keepFd`. */
  remove(id: number, keepFd = false): void {
    this.#sources.delete(id);
    if (!this.messages.isClosed) this.messages.remove(id, keepFd);
  }

  /** Keeps the process alive until as many {@link unref}. */
  ref(): void {
    if (this.#references++ === 0) this.messages.ref();
  }

  unref(): void {
    if (--this.#references === 0) this.messages.unref();
  }

  /** While something is pending, a burst gives the thread back instead of waiting for messages: promises must run. */
  addPending(count: 1 | -1): void {
    this.messages.state[LOOP_SLOT.PENDING]! += count;
  }

  /** Shows in the pulse that a source works outside of its events; until {@link endWork}. */
  beginWork(id: number): void {
    this.pulse[PULSE.SOURCE] = id;
    this.pulse[PULSE.COUNT]!++;
  }

  endWork(): void {
    this.pulse[PULSE.COUNT]!++;
  }

  /** Closes the loop and every descriptor on it. Idempotent. */
  close(): void {
    this.#sources.clear();
    this.messages.close();
  }

  readonly #run = (): void => {
    const { messages, pulse } = this;
    const { state, step } = messages;
    // Odd: a handler threw the last time.
    if ((pulse[PULSE.COUNT]! & 1) !== 0) pulse[PULSE.COUNT]!++;
    for (;;) {
      const kind = step();
      if (this.#slowUs > 0) this.#reportSlow(state[LOOP_SLOT.HANDLER_US]!);
      if (kind === LOOP_EVENT.IDLE) return;
      const id = state[LOOP_SLOT.SOURCE]!;
      const source = this.#sources.get(id);
      this.#last = source;
      pulse[PULSE.SOURCE] = id;
      pulse[PULSE.COUNT]!++;
      try {
        if (kind === LOOP_EVENT.MESSAGE) {
          source?.onMessage?.(state[LOOP_SLOT.OFFSET]!, state[LOOP_SLOT.LENGTH]!);
          this.onMessage?.();
        } else if (source !== undefined) this.#dispatch(kind, source);
      } catch (error) {
        // One connection's mistake must not stop the others.
        if (source?.onFault === undefined) throw error;
        source.onFault(error);
      }
      pulse[PULSE.COUNT]!++;
      // A handler may have closed the loop.
      if (messages.isClosed) return;
    }
  };

  #dispatch(kind: number, source: LoopSource): void {
    const { messages } = this;
    const errno = messages.state[LOOP_SLOT.ERRNO]!;
    switch (kind) {
      case LOOP_EVENT.ACCEPT:
        if (source.onAccept !== undefined) source.onAccept(messages.takeFd(0));
        return;
      case LOOP_EVENT.ACCEPT_FAILED:
        source.onAcceptFailed?.(errno);
        return;
      case LOOP_EVENT.EVENTFD:
        source.onSignal?.();
        return;
      case LOOP_EVENT.TIMER:
        source.onTimer?.();
        return;
      case LOOP_EVENT.CLOSED:
        source.onClosed?.(errno);
        return;
      case LOOP_EVENT.BAD_SIZE:
        source.onBadSize?.();
        return;
      case LOOP_EVENT.DRAINED:
        source.onDrained?.();
        return;
      case LOOP_EVENT.POISONED:
        source.onPoisoned?.();
        return;
    }
  }

  #reportSlow(microseconds: number): void {
    if (microseconds >= this.#slowUs) this.#last?.onSlow?.(microseconds);
    this.#last = undefined;
  }
}

let shared: ServiceLoop | undefined;
let sharedUsers = 0;

/** The loop that servers and clients of this thread use where none is given to them. Each user releases it once. */
export function acquireSharedLoop(): ServiceLoop {
  shared ??= new ServiceLoop({ slowUs: 1000 });
  sharedUsers++;
  return shared;
}

/** The last user's release closes the loop. */
export function releaseSharedLoop(): void {
  if (--sharedUsers > 0) return;
  const loop = shared;
  shared = undefined;
  loop?.close();
}
