import type { MigrationData, VfioDevice, VfioDeviceProvider } from '@vfio/core';
import { LOOP_SLOT } from '@vfio/native';
import {
  ERRNO,
  errnoError,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_USER_DEVICE_RESET,
  VFIO_USER_DMA_UNMAP,
  VFIO_USER_F_NO_REPLY,
  VFIO_USER_F_TYPE_COMMAND,
  VFIO_USER_F_TYPE_MASK,
  VFIO_USER_F_TYPE_REPLY,
  VFIO_USER_HEADER_SIZE,
  VFIO_USER_REGION_READ,
  VFIO_USER_REGION_WRITE,
  VFIO_USER_REGION_WRITE_MULTI,
  VFIO_USER_VERSION,
  VfioError,
} from '@vfio/uapi';
import { type Agreement, type AttachHooks, type Attachment, attach, makeAttachment } from './attach.js';
import { LITTLE_ENDIAN } from './byte-order.js';
import type { ChunkedVectors } from './chunked-vectors.js';
import type { CompatMode, CompatPolicy } from './compat.js';
import { Connection } from './connection.js';
import type { Counters } from './counters.js';
import type { ClientMemory } from './dma.js';
import type { HandlerContext } from './handlers/handler.js';
import { HANDLERS } from './handlers/index.js';
import { refuseWhileCopying, writeMulti } from './handlers/region-io.js';
import { substituteReply } from './handlers/substitute.js';
import { CLOSE_GRACE_MS, MAX_RECEIVED_FDS, MAX_UNSENT_BYTES, maxMessageSize } from './limits.js';
import type { AgreedLimits, ServerAbilities } from './negotiation.js';
import { describePulse } from './pulse.js';
import { receiveReply } from './receive-reply.js';
import { ACCESS_PENDING, asVfioError } from './region-access.js';
import type { RegionMemory } from './region-memory.js';
import { EMPTY_REPLY, type Reply, Request } from './request.js';
import { type LoopSource, PULSE, type ServiceLoop } from './service-loop.js';
import { commandName, type Tracer } from './trace.js';
import { TwinSocket } from './twin-socket.js';
import { WaitingRequests } from './waiting.js';

/** Work that a device puts off until its access was answered; `@vfio/emulated`'s `DeferredQueue` is one. */
export interface DeferredWork {
  /** Pieces that wait. */
  readonly pending: number;
  /** Runs them. */
  run(): number;
}

/** Messages that wait behind an operation. */
export interface QueueLength {
  readonly messages: number;
  readonly bytes: number;
  /** The operation; undefined where none runs. */
  readonly running: string | undefined;
}

/** What a session is made of. */
export interface SessionOptions {
  readonly loop: ServiceLoop;
  /** The connected socket; the session's from now on. */
  readonly fd: number;
  readonly provider: Pick<VfioDeviceProvider, 'open'>;
  readonly vfToken: string | Uint8Array | undefined;
  readonly compat: CompatMode;
  readonly abilities: Omit<ServerAbilities, 'migration'>;
  readonly deadlineMs: number;
  /** 0: the client may be silent for ever. */
  readonly versionTimeoutMs: number;
  readonly watchdogMs: number;
  readonly counters: Counters;
  readonly tracer: Tracer | undefined;
  readonly deferred: DeferredWork | undefined;
  /** The client comes from another process, which may still go on with it: see {@link ServerSession.adopt}. */
  readonly isAdopted?: boolean;
  /** The client is attached. */
  readonly onAttached: (session: ServerSession) => void;
  readonly warn: (message: string) => void;
}

/** What a client may still ask of a device that has moved away: to let go of what it gave, and to begin anew. */
const AFTER_MOVE: readonly number[] = [VFIO_USER_DMA_UNMAP, VFIO_USER_DEVICE_RESET];

/** After this many warnings of one kind, only each power of two is told. */
const FULL_WARNINGS = 8;

function isTold(count: number): boolean {
  return count <= FULL_WARNINGS || (count & (count - 1)) === 0;
}

