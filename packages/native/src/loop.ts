import { hex, VfioError } from '@vfio/uapi';
import { type NativeLoop, nativeBinding } from './binding.js';
import type { Mapping } from './mapping.js';
import { SCM_MAX_FD } from './socket.js';
import { checked, syscallError } from './syscall-error.js';

/** What {@link MessageLoop.step} answers. */
export const LOOP_EVENT = {
  /** Nothing to do now: give the thread back. */
  IDLE: 0,
  /** A whole message is in the socket's receive buffer. */
  MESSAGE: 1,
  /** A listening socket has a connection: its descriptor is `fds[0]`. */
  ACCEPT: 2,
  /** An eventfd was signalled; VALUE_LOW and VALUE_HIGH hold its counter, which was taken. */
  EVENTFD: 3,
  /** A timer expired; VALUE_LOW and VALUE_HIGH hold how often. */
  TIMER: 4,
  /** Somebody called `wake()` or wrote to `wakeFd`. */
  WAKE: 5,
  /** The connection is over: ERRNO is 0 where the peer closed it, else what ended it. LENGTH holds the bytes of a message
   * that stayed incomplete. Everything that was whole has been delivered. The source is silent until it is removed. */
  CLOSED: 6,
  /** A header announced fewer than 16 bytes or more than the socket allows. ID, COMMAND, FLAGS and LENGTH (u32 pattern)
   * are the header's. Nothing more is read from the socket: reply EINVAL, then remove it. */
  BAD_SIZE: 7,
  /** A mapping that is watched for this socket lost memory: its file was cut. Close the connection. */
  POISONED: 8,
  /** A listening socket could not accept (ERRNO: EMFILE, ENFILE, ENOMEM...). It is paused; resume it later. */
  ACCEPT_FAILED: 9,
  /** A socket that is being drained is at a border between messages: see {@link MessageLoop.drain}. */
  DRAINED: 10,
} as const;

/** A value of {@link LOOP_EVENT}. */
export type LoopEvent = (typeof LOOP_EVENT)[keyof typeof LOOP_EVENT];

/** Index of each word of {@link MessageLoop.state}. */
export const LOOP_SLOT = {
  /** The event, as {@link MessageLoop.step} returned it. */
  KIND: 0,
  /** Id of the socket, listener, eventfd or timer. */
  SOURCE: 1,
  /** Where the message starts in the socket's receive buffer, in bytes. */
  OFFSET: 2,
  /** Its bytes, header included. */
  LENGTH: 3,
  /** Header: message id. */
  ID: 4,
  /** Header: command. */
  COMMAND: 5,
  /** Header: flags, an int32 pattern. */
  FLAGS: 6,
  /** Header: errno of a message; errno of CLOSED and ACCEPT_FAILED. */
  ERRNO: 7,
  /** Descriptors in `fds`. What is not taken (see takeFd) is closed by the next step. */
  FD_COUNT: 8,
  /** 1: descriptors of this message were lost (descriptor table full, or more than the socket allows); the rest was closed. */
  TRUNCATED: 9,
  VALUE_LOW: 10,
  VALUE_HIGH: 11,
  /** In: socket to which the next step sends `tx`; -1 for none. */
  REPLY_SOCKET: 12,
  /** In: bytes of `tx` to send. */
  REPLY_LENGTH: 13,
  /** In: how many of `replyFds` go with it. They stay the caller's. */
  REPLY_FD_COUNT: 14,
  /** In: not 0 while promises are pending that must run soon; a burst then never waits for messages. */
  PENDING: 15,
  /** Microseconds that the handler of the event before this one took; only with `measureHandlers`. */
  HANDLER_US: 16,
} as const;

/** Words of the state; LOOP_SLOT names those in use. */
const STATE_WORDS = 32;

/** Options of {@link MessageLoop}. */
export interface MessageLoopOptions {
  /** Bytes of the largest message that is built in `tx`. Default 1 MiB + 32, the largest of libvfio-user. Untouched pages cost nothing. */
  readonly maxMessageSize?: number;
  /** Events after which a burst gives the thread back. Default 256. */
  readonly burstMessages?: number;
  /** Microseconds after which a burst gives the thread back. Default 1000. */
  readonly burstUs?: number;
  /** Where messages come at most this far apart (microseconds), a burst waits for the next one in native code, until
   * `burstUs` is over. 0: never. Default 200. */
  readonly denseUs?: number;
  /** Fill HANDLER_US. Default false. */
  readonly measureHandlers?: boolean;
}

