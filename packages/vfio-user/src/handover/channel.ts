import { LOOP_SLOT } from '@vfio/native';
import { ERRNO, VFIO_USER_F_TYPE_COMMAND, VFIO_USER_F_TYPE_MASK } from '@vfio/uapi';
import { Connection } from '../connection.js';
import { receiveReply } from '../receive-reply.js';
import { Request } from '../request.js';
import type { LoopSource, ServiceLoop } from '../service-loop.js';

/** What a {@link Channel} tells its owner. */
export interface ChannelEvents {
  /** A message of the other side; absent: none is expected. */
  onRequest?(request: Request): void;
  /** The other side is gone, or says what nobody can. Once. */
  onLost(reason: string): void;
}

/** The connection of two servers. */
export class Channel implements LoopSource {
  readonly connection: Connection;
  readonly #events: ChannelEvents;

  /** Takes the descriptor. @throws ERR_VFIO_SYSCALL; it is then still the caller's */
  constructor(loop: ServiceLoop, fd: number, events: ChannelEvents) {
    this.#events = events;
    this.connection = new Connection({ loop, fd, source: this, sends: '>' });
  }

  onMessage(offset: number, length: number): void {
    const { state } = this.connection.loop.messages;
    if ((state[LOOP_SLOT.FLAGS]! & VFIO_USER_F_TYPE_MASK) === VFIO_USER_F_TYPE_COMMAND) {
      this.#events.onRequest?.(this.#capture(offset, length));
      return;
    }
    const problem = receiveReply(this.connection, offset, length);
    if (problem !== undefined) this.#lose(problem);
  }

  #capture(offset: number, length: number): Request {
    const { messages } = this.connection.loop;
    const { state } = messages;
    const fds: number[] = [];
    for (let index = 0; index < state[LOOP_SLOT.FD_COUNT]!; index++) fds.push(messages.takeFd(index));
    return new Request(
      state[LOOP_SLOT.ID]!,
      state[LOOP_SLOT.COMMAND]!,
      state[LOOP_SLOT.FLAGS]!,
      this.connection.socket.rx.slice(offset, offset + length),
      fds,
      state[LOOP_SLOT.TRUNCATED] !== 0,
      performance.now(),
    );
  }

  onClosed(errno: number): void {
    const hasLeft = errno === 0 || errno === ERRNO.EPIPE || errno === ERRNO.ECONNRESET;
    this.#lose(hasLeft ? 'the other server has left' : `the connection of the servers failed (errno ${errno})`);
  }

  onBadSize(): void {
    const { state } = this.connection.loop.messages;
    this.connection.replyError(state[LOOP_SLOT.ID]!, state[LOOP_SLOT.COMMAND]!, ERRNO.EINVAL);
    this.#lose('the other server sent a message of an impossible size');
  }

  onFault(error: unknown): void {
    this.#lose(error instanceof Error ? error.message : String(error));
  }

  #lose(reason: string): void {
    if (this.connection.isClosed) return;
    this.connection.close(reason);
    this.#events.onLost(reason);
  }

  close(): void {
    this.connection.close();
  }
}