/**
 * One client: its socket, the device that it has open, and everything that is its own (mappings, interrupts, the stream
 * of a migration). When it goes, all of that goes, and the device is closed as by the last close of its file.
 *
 * Commands run one after the other in the order in which they came. Most end at once; those behind one that does not
 * wait, and replies never overtake each other.
 */
export class ServerSession implements LoopSource, HandlerContext {
  readonly loop: ServiceLoop;
  /** Settles when everything of this client is gone and the device is closed. Never rejects. */
  readonly closed: Promise<void>;
  migrationData: MigrationData | undefined;
  migrationState: number | undefined;
  hasMoved = false;
  isLogging = false;
  readonly irqsGiven = new Set<number>();
  readonly chunkedVectors = new Map<number, ChunkedVectors>();
  readonly #options: SessionOptions;
  readonly #connection: Connection;
  readonly #state: Int32Array;
  readonly #counters: Counters;
  readonly #waiting: WaitingRequests;
  readonly #left = new AbortController();
  #attachment: Attachment | undefined;
  /** Commands cannot run at once: one has not ended, or the client has not attached. */
  #isBlocked = true;
  /** A command that the client waits for is being carried out. */
  #isAwaited = false;
  #isPaused = false;
  #isFinishing = false;
  #isOver = false;
  /** Commands are kept, not carried out: the client is about to go to another process, or has not quite come from one. */
  #isFrozen = false;
  /** Brings the socket to a border between messages: what still comes is kept, however much it is. */
  #isSettling = false;
  /** Until {@link thaw} the client is another process's. */
  #isBorrowed = false;
  #sawVersion = false;
  #postedFailures = 0;
  #lateAnswers = 0;
  #versionTimer: NodeJS.Timeout | undefined;
  /** The operation that runs on, for {@link closed}. */
  #operation: Promise<void> | undefined;
  #resolveClosed: () => void = () => {};