/** Options of {@link MessageLoop.addSocket}. */
export interface LoopSocketOptions {
  /** Bytes of the largest message that is received; a larger announced size is BAD_SIZE. Default: the loop's. */
  readonly maxMessageSize?: number;
  /** Descriptors that one message may carry, 0..253. Default 253. */
  readonly maxFds?: number;
  /** Bytes that wait for a peer that does not read, before the connection is ended with ENOBUFS. Default: 4 MiB + the
   * largest message. While a quarter of this waits, nothing is received from that peer. */
  readonly maxQueuedBytes?: number;
}

/** A connected socket on a loop. */
export interface LoopSocket {
  readonly id: number;
  /** The receive buffer. Detached (length 0) when the socket is removed. */
  readonly rx: Uint8Array;
  /** The same bytes. */
  readonly view: DataView;
}

/** Counters since the loop was made. */
export interface LoopStats {
  /** Events of every kind but IDLE. */
  events: number;
  messages: number;
  /** recvmsg calls, and those of them that found nothing. */
  receives: number;
  emptyReceives: number;
  sends: number;
  /** Messages, or rests of them, that had to wait for the peer to read. */
  queued: number;
  /** Calls of epoll_wait. */
  waits: number;
  /** Times the thread was taken from Node's event loop. */
  bursts: number;
}

/**
 * The inner step of a vfio-user server or client: one epoll set over connected sockets, listening sockets, eventfds and
 * timers, one native call per message, nothing allocated per message. A loop belongs to the thread that made it.
 *
 * Messages have the vfio-user header: u16 id, u16 command, u32 size, u32 flags, u32 errno, in the machine's byte order.
 * They are delivered in order and whole, with the descriptors that came with each, however the stream was cut.
 */
export class MessageLoop {
  /** Words shared with {@link step}; see LOOP_SLOT. */
  readonly state: Int32Array;
  /** Descriptors of the current event. */
  readonly fds: Int32Array;
  /** Descriptors for the reply. */
  readonly replyFds: Int32Array;
  /** Where a reply is built. Valid until the step that sends it. */
  readonly tx: Uint8Array;
  readonly txView: DataView;
  /**
   * Sends the reply that REPLY_SOCKET names, then gives the next event and its kind. Without an argument it behaves as the
   * burst in which it is called wants it: it may wait inside native code while messages flow, and answers IDLE when the
   * thread is to be given back. With `timeoutUs` it waits at most that long (-1: until something comes; the thread is
   * blocked), for programs that have no event loop to serve. The message, `fds` and the state words are valid until the next step; the bytes of
   * a paused socket until it is resumed. Never throws.
   */
  readonly step: (timeoutUs?: number) => number;
  readonly #native: NativeLoop;
  readonly #maxMessageSize: number;
  #closed = false;

