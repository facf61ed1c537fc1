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
import { closeFd, connectUnix, sendMessage, transact } from '@vfio/native';
import {
  VFIO_USER_F_ERROR,
  VFIO_USER_F_NO_REPLY,
  VFIO_USER_F_TYPE_MASK,
  VFIO_USER_F_TYPE_REPLY,
  VFIO_USER_HEADER_SIZE,
  VfioError,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { buildMessage, disconnectedError, type ReceivedReply, replyErrno } from '../connection.js';
import { CLIENT_MAX_MSG_FDS, CLIENT_TIMEOUT_MS, MAX_DATA_XFER_SIZE, maxMessageSize } from '../limits.js';
import { isServedHere } from '../local-servers.js';
import { acquireSharedLoop, releaseSharedLoop } from '../service-loop.js';
import { commandName } from '../trace.js';
import { withStream } from './client.js';
import type { MigrationStream } from './migration-stream.js';
import { type Call, type Procedure, runSync } from './procedure.js';
import { negotiate, type ServerLimits } from './proposal.js';
import { notOverSocket, RemoteDevice } from './remote-device.js';

/** Options of {@link VfioUserBlockingClient.connect}. */
export interface BlockingConnectOptions {
  /** Milliseconds to wait for a reply. @default 5000 */
  readonly timeoutMs?: number;
  /** Bytes of data in one message. @default 1 MiB */
  readonly maxDataXferSize?: number;
}

/**
 * A device at the other end of a vfio-user socket whose calls block until they are answered: a `VfioDevice` like a local
 * one, for programs without an event loop to serve and as the base of another device. The server's commands are served
 * while a call waits. It cannot talk to a server of the same thread.
 */
export class VfioUserBlockingClient implements VfioDevice {
  readonly function: PciFunction;
  readonly name = 'vfio-user';
  readonly limits: ServerLimits;
  readonly #remote: RemoteDevice;
  readonly #wire: BlockingWire;

  private constructor(fn: PciFunction, wire: BlockingWire, limits: ServerLimits, remote: RemoteDevice) {
    this.function = fn;
    this.#wire = wire;
    this.limits = limits;
    this.#remote = remote;
  }

  /**
   * Connects, waiting for the answer.
   * @param fn the function that the device is presented as
   * @throws ERR_VFIO_WOULD_DEADLOCK where a server of this thread listens at the path; otherwise as the other client
   */
  static connect(path: string, fn: PciFunction, options: BlockingConnectOptions = {}): VfioUserBlockingClient {
    if (isServedHere(path)) {
      throw new VfioError(
        'ERR_VFIO_WOULD_DEADLOCK',
        `${path} is served by this thread, which a blocking call would stop; use VfioUserClient, or serve in a worker`,
        { errno: 'EDEADLK', op: 'connect' },
      );
    }
    const wire = new BlockingWire(connectUnix(path), options);
    try {
      const proposal = {
        maxMsgFds: CLIENT_MAX_MSG_FDS,
        maxDataXferSize: options.maxDataXferSize ?? MAX_DATA_XFER_SIZE,
        // Commands come while a call waits: one socket is enough.
        twinSocket: false,
      };
      const { limits } = runSync(negotiate(proposal), (call) => wire.request(call));
      const remote = new RemoteDevice(limits, acquireSharedLoop());
      wire.remote = remote;
      wire.maxData = limits.maxDataXferSize;
      return new VfioUserBlockingClient(fn, wire, limits, remote);
    } catch (error) {
      wire.close();
      throw error;
    }
  }

  #run<T>(procedure: Procedure<T>): T {
    return runSync(procedure, (call) => this.#wire.request(call));
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
    if (this.#wire.isClosed) return;
    this.#wire.close();
    this.#remote.release();
    releaseSharedLoop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

/** A socket that is waited on. After a timeout or a broken message nothing more can be made of it. */
class BlockingWire {
  remote: RemoteDevice | undefined;
  maxData = 0;
  readonly #timeoutMs: number;
  readonly #buffer: Uint8Array;
  readonly #fds = new Int32Array(CLIENT_MAX_MSG_FDS);
  #fd: number;
  #nextId = 0;

  constructor(fd: number, options: BlockingConnectOptions) {
    this.#fd = fd;
    this.#timeoutMs = options.timeoutMs ?? CLIENT_TIMEOUT_MS;
    this.#buffer = new Uint8Array(maxMessageSize(options.maxDataXferSize ?? MAX_DATA_XFER_SIZE));
  }

  get isClosed(): boolean {
    return this.#fd < 0;
  }

  request({ command, pieces, fds }: Call): ReceivedReply {
    if (this.#fd < 0) throw disconnectedError(command);
    this.#nextId = (this.#nextId + 1) & 0xffff;
    const id = this.#nextId;
    const message = buildMessage(id, command, 0, 0, pieces);
    try {
      let received = this.#transact({ bytes: message, ...(fds === undefined ? {} : { fds }) });
      // The server may want memory before it answers.
      while (!received.isReply) {
        this.#serve(received);
        received = this.#transact(undefined);
      }
      if (received.id !== id) throw broken(command, `reply 0x${received.id.toString(16)} to 0x${id.toString(16)}`);
      return this.#answer(command, received);
    } catch (error) {
      if (error instanceof VfioError && error.code !== 'ERR_VFIO_REMOTE') this.close();
      throw error;
    }
  }

  #answer(command: number, received: Received): ReceivedReply {
    if ((received.flags & VFIO_USER_F_ERROR) === 0) return { payload: received.payload, fds: received.fds };
    for (const fd of received.fds) closeFd(fd);
    const op = commandName(command);
    const errno = replyErrno(received.errno);
    throw new VfioError('ERR_VFIO_REMOTE', `${op}: the peer answered ${errno}`, { errno, op });
  }

  #transact(request: { bytes: Uint8Array; fds?: readonly number[] } | undefined): Received {
    const { length, fdCount } = transact(this.#fd, request, this.#buffer, this.#timeoutMs, this.#fds);
    const view = new DataView(this.#buffer.buffer);
    const flags = view.getUint32(8, LITTLE_ENDIAN);
    return {
      id: view.getUint16(0, LITTLE_ENDIAN),
      command: view.getUint16(2, LITTLE_ENDIAN),
      flags,
      errno: view.getUint32(12, LITTLE_ENDIAN),
      isReply: (flags & (VFIO_USER_F_TYPE_MASK | VFIO_USER_F_ERROR)) !== 0,
      payload: this.#buffer.slice(VFIO_USER_HEADER_SIZE, length),
      fds: [...this.#fds.subarray(0, fdCount)],
    };
  }

  /** Carries out a command of the server. */
  #serve(received: Received): void {
    for (const fd of received.fds) closeFd(fd);
    const { id, command, flags, payload, fds } = received;
    const served = this.remote?.memory.serve(command, payload, fds.length, this.maxData);
    if (served === undefined || served instanceof Promise) {
      throw broken(command, 'the server wants memory that cannot be had while this thread waits');
    }
    if ((flags & VFIO_USER_F_NO_REPLY) !== 0) return;
    const reply =
      'payload' in served
        ? buildMessage(id, command, VFIO_USER_F_TYPE_REPLY, 0, [served.payload])
        : buildMessage(id, command, VFIO_USER_F_TYPE_REPLY | VFIO_USER_F_ERROR, served.errno, []);
    for (let rest = reply; rest.length > 0; ) rest = rest.subarray(sendMessage(this.#fd, [rest]));
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
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
}

function broken(command: number, why: string): VfioError {
  const op = commandName(command);
  return new VfioError('ERR_VFIO_PROTOCOL', `${op}: ${why}`, { errno: 'EPROTO', op });
}
