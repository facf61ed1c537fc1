import { closeFd, type LoopSocket, type LoopSocketOptions } from '@vfio/native';
import {
  type ErrnoName,
  errnoName,
  VFIO_USER_F_ERROR,
  VFIO_USER_F_NO_REPLY,
  VFIO_USER_F_TYPE_REPLY,
  VFIO_USER_HEADER_SIZE,
  VFIO_USER_MAX_ERRNO,
  VfioError,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from './byte-order.js';
import type { Counters } from './counters.js';
import type { LoopSource, ServiceLoop } from './service-loop.js';
import { commandName, type Tracer } from './trace.js';

/** What a reply to a command of ours carried. */
export interface ReceivedReply {
  /** The payload, a copy. */
  readonly payload: Uint8Array;
  /** Descriptors that came with it; the caller owns them. */
  readonly fds: readonly number[];
  /** Some did not arrive: this process has no room for more, or they were more than one message may carry. */
  readonly truncated: boolean;
}

/** The fields of a reply's header that say what it answers, and how. */
export interface ReplyHeader {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly errno: number;
}

/** A command of ours that waits for its reply. */
interface Pending {
  readonly command: number;
  resolve(reply: ReceivedReply): void;
  reject(error: VfioError): void;
  timer: NodeJS.Timeout | undefined;
}

/** How {@link Connection.request} sends. */
export interface RequestOptions {
  /** They stay the caller's. */
  readonly fds?: readonly number[] | undefined;
  /** Milliseconds to wait; undefined: as long as the connection lives. */
  readonly timeoutMs?: number | undefined;
}

/** Errno of an error reply. What is no errno is EINVAL; one that our table does not have is EIO. */
export function replyErrno(number: number): ErrnoName {
  if (number === 0 || number > VFIO_USER_MAX_ERRNO) return 'EINVAL';
  return errnoName(number) ?? 'EIO';
}

/** Fills in a header. */
export function writeHeader(view: DataView, id: number, command: number, size: number, flags: number, errno = 0): void {
  view.setUint16(0, id, LITTLE_ENDIAN);
  view.setUint16(2, command, LITTLE_ENDIAN);
  view.setUint32(4, size, LITTLE_ENDIAN);
  view.setUint32(8, flags, LITTLE_ENDIAN);
  view.setUint32(12, errno, LITTLE_ENDIAN);
}

/** A whole message: header and the pieces of its payload. */
export function buildMessage(
  id: number,
  command: number,
  flags: number,
  errno: number,
  pieces: readonly Uint8Array[],
): Uint8Array {
  let size = VFIO_USER_HEADER_SIZE;
  for (const piece of pieces) size += piece.length;
  const message = new Uint8Array(size);
  writeHeader(new DataView(message.buffer), id, command, size, flags, errno);
  let at = VFIO_USER_HEADER_SIZE;
  for (const piece of pieces) {
    message.set(piece, at);
    at += piece.length;
  }
  return message;
}

/** How many ids of posted commands are remembered: more than any server has unread. */
const REMEMBERED_POSTS = 4096;

/** What a {@link Connection} is made of. */
export interface ConnectionOptions {
  readonly loop: ServiceLoop;
  /** The connected socket; the connection's from now on. */
  readonly fd: number;
  /** Gets the loop's events. */
  readonly source: LoopSource;
  /** How the trace marks what this side sends: `<` for a server, `>` for a client. */
  readonly sends: '<' | '>';
  readonly socket?: LoopSocketOptions;
  readonly tracer?: Tracer | undefined;
  /** Count the bytes. */
  readonly counters?: Counters | undefined;
}

/**
 * One socket on a loop: sends messages, and finds the command of ours that a reply belongs to. What a received command
 * means is its owner's business.
 */
export class Connection {
  readonly loop: ServiceLoop;
  readonly socket: LoopSocket;
  /** Where every message is shown; undefined: tracing is off. Whoever owns the connection may change it at any time. */
  tracer: Tracer | undefined;
  readonly counters: Counters | undefined;
  readonly #sends: '<' | '>';
  readonly #pending = new Map<number, Pending>();
  /** The last ids of commands that want no reply: servers exist that send one all the same. */
  readonly #posted = new Set<number>();
  #nextId = 0;
  #closed = false;
  #onDrained: (() => void) | undefined;

  /** @throws ERR_VFIO_SYSCALL; the descriptor is then still the caller's */
  constructor(options: ConnectionOptions) {
    this.loop = options.loop;
    this.tracer = options.tracer;
    this.counters = options.counters;
    this.#sends = options.sends;
    this.socket = options.loop.messages.addSocket(options.fd, options.socket);
    options.loop.attach(this.socket.id, options.source);
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Number of commands of ours without a reply. */
  get outstanding(): number {
    return this.#pending.size;
  }

  /** How the trace marks what this side receives. */
  get receives(): '<' | '>' {
    return this.#sends === '<' ? '>' : '<';
  }

  /** Whether a command of ours with this id waits for its reply. */
  isExpected(id: number): boolean {
    return this.#pending.has(id) || this.#posted.has(id);
  }

  /** Sends a message now. Does not throw: a connection that cannot take it is reported closed by the loop. */
  send(message: Uint8Array, fds: readonly number[] = []): void {
    if (this.#closed) return;
    if (this.tracer !== undefined) this.tracer.message(this.#sends, message, fds.length);
    this.counters?.countSent(message.length);
    try {
      this.loop.messages.send(this.socket.id, message, fds);
    } catch {
      // EPIPE, ECONNRESET, ENOBUFS: a CLOSED event follows, and one place ends the connection.
    }
  }

  /** Answers a command. */
  reply(id: number, command: number, pieces: readonly Uint8Array[], fds: readonly number[] = []): void {
    this.send(buildMessage(id, command, VFIO_USER_F_TYPE_REPLY, 0, pieces), fds);
  }

  /** Answers a command with an error: the header alone. */
  replyError(id: number, command: number, errno: number): void {
    this.send(buildMessage(id, command, VFIO_USER_F_TYPE_REPLY | VFIO_USER_F_ERROR, errno, []));
  }

  /** Sends a command that is not answered. */
  post(command: number, pieces: readonly Uint8Array[], fds: readonly number[] = []): void {
    const id = this.#takeId();
    this.#posted.add(id);
    if (this.#posted.size > REMEMBERED_POSTS) {
      for (const oldest of this.#posted) {
        this.#posted.delete(oldest);
        break;
      }
    }
    this.send(buildMessage(id, command, VFIO_USER_F_NO_REPLY, 0, pieces), fds);
  }

  /**
   * Sends a command and waits for its reply.
   * @throws ERR_VFIO_REMOTE with the peer's errno, ERR_VFIO_TIMEOUT, ERR_VFIO_DISCONNECTED
   */
  request(command: number, pieces: readonly Uint8Array[], options: RequestOptions = {}): Promise<ReceivedReply> {
    if (this.#closed) return Promise.reject(disconnectedError(command));
    const id = this.#takeId();
    const { timeoutMs } = options;
    return new Promise((resolve, reject) => {
      const timer = timeoutMs === undefined ? undefined : setTimeout(() => this.#timeOut(id, timeoutMs), timeoutMs);
      this.#pending.set(id, { command, resolve, reject, timer });
      this.send(buildMessage(id, command, 0, 0, pieces), options.fds);
    });
  }

  /**
   * Gives a received reply to the command that it answers; its descriptors are the command's from then on.
   * @returns why the stream cannot be trusted any more: no command of ours has that id, or it has another command
   */
  accept(header: ReplyHeader, reply: ReceivedReply): string | undefined {
    const { id, command, flags, errno } = header;
    const pending = this.#pending.get(id);
    if (pending === undefined) {
      closeAll(reply.fds);
      return this.#posted.delete(id) ? undefined : strayReply(id);
    }
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    if (command !== pending.command) {
      closeAll(reply.fds);
      const error = wrongCommandError(pending.command, id, command);
      pending.reject(error);
      return error.message;
    }
    if ((flags & VFIO_USER_F_ERROR) === 0) pending.resolve(reply);
    else {
      closeAll(reply.fds);
      pending.reject(remoteError(command, errno));
    }
    return undefined;
  }

  /** Id of the command before the next one: they go on from there where another process takes the connection over. */
  get nextId(): number {
    return this.#nextId;
  }

  set nextId(id: number) {
    this.#nextId = id;
  }

  /**
   * Brings the socket to a border between messages and leaves it alone there, until {@link goOn}: resolves then. The owner passes
   * the loop's event to {@link onDrained}. Never rejects, and never resolves where the peer stops in the middle of a message.
   */
  drain(): Promise<void> {
    return new Promise((resolve) => {
      this.#onDrained = resolve;
      this.loop.messages.drain(this.socket.id);
    });
  }

  onDrained(): void {
    this.#onDrained?.();
    this.#onDrained = undefined;
  }

  /** Reads again after {@link drain}. */
  goOn(): void {
    this.#onDrained = undefined;
    if (!this.#closed) this.loop.messages.drain(this.socket.id, false);
  }

  /**
   * Lets go of a connection that goes on elsewhere: the peer notices nothing. Bytes that were received and not delivered are lost,
   * see `MessageLoop.drain`. Idempotent.
   */
  leave(): void {
    if (this.#closed) return;
    this.#closed = true;
    const { messages } = this.loop;
    const fd = messages.fdOf(this.socket.id);
    this.loop.remove(this.socket.id, true);
    closeFd(fd);
  }

  /** Ends the connection: every command that waits fails with `reason`, the socket is closed. Idempotent. */
  close(reason?: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.loop.remove(this.socket.id);
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    for (const pending of waiting) {
      clearTimeout(pending.timer);
      pending.reject(disconnectedError(pending.command, reason));
    }
  }

  /** An id that still waits is not used again: replies are matched by it. */
  #takeId(): number {
    if (this.#pending.size > 0xffff) {
      throw new VfioError('ERR_VFIO_LIMIT', 'every message id waits for a reply', { errno: 'EAGAIN' });
    }
    do this.#nextId = (this.#nextId + 1) & 0xffff;
    while (this.#pending.has(this.#nextId));
    this.#posted.delete(this.#nextId);
    return this.#nextId;
  }

  /** The id stays taken: its reply may still come, and must not be taken for another's. */
  #timeOut(id: number, timeoutMs: number): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    const op = commandName(pending.command);
    this.#pending.set(id, {
      command: pending.command,
      resolve: ({ fds }) => closeAll(fds),
      reject: () => {},
      timer: undefined,
    });
    pending.reject(
      new VfioError('ERR_VFIO_TIMEOUT', `${op}: no reply within ${timeoutMs} ms`, { errno: 'ETIMEDOUT', op }),
    );
  }
}

/** Closes descriptors that nobody wants. */
export function closeAll(fds: readonly number[]): void {
  for (const fd of fds) closeFd(fd);
}

/** The error of a command on a connection that is gone. */
export function disconnectedError(command: number, reason = 'the connection is closed'): VfioError {
  const op = commandName(command);
  return new VfioError('ERR_VFIO_DISCONNECTED', `${op}: ${reason}`, { errno: 'ENOTCONN', op });
}

/** The error of a command that the peer answered with one. */
export function remoteError(command: number, errno: number): VfioError {
  const op = commandName(command);
  const name = replyErrno(errno);
  return new VfioError('ERR_VFIO_REMOTE', `${op}: the peer answered ${name}`, { errno: name, op, details: { errno } });
}

/** The error of a command whose answer cannot be. */
export function brokenReplyError(command: number, why: string): VfioError {
  const op = commandName(command);
  return new VfioError('ERR_VFIO_PROTOCOL', `${op}: the peer answered ${why}`, { errno: 'EPROTO', op });
}

/** The error of a command that gets a reply to another one: ids cannot be trusted any more. */
export function wrongCommandError(command: number, id: number, answered: number): VfioError {
  return brokenReplyError(command, `id 0x${id.toString(16)} as ${commandName(answered)}`);
}

/** What ends a connection whose peer answers something that was not asked. */
export function strayReply(id: number): string {
  return `reply 0x${id.toString(16)} to nothing`;
}
