import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { type ErrnoName, errnoError, isVfioError, systemError, VfioError, type VfioErrorCode } from '@vfio/core';
import {
  CancellationTokenSource,
  createMessageConnection,
  type MessageConnection,
  NullLogger,
  ResponseError,
} from 'vscode-jsonrpc/node';
import type { MethodName, ParamsOf, ProgressOf, ResultOf } from '../methods/index.js';
import { BoundedReader } from './bounded-reader.js';
import { BoundedWriter } from './bounded-writer.js';
import {
  CONTROL_PROTOCOL,
  type ErrorData,
  HELLO,
  HELLO_TIMEOUT_MS,
  type Hello,
  MAX_RESPONSE_SIZE,
  PROGRESS,
  RPC_ERROR,
} from './protocol.js';

export interface ConnectOptions {
  /** Milliseconds for the first answer. @default 5000 */
  readonly timeoutMs?: number;
}

export interface CallOptions<M extends MethodName> {
  /** Which function; may be left out where the server has one. */
  readonly address?: string | undefined;
  readonly onProgress?: (value: ProgressOf<M>) => void;
  /** Cancels the call. It then ends as the server says: with an error, or with its result where that was faster. */
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds for the answer. @default as long as it takes */
  readonly timeoutMs?: number | undefined;
}

/** Milliseconds that a call which was cancelled may take to put things back, before it is no longer waited for. */
const CANCEL_TIMEOUT_MS = 10_000;

/** The other end of the control socket of a `vfio serve`. */
export class ControlClient {
  readonly path: string;
  readonly #socket: Socket;
  readonly #rpc: MessageConnection;
  #hello: Hello | undefined;
  #lastToken = 0;
  /** Why the connection is over, where this side knows. */
  #problem: string | undefined;

