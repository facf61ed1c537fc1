import { closeFd } from '@vfio/native';
import { VFIO_USER_F_NO_REPLY, VFIO_USER_HEADER_SIZE, VfioError } from '@vfio/uapi';
import { commandName } from './trace.js';

/** A command of the client, copied out of the receive buffer: it may wait and be handled later. */
export class Request {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  /** The whole message. */
  readonly message: Uint8Array;
  readonly messageView: DataView;
  /** What follows the header. */
  readonly payload: Uint8Array;
  readonly view: DataView;
  /** Descriptors that came with it; -1 for one that was taken. */
  readonly fds: number[];
  /** Some descriptors were lost on the way: this process has no room for more. */
  readonly truncated: boolean;
  /** When it came, in the clock of `performance.now()`. */
  readonly arrivedAt: number;
  /** A reply was sent before it ran (its deadline had passed): it gets none after. */
  answered = false;

  constructor(
    id: number,
    command: number,
    flags: number,
    message: Uint8Array,
    fds: number[],
    truncated: boolean,
    arrivedAt: number,
  ) {
    this.id = id;
    this.command = command;
    this.flags = flags;
    this.message = message;
    this.messageView = new DataView(message.buffer, message.byteOffset, message.byteLength);
    this.payload = message.subarray(VFIO_USER_HEADER_SIZE);
    this.view = new DataView(message.buffer, message.byteOffset + VFIO_USER_HEADER_SIZE, this.payload.length);
    this.fds = fds;
    this.truncated = truncated;
    this.arrivedAt = arrivedAt;
  }

  get isPosted(): boolean {
    return (this.flags & VFIO_USER_F_NO_REPLY) !== 0;
  }

  /** Whether a reply is still owed. */
  get isAwaited(): boolean {
    return !this.isPosted && !this.answered;
  }

  /** Makes a descriptor the caller's. */
  takeFd(index: number): number {
    const fd = this.fds[index]!;
    this.fds[index] = -1;
    return fd;
  }

  /** Closes the descriptors that nobody took. Idempotent. */
  closeFds(): void {
    for (const [index, fd] of this.fds.entries()) {
      if (fd >= 0) closeFd(fd);
      this.fds[index] = -1;
    }
  }
}

/** What a handler answers with. */
export interface Reply {
  /** The payload, in pieces. */
  readonly pieces: readonly Uint8Array[];
  /** Descriptors that go with it; they stay the device's. */
  readonly fds?: readonly number[];
  /** Called when the reply was handed to the socket, or could not be. */
  done?(): void;
}

/** A reply that is the header alone. */
export const EMPTY_REPLY: Reply = { pieces: [] };

/** The error of a request that breaks a rule of its command. */
export function malformed(request: Request, why: string): VfioError {
  const op = commandName(request.command);
  return new VfioError('ERR_VFIO_PROTOCOL', `${op}: ${why}`, { errno: 'EINVAL', op });
}