  /** @throws ERR_VFIO_SYSCALL, ERR_VFIO_NATIVE_UNAVAILABLE, ERR_VFIO_INVALID_ARGUMENT */
  constructor(options: MessageLoopOptions = {}) {
    const maxMessageSize = options.maxMessageSize ?? DEFAULT_MAX_MESSAGE_SIZE;
    checkMessageSize(maxMessageSize);
    const native = nativeBinding().createLoop(
      maxMessageSize,
      options.burstMessages ?? 256,
      options.burstUs ?? 1000,
      options.denseUs ?? 200,
      options.measureHandlers ?? false,
    );
    if (typeof native === 'number') throw syscallError('epoll_create1', native, 'message loop');
    this.#native = native;
    this.#maxMessageSize = maxMessageSize;
    const state = new Int32Array(native.shared, 0, STATE_WORDS);
    this.state = state;
    this.fds = new Int32Array(native.shared, STATE_WORDS * 4, SCM_MAX_FD);
    this.replyFds = new Int32Array(native.shared, (STATE_WORDS + SCM_MAX_FD) * 4, SCM_MAX_FD);
    this.tx = new Uint8Array(native.tx);
    this.txView = new DataView(native.tx);
    const { step } = native;
    // The kind is read from the shared words: a result through Node-API costs more.
    this.step = (timeoutUs) => {
      if (timeoutUs === undefined) step();
      else step(timeoutUs);
      return state[LOOP_SLOT.KIND] as number;
    };
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** An eventfd that any thread may write to: the loop then has a WAKE event. Owned by the loop. */
  get wakeFd(): number {
    return this.#native.wakeFd();
  }

  /**
   * Puts a connected stream socket on the loop, which owns it from now on and never waits for it.
   * @throws ERR_VFIO_SYSCALL; the descriptor is then still the caller's
   */
  addSocket(fd: number, options: LoopSocketOptions = {}): LoopSocket {
    this.#open('addSocket');
    const maxMessageSize = options.maxMessageSize ?? this.#maxMessageSize;
    checkMessageSize(maxMessageSize);
    const id = checked(
      'epoll_ctl',
      this.#native.addSocket(
        fd,
        maxMessageSize,
        options.maxFds ?? 253,
        options.maxQueuedBytes ?? 0x40_0000 + maxMessageSize,
      ),
      `socket ${fd}`,
    );
    // Checked by the id: a socket that was just added has its buffer.
    const buffer = this.#native.buffer(id) as ArrayBuffer;
    return { id, rx: new Uint8Array(buffer), view: new DataView(buffer) };
  }