  private constructor(path: string, socket: Socket) {
    this.path = path;
    this.#socket = socket;
    const reader = new BoundedReader(socket, MAX_RESPONSE_SIZE);
    this.#rpc = createMessageConnection(reader, new BoundedWriter(socket), NullLogger);
    this.#rpc.onError(([error]) => {
      this.#problem ??= error.message;
      socket.destroy();
    });
    socket.on('error', (error) => {
      this.#problem ??= error.message;
    });
    // Fails what waits.
    socket.once('close', () => this.#rpc.dispose());
    this.#rpc.listen();
  }

  /**
   * Connects and makes sure of who is there.
   * @throws ERR_VFIO_SYSCALL with what connect(2) says (ENOENT, ECONNREFUSED, EACCES), ERR_VFIO_PROTOCOL (EPROTO) where it is
   *   no control socket, ERR_VFIO_TIMEOUT (ETIMEDOUT), ERR_VFIO_NOT_SUPPORTED (EOPNOTSUPP) for a newer protocol
   */
  static async connect(path: string, options: ConnectOptions = {}): Promise<ControlClient> {
    const socket = connect(path);
    try {
      await once(socket, 'connect');
    } catch (cause) {
      throw systemError(`control socket ${path}`, 'connect', cause);
    }
    const client = new ControlClient(path, socket);
    const timeoutMs = options.timeoutMs ?? HELLO_TIMEOUT_MS;
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      socket.destroy();
    }, timeoutMs);
    try {
      const hello = await client.#rpc.sendRequest<Hello | null>(HELLO);
      if (hello?.server !== 'vfio serve') throw new Error('who answers is not vfio serve');
      client.#hello = hello;
    } catch (cause) {
      socket.destroy();
      if (isLate) {
        const message = `${path} did not say what it is within ${timeoutMs} ms: is it a socket for VMMs, not the control socket?`;
        throw new VfioError('ERR_VFIO_TIMEOUT', message, { errno: 'ETIMEDOUT', op: 'control' });
      }
      const message = `${path} is not the control socket of a vfio serve (${client.#problem ?? 'it does not answer as one'})`;
      throw new VfioError('ERR_VFIO_PROTOCOL', message, { errno: 'EPROTO', op: 'control', cause });
    } finally {
      clearTimeout(timer);
    }
    const { protocol, version } = client.hello;
    if (protocol > CONTROL_PROTOCOL) {
      socket.destroy();
      const message = `the server at ${path} (version ${version}) speaks control protocol ${protocol}, this command ${CONTROL_PROTOCOL}`;
      throw errnoError('EOPNOTSUPP', message, { op: 'control' });
    }
    return client;
  }

  /** Who the server is. */
  get hello(): Hello {
    if (this.#hello === undefined) throw new Error('connect() has not ended');
    return this.#hello;
  }

  /** Whether the server has a method: it may be older than this client. */
  has(method: MethodName): boolean {
    return this.hello.methods.includes(method);
  }

  /**
   * Calls a method.
   * @throws what the method threw, code and errno included; ERR_VFIO_NOT_SUPPORTED (ENOSYS) where the server is older than
   *   the method, ERR_VFIO_DISCONNECTED (ENOTCONN) where it goes away, ERR_VFIO_TIMEOUT (ETIMEDOUT); the signal's reason where
   *   the call was cancelled
   */
  async call<M extends MethodName>(method: M, params: ParamsOf<M>, options: CallOptions<M> = {}): Promise<ResultOf<M>> {
    const { address, onProgress, signal, timeoutMs } = options;
    signal?.throwIfAborted();
    if (!this.has(method)) {
      const { version, methods } = this.hello;
      const message = `the server at ${this.path} (version ${version}) has no method "${method}"; it has ${methods.join(', ')}`;
      throw errnoError('ENOSYS', message, { op: method });
    }
    const source = new CancellationTokenSource();
    let giveUp: (error: unknown) => void = () => {};
    const late = new Promise<never>((_, reject) => {
      giveUp = reject;
    });
    late.catch(() => {});
    let timer =
      timeoutMs === undefined ? undefined : setTimeout(() => giveUp(this.#lateError(method, timeoutMs)), timeoutMs);
    const cancel = (): void => {
      source.cancel();
      clearTimeout(timer);
      timer = setTimeout(() => giveUp(signal?.reason), CANCEL_TIMEOUT_MS);
    };
    signal?.addEventListener('abort', cancel, { once: true });
    const progressToken = String(++this.#lastToken);
    const listener =
      onProgress === undefined
        ? undefined
        : this.#rpc.onProgress(PROGRESS, progressToken, (value) => onProgress(value as ProgressOf<M>));
    const request = {
      ...(params as object),
      ...(address === undefined ? {} : { address }),
      ...(listener === undefined ? {} : { progressToken }),
    };
    try {
      return await Promise.race([this.#rpc.sendRequest<ResultOf<M>>(method, request, source.token), late]);
    } catch (error) {
      throw this.#errorOf(error, method, signal);
    } finally {
      clearTimeout(timer);
      listener?.dispose();
      signal?.removeEventListener('abort', cancel);
      source.dispose();
    }
  }

  #lateError(op: string, timeoutMs: number): VfioError {
    const message = `${op}: ${this.path} did not answer within ${timeoutMs} ms: what it is about hangs, and the server's own output says in what`;
    return new VfioError('ERR_VFIO_TIMEOUT', message, { errno: 'ETIMEDOUT', op });
  }

  #errorOf(error: unknown, op: string, signal: AbortSignal | undefined): unknown {
    if (isVfioError(error) || (signal?.aborted === true && error === signal.reason)) return error;
    if (this.#socket.destroyed || !(error instanceof ResponseError)) {
      const reason = this.#problem ?? 'the server is gone';
      return new VfioError('ERR_VFIO_DISCONNECTED', `${op}: ${this.path}: ${reason}`, { errno: 'ENOTCONN', op });
    }
    if (error.code === RPC_ERROR.CANCELLED && signal?.aborted === true) return signal.reason;
    const data = (error.data ?? {}) as Partial<ErrorData>;
    // A code that only a newer version knows is still the best that there is to show.
    return new VfioError((data.code ?? 'ERR_VFIO_REMOTE') as VfioErrorCode, error.message, {
      errno: (data.errno ?? undefined) as ErrnoName | undefined,
      device: data.device ?? undefined,
      op,
    });
  }

  /** Ends the connection; calls that run are cancelled. */
  close(): void {
    this.#socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
