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
  PciFunction,
  RegionInfo,
  SetIrqsRequest,
  VfioDevice,
} from '@vfio/core';
import { closeFd, connectUnix, type TransactRequest, transact } from '@vfio/native';
import {
  isVfioError,
  VFIO_USER_F_ERROR,
  VFIO_USER_F_NO_REPLY,
  VFIO_USER_F_TYPE_MASK,
  VFIO_USER_F_TYPE_REPLY,
  VFIO_USER_HEADER_SIZE,
  VfioError,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import {
  brokenReplyError,
  buildMessage,
  closeAll,
  disconnectedError,
  type ReceivedReply,
  remoteError,
  strayReply,
  wrongCommandError,
} from '../connection.js';
import { CLIENT_MAX_MSG_FDS, CLIENT_TIMEOUT_MS, MAX_DATA_XFER_SIZE, maxMessageSize } from '../limits.js';
import { isServedHere } from '../local-servers.js';
import { acquireSharedLoop, releaseSharedLoop } from '../service-loop.js';
import { commandName } from '../trace.js';
import { withStream } from './client.js';
import type { MappedMemory } from './client-memory.js';
import type { MigrationStream } from './migration-stream.js';
import { type Call, type Procedure, runSync, type Wire } from './procedure.js';
import { type ClientOptions, checkOptions, negotiate, type ServerLimits } from './proposal.js';
import { notOverSocket, RemoteDevice } from './remote-device.js';

/**
 * A device at the other end of a vfio-user socket whose calls block until they are answered: a `VfioDevice` like a local
 * one, for programs without an event loop to serve and as the base of another device. The server's commands are served
 * while a call waits. It cannot talk to a server of the same thread. After a reply that did not come in time it is of no
 * more use: what comes late could not be told from the next one.
 */
export class VfioUserBlockingClient implements VfioDevice {
  readonly function: PciFunction;
  readonly name = 'vfio-user';
  readonly limits: ServerLimits;
  readonly #remote: RemoteDevice;
  readonly #wire: BlockingWire;
  #isReleased = false;

  private constructor(fn: PciFunction, wire: BlockingWire, limits: ServerLimits, remote: RemoteDevice) {
    this.function = fn;
    this.#wire = wire;
    this.limits = limits;
    this.#remote = remote;
  }

  /**
   * Connects, waiting for the answer.
   * @param where the socket's path, or a connected socket, the client's from now on, with its server in another thread
   * @param fn the function that the device is presented as
   * @throws ERR_VFIO_WOULD_DEADLOCK where a server of this thread listens at the path; otherwise as the other client
   */
  static connect(
    where: string | { readonly fd: number },
    fn: PciFunction,
    options: ClientOptions = {},
  ): VfioUserBlockingClient {
    checkOptions(options);
    if (typeof where === 'string' && isServedHere(where)) {
      throw new VfioError(
        'ERR_VFIO_WOULD_DEADLOCK',
        `${where} is served by this thread, which a blocking call would stop; use VfioUserClient, or serve in a worker`,
        { errno: 'EDEADLK', op: 'connect' },
      );
    }
    const wire = new BlockingWire(typeof where === 'string' ? connectUnix(where) : where.fd, options);
    try {
      const proposal = {
        maxMsgFds: CLIENT_MAX_MSG_FDS,
        maxDataXferSize: options.maxDataXferSize ?? MAX_DATA_XFER_SIZE,
        // Commands come while a call waits: one socket is enough.
        twinSocket: false,
      };
      const { limits } = runSync(negotiate(proposal), wire);
      const remote = new RemoteDevice(limits, acquireSharedLoop());
      wire.memory = remote.memory;
      wire.maxData = limits.maxDataXferSize;
      return new VfioUserBlockingClient(fn, wire, limits, remote);
    } catch (error) {
      wire.close();
      throw error;
    }
  }

  #run<T>(procedure: Procedure<T>): T {
    return runSync(procedure, this.#wire);
  }

  getInfo(): DeviceInfo {
    return this.#run(this.#remote.getInfo());
  }

  getRegionInfo(index: number): RegionInfo {
    return this.#run(this.#remote.getRegionInfo(index));
  }

  getIrqInfo(index: number): IrqInfo {
    return this.#run(this.#remote.getIrqInfo(index));
  }

  /** @throws ENOTTY: the protocol has no such command */
  getHotResetInfo(): HotResetInfo {
    throw notOverSocket('getHotResetInfo');
  }

  read(region: number, offset: number, data: Uint8Array): number {
    return this.#run(this.#remote.read(region, offset, data));
  }

  write(region: number, offset: number, data: Uint8Array): number {
    return this.#run(this.#remote.write(region, offset, data));
  }

  mmapArea(region: number, offset: number, length: number): MmapArea {
    return this.#run(this.#remote.mmapArea(region, offset, length));
  }

  setIrqs(request: SetIrqsRequest): number {
    return this.#run(this.#remote.setIrqs(request));
  }

  /** @throws ENOTTY: the protocol has no such command */
  ioeventfd(request: IoeventfdRequest): void {
    request.trigger?.release();
    throw notOverSocket('ioeventfd');
  }

  reset(): void {
    this.#run(this.#remote.reset());
  }

  /** @throws ENOTTY: the protocol has no such command */
  hotReset(_request: HotResetRequest): void {
    throw notOverSocket('hotReset');
  }

  deviceFeature(request: FeatureRequest): FeatureResult {
    const { result, opened } = this.#run(this.#remote.deviceFeature(request));
    return withStream(result, opened && this.#migrationData(opened));
  }

  #migrationData(stream: MigrationStream): MigrationData {
    return {
      read: (into) => this.#run(stream.read(into)),
      write: (from) => this.#run(stream.write(from)),
      precopyInfo: () => {
        throw notOverSocket('precopyInfo');
      },
      close: () => stream.end(),
    };
  }

  dmaMap(request: DmaMapRequest): void {
    this.#run(this.#remote.dmaMap(request));
  }

  dmaUnmap(iova: bigint, size: bigint): void {
    this.#run(this.#remote.dmaUnmap(iova, size));
  }

  /** Leaves the server. Idempotent. */
  close(): void {
    if (this.#isReleased) return;
    this.#isReleased = true;
    this.#wire.close();
    this.#remote.release();
    releaseSharedLoop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

/** A socket that is waited on. After a timeout or a broken message nothing more can be made of it. */
class BlockingWire implements Wire<ReceivedReply> {
  memory: MappedMemory | undefined;
  maxData = 0;
  readonly #timeoutMs: number;
  readonly #buffer: Uint8Array;
  readonly #fds = new Int32Array(CLIENT_MAX_MSG_FDS);
  #fd: number;
  #nextId = 0;

  constructor(fd: number, options: ClientOptions) {
    this.#fd = fd;
    this.#timeoutMs = options.timeoutMs ?? CLIENT_TIMEOUT_MS;
    this.#buffer = new Uint8Array(maxMessageSize(options.maxDataXferSize ?? MAX_DATA_XFER_SIZE));
  }

  get isClosed(): boolean {
    return this.#fd < 0;
  }

  request(call: Call): ReceivedReply {
    const { command } = call;
    if (this.#fd < 0) throw disconnectedError(command);
    this.#nextId = (this.#nextId + 1) & 0xffff;
    const id = this.#nextId;
    let received: Received;
    try {
      received = this.#exchange(command, { bytes: buildMessage(id, command, 0, 0, call.pieces), fds: call.fds ?? [] });
      const problem = answers(received, id, command);
      if (problem !== undefined) {
        closeAll(received.reply.fds);
        throw problem;
      }
    } catch (error) {
      this.close();
      throw error;
    }
    if ((received.flags & VFIO_USER_F_ERROR) === 0) return received.reply;
    closeAll(received.reply.fds);
    throw remoteError(command, received.errno);
  }

  /** Sends a request and waits for a reply, within the time of one call. The server may want memory before it answers. */
  #exchange(command: number, request: TransactRequest): Received {
    const deadline = performance.now() + this.#timeoutMs;
    let sent: TransactRequest | undefined = request;
    for (;;) {
      const left = Math.max(0, Math.ceil(deadline - performance.now()));
      const received = this.#transact(command, sent, left);
      if (received.isReply) return received;
      const reply = this.#serve(received);
      sent = reply && { bytes: reply };
    }
  }

  #transact(command: number, request: TransactRequest | undefined, timeoutMs: number): Received {
    const { length, fdCount, truncated } = this.#wait(command, () =>
      transact(this.#fd, request, this.#buffer, timeoutMs, this.#fds),
    );
    const view = new DataView(this.#buffer.buffer);
    const flags = view.getUint32(8, LITTLE_ENDIAN);
    return {
      id: view.getUint16(0, LITTLE_ENDIAN),
      command: view.getUint16(2, LITTLE_ENDIAN),
      flags,
      errno: view.getUint32(12, LITTLE_ENDIAN),
      isReply: (flags & (VFIO_USER_F_TYPE_MASK | VFIO_USER_F_ERROR)) !== 0,
      reply: {
        payload: this.#buffer.slice(VFIO_USER_HEADER_SIZE, length),
        fds: [...this.#fds.subarray(0, fdCount)],
        truncated,
      },
    };
  }

  /** What went wrong below is told as of the command, with the codes of the other client. */
  #wait<T>(command: number, step: () => T): T {
    try {
      return step();
    } catch (error) {
      if (!isVfioError(error)) throw error;
      if (error.code === 'ERR_VFIO_DISCONNECTED') throw disconnectedError(command, 'the server closed the connection');
      const op = commandName(command);
      if (error.code === 'ERR_VFIO_TIMEOUT') {
        throw new VfioError(error.code, `${op}: no reply within ${this.#timeoutMs} ms`, { errno: 'ETIMEDOUT', op });
      }
      throw new VfioError(error.code, `${op}: ${error.message}`, { errno: error.errno, op, cause: error });
    }
  }

  /** Carries out a command of the server; undefined where it wants no reply. */
  #serve({ id, command, flags, reply: { payload, fds } }: Received): Uint8Array | undefined {
    closeAll(fds);
    const limits = { maxData: this.maxData, canWait: false };
    const served = this.memory?.serve({ command, payload, fdCount: fds.length }, limits);
    if (served === undefined || served instanceof Promise) {
      throw brokenReplyError(command, 'with a command before it has answered VERSION');
    }
    if ((flags & VFIO_USER_F_NO_REPLY) !== 0) return undefined;
    return 'payload' in served
      ? buildMessage(id, command, VFIO_USER_F_TYPE_REPLY, 0, [served.payload])
      : buildMessage(id, command, VFIO_USER_F_TYPE_REPLY | VFIO_USER_F_ERROR, served.errno, []);
  }

  close(): void {
    if (this.#fd < 0) return;
    closeFd(this.#fd);
    this.#fd = -1;
  }
}

interface Received {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly errno: number;
  readonly isReply: boolean;
  readonly reply: ReceivedReply;
}

/** Why a reply is not the one to a request. */
function answers(received: Received, id: number, command: number): VfioError | undefined {
  if (received.id !== id) return disconnectedError(command, strayReply(received.id));
  return received.command === command ? undefined : wrongCommandError(command, id, received.command);
}
