import { LOOP_SLOT } from '@vfio/native';
import { ERRNO, VFIO_USER_F_NO_REPLY, VFIO_USER_F_TYPE_MASK, VFIO_USER_F_TYPE_REPLY } from '@vfio/uapi';
import { Connection } from './connection.js';
import type { Counters } from './counters.js';
import { maxMessageSize } from './limits.js';
import { receiveReply } from './receive-reply.js';
import type { LoopSource, ServiceLoop } from './service-loop.js';
import type { Tracer } from './trace.js';

/**
 * The second socket of a connection, on which the server's own commands go: what the client sends there are replies.
 */
export class TwinSocket implements LoopSource {
  readonly connection: Connection;
  readonly #onLost: (reason: string) => void;

  /** Takes the descriptor. */
  constructor(
    loop: ServiceLoop,
    fd: number,
    watch: { readonly tracer: Tracer | undefined; readonly counters: Counters | undefined },
    onLost: (reason: string) => void,
  ) {
    this.#onLost = onLost;
    this.connection = new Connection({
      loop,
      fd,
      source: this,
      sends: '<',
      socket: { maxMessageSize: maxMessageSize(loop.maxDataXferSize), maxFds: 0 },
      ...watch,
    });
  }

  onMessage(offset: number, length: number): void {
    const { state } = this.connection.loop.messages;
    const flags = state[LOOP_SLOT.FLAGS]!;
    if ((flags & VFIO_USER_F_TYPE_MASK) === VFIO_USER_F_TYPE_REPLY) {
      const problem = receiveReply(this.connection, offset, length);
      if (problem !== undefined) this.#onLost(problem);
    } else if ((flags & VFIO_USER_F_NO_REPLY) === 0) {
      // Commands belong on the main socket.
      this.connection.replyError(state[LOOP_SLOT.ID]!, state[LOOP_SLOT.COMMAND]!, ERRNO.EINVAL);
    }
  }

  /** {@link Connection.drain} has ended. */
  onDrained(): void {
    this.connection.onDrained();
  }

  onClosed(): void {
    this.#onLost('the client closed the second socket');
  }

  onBadSize(): void {
    this.#onLost('a message of an impossible size on the second socket');
  }

  close(): void {
    this.connection.close();
  }
}
