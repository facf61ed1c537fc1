import {
  closeFd,
  LOOP_EVENT,
  LOOP_SLOT,
  type LoopEvent,
  type LoopSocket,
  type LoopSocketOptions,
  MessageLoop,
  type MessageLoopOptions,
  sendMessage,
  setNonBlocking,
  socketpair,
} from '@vfio/native';
import { onTestFinished } from 'vitest';

/** An event, copied: the words of a loop change with the next step. */
export interface Seen {
  readonly kind: LoopEvent;
  readonly source: number;
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly errno: number;
  readonly length: number;
  readonly truncated: boolean;
  /** Counter of an eventfd or timer. */
  readonly value: number;
  /** Of a message, header included. */
  readonly bytes: Uint8Array;
  /** Taken from the loop: the test closes them. */
  readonly fds: readonly number[];
}

/** A loop stepped by hand, whose connections end in this process too. Closed when the test ends. */
export class TestLoop {
  readonly loop: MessageLoop;
  readonly #sockets = new Map<number, LoopSocket>();
  readonly #peers = new Set<number>();

  constructor(options?: MessageLoopOptions) {
    this.loop = new MessageLoop(options);
    onTestFinished(() => this.close());
  }

  /** A connection: its id on the loop, and the other end. */
  connect(options?: LoopSocketOptions): { id: number; peer: number } {
    const [ours, peer] = socketpair();
    const socket = this.loop.addSocket(ours, options);
    this.#sockets.set(socket.id, socket);
    this.#peers.add(peer);
    return { id: socket.id, peer };
  }

  /** A socket that another loop had: its id on this one. */
  adopt(fd: number): number {
    const socket = this.loop.addSocket(fd);
    this.#sockets.set(socket.id, socket);
    return socket.id;
  }

  socket(id: number): LoopSocket {
    return this.#sockets.get(id) as LoopSocket;
  }

  hangUp(peer: number): void {
    this.#peers.delete(peer);
    closeFd(peer);
  }

  /** One step: its event, `undefined` for none. Takes the descriptors, unless told not to. */
  next(timeoutUs = 0, takeFds = true): Seen | undefined {
    const { loop } = this;
    const kind = loop.step(timeoutUs) as LoopEvent;
    if (kind === LOOP_EVENT.IDLE) return undefined;
    const slot = (name: keyof typeof LOOP_SLOT) => loop.state[LOOP_SLOT[name]] as number;
    const start = slot('OFFSET');
    return {
      kind,
      source: slot('SOURCE'),
      id: slot('ID'),
      command: slot('COMMAND'),
      flags: slot('FLAGS'),
      errno: slot('ERRNO'),
      length: slot('LENGTH'),
      truncated: slot('TRUNCATED') === 1,
      value: (slot('VALUE_HIGH') >>> 0) * 2 ** 32 + (slot('VALUE_LOW') >>> 0),
      bytes:
        kind === LOOP_EVENT.MESSAGE
          ? this.socket(slot('SOURCE')).rx.slice(start, start + slot('LENGTH'))
          : new Uint8Array(),
      fds: takeFds ? Array.from({ length: slot('FD_COUNT') }, (_, index) => loop.takeFd(index)) : [],
    };
  }

  /** Every event that there is now. */
  drain(): Seen[] {
    const seen: Seen[] = [];
    for (let event = this.next(); event !== undefined; event = this.next()) seen.push(event);
    return seen;
  }

  /** The next event of this kind; events before it are dropped. */
  waitFor(kind: LoopEvent, timeoutUs = 5_000_000): Seen {
    for (;;) {
      const event = this.next(timeoutUs);
      if (event === undefined) throw new Error(`no event ${kind} came`);
      if (event.kind === kind) return event;
    }
  }

  close(): void {
    this.loop.close();
    for (const peer of this.#peers) closeFd(peer);
    this.#peers.clear();
  }
}

/** Writes until the socket takes no more; answers how many bytes went. Leaves it non-blocking. */
export function fill(fd: number, chunk: Uint8Array = new Uint8Array(4096)): number {
  setNonBlocking(fd, true);
  let sent = 0;
  for (;;) {
    try {
      sent += sendMessage(fd, [chunk]);
    } catch {
      return sent;
    }
  }
}
