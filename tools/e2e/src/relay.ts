import { rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';

const HEADER_SIZE = 16;
const SIZE_AT = 4;

/**
 * Cuts a byte stream into whole vfio-user messages. QEMU gives up on a peer whose message header arrives in two
 * pieces, and a relay reads wherever the kernel happens to stop.
 */
export class MessageCutter {
  #buffer = Buffer.alloc(0);

  /** Takes bytes and gives the messages that are now complete. */
  push(data: Uint8Array): Buffer[] {
    this.#buffer = Buffer.concat([this.#buffer, data]);
    const messages: Buffer[] = [];
    while (this.#buffer.length >= HEADER_SIZE) {
      const size = this.#buffer.readUInt32LE(SIZE_AT);
      if (size < HEADER_SIZE) throw new RangeError(`relay: a message says that it is ${size} bytes long`);
      if (this.#buffer.length < size) break;
      messages.push(this.#buffer.subarray(0, size));
      this.#buffer = this.#buffer.subarray(size);
    }
    return messages;
  }
}

/**
 * Stands between QEMU and a device server and passes every message on without the file descriptors that came with it,
 * as a bridge over a serial line or a network would: reading a Unix socket as a plain stream leaves them to the kernel,
 * which closes them.
 */
export class FdStrippingRelay {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server) {
    this.#server = server;
  }

  static async listen(path: string, target: string): Promise<FdStrippingRelay> {
    rmSync(path, { force: true });
    const server = createServer();
    const relay = new FdStrippingRelay(server);
    server.on('connection', (client) => {
      const peer = connect(target);
      relay.#join(client, peer);
      relay.#join(peer, client);
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    return relay;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #join(from: Socket, to: Socket): void {
    const cutter = new MessageCutter();
    this.#sockets.add(from);
    from.on('data', (data) => {
      for (const message of cutter.push(data)) to.write(message);
    });
    from.on('error', () => undefined);
    from.on('close', () => {
      this.#sockets.delete(from);
      to.destroy();
    });
  }
}