  /** @throws ERR_VFIO_SYSCALL; the descriptor is then still the caller's */
  constructor(options: SessionOptions) {
    this.#options = options;
    this.loop = options.loop;
    this.#state = options.loop.messages.state;
    this.#counters = options.counters;
    this.#connection = new Connection({
      loop: options.loop,
      fd: options.fd,
      source: this,
      sends: '<',
      socket: {
        maxMessageSize: maxMessageSize(options.abilities.maxDataXferSize),
        maxFds: MAX_RECEIVED_FDS,
        maxQueuedBytes: MAX_UNSENT_BYTES,
      },
      tracer: options.tracer,
      counters: options.counters,
    });
    this.#waiting = new WaitingRequests({
      deadlineMs: options.deadlineMs,
      onLate: (request, isRunning) => this.#answerLate(request, isRunning),
      onRoom: () => this.#readOn(),
    });
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    if (options.isAdopted) {
      this.#sawVersion = true;
      this.#isFrozen = true;
      this.#isBorrowed = true;
      // Nothing has begun, so this reads nothing.
      void this.#connection.drain();
    } else if (options.versionTimeoutMs > 0) {
      this.#versionTimer = setTimeout(
        () => this.end(`no VERSION within ${options.versionTimeoutMs} ms`),
        options.versionTimeoutMs,
      );
    }
  }

  // What handlers see; only used once the client has attached.

  get device(): VfioDevice {
    return this.#attachment!.device;
  }

  get limits(): AgreedLimits {
    return this.#attachment!.limits;
  }

  get compat(): CompatPolicy {
    return this.#attachment!.compat;
  }

  get memory(): ClientMemory {
    return this.#attachment!.memory;
  }

  get regions(): RegionMemory {
    return this.#attachment!.regions;
  }

  warn(message: string): void {
    this.tracer?.note(message);
    this.#options.warn(message);
  }

  /** Undefined until the client has attached. */
  get attachment(): Attachment | undefined {
    return this.#attachment;
  }

  /** What waits behind an operation that has not ended. */
  get queue(): QueueLength {
    return { messages: this.#waiting.length, bytes: this.#waiting.bytes, running: this.#waiting.running?.name };
  }

  /** Where messages are shown, those of the second socket too; undefined: nowhere. */
  get tracer(): Tracer | undefined {
    return this.#connection.tracer;
  }

  set tracer(tracer: Tracer | undefined) {
    this.#connection.tracer = tracer;
    const twin = this.#attachment?.twin;
    if (twin !== undefined) twin.connection.tracer = tracer;
  }

  /** Aborted when the session ends, with the reason. */
  get left(): AbortSignal {
    return this.#left.signal;
  }

  /**
   * Does work of the server's own between two commands of the client. Those that come meanwhile wait, as behind an operation
   * of the device; where it takes long they are answered EBUSY.
   * @throws ERR_VFIO_DISCONNECTED where the client goes first, and what the work throws
   */
  async hold<T>(name: string, work: () => Promise<T>): Promise<T> {
    while (this.#operation !== undefined) await this.#operation;
    if (this.#isOver) {
      throw new VfioError('ERR_VFIO_DISCONNECTED', `${name}: ${this.endReason}`, { errno: 'ENOTCONN', op: 'hold' });
    }
    const message = new Uint8Array(VFIO_USER_HEADER_SIZE);
    const request = new Request(0, 0, VFIO_USER_F_NO_REPLY, message, [], false, performance.now());
    const result = work();
    this.#follow(request, result.then(noop, noop), () => EMPTY_REPLY, name);
    return result;
  }

  // Events of the socket

  onMessage(offset: number, length: number): void {
    const state = this.#state;
    const flags = state[LOOP_SLOT.FLAGS]!;
    const command = state[LOOP_SLOT.COMMAND]!;
    if ((flags & VFIO_USER_F_TYPE_MASK) !== VFIO_USER_F_TYPE_COMMAND) {
      this.#onOther(flags, offset, length);
      return;
    }
    this.loop.pulse[PULSE.COMMAND] = command;
    this.#counters.countMessage(command, length);
    this.#counters.countReceived(length);
    if (this.#connection.tracer !== undefined) {
      const { rx } = this.#connection.socket;
      this.#connection.tracer.message('>', rx.subarray(offset, offset + length), state[LOOP_SLOT.FD_COUNT]!);
    }
    if (this.#isBlocked) {
      this.#enqueue(this.#capture(offset, length));
      return;
    }
    if (this.hasMoved) {
      this.#run(this.#capture(offset, length));
      return;
    }
    const { rx, view } = this.#connection.socket;
    if (command === VFIO_USER_REGION_READ) {
      this.#isAwaited = (flags & VFIO_USER_F_NO_REPLY) === 0;
      const reply = this.#attachment!.access.read(view, offset, length);
      if (reply > 0) this.#sendAccess(reply, true);
      else this.#failAccess(state[LOOP_SLOT.ID]!, command, rx, offset, length);
    } else if (command === VFIO_USER_REGION_WRITE && this.migrationState !== VFIO_DEVICE_STATE_STOP_COPY) {
      this.#isAwaited = (flags & VFIO_USER_F_NO_REPLY) === 0;
      const reply = this.#attachment!.access.write(rx, view, offset, length);
      if (reply > 0) this.#sendAccess(reply, true);
      else if (reply === ACCESS_PENDING) this.#awaitAccess(this.#capture(offset, length));
      else this.#failAccess(state[LOOP_SLOT.ID]!, command, rx, offset, length);
    } else this.#run(this.#capture(offset, length));
  }

  onDrained(): void {
    this.#connection.onDrained();
  }

  onClosed(errno: number): void {
    this.end(errno === 0 ? 'the client closed the connection' : `the connection failed (errno ${errno})`);
  }

  /** The rest of the stream cannot be found again: the client is told and left. */
  onBadSize(): void {
    const id = this.#state[LOOP_SLOT.ID]!;
    const command = this.#state[LOOP_SLOT.COMMAND]!;
    const flags = this.#state[LOOP_SLOT.FLAGS]!;
    const size = this.#state[LOOP_SLOT.LENGTH]! >>> 0;
    const isCommand = (flags & VFIO_USER_F_TYPE_MASK) === VFIO_USER_F_TYPE_COMMAND;
    if (isCommand && (flags & VFIO_USER_F_NO_REPLY) === 0) this.#connection.replyError(id, command, ERRNO.EINVAL);
    this.end(`${commandName(command)} with an impossible size of ${size} bytes`);
  }

  onPoisoned(): void {
    this.end('the client cut the memory that it had given');
  }

  onFault(error: unknown): void {
    this.warn(asVfioError(error).message);
    this.end('an internal error');
  }

  onSlow(microseconds: number): void {
    if (microseconds < this.#options.watchdogMs * 1000) return;
    this.warn(`${this.#nameLast()} blocked this thread for ${Math.round(microseconds / 1000)} ms`);
  }

  // Dispatch

  /** A reply to a command of ours, or something that is neither. */
  #onOther(flags: number, offset: number, length: number): void {
    if ((flags & VFIO_USER_F_TYPE_MASK) === VFIO_USER_F_TYPE_REPLY) {
      const problem = receiveReply(this.#connection, offset, length);
      if (problem !== undefined) this.end(problem);
      return;
    }
    const id = this.#state[LOOP_SLOT.ID]!;
    this.#counters.countMessage(0, length);
    this.#counters.countReceived(length);
    this.#counters.countError(0);
    if ((flags & VFIO_USER_F_NO_REPLY) === 0) {
      this.#connection.replyError(id, this.#state[LOOP_SLOT.COMMAND]!, ERRNO.EINVAL);
    }
  }

  /** Copies the message that the loop has just delivered, with its descriptors. */
  #capture(offset: number, length: number): Request {
    const state = this.#state;
    const fds: number[] = [];
    for (let index = 0; index < state[LOOP_SLOT.FD_COUNT]!; index++) fds.push(this.loop.messages.takeFd(index));
    return new Request(
      state[LOOP_SLOT.ID]!,
      state[LOOP_SLOT.COMMAND]!,
      state[LOOP_SLOT.FLAGS]!,
      this.#connection.socket.rx.slice(offset, offset + length),
      fds,
      state[LOOP_SLOT.TRUNCATED] !== 0,
      performance.now(),
    );
  }

  #enqueue(request: Request): void {
    if (!this.#sawVersion) {
      this.#sawVersion = true;
      this.#onFirst(request);
      return;
    }
    this.#waiting.push(request);
    if (this.#waiting.isFull && !this.#isPaused && !this.#isSettling) {
      this.#isPaused = true;
      this.loop.messages.pause(this.#connection.socket.id);
    }
  }

  /** The first command must be VERSION. */
  #onFirst(request: Request): void {
    clearTimeout(this.#versionTimer);
    if (request.command !== VFIO_USER_VERSION) {
      this.#answerError(request, ERRNO.EINVAL);
      request.closeFds();
      this.end(`${commandName(request.command)} came before VERSION`);
      return;
    }
    this.#follow(request, attach(request, this.#options, this.#attachHooks()), ({ attachment, reply }) => {
      this.#attachment = attachment;
      if (this.#isOver) return reply;
      // Without the answer the client does not know what was agreed on.
      if (!request.isAwaited) this.end('VERSION was not answered in time');
      else this.#options.onAttached(this);
      return reply;
    });
  }

  #attachHooks(): AttachHooks {
    return {
      loop: this.loop,
      connection: this.#connection,
      mayUseDma: () => this.#mayUseDma(),
      warn: (message) => this.warn(message),
      end: (reason) => this.end(reason),
    };
  }

  /** Carries out a request; the session is not blocked. */
  #run(request: Request): void {
    this.#isAwaited = request.isAwaited;
    let result: Reply | Promise<Reply> | undefined;
    try {
      result = this.#handle(request);
    } catch (error) {
      this.#finishError(request, asVfioError(error));
      return;
    }
    if (result === undefined) request.closeFds();
    else if (result instanceof Promise) this.#follow(request, result, (reply) => reply);
    else this.#finish(request, result);
  }

  /** Undefined: the request was answered already. */
  #handle(request: Request): Reply | Promise<Reply> | undefined {
    const { command, message } = request;
    if (this.hasMoved && !AFTER_MOVE.includes(command)) {
      throw errnoError('ENODEV', `${commandName(command)}: the device has moved to another server`);
    }
    if (request.truncated) {
      throw new VfioError(
        'ERR_VFIO_LIMIT',
        `${commandName(command)}: its descriptors were lost, this process has no room for more`,
        { errno: 'EMFILE' },
      );
    }
    if (message.length === VFIO_USER_HEADER_SIZE && command !== VFIO_USER_DEVICE_RESET) {
      throw new VfioError('ERR_VFIO_PROTOCOL', `${commandName(command)} without a payload`, { errno: 'EINVAL' });
    }
    const access = this.#attachment!.access;
    switch (command) {
      case VFIO_USER_REGION_READ: {
        const reply = access.read(request.messageView, 0, message.length);
        if (reply < 0) throw access.error!;
        if (request.isAwaited) this.#sendAccess(reply, false);
        return undefined;
      }
      case VFIO_USER_REGION_WRITE: {
        if (this.migrationState === VFIO_DEVICE_STATE_STOP_COPY) {
          return refuseWhileCopying(this, request).then(() => this.#write(request));
        }
        return this.#write(request);
      }
      case VFIO_USER_REGION_WRITE_MULTI: {
        const isAllowed =
          this.migrationState === VFIO_DEVICE_STATE_STOP_COPY ? refuseWhileCopying(this, request) : undefined;
        return isAllowed === undefined
          ? writeMulti(this, access, request)
          : isAllowed.then(() => writeMulti(this, access, request));
      }
    }
    const handler = HANDLERS.get(command);
    if (handler === undefined) {
      throw new VfioError('ERR_VFIO_PROTOCOL', `${commandName(command)} is not a command for a server`, {
        errno: 'EINVAL',
      });
    }
    return handler(this, request);
  }

  /** REGION_WRITE that does not go the fast way. */
  #write(request: Request): Reply | Promise<Reply> {
    const { access } = this.#attachment!;
    const reply = access.write(request.message, request.messageView, 0, request.message.length);
    if (reply < 0) throw access.error!;
    if (reply === ACCESS_PENDING) return access.pending!.then((done) => writeReply(request, done));
    return writeReply(request, request.messageView.byteLength - 32);
  }

  /** A write that the device goes on with. */
  #awaitAccess(request: Request): void {
    const pending = this.#attachment!.access.pending!;
    this.#follow(request, pending, (done) => writeReply(request, done));
  }

  /** Waits for an operation; what comes after it waits too. */
  #follow<T>(
    request: Request,
    operation: Promise<T>,
    answer: (result: T) => Reply,
    name: string = this.#nameLast(),
  ): void {
    this.#isBlocked = true;
    this.#isAwaited = false;
    this.#waiting.start({ request, name });
    this.loop.addPending(1);
    this.#operation = operation
      .then((result) => this.#finish(request, answer(result)))
      .catch((error: unknown) => this.#finishError(request, asVfioError(error)))
      .finally(() => {
        this.loop.addPending(-1);
        this.#operation = undefined;
        this.#waiting.end();
        this.#drain();
      });
  }

  /** Runs what waited. */
  #drain(): void {
    if (this.#isOver) return;
    // A first command that failed has ended the session above.
    this.#isBlocked = this.#isFrozen;
    this.#attachment?.dma.flush();
    while (!this.#isBlocked && !this.#isOver) {
      const request = this.#waiting.shift();
      if (request === undefined) break;
      this.#runWaiting(request);
    }
    this.#readOn();
  }

  /** Reads from the client again where that was stopped for want of room. */
  #readOn(): void {
    if (!this.#isPaused || this.#isFinishing || this.#isOver || this.#waiting.isFull) return;
    this.#isPaused = false;
    this.loop.messages.resume(this.#connection.socket.id);
  }

  /** Outside of an event of the loop, which shows and measures handlers itself. */
  #runWaiting(request: Request): void {
    const start = performance.now();
    this.loop.pulse[PULSE.COMMAND] = request.command;
    this.loop.beginWork(this.#connection.socket.id);
    this.#run(request);
    this.loop.endWork();
    this.onSlow((performance.now() - start) * 1000);
  }

  // Replies

  /** Sends the reply that was built in the loop's buffer: with the loop's next step, or at once. */
  #sendAccess(length: number, isStep: boolean): void {
    const deferred = this.#options.deferred;
    const hasDeferred = deferred !== undefined && deferred.pending > 0;
    if (!this.#isAwaited) {
      if (hasDeferred) deferred.run();
      return;
    }
    this.#isAwaited = false;
    const { messages } = this.loop;
    const socket = this.#connection.socket.id;
    this.#counters.countSent(length);
    if (this.#connection.tracer !== undefined) this.#connection.tracer.message('<', messages.tx.subarray(0, length), 0);
    if (isStep && !hasDeferred && this.#attachment!.dma.waiting === 0) {
      const state = this.#state;
      state[LOOP_SLOT.REPLY_SOCKET] = socket;
      state[LOOP_SLOT.REPLY_LENGTH] = length;
      state[LOOP_SLOT.REPLY_FD_COUNT] = 0;
      return;
    }
    messages.trySendTx(socket, length);
    // What the device put off, and the memory that it asked for while it was answering: after the reply.
    if (hasDeferred) deferred.run();
    this.#attachment!.dma.flush();
  }

  #finish(request: Request, reply: Reply): void {
    if (request.isAwaited && !this.#isOver) {
      this.#connection.reply(request.id, request.command, reply.pieces, reply.fds ?? []);
    }
    reply.done?.();
    this.#afterReply(request);
  }

  #finishError(request: Request, error: VfioError): void {
    this.#counters.countError(request.command);
    if (!request.isPosted && !this.#isOver) {
      this.#connection.tracer?.note(error.message);
      if (request.isAwaited) this.#answerError(request, error.errnoNumber);
    } else if (request.isPosted) this.warnPosted(request.command, error);
    if (error.code === 'ERR_VFIO_IO' && error.cause !== undefined) this.warn(error.message);
    this.#afterReply(request);
    if (this.#attachment === undefined) this.end(error.message);
  }

  #afterReply(request: Request): void {
    this.#isAwaited = false;
    request.closeFds();
    this.#attachment?.dma.flush();
  }

  /** An access on the fast way failed. */
  #failAccess(id: number, command: number, rx: Uint8Array, offset: number, length: number): void {
    const error = this.#attachment!.access.error!;
    this.#counters.countError(command);
    if (this.#isAwaited) {
      this.#connection.tracer?.note(error.message);
      this.#sendError(id, command, rx.subarray(offset, offset + length), error.errnoNumber);
    } else this.warnPosted(command, error);
    if (error.code === 'ERR_VFIO_IO' && error.cause !== undefined) this.warn(error.message);
    this.#isAwaited = false;
    this.#attachment!.dma.flush();
  }

  #answerError(request: Request, errno: number): void {
    if (request.isAwaited) this.#sendError(request.id, request.command, request.message, errno);
  }

  #sendError(id: number, command: number, message: Uint8Array, errno: number): void {
    if (this.#attachment?.compat.errorsAsData) {
      const substitute = substituteReply(command, message, this.#attachment.limits.maxReceiveData);
      if (substitute !== undefined) {
        this.#connection.reply(id, command, [substitute]);
        return;
      }
    }
    this.#connection.replyError(id, command, errno);
  }

  /** The client gives up soon: it gets EBUSY now, and nothing later. */
  #answerLate(request: Request, isRunning: boolean): void {
    this.#counters.countError(request.command);
    this.#sendError(request.id, request.command, request.message, ERRNO.EBUSY);
    const name = isRunning ? this.#waiting.running?.name : commandName(request.command);
    const { deadlineMs } = this.#options;
    const behind = isRunning ? '' : `, behind ${this.#waiting.running?.name}`;
    if (isTold(++this.#lateAnswers)) {
      const hint = this.#dmaHint();
      this.warn(`${name} did not end within ${deadlineMs} ms${behind}: the client was answered EBUSY${hint}`);
    }
    // It has its answer, so it may serve the memory that the operation waits for.
    this.#attachment?.dma.flush();
  }

  /** The mistake that is most easily made: to wait for memory that comes only after the reply. */
  #dmaHint(): string {
    const waiting = this.#attachment?.dma.waiting ?? 0;
    return waiting === 0 ? '' : `; ${waiting} DMA requests wait for that reply (do message DMA after it, not inside)`;
  }

  /** Tells the first failures of posted commands, then fewer and fewer: a client must not fill the log. */
  warnPosted(command: number, error: VfioError): void {
    const count = ++this.#postedFailures;
    if (!isTold(count)) return;
    const more = count > FULL_WARNINGS ? ` (${count} so far)` : '';
    this.warn(`posted ${commandName(command)} failed: ${error.message}${more}`);
  }

  /** What is being done, or was done last. */
  #nameLast(): string {
    return describePulse(this.loop.pulse);
  }

  /** Not while the client waits for us: it serves DMA only after the reply. The second socket has no such rule. */
  #mayUseDma(): boolean {
    if (this.#isAwaited) return false;
    return this.#waiting.running === undefined || !this.#waiting.running.request.isAwaited;
  }

  // A client that changes its process

  /** Bytes, descriptors and all of the commands that wait. */
  get waiting(): readonly Request[] {
    return this.#waiting.requests;
  }

  get connection(): Connection {
    return this.#connection;
  }

  /**
   * Carries out no command from now on but keeps them, until {@link thaw} or {@link leave}. The one under way ends first.
   * @throws EAGAIN where it does not until then, ENOTCONN where the client goes; everything goes on as before
   */
  async freeze(until: number): Promise<void> {
    this.#isFrozen = true;
    this.#isBlocked = true;
    if (!(await this.#operationEnds(until))) {
      const { name } = this.#waiting.running!;
      this.thaw();
      throw errnoError('EAGAIN', `${name} has not ended`, { op: 'handover' });
    }
    if (this.#isOver) throw errnoError('ENOTCONN', `the client is gone: ${this.endReason}`, { op: 'handover' });
  }

  /**
   * Of a frozen session whose device has stopped: waits for the last replies to commands of ours, then brings the sockets to a
   * border between messages.
   * @throws EAGAIN where that is not reached until then
   */
  async settle(until: number): Promise<void> {
    const { dma, twin } = this.#attachment!;
    const late = (why: string) => errnoError('EAGAIN', why, { op: 'handover' });
    while (dma.outstanding > 0 && !this.#isOver) {
      if (performance.now() > until) throw late(`${dma.outstanding} DMA requests to the client have no reply`);
      await delay(1);
    }
    this.#isSettling = true;
    if (this.#isPaused) {
      this.#isPaused = false;
      this.loop.messages.resume(this.#connection.socket.id);
    }
    const border = Promise.all([this.#connection.drain(), twin?.connection.drain()]).then(() => true);
    const isThere = await Promise.race([border, delay(Math.max(1, until - performance.now())).then(() => false)]);
    if (!isThere) throw late('the client has sent a part of a message, or does not read what it was sent');
  }

  /** Goes on with what waits and with what comes. Idempotent. */
  thaw(): void {
    if (this.#isOver || !this.#isFrozen) return;
    this.#isFrozen = false;
    this.#isSettling = false;
    if (this.#isBorrowed) {
      this.#isBorrowed = false;
      this.#options.onAttached(this);
    }
    this.#connection.goOn();
    this.#attachment!.twin?.connection.goOn();
    if (this.#operation === undefined) this.#drain();
  }

  /**
   * Of a session that was made for a client of another process: the terms on which that served it. Commands are kept until
   * {@link thaw}; whatever ends the session before leaves the client to the other process.
   */
  adopt(device: VfioDevice, agreement: Agreement, twin: number | undefined): void {
    const hooks = this.#attachHooks();
    const second = twin === undefined ? undefined : new TwinSocket(this.loop, twin, this.#connection, hooks.end);
    void second?.connection.drain();
    this.#attachment = makeAttachment(device, agreement, second, hooks);
  }

  /** A command that waited in the other process. */
  adoptRequest(request: Request): void {
    this.#waiting.adopt(request);
  }

  /** Ends the session as {@link end} does, but leaves the client alone: its connection is another process's. Idempotent. */
  leave(reason: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#isBlocked = true;
    this.tracer?.note(`left: ${reason}`);
    this.endReason = reason;
    this.#left.abort(new VfioError('ERR_VFIO_DISCONNECTED', reason, { errno: 'ENOTCONN', op: 'session' }));
    this.#waiting.clear();
    this.#connection.leave();
    this.#attachment?.twin?.connection.leave();
    this.#attachment?.dma.close();
    void this.#release().finally(() => this.#resolveClosed());
  }

  // The end

  /** Takes no more commands, gives the one under way and those that came already some time to end, then ends. */
  async finish(reason: string, graceMs: number): Promise<void> {
    this.#isFinishing = true;
    if (!this.#isOver && !this.#isPaused) {
      this.#isPaused = true;
      this.loop.messages.pause(this.#connection.socket.id);
    }
    if (this.#operation !== undefined) await this.#operationEnds(performance.now() + graceMs);
    this.end(reason);
  }

  /** Whether no operation is under way any more, at the latest then. */
  async #operationEnds(until: number): Promise<boolean> {
    while (this.#operation !== undefined && !this.#isOver) {
      const rest = until - performance.now();
      if (rest <= 0) return false;
      await Promise.race([this.#operation, delay(rest)]);
    }
    return true;
  }

  /** Ends the session; idempotent. What was the client's goes, then the device is closed. */
  end(reason: string): void {
    if (this.#isBorrowed) this.leave(reason);
    if (this.#isOver) return;
    this.#isOver = true;
    this.#isBlocked = true;
    clearTimeout(this.#versionTimer);
    this.tracer?.note(`end: ${reason}`);
    this.endReason = reason;
    this.#left.abort(new VfioError('ERR_VFIO_DISCONNECTED', reason, { errno: 'ENOTCONN', op: 'session' }));
    this.#waiting.clear();
    this.#connection.close();
    this.#attachment?.dma.close();
    this.#attachment?.twin?.close();
    void this.#release().finally(() => this.#resolveClosed());
  }

  /** Why it ended. */
  endReason = '';

  async #release(): Promise<void> {
    // Two operations of a device never run at once: the one under way ends first.
    if (this.#operation !== undefined) {
      const name = this.#waiting.running?.name;
      const late = setTimeout(() => this.warn(`${name} has not ended: nobody can attach until it has`), CLOSE_GRACE_MS);
      await this.#operation;
      clearTimeout(late);
    }
    const attachment = this.#attachment;
    if (attachment === undefined) return;
    attachment.dma.close();
    attachment.twin?.close();
    await this.#step('closing the migration stream', () => this.migrationData?.close());
    this.migrationData = undefined;
    // The device's last close unmaps everything, once nothing uses it any more.
    await this.#step('closing the device', () => attachment.device.close());
    attachment.memory.close();
    for (const vectors of this.chunkedVectors.values()) vectors.clear();
  }

  async #step(what: string, run: () => unknown): Promise<void> {
    try {
      await run();
    } catch (error) {
      this.warn(`${what}: ${asVfioError(error).message}`);
    }
  }
}

function noop(): void {}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The reply to REGION_WRITE: offset and region as in the request, and what was done. */
function writeReply(request: Request, done: number): Reply {
  const reply = request.payload.slice(0, 16);
  new DataView(reply.buffer).setUint32(12, done, LITTLE_ENDIAN);
  return { pieces: [reply] };
}
