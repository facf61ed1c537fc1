import type { Socket } from 'node:net';
import { type Message, StreamMessageWriter } from 'vscode-jsonrpc/node';
import { MAX_UNREAD } from './protocol.js';

/** Writes messages, and gives a peer up that does not read them. */
export class BoundedWriter extends StreamMessageWriter {
  readonly #socket: Socket;
  #unread = 0;

  constructor(socket: Socket) {
    super(socket);
    this.#socket = socket;
  }

  override async write(message: Message): Promise<void> {
    if (this.#unread >= MAX_UNREAD) this.#socket.destroy();
    this.#unread++;
    try {
      await super.write(message);
    } finally {
      this.#unread--;
    }
  }
}
