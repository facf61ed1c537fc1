import type { Socket } from 'node:net';
import { AbstractMessageReader, type DataCallback, type Disposable, type Message } from 'vscode-jsonrpc/node';
import { MAX_HEADER_SIZE } from './protocol.js';

const EMPTY = Buffer.alloc(0);
const HEADER_END = '\r\n\r\n';

/**
 * Takes messages off a socket, as the library's reader does, from a peer that is not trusted: sizes are checked before
 * anything is kept, what is no message ends the reading, and there is one message in a turn of the event loop, which is how
 * fast the library handles them: it has no other bound for what waits.
 */
export class BoundedReader extends AbstractMessageReader {
  readonly #socket: Socket;
  readonly #maxSize: number;
  #header = EMPTY;
  /** The message whose header was read, filled up to `#filled`. */
  #body: Buffer | undefined;
  #filled = 0;

  constructor(socket: Socket, maxSize: number) {
    super();
    this.#socket = socket;
    this.#maxSize = maxSize;
  }

  listen(callback: DataCallback): Disposable {
    const socket = this.#socket;
    const read = (chunk: Buffer): void => {
      try {
        let rest = chunk;
        while (rest.length > 0) {
          rest = this.#take(rest);
          if (!this.#isWhole) continue;
          callback(this.#message());
          if (rest.length === 0) break;
          socket.pause();
          setImmediate(read, rest);
          return;
        }
        socket.resume();
      } catch (error) {
        socket.pause();
        this.fireError(error);
      }
    };
    const onClose = (): void => this.fireClose();
    socket.on('data', read).on('close', onClose);
    return { dispose: () => void socket.off('data', read).off('close', onClose) };
  }

  get #isWhole(): boolean {
    return this.#body !== undefined && this.#filled === this.#body.length;
  }

  #message(): Message {
    const message = parseMessage(this.#body ?? EMPTY);
    this.#body = undefined;
    return message;
  }

  /** Takes bytes for the message that comes, and returns the rest. */
  #take(bytes: Buffer): Buffer {
    if (this.#body === undefined) return this.#takeHeader(bytes);
    const taken = bytes.copy(this.#body, this.#filled);
    this.#filled += taken;
    return bytes.subarray(taken);
  }

  #takeHeader(bytes: Buffer): Buffer {
    const known = this.#header.length;
    const header = Buffer.concat([this.#header, bytes.subarray(0, MAX_HEADER_SIZE)]);
    const end = header.indexOf(HEADER_END);
    if (end < 0) {
      if (header.length >= MAX_HEADER_SIZE) throw new Error(`no message begins within ${MAX_HEADER_SIZE} bytes`);
      this.#header = header;
      return EMPTY;
    }
    this.#body = Buffer.alloc(bodySize(header.toString('latin1', 0, end), this.#maxSize));
    this.#filled = 0;
    this.#header = EMPTY;
    return bytes.subarray(end + HEADER_END.length - known);
  }
}

/** The size that a header announces. */
function bodySize(header: string, maxSize: number): number {
  let size: number | undefined;
  for (const line of header.split('\r\n')) {
    const [, name = '', value = ''] = /^([A-Za-z-]+): *(.*)$/.exec(line) ?? [];
    if (name === '') throw new Error(`"${line.slice(0, 40)}" is no header of a message`);
    if (name.toLowerCase() !== 'content-length') continue;
    if (size !== undefined) throw new Error('two sizes for one message');
    if (!/^\d{1,15}$/.test(value)) throw new Error(`"${value.slice(0, 40)}" is no size`);
    size = Number(value);
  }
  if (size === undefined) throw new Error('a message without Content-Length');
  if (size === 0 || size > maxSize) throw new Error(`a message of ${size} bytes, 1 to ${maxSize} can be`);
  return size;
}

function parseMessage(body: Buffer): Message {
  const value: unknown = JSON.parse(body.toString('utf8'));
  if (typeof value !== 'object' || value === null || !('jsonrpc' in value) || value.jsonrpc !== '2.0') {
    throw new Error('that is not a message of JSON-RPC 2.0');
  }
  // What kind it is, and whether it is one at all, the connection finds out.
  return value as Message;
}
