import type {
  DeviceInfo,
  DmaMapRequest,
  FeatureRequest,
  FeatureResult,
  HotResetInfo,
  HotResetRequest,
  IoeventfdRequest,
  IrqInfo,
  MigrationData,
  MmapArea,
  RegionInfo,
  SetIrqsRequest,
  VfioDeviceClient,
} from '@vfio/core';
import { closeFd, connectUnix, LOOP_SLOT } from '@vfio/native';
import {
  encodeVfioUserRegionData,
  encodeVfioUserWriteMulti,
  VFIO_USER_F_ERROR,
  VFIO_USER_F_NO_REPLY,
  VFIO_USER_F_TYPE_MASK,
  VFIO_USER_F_TYPE_REPLY,
  VFIO_USER_HEADER_SIZE,
  VFIO_USER_MULTI_DATA,
  VFIO_USER_MULTI_MAX,
  VFIO_USER_REGION_WRITE,
  VFIO_USER_REGION_WRITE_MULTI,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { Connection, type ReceivedReply } from '../connection.js';
import {
  CLIENT_MAX_MSG_FDS,
  CLIENT_MAX_UNSENT_BYTES,
  CLIENT_TIMEOUT_MS,
  MAX_DATA_XFER_SIZE,
  maxMessageSize,
} from '../limits.js';
import { receiveReply } from '../receive-reply.js';
import { acquireSharedLoop, type LoopSource, releaseSharedLoop, type ServiceLoop } from '../service-loop.js';
import { Tracer, type TraceSink } from '../trace.js';
import { type AllocatedMemory, allocateMemory } from './allocate.js';
import type { MigrationStream } from './migration-stream.js';
import { type Call, type Procedure, runAsync, type Wire } from './procedure.js';
import { type ClientOptions, checkOptions, negotiate, type ServerLimits } from './proposal.js';
import { notOverSocket, RemoteDevice } from './remote-device.js';

/** Options of {@link VfioUserClient.connect}. */
export interface ConnectOptions extends ClientOptions {
  /** The loop to run on. @default one that all servers and clients of this thread share */
  readonly loop?: ServiceLoop;
  /** Offer a second socket for the server's own commands. @default true */
  readonly twinSocket?: boolean;
  /** Gets one line for each message. @default none */
  readonly trace?: TraceSink;
}

/** Memory to be made and mapped by {@link VfioUserClient.dmaAlloc}. */
export interface DmaAllocRequest {
  readonly iova: bigint;
  /** Bytes, a multiple of 4096. */
  readonly size: number;
  /** @default true */
  readonly readable?: boolean;
  readonly writable?: boolean;
  /** Give the server no descriptor: it has to ask for every access. @default false */
  readonly messagesOnly?: boolean;
}

/** One posted write. */
export interface PostedWrite {
  readonly region: number;
  readonly offset: number;
  readonly data: Uint8Array;
}

/**
 * A device at the other end of a vfio-user socket. Calls may be made while others wait; the server carries them out in
 * order. Where it answers with an error, the call fails with ERR_VFIO_REMOTE and its errno; where the connection is gone,
 * with ERR_VFIO_DISCONNECTED, and a new client is needed.
 */
export class VfioUserClient implements VfioDeviceClient {
  readonly name = 'vfio-user';
  /** What the server can do. */
  readonly limits: ServerLimits;
  /** Settles with the reason when the connection is over. Never rejects. */
  readonly closed: Promise<string>;
  readonly #remote: RemoteDevice;
  readonly #connection: Connection;
  readonly #shared: boolean;
  readonly #receiver: CommandReceiver;
  #twin: CommandReceiver | undefined;
  #resolveClosed: (reason: string) => void = () => {};
  #isOver = false;

  private constructor(receiver: CommandReceiver, limits: ServerLimits, options: ConnectOptions) {
    this.#receiver = receiver;
    this.#connection = receiver.connection;
    this.#shared = options.loop === undefined;
    this.limits = limits;
    this.#remote = new RemoteDevice(limits, this.#connection.loop);
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    receiver.owner = {
      memory: this.#remote.memory,
      maxData: limits.maxDataXferSize,
      end: (reason) => this.#end(reason),
    };
  }

  /**
   * Connects to a server and agrees on a version.
   * @param where the socket's path, or a connected socket, the client's from now on
   * @throws ERR_VFIO_SYSCALL (ECONNREFUSED, ENOENT), ERR_VFIO_REMOTE where the server refuses (EBUSY, EACCES: its device
   *   could not be opened), ERR_VFIO_TIMEOUT where it does not answer: another client is attached, ERR_VFIO_PROTOCOL or
   *   ERR_VFIO_INVALID_STRUCT for an answer that cannot be
   */
  static async connect(where: string | { readonly fd: number }, options: ConnectOptions = {}): Promise<VfioUserClient> {
    checkOptions(options);
    const fd = typeof where === 'string' ? connectUnix(where) : where.fd;
    const loop = options.loop ?? acquireSharedLoop();
    loop.ref();
    const release = () => {
      loop.unref();
      if (options.loop === undefined) releaseSharedLoop();
    };
    let receiver: CommandReceiver;
    try {
      receiver = new CommandReceiver(loop, fd, options);
    } catch (error) {
      closeFd(fd);
      release();
      throw error;
    }
    try {
      const proposal = {
        maxMsgFds: CLIENT_MAX_MSG_FDS,
        maxDataXferSize: options.maxDataXferSize ?? Math.min(MAX_DATA_XFER_SIZE, loop.maxDataXferSize),
        twinSocket: options.twinSocket ?? true,
      };
      const { limits, twinFd } = await runAsync(negotiate(proposal), receiver);
      const client = new VfioUserClient(receiver, limits, options);
      if (twinFd !== undefined) client.#useTwin(twinFd, options);
      return client;
    } catch (error) {
      receiver.connection.close();
      release();
      throw error;
    }
  }

  #useTwin(fd: number, options: ConnectOptions): void {
    try {
      this.#twin = new CommandReceiver(this.#connection.loop, fd, options);
      this.#twin.owner = this.#receiver.owner;
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  }

  #run<T>(procedure: Procedure<T>): Promise<T> {
    return runAsync(procedure, this.#receiver);
  }

  getInfo(): Promise<DeviceInfo> {
    return this.#run(this.#remote.getInfo());
  }

  getRegionInfo(index: number): Promise<RegionInfo> {
    return this.#run(this.#remote.getRegionInfo(index));
  }

  getIrqInfo(index: number): Promise<IrqInfo> {
    return this.#run(this.#remote.getIrqInfo(index));
  }

  /** @throws ENOTTY: the protocol has no such command */
  async getHotResetInfo(): Promise<HotResetInfo> {
    throw notOverSocket('getHotResetInfo');
  }

  read(region: number, offset: number, data: Uint8Array): Promise<number> {
    return this.#run(this.#remote.read(region, offset, data));
  }

  write(region: number, offset: number, data: Uint8Array): Promise<number> {
    return this.#run(this.#remote.write(region, offset, data));
  }

  /** Writes without waiting, in order with everything else; whether it worked is not told. */
  post(write: PostedWrite): void {
    const { region, offset, data } = write;
    const most = this.limits.maxDataXferSize;
    for (let done = 0; done < data.length; done += most) {
      const part = encodeVfioUserRegionData(region, offset + done, data.subarray(done, done + most), LITTLE_ENDIAN);
      this.#connection.post(VFIO_USER_REGION_WRITE, [part]);
    }
  }

  /** {@link post} of several writes; where the server takes that, those of up to 8 bytes go many in one message. */
  postAll(writes: readonly PostedWrite[]): void {
    if (!this.limits.writeMultiple || writes.some(({ data }) => data.length > VFIO_USER_MULTI_DATA)) {
      for (const write of writes) this.post(write);
      return;
    }
    for (let done = 0; done < writes.length; done += VFIO_USER_MULTI_MAX) {
      const part = encodeVfioUserWriteMulti(writes.slice(done, done + VFIO_USER_MULTI_MAX), LITTLE_ENDIAN);
      this.#connection.post(VFIO_USER_REGION_WRITE_MULTI, [part]);
    }
  }

  mmapArea(region: number, offset: number, length: number): Promise<MmapArea> {
    return this.#run(this.#remote.mmapArea(region, offset, length));
  }

  setIrqs(request: SetIrqsRequest): Promise<number> {
    return this.#run(this.#remote.setIrqs(request));
  }

  /** @throws ENOTTY: the protocol has no such command */
  async ioeventfd(request: IoeventfdRequest): Promise<void> {
    request.trigger?.release();
    throw notOverSocket('ioeventfd');
  }

  reset(): Promise<void> {
    return this.#run(this.#remote.reset());
  }

  /** @throws ENOTTY: the protocol has no such command */
  async hotReset(_request: HotResetRequest): Promise<void> {
    throw notOverSocket('hotReset');
  }

  async deviceFeature(request: FeatureRequest): Promise<FeatureResult> {
    const { result, opened } = await this.#run(this.#remote.deviceFeature(request));
    return withStream(result, opened && this.#migrationData(opened));
  }

  #migrationData(stream: MigrationStream): MigrationData {
    return {
      read: (into) => this.#run(stream.read(into)),
      write: (from) => this.#run(stream.write(from)),
      precopyInfo: () => Promise.reject(notOverSocket('precopyInfo')),
      close: () => stream.end(),
    };
  }

  dmaMap(request: DmaMapRequest): Promise<void> {
    return this.#run(this.#remote.dmaMap(request));
  }

  dmaUnmap(iova: bigint, size: bigint): Promise<void> {
    return this.#run(this.#remote.dmaUnmap(iova, size));
  }

  /** Makes memory and maps it. `free` unmaps it again. @throws as {@link dmaMap} */
  async dmaAlloc(request: DmaAllocRequest): Promise<AllocatedMemory> {
    const { iova, size, readable = true, writable = true, messagesOnly = false } = request;
    const { memory, release } = allocateMemory(size, messagesOnly);
    await this.dmaMap({ iova, size: BigInt(size), readable, writable, memory, release });
    return { iova, bytes: memory.bytes, fd: memory.fd, free: () => this.dmaUnmap(iova, BigInt(size)) };
  }

  /** Leaves the server. Idempotent; never rejects. */
  async close(): Promise<void> {
    this.#end('closed by this side');
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #end(reason: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#connection.close(reason);
    this.#twin?.connection.close(reason);
    this.#remote.release();
    const { loop } = this.#connection;
    loop.unref();
    if (this.#shared) releaseSharedLoop();
    this.#resolveClosed(reason);
  }
}

/** A SET of the migration state answers the stream beside the state, as a local device does. */
export function withStream(result: unknown, data: MigrationData | undefined): unknown {
  return data === undefined ? result : { ...(result as object), data };
}

/** What a {@link CommandReceiver} needs once the client knows its server. */
interface ReceiverOwner {
  readonly memory: RemoteDevice['memory'];
  readonly maxData: number;
  end(reason: string): void;
}

/** One socket of a client: gives replies to the calls that wait for them, and serves the server's commands. */
class CommandReceiver implements LoopSource, Wire<Promise<ReceivedReply>> {
  readonly connection: Connection;
  owner: ReceiverOwner | undefined;
  readonly #timeoutMs: number;

  constructor(loop: ServiceLoop, fd: number, options: ConnectOptions) {
    this.#timeoutMs = options.timeoutMs ?? CLIENT_TIMEOUT_MS;
    this.connection = new Connection({
      loop,
      fd,
      source: this,
      sends: '>',
      socket: {
        maxMessageSize: maxMessageSize(options.maxDataXferSize ?? loop.maxDataXferSize),
        maxFds: CLIENT_MAX_MSG_FDS,
        maxQueuedBytes: CLIENT_MAX_UNSENT_BYTES,
      },
      tracer: options.trace === undefined ? undefined : new Tracer(options.trace),
    });
  }

  get isClosed(): boolean {
    return this.connection.isClosed;
  }

  request({ command, pieces, fds }: Call): Promise<ReceivedReply> {
    return this.connection.request(command, pieces, { fds, timeoutMs: this.#timeoutMs });
  }

  onMessage(offset: number, length: number): void {
    const { state } = this.connection.loop.messages;
    const id = state[LOOP_SLOT.ID]!;
    const flags = state[LOOP_SLOT.FLAGS]!;
    const isReply = (flags & VFIO_USER_F_TYPE_MASK) === VFIO_USER_F_TYPE_REPLY;
    // Servers on the Rust crate before 0.1.4 leave the type out of error replies.
    const isUntypedError = (flags & VFIO_USER_F_ERROR) !== 0 && this.connection.isExpected(id);
    if (isReply || isUntypedError) {
      const problem = receiveReply(this.connection, offset, length);
      if (problem !== undefined) this.#end(problem);
      return;
    }
    this.#serve(offset, length);
  }

  #serve(offset: number, length: number): void {
    const { connection, owner } = this;
    const { state } = connection.loop.messages;
    const { rx } = connection.socket;
    connection.tracer?.message('<', rx.subarray(offset, offset + length), state[LOOP_SLOT.FD_COUNT]!);
    if (owner === undefined) {
      this.#end('the server sent a command before it answered VERSION');
      return;
    }
    const id = state[LOOP_SLOT.ID]!;
    const command = state[LOOP_SLOT.COMMAND]!;
    const isPosted = (state[LOOP_SLOT.FLAGS]! & VFIO_USER_F_NO_REPLY) !== 0;
    const payload = rx.slice(offset + VFIO_USER_HEADER_SIZE, offset + length);
    const served = owner.memory.serve(
      { command, payload, fdCount: state[LOOP_SLOT.FD_COUNT]! },
      { maxData: owner.maxData, canWait: true },
    );
    if (isPosted) return;
    const answer = (reply: Awaited<typeof served>) => {
      if ('payload' in reply) connection.reply(id, command, [reply.payload]);
      else connection.replyError(id, command, reply.errno);
    };
    if (served instanceof Promise) void served.then(answer);
    else answer(served);
  }

  onClosed(errno: number): void {
    this.#end(errno === 0 ? 'the server closed the connection' : `the connection failed (errno ${errno})`);
  }

  onBadSize(): void {
    this.#end('the server sent a message of an impossible size');
  }

  #end(reason: string): void {
    if (this.owner !== undefined) this.owner.end(reason);
    else this.connection.close(reason);
  }
}
