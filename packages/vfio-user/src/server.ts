import type { VfioDeviceProvider, VfioPciCoreDevice } from '@vfio/core';
import { closeFd, connectUnix, pageSize } from '@vfio/native';
import { errnoError, VFIO_DEVICE_STATE_RUNNING, VfioError } from '@vfio/uapi';
import { COMPAT_MODES, type CompatMode } from './compat.js';
import { type CommandCount, Counters } from './counters.js';
import { Incoming } from './handover/incoming.js';
import { type HandoverOptions, type HandoverReport, HandoverSource } from './handover/source.js';
import {
  CLOSE_GRACE_MS,
  DEFAULT_DEADLINE_MS,
  DEFAULT_WATCHDOG_MS,
  DMA_PAGE_SIZE,
  MAX_DATA_XFER_SIZE,
  MAX_DMA_MAPS,
  MAX_SCM_FDS,
  MIN_DATA_XFER_SIZE,
  RETRY_ACCEPT_MS,
  VERSION_TIMEOUT_MS,
} from './limits.js';
import {
  type ListenFd,
  type ListenIncoming,
  type ListenPath,
  makeSocketFile,
  probeInherited,
  removeSocketFile,
  type SocketFile,
} from './listen-socket.js';
import { addLocalServer, removeLocalServer } from './local-servers.js';
import { MoveChannel } from './move/channel.js';
import { type MovedIn, type MoveInOptions, moveIn } from './move/destination.js';
import type { MoveEnd, MoveReport } from './move/end.js';
import { isUndecided, type MoveOutOptions, moveOut } from './move/source.js';
import { setState } from './move/state.js';
import type { PeerKind } from './negotiation.js';
import { pidOf } from './peer.js';
import { asVfioError } from './region-access.js';
import { keepWarm } from './rehearsal.js';
import { acquireSharedLoop, type LoopSource, releaseSharedLoop, type ServiceLoop } from './service-loop.js';
import { type DeferredWork, type QueueLength, ServerSession, type SessionOptions } from './session.js';
import { Tracer, type TraceSink } from './trace.js';

/** A client that has attached. */
export interface AttachedClient {
  /** Who it is, or is taken for. */
  readonly peer: PeerKind;
  /** Protocol version: 0.minor. */
  readonly minor: number;
  /** Process, user and group of the other end when it connected; undefined where the socket does not tell. */
  readonly pid: number | undefined;
  /** When it attached, in milliseconds since 1970. */
  readonly since: number;
}

/** Options of {@link VfioUserServer}. */
export interface VfioUserServerOptions {
  /** The loop to serve on. @default one that all servers and clients of this thread share */
  readonly loop?: ServiceLoop;
  /** How clients that do not keep to the specification are answered. @default 'auto' */
  readonly compat?: CompatMode;
  /** UUID of the VF token. */
  readonly vfToken?: string | Uint8Array;
  /** Bytes of data in one message, 4096 to the loop's. A ROM must fit. @default 1 MiB */
  readonly maxDataXferSize?: number;
  /** Mappings of one client. @default 65535 */
  readonly maxDmaMaps?: number;
  /** Descriptors that a client may put into one message, 1 to 253. @default 253; QEMU and older clients are told 16 */
  readonly maxMsgFds?: number;
  /** Offer a second socket for the server's own commands. @default true */
  readonly twinSocket?: boolean;
  /** Offer REGION_WRITE_MULTI. @default true */
  readonly writeMultiple?: boolean;
  /** Milliseconds after which a command is answered EBUSY though its operation runs on. QEMU gives up after 5000. @default 4000 */
  readonly deadlineMs?: number;
  /** Milliseconds that a client may be silent after connecting. 0: for ever. @default 10000 */
  readonly versionTimeoutMs?: number;
  /** Milliseconds of a synchronous operation from which it is named in a warning. @default 100 */
  readonly watchdogMs?: number;
  /** What the device puts off until an access was answered: run right after each reply. @default the device's own schedule */
  readonly deferred?: DeferredWork;
  /** Gets one line for each message. @default none: tracing is off */
  readonly trace?: TraceSink | undefined;
  /** Gets sentences for the log, without the device's address. @default process.emitWarning, with it */
  readonly onWarning?: (message: string) => void;
  readonly onAttach?: (client: AttachedClient) => void;
  /** A client is gone and the device is closed. */
  readonly onDetach?: (reason: string) => void;
}

