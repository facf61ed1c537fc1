import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { closeFd, connectUnix, recvMessage, sendMessage, setNonBlocking } from '@vfio/native';
import { isVfioError } from '@vfio/uapi';

/** A message as the tests take it apart: by hand, so that a mistake in a codec cannot hide itself. */
export interface RawMessage {
  readonly id: number;
  readonly command: number;
  readonly size: number;
  readonly flags: number;
  readonly errno: number;
  readonly payload: Buffer;
  readonly fds: readonly number[];
}

/** Little-endian bytes: `u32(1, 2)` is 8 bytes. The tests run on little-endian machines. */
export const u16 = (...values: number[]) => pack(values, 2);
export const u32 = (...values: number[]) => pack(values, 4);
export const u64 = (...values: (number | bigint)[]) => {
  const out = Buffer.alloc(values.length * 8);
  for (const [index, value] of values.entries()) out.writeBigUInt64LE(BigInt(value), index * 8);
  return out;
};
export const bytes = (...parts: (Uint8Array | number[] | string)[]) =>
  Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part) : Buffer.from(part))));

function pack(values: readonly number[], width: 2 | 4): Buffer {
  const out = Buffer.alloc(values.length * width);
  for (const [index, value] of values.entries()) {
    if (width === 2) out.writeUInt16LE(value, index * 2);
    else out.writeUInt32LE(value >>> 0, index * 4);
  }
  return out;
}

/** A whole message. */
export function message(id: number, command: number, payload: Uint8Array = Buffer.alloc(0), flags = 0): Buffer {
  return bytes(u16(id, command), u32(16 + payload.length, flags, 0), payload);
}

export class ClosedError extends Error {}

/** A client that is nothing but a socket. Received descriptors are the test's to close. */
export class RawClient {
  readonly #fd: number;
  #received = Buffer.alloc(0);
  #fds: number[] = [];
  #nextId = 1;
  #open = true;

  constructor(fd: number) {
    this.#fd = fd;
    setNonBlocking(fd, true);
  }

  static connect(path: string): RawClient {
    return new RawClient(connectUnix(path));
  }

  get fd(): number {
    return this.#fd;
  }

  /** Sends bytes as they are, in one call where the socket takes them. */
  async send(data: Uint8Array, fds: readonly number[] = []): Promise<void> {
    let rest = data;
    let first = fds;
    while (rest.length > 0) {
      try {
        const sent = sendMessage(this.#fd, [rest], first);
        rest = rest.subarray(sent);
        first = [];
      } catch (error) {
        if (!isVfioError(error) || error.errno !== 'EAGAIN') throw error;
        await turn();
      }
    }
  }

  /** The next whole message. Throws {@link ClosedError} where the server has closed. */
  async receive(timeoutMs = 5000): Promise<RawMessage> {
    const until = Date.now() + timeoutMs;
    const buffer = new Uint8Array(1 << 16);
    const fds = new Int32Array(253);
    for (;;) {
      const size = this.#received.length >= 16 ? this.#received.readUInt32LE(4) : 0;
      if (size >= 16 && this.#received.length >= size) return this.#take(size);
      const got = recvMessage(this.#fd, buffer, 0, buffer.length, fds);
      if (got === undefined) {
        if (Date.now() > until) throw new Error(`no message within ${timeoutMs} ms`);
        await turn();
        continue;
      }
      if (got.bytes === 0) throw new ClosedError('the server closed the connection');
      this.#received = Buffer.concat([this.#received, buffer.subarray(0, got.bytes)]);
      this.#fds.push(...fds.subarray(0, got.fdCount));
    }
  }

  #take(size: number): RawMessage {
    const data = this.#received.subarray(0, size);
    this.#received = this.#received.subarray(size);
    const fds = this.#fds;
    this.#fds = [];
    return {
      id: data.readUInt16LE(0),
      command: data.readUInt16LE(2),
      size,
      flags: data.readUInt32LE(8),
      errno: data.readUInt32LE(12),
      payload: Buffer.from(data.subarray(16)),
      fds,
    };
  }

  /** Sends a command and receives the next message. */
  async call(command: number, payload?: Uint8Array, fds: readonly number[] = []): Promise<RawMessage> {
    await this.send(message(this.#nextId++, command, payload), fds);
    return this.receive();
  }

  /** A command that must succeed; answers its payload. */
  async ok(command: number, payload?: Uint8Array, fds: readonly number[] = []): Promise<Buffer> {
    const reply = await this.call(command, payload, fds);
    if (reply.flags !== 1) throw new Error(`command ${command}: flags ${reply.flags}, errno ${reply.errno}`);
    return reply.payload;
  }

  /** A command that must fail; answers the errno. */
  async fails(command: number, payload?: Uint8Array, fds: readonly number[] = []): Promise<number> {
    const reply = await this.call(command, payload, fds);
    if (reply.flags !== 0x21 || reply.size !== 16) throw new Error(`command ${command}: no error, ${reply.size} bytes`);
    return reply.errno;
  }

  /** VERSION 0.2 with these capabilities; answers the reply's. */
  async negotiate(capabilities: object | undefined = {}, minor = 2): Promise<Record<string, unknown>> {
    const json = bytes(JSON.stringify({ capabilities }), [0]);
    const reply = await this.ok(1, bytes(u16(0, minor), json));
    return JSON.parse(reply.subarray(4, -1).toString()).capabilities as Record<string, unknown>;
  }

  /** Whether nothing more comes, within a short while. */
  async isSilent(ms = 50): Promise<boolean> {
    try {
      await this.receive(ms);
      return false;
    } catch (error) {
      return !(error instanceof ClosedError);
    }
  }

  /** Waits until the server closes; messages that still come are dropped. */
  async untilClosed(timeoutMs = 5000): Promise<void> {
    for (;;) {
      try {
        const { fds } = await this.receive(timeoutMs);
        for (const fd of fds) closeFd(fd);
      } catch (error) {
        if (error instanceof ClosedError) return;
        if (isVfioError(error) && error.errno === 'ECONNRESET') return;
        throw error;
      }
    }
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    closeFd(this.#fd);
  }
}

/** Lets everything that is ready run once. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Waits until something holds. */
export async function until(condition: () => boolean, timeoutMs = 5000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`not within ${timeoutMs} ms: ${condition}`);
    await turn();
  }
}

/** A path for a socket in a folder of its own, and what removes both. */
export function socketPath(): { path: string; remove: () => void } {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-user-'));
  return { path: join(folder, 's.sock'), remove: () => rmSync(folder, { recursive: true, force: true }) };
}