  /** Puts a listening socket on the loop, which owns it from now on. @throws ERR_VFIO_SYSCALL */
  addListener(fd: number): number {
    this.#open('addListener');
    return checked('epoll_ctl', this.#native.addListener(fd), `listening socket ${fd}`);
  }

  /** Puts an eventfd (non-blocking) on the loop, which owns it from now on. @throws ERR_VFIO_SYSCALL */
  addEventFd(fd: number): number {
    this.#open('addEventFd');
    return checked('epoll_ctl', this.#native.addEventFd(fd), `eventfd ${fd}`);
  }

  /** A timer, not running. @throws ERR_VFIO_SYSCALL */
  addTimer(): number {
    this.#open('addTimer');
    return checked('timerfd_create', this.#native.addTimer(), 'CLOCK_MONOTONIC');
  }

  /** Starts a timer: first after `delayUs` microseconds (0 stops it), then every `intervalUs` (0: once). */
  setTimer(id: number, delayUs: number, intervalUs = 0): void {
    checked('timerfd_settime', this.#native.setTimer(id, delayUs, intervalUs), `timer ${id}`);
  }

  /** The descriptor of a source. @throws ERR_VFIO_SYSCALL (ENOENT) */
  fdOf(id: number): number {
    return checked('loop', this.#native.fd(id), `source ${id}`);
  }

  /** Takes a source off the loop and closes its descriptor, or leaves it open for the caller with `keepFd` (bytes that
   * were received and not delivered are lost, received descriptors closed). @throws ERR_VFIO_SYSCALL (ENOENT) */
  remove(id: number, keepFd = false): void {
    checked('loop', this.#native.remove(id, !keepFd), `source ${id}`);
  }

  /** No more events of this source but POISONED until {@link resume}; its last message stays valid. @throws ERR_VFIO_SYSCALL (ENOENT) */
  pause(id: number): void {
    checked('loop', this.#native.pause(id), `source ${id}`);
  }

  /** @throws ERR_VFIO_SYSCALL (ENOENT) */
  resume(id: number): void {
    checked('loop', this.#native.resume(id), `source ${id}`);
  }

  /**
   * Brings a connected socket to a border between messages, to hand it on to another reader. What was received is delivered,
   * no more is received than the rest of a message that has begun, what waits to be sent goes out; then DRAINED comes, and
   * the socket is left alone: it may be taken off the loop without losing a byte. `drain(id, false)` goes on with it.
   * @throws ERR_VFIO_SYSCALL (ENOENT)
   */
  drain(id: number, on = true): void {
    checked('loop', this.#native.drain(id, on), `socket ${id}`);
  }

  /** Lets the next step send the first `length` bytes of {@link tx} (and `fdCount` of {@link replyFds}) to a socket. One reply per step. */
  reply(socket: number, length: number, fdCount = 0): void {
    this.state[LOOP_SLOT.REPLY_SOCKET] = socket;
    this.state[LOOP_SLOT.REPLY_LENGTH] = length;
    this.state[LOOP_SLOT.REPLY_FD_COUNT] = fdCount;
  }

  /**
   * Sends a whole message now, or queues what the socket does not take; order is kept with what {@link reply} sends. The
   * descriptors stay the caller's.
   * @returns false where a part waits in the queue
   * @throws ERR_VFIO_SYSCALL (EPIPE, ECONNRESET, ENOBUFS: queue full); CLOSED follows
   */
  send(socket: number, bytes: Uint8Array, fds: readonly number[] = []): boolean {
    const list = fds.length === 0 ? null : Int32Array.from(fds);
    return (
      checked('sendmsg', this.#native.send(socket, bytes, 0, bytes.length, list, fds.length), `source ${socket}`) === 0
    );
  }

  /** {@link send} of the first `length` bytes of {@link tx}, without allocation; a negative errno instead of an error. */
  trySendTx(socket: number, length: number): number {
    return this.#native.sendTx(socket, length, null, 0);
  }

  /** Makes a received descriptor of the current event the caller's; the others are closed by the next step. */
  takeFd(index: number): number {
    const fd = this.fds[index];
    if (fd === undefined || fd < 0 || index >= (this.state[LOOP_SLOT.FD_COUNT] as number)) {
      throw new VfioError(
        'ERR_VFIO_INVALID_ARGUMENT',
        `descriptor ${index} of the event: it has no such descriptor, or it was taken`,
        {
          errno: 'EBADF',
          op: 'takeFd',
        },
      );
    }
    this.fds[index] = -1;
    return fd;
  }

  /** Reports POISONED for `socket` when `mapping` loses memory; -1 ends that. @throws ERR_VFIO_SYSCALL (ENOENT) */
  watchMapping(mapping: Mapping, socket: number): void {
    checked('loop', this.#native.watchMapping(mapping.handle, socket), `source ${socket}`);
  }

  /**
   * Serves the loop from Node's event loop: `onReady` is called in the thread whenever there may be events, and calls
   * {@link step} until it answers IDLE. An error that it throws becomes an uncaught exception; the loop goes on. Keeps the process
   * alive (see {@link unref}). @throws ERR_VFIO_SYSCALL
   */
  start(onReady: () => void): void {
    this.#open('start');
    checked('epoll_ctl', this.#native.start(onReady), 'message loop');
  }

  /** Stops calling `onReady`; the sources stay. Idempotent. */
  stop(): void {
    this.#native.stop();
  }

  ref(): void {
    this.#native.ref();
  }

  /** Lets the process end although the loop is started. */
  unref(): void {
    this.#native.unref();
  }

  stats(): LoopStats {
    const out = new Float64Array(8);
    this.#native.stats(out);
    const [events = 0, messages = 0, receives = 0, emptyReceives = 0, sends = 0, queued = 0, waits = 0, bursts = 0] =
      out;
    return { events, messages, receives, emptyReceives, sends, queued, waits, bursts };
  }

  /** Closes every source and the loop's own descriptors; buffers are detached. Idempotent, also within `onReady`. */
  close(): void {
    this.#closed = true;
    this.#native.close();
  }

  #open(op: string): void {
    if (this.#closed) throw new VfioError('ERR_VFIO_CLOSED', 'the message loop is closed', { errno: 'EBADF', op });
  }
}

/** 1 MiB of data and the headers of a region access: what libvfio-user takes at most. */
export const DEFAULT_MAX_MESSAGE_SIZE = 0x10_0020;

/** The largest that can be asked for: QEMU accepts 64 MiB of data in one message. */
export const MAX_MESSAGE_SIZE = 0x400_0020;

function checkMessageSize(size: number): void {
  if (!Number.isInteger(size) || size < 64 || size > MAX_MESSAGE_SIZE) {
    throw new VfioError(
      'ERR_VFIO_INVALID_ARGUMENT',
      `message size ${size}: 64 to ${hex(MAX_MESSAGE_SIZE)} bytes are allowed`,
      {
        errno: 'EINVAL',
        op: 'MessageLoop',
      },
    );
  }
}