/** What `listen` takes beside the address. */
export interface ListenOptions {
  /** Closes the server when it fires. */
  readonly signal?: AbortSignal;
}

/** What a server has done. */
export interface ServerStats {
  /** Clients that have attached so far. */
  readonly clients: number;
  /** By command; commands of all clients together. */
  readonly commands: Record<string, CommandCount>;
  /** Bytes of all messages, in both directions, of commands of either side. */
  readonly bytes: { readonly received: number; readonly sent: number };
  /** What waits now. */
  readonly queue: QueueLength;
}

/**
 * Serves one device to one client at a time over a Unix socket. The device is opened when a client attaches and closed
 * when it goes; the next one waits in the socket's backlog. Runs in the thread that calls {@link listen}.
 */
export class VfioUserServer implements LoopSource {
  readonly #provider: VfioDeviceProvider;
  readonly #options: VfioUserServerOptions;
  readonly #counters = new Counters();
  #loop: ServiceLoop | undefined;
  #listener: number | undefined;
  #file: SocketFile | undefined;
  #session: ServerSession | undefined;
  #clients = 0;
  #client: AttachedClient | undefined;
  readonly #traces = new Set<TraceSink>();
  /** One clock, however many sinks come and go. */
  readonly #tracer: Tracer;
  #isMoving = false;
  /** Whose move away was committed to and not answered. */
  #undecided: MoveEnd | undefined;
  #retry: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;
  #incoming: Incoming | undefined;
  /** The handing over that is under way; never rejects. */
  #leaving: Promise<void> | undefined;
  #unlisten: () => void = () => {};

