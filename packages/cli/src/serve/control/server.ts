import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { messageOf, normalizePciAddress } from '@vfio/core';
import { makeSocketFile, removeSocketFile, type SocketFile } from '@vfio/vfio-user';
import { createMessageConnection, type MessageConnection, NullLogger, ResponseError } from 'vscode-jsonrpc/node';
import { plainError } from '../plain-error.js';
import { BoundedReader } from './bounded-reader.js';
import { BoundedWriter } from './bounded-writer.js';
import { CallError, type CallsToThread } from './calls-to-thread.js';
import {
  CONTROL_PROTOCOL,
  type ErrorData,
  HELLO,
  type Hello,
  MAX_CALLS,
  MAX_CONNECTIONS,
  MAX_REQUEST_SIZE,
  PROGRESS,
  RPC_ERROR,
} from './protocol.js';

export interface ControlServerOptions {
  readonly version: string;
  readonly methods: readonly string[];
  /** By address: the thread that serves it. */
  readonly functions: ReadonlyMap<string, CallsToThread>;
  readonly warn: (message: string) => void;
}

type Params = Readonly<Record<string, unknown>>;

/**
 * The control socket, in the command's thread: takes calls and passes them on to the threads that serve. Who may open the
 * socket file may do everything; its mode, 0600, is the only check.
 */
export class ControlServer {
  readonly #options: ControlServerOptions;
  readonly #file: SocketFile;
  readonly #server: Server;
  readonly #connections = new Set<Socket>();

  private constructor(file: SocketFile, options: ControlServerOptions) {
    this.#file = file;
    this.#options = options;
    this.#server = createServer((socket) => this.#accept(socket));
    this.#server.maxConnections = MAX_CONNECTIONS;
    // Accepting failed: no descriptor is free, say. It goes on listening.
    this.#server.on('error', (error) => options.warn(`the control socket: ${messageOf(error)}`));
  }

  /** Listens. A socket file that a dead server left is replaced. @throws as for the sockets of functions */
  static async listen(path: string, options: ControlServerOptions): Promise<ControlServer> {
    const file = makeSocketFile({ path, mode: 0o600 });
    const control = new ControlServer(file, options);
    control.#server.listen({ fd: file.fd });
    await once(control.#server, 'listening');
    return control;
  }

  get path(): string {
    return this.#file.path;
  }

  /** Lets every client go and removes the socket file. Their calls are cancelled. Idempotent. */
  close(): void {
    if (!this.#server.listening) return;
    removeSocketFile(this.#file);
    this.#server.close();
    for (const socket of this.#connections) socket.destroy();
  }

  #accept(socket: Socket): void {
    this.#connections.add(socket);
    const calls = new Set<AbortController>();
    const reader = new BoundedReader(socket, MAX_REQUEST_SIZE);
    const rpc = createMessageConnection(reader, new BoundedWriter(socket), NullLogger);
    // The rest of a stream with a mistake in it means nothing.
    rpc.onError(() => socket.destroy());
    socket.on('error', () => {});
    socket.once('close', () => {
      this.#connections.delete(socket);
      for (const call of calls) call.abort();
      rpc.dispose();
    });
    rpc.onRequest(async (method: string, params: unknown, token) => {
      if (calls.size >= MAX_CALLS) {
        return failure(RPC_ERROR.FAILED, `${MAX_CALLS} calls of this client run already`, 'ERR_VFIO_LIMIT', 'EAGAIN');
      }
      const call = new AbortController();
      calls.add(call);
      const cancelled = token.onCancellationRequested(() => call.abort());
      try {
        if (token.isCancellationRequested || socket.destroyed) call.abort();
        return await this.#call(rpc, method, params, call.signal);
      } finally {
        calls.delete(call);
        cancelled.dispose();
      }
    });
    rpc.listen();
  }

  async #call(
    rpc: MessageConnection,
    method: string,
    given: unknown,
    signal: AbortSignal,
  ): Promise<unknown | ResponseError<ErrorData>> {
    if (method === HELLO) return this.#hello();
    if (!this.#options.methods.includes(method)) {
      return failure(RPC_ERROR.METHOD_NOT_FOUND, `no method is called "${method}"`, 'ERR_VFIO_NOT_SUPPORTED', 'ENOSYS');
    }
    if (given !== undefined && !isParams(given)) return invalid(`${method}: parameters go by name, in an object`);
    const { address, progressToken, ...params } = given ?? {};
    if (progressToken !== undefined && typeof progressToken !== 'string' && typeof progressToken !== 'number') {
      return invalid(`${method}: progressToken is a string or a number`);
    }
    const { functions } = this.#options;
    let target: string;
    try {
      target = this.#target(address);
    } catch (error) {
      return invalid(`${method}: ${messageOf(error)}`);
    }
    const onProgress = (value: unknown): void => {
      // A client that goes meanwhile is no failure of the call.
      if (progressToken !== undefined) rpc.sendProgress(PROGRESS, progressToken, value).catch(() => {});
    };
    try {
      return await functions.get(target)?.call(target, method, params, { onProgress, signal });
    } catch (error) {
      const { kind, plain } =
        error instanceof CallError ? error : { kind: 'failed' as const, plain: plainError(error) };
      const code = { params: RPC_ERROR.INVALID_PARAMS, failed: RPC_ERROR.FAILED, cancelled: RPC_ERROR.CANCELLED }[kind];
      return failure(code, plain.message, plain.code, plain.errno, plain.device ?? target);
    }
  }

  #hello(): Hello {
    const { version, functions, methods } = this.#options;
    return {
      server: 'vfio serve',
      version,
      protocol: CONTROL_PROTOCOL,
      pid: process.pid,
      functions: [...functions.keys()],
      methods,
    };
  }

  /** The address that a call is for. @throws where it is none of those served, or not said and not clear */
  #target(address: unknown): string {
    const known = [...this.#options.functions.keys()];
    if (address === undefined && known.length === 1) return known[0] ?? '';
    if (typeof address !== 'string') throw new Error(`address is one of ${known.join(', ')}`);
    const wanted = normalizePciAddress(address);
    if (known.includes(wanted)) return wanted;
    throw new Error(`${wanted} is not served here, ${known.join(', ')} ${known.length === 1 ? 'is' : 'are'}`);
  }
}

const isParams = (value: unknown): value is Params =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function failure(
  rpcCode: number,
  message: string,
  code?: string,
  errno?: string,
  device?: string,
): ResponseError<ErrorData> {
  return new ResponseError(rpcCode, message, { code: code ?? null, errno: errno ?? null, device: device ?? null });
}

const invalid = (message: string): ResponseError<ErrorData> =>
  failure(RPC_ERROR.INVALID_PARAMS, message, 'ERR_VFIO_INVALID_ARGUMENT', 'EINVAL');