  /** @throws EINVAL for an option out of range */
  constructor(provider: VfioDeviceProvider, options: VfioUserServerOptions = {}) {
    this.#provider = provider;
    this.#options = options;
    const range = (name: keyof VfioUserServerOptions, min: number, max: number) => {
      const value = options[name];
      if (value === undefined || (Number.isInteger(value) && Number(value) >= min && Number(value) <= max)) return;
      throw new VfioError('ERR_VFIO_INVALID_ARGUMENT', `${name} is ${String(value)}: ${min} to ${max} is allowed`, {
        errno: 'EINVAL',
        op: 'VfioUserServer',
      });
    };
    range('maxDataXferSize', MIN_DATA_XFER_SIZE, options.loop?.maxDataXferSize ?? MAX_DATA_XFER_SIZE);
    range('maxDmaMaps', 1, MAX_DMA_MAPS);
    range('maxMsgFds', 1, MAX_SCM_FDS);
    range('deadlineMs', 1, 0x7fffffff);
    range('versionTimeoutMs', 0, 0x7fffffff);
    range('watchdogMs', 1, 0x7fffffff);
    if (options.compat !== undefined && !COMPAT_MODES.includes(options.compat)) {
      throw new VfioError(
        'ERR_VFIO_INVALID_ARGUMENT',
        `compat is ${options.compat}: ${COMPAT_MODES.join(', ')} are known`,
        { errno: 'EINVAL', op: 'VfioUserServer' },
      );
    }
    this.#tracer = new Tracer((line) => {
      for (const sink of this.#traces) sink(line);
    }, provider.function.address);
    if (options.trace !== undefined) this.#traces.add(options.trace);
  }

  /** The socket file, where there is one. */
  get path(): string | undefined {
    return this.#file?.path;
  }

  /** Whether clients can come: not to a server of one connection, and to none that is closed. */
  get isListening(): boolean {
    return this.#listener !== undefined;
  }

  /** Whether a client has connected. */
  get isBusy(): boolean {
    return this.#session !== undefined;
  }

  /** The client that is attached. */
  get client(): AttachedClient | undefined {
    return this.#client;
  }

  /** Shows every message from now on to one more sink. Returns what ends that. */
  addTrace(sink: TraceSink): () => void {
    this.#traces.add(sink);
    this.#showMessages();
    return () => {
      this.#traces.delete(sink);
      this.#showMessages();
    };
  }

  /** A session without a sink has no tracer: that costs it one branch a message. */
  #showMessages(): void {
    if (this.#session !== undefined) this.#session.tracer = this.#traces.size === 0 ? undefined : this.#tracer;
  }

  /**
   * Starts to serve.
   * @param where a path, a path with mode and group, a socket that was inherited, or where another server hands its client over
   * @throws ERR_VFIO_STATE where it listens or is closed, ERR_VFIO_BUSY (EADDRINUSE) where another server answers at the
   *   path, ERR_VFIO_LIMIT (ENAMETOOLONG), ERR_VFIO_NATIVE_UNAVAILABLE, ERR_VFIO_SYSCALL
   */
  async listen(where: string | ListenPath | ListenFd | ListenIncoming, options: ListenOptions = {}): Promise<void> {
    if (this.#loop !== undefined || this.#closing !== undefined) {
      throw new VfioError('ERR_VFIO_STATE', 'this server listens already, or is closed', {
        errno: 'EINVAL',
        op: 'listen',
      });
    }
    options.signal?.throwIfAborted();
    const loop = this.#options.loop ?? acquireSharedLoop();
    this.#loop = loop;
    loop.ref();
    try {
      keepWarm(loop);
      if (typeof where === 'object' && 'incoming' in where) this.#listenIncoming(loop, where.incoming);
      else if (typeof where === 'object' && 'fd' in where) this.#listenFd(loop, where.fd);
      else this.#listenPath(loop, typeof where === 'string' ? { path: where } : where);
    } catch (error) {
      this.#releaseLoop();
      throw error;
    }
    const { signal } = options;
    if (signal !== undefined) {
      const onAbort = () => void this.close();
      signal.addEventListener('abort', onAbort, { once: true });
      this.#unlisten = () => signal.removeEventListener('abort', onAbort);
    }
  }

  #listenPath(loop: ServiceLoop, where: ListenPath): void {
    const file = makeSocketFile(where);
    this.#file = file;
    this.#listener = loop.messages.addListener(file.fd);
    loop.attach(this.#listener, this);
    addLocalServer(file.identity);
  }

  #listenIncoming(loop: ServiceLoop, where: ListenPath): void {
    const device = coreDevice(this.#provider);
    const { vfToken } = this.#options;
    this.#incoming = new Incoming(where, {
      loop,
      device,
      open: () => device.open(vfToken === undefined ? {} : { vfToken }),
      makeSession: (fd) => new ServerSession({ ...this.#sessionOptions(fd), isAdopted: true }),
      onTaken: ({ session, listener }) => {
        if (listener !== undefined) {
          this.#listener = loop.messages.addListener(listener.fd);
          loop.messages.pause(this.#listener);
          loop.attach(this.#listener, this);
          if (listener.file !== null) {
            this.#file = { ...listener.file, fd: listener.fd };
            addLocalServer(listener.file.identity);
          }
        }
        this.#follow(session);
      },
      onFailed: (error) => this.#warn(`not handed over: ${error.message}`),
      warn: (message) => this.#warn(message),
    });
  }

  /**
   * Hands the client that is attached over to another server, which listens with {@link ListenIncoming}: its connection, its memory,
   * its interrupts, the state of the device, and the socket on which the next client comes. The client notices a pause. This server
   * is closed then. Whatever fails before, the client is served on here as if nothing had been.
   * @throws EAGAIN (nobody is attached, another one is under way, something does not end in time), EBUSY (the client migrates the
   *   device, logs its writes, or may have its memory mapped), ENOTTY (the device cannot be migrated), what the other server says
   */
  async handover(path: string, options: HandoverOptions = {}): Promise<HandoverReport> {
    const device = coreDevice(this.#provider);
    const again = (why: string) => errnoError('EAGAIN', why, { op: 'handover', device: device.fn.address });
    if (this.#leaving !== undefined) throw again('the device is being handed over already');
    if (this.#session === undefined || this.#closing !== undefined) throw again('no client has attached');
    if (this.#isMoving || this.#session.hasMoved) {
      throw errnoError('EBUSY', 'the device is being moved, or has moved', {
        op: 'handover',
        device: device.fn.address,
      });
    }
    const loop = this.#loop!;
    const listener = this.#listener;
    const file = this.#file && { path: this.#file.path, identity: this.#file.identity };
    const source = new HandoverSource(path, {
      loop,
      session: this.#session,
      device,
      listener: listener === undefined ? undefined : { fd: loop.messages.fdOf(listener), file: file ?? null },
      maxPauseMs: options.maxPauseMs,
      signal: options.signal,
      onGone: () => this.#leaveListener(),
      warn: (message) => this.#warn(message),
    });
    const running = source.run();
    this.#leaving = running.then(
      () => {},
      () => {},
    );
    try {
      return await running;
    } finally {
      this.#leaving = undefined;
    }
  }

  /** The next client is another server's. */
  #leaveListener(): void {
    if (this.#listener === undefined) return;
    const loop = this.#loop!;
    const fd = loop.messages.fdOf(this.#listener);
    loop.remove(this.#listener, true);
    closeFd(fd);
    this.#listener = undefined;
    if (this.#file !== undefined) removeLocalServer(this.#file.identity);
    this.#file = undefined;
  }

  /** Nothing was made where it fails, and the descriptor is still the caller's. */
  #listenFd(loop: ServiceLoop, fd: number): void {
    const { isListening, client } = probeInherited(fd);
    if (!isListening) {
      this.#accept(fd);
      return;
    }
    try {
      this.#listener = loop.messages.addListener(fd);
    } catch (error) {
      if (client !== undefined) closeFd(client);
      throw error;
    }
    loop.attach(this.#listener, this);
    if (client !== undefined) this.onAccept(client);
  }

  // Events of the listening socket

  onAccept(fd: number): void {
    // One client at a time: the next one waits in the backlog.
    if (this.#listener !== undefined) this.#loop?.messages.pause(this.#listener);
    try {
      this.#accept(fd);
    } catch (error) {
      closeFd(fd);
      this.#retryLater(asVfioError(error).message);
    }
  }

  onAcceptFailed(errno: number): void {
    this.#retryLater(`errno ${errno}`);
  }

  /** The listening socket is paused: what is missing (descriptors, memory) may be there later. */
  #retryLater(why: string): void {
    this.#warn(`a client could not be accepted (${why}); trying again in a second`);
    this.#retry = setTimeout(() => this.#resume(), RETRY_ACCEPT_MS);
  }

  #resume(): void {
    if (this.#listener !== undefined) this.#loop?.messages.resume(this.#listener);
  }

  #accept(fd: number): void {
    this.#follow(new ServerSession(this.#sessionOptions(fd)));
  }

  #sessionOptions(fd: number): SessionOptions {
    const options = this.#options;
    const loop = this.#loop!;
    const pid = pidOf(fd);
    return {
      loop,
      fd,
      provider: this.#provider,
      vfToken: options.vfToken,
      compat: options.compat ?? 'auto',
      abilities: {
        maxMsgFds: options.maxMsgFds ?? MAX_SCM_FDS,
        maxDataXferSize: options.maxDataXferSize ?? Math.min(MAX_DATA_XFER_SIZE, loop.maxDataXferSize),
        maxDmaMaps: options.maxDmaMaps ?? MAX_DMA_MAPS,
        pgsizes: Math.max(DMA_PAGE_SIZE, pageSize()),
        twinSocket: options.twinSocket ?? true,
        writeMultiple: options.writeMultiple ?? true,
      },
      deadlineMs: options.deadlineMs ?? DEFAULT_DEADLINE_MS,
      versionTimeoutMs: options.versionTimeoutMs ?? VERSION_TIMEOUT_MS,
      watchdogMs: options.watchdogMs ?? DEFAULT_WATCHDOG_MS,
      counters: this.#counters,
      tracer: this.#traces.size === 0 ? undefined : this.#tracer,
      deferred: options.deferred,
      isAdopted: false,
      onAttached: ({ attachment }) => {
        this.#clients++;
        this.#client = { peer: attachment!.compat.peer, minor: attachment!.minor, pid, since: Date.now() };
        options.onAttach?.(this.#client);
      },
      warn: (message) => this.#warn(message),
    };
  }

  /** The session of the client that is served now. */
  #follow(session: ServerSession): void {
    this.#session = session;
    void session.closed.then(() => {
      this.#session = undefined;
      this.#client = undefined;
      this.#options.onDetach?.(session.endReason);
      if (this.#closing !== undefined) return;
      // An inherited connection was all there was to serve.
      if (this.#listener === undefined) void this.close();
      else this.#resume();
    });
  }

  // Moving the device

  /**
   * Moves the device, as its client has it, with the client's memory, to a server that takes it with {@link moveIn}: see
   * `moveOut`. Afterwards it is stopped here, and its client is refused until it resets the device.
   * @param to a path where the other server waits (`meetAt`), or a connected socket, this call's from now on
   * @throws ERR_VFIO_STATE where no client has attached, ERR_VFIO_BUSY while another move is under way; the device runs as before.
   *   After one that `isUndecided` it is stopped, until {@link takeBack}.
   */
  async moveOut(to: string | ListenFd, options: MoveOutOptions = {}): Promise<MoveReport> {
    return this.#moving(to, async (end, fd) => {
      try {
        return await moveOut(end, fd, options);
      } catch (error) {
        if (isUndecided(error)) this.#undecided = end;
        throw error;
      }
    });
  }

  /**
   * Takes a device that another server moves here, in place of this one, to which its client has attached: see `moveIn`.
   * @param from a path where the other server waits, or a connected socket, this call's from now on
   * @throws as {@link moveOut}; the device has been reset then
   */
  async moveIn(from: string | ListenFd, options: MoveInOptions = {}): Promise<MovedIn> {
    return this.#moving(from, (end, fd) => moveIn(end, fd, options));
  }

  /** After a move that was not decided: the other server does not run the device, so it goes on here. @throws ERR_VFIO_STATE */
  async takeBack(): Promise<void> {
    const end = this.#undecided;
    if (end === undefined || end !== this.#session || !end.hasMoved) {
      throw new VfioError('ERR_VFIO_STATE', 'no move of this device is undecided', { errno: 'EINVAL', op: 'takeBack' });
    }
    await setState(end.device, VFIO_DEVICE_STATE_RUNNING);
    end.hasMoved = false;
    this.#undecided = undefined;
  }

  async #moving<T>(where: string | ListenFd, work: (end: MoveEnd, fd: number) => Promise<T>): Promise<T> {
    let fd = typeof where === 'string' ? undefined : where.fd;
    try {
      const end = this.#session;
      if (end?.attachment === undefined || end.left.aborted) {
        throw new VfioError('ERR_VFIO_STATE', 'nobody has attached to the device: its client comes first', {
          errno: 'ENOTCONN',
          op: 'migrate',
        });
      }
      if (this.#isMoving || this.#leaving !== undefined || end.hasMoved) {
        const why = end.hasMoved ? 'the device has moved away' : 'another move of the device is under way';
        throw new VfioError('ERR_VFIO_BUSY', why, { errno: 'EBUSY', op: 'migrate' });
      }
      fd ??= connectUnix(where as string);
      this.#isMoving = true;
      const taken = fd;
      fd = undefined;
      try {
        return await work(end, taken);
      } finally {
        this.#isMoving = false;
      }
    } catch (error) {
      // Who has come is told why, too.
      if (fd !== undefined) await new MoveChannel(fd, CLOSE_GRACE_MS).fail(error);
      throw error;
    }
  }

  /** Counts so far. */
  stats(): ServerStats {
    const { received, sent } = this.#counters;
    return {
      clients: this.#clients,
      commands: this.#counters.snapshot(),
      bytes: { received, sent },
      queue: this.#session?.queue ?? { messages: 0, bytes: 0, running: undefined },
    };
  }

  /**
   * Ends: no more clients, the operation under way gets a second, then the client is left and the device closed. The socket
   * file goes first, so another server can take the path. Idempotent; never rejects.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#unlisten();
    // Without a turn of the event loop where there is nothing to wait for: no message comes between.
    if (this.#incoming !== undefined) await this.#incoming.close();
    if (this.#leaving !== undefined) await this.#leaving;
    clearTimeout(this.#retry);
    if (this.#file !== undefined) {
      removeLocalServer(this.#file.identity);
      removeSocketFile(this.#file);
    }
    if (this.#listener !== undefined) this.#loop?.remove(this.#listener);
    this.#listener = undefined;
    const session = this.#session;
    if (session !== undefined) {
      await session.finish('the server is closing', CLOSE_GRACE_MS);
      await session.closed;
    }
    this.#releaseLoop();
  }

  #releaseLoop(): void {
    const loop = this.#loop;
    this.#loop = undefined;
    if (loop === undefined) return;
    loop.unref();
    if (this.#options.loop === undefined) releaseSharedLoop();
  }

  #warn(message: string): void {
    if (this.#options.onWarning !== undefined) this.#options.onWarning(message);
    else process.emitWarning(`${this.#provider.function.address}: ${message}`, 'VfioUserWarning');
  }
}

/** What a handover needs is known by core, so the device must be one of its. @throws ENOTTY */
function coreDevice(provider: VfioDeviceProvider): VfioPciCoreDevice {
  // A second loaded copy of core has another class: the shape decides.
  const device = provider as Partial<VfioPciCoreDevice>;
  if (device.irqs !== undefined && device.dmaSpace !== undefined) return provider as VfioPciCoreDevice;
  throw errnoError('ENOTTY', 'the device is not one of core, whose state is not known', { op: 'handover' });
}
