import { bytes, message, u16, u32, u64 } from '../helpers/raw-client.js';
import { PeerDied, PeerStream } from './stream.js';

/** Bytes of a payload that it has room for. */
const PAYLOAD = 4096;

/** An errno that the server answered. */
export class SpdkError extends Error {
  readonly errno: number;

  constructor(errno: number) {
    super(`errno ${errno}`);
    this.errno = errno;
  }
}

/**
 * SPDK's client (lib/vfio_user/host). What it is known for:
 * - VERSION is four bytes, without JSON, and so is what it wants back;
 * - a payload has at most 4096 bytes either way; it asks for region info once, with all that room;
 * - one message is in flight, and its id is always 0;
 * - it looks at the error flag; it never posts, and serves no command of the server;
 * - regions are asked for by index when they are needed, and BAR 0's areas are mapped by their descriptor.
 */
export class SpdkClient {
  readonly #stream: PeerStream;
  numRegions = 0;
  numIrqs = 0;
  flags = 0;

  private constructor(stream: PeerStream) {
    this.#stream = stream;
  }

  static async connect(path: string): Promise<SpdkClient> {
    const client = new SpdkClient(new PeerStream(path));
    const { payload } = await client.#call(1, u16(0, 1));
    if (payload.length < 4 || payload.readUInt16LE(0) !== 0) throw new PeerDied('version');
    const info = (await client.#call(4, u32(16, 0, 0, 0))).payload;
    client.flags = info.readUInt32LE(4);
    client.numRegions = info.readUInt32LE(8);
    client.numIrqs = info.readUInt32LE(12);
    return client;
  }

  close(): void {
    this.#stream.close();
  }

  async #call(command: number, payload: Uint8Array, fds: readonly number[] = []) {
    if (payload.length > PAYLOAD) throw new PeerDied('request too big');
    await this.#stream.send(message(0, command, payload), fds);
    const header = await this.#stream.read(16);
    const size = header.data.readUInt32LE(4);
    if (header.data.readUInt16LE(2) !== command) throw new PeerDied('another command was answered');
    if (size < 16 || size - 16 > PAYLOAD) throw new PeerDied(`reply of ${size} bytes`);
    const body = await this.#stream.read(size - 16);
    const flags = header.data.readUInt32LE(8);
    if ((flags & 0xf) !== 1) throw new PeerDied('not a reply');
    if ((flags & 0x20) !== 0) throw new SpdkError(header.data.readUInt32LE(12));
    return { payload: body.data, fds: [...header.fds, ...body.fds] };
  }

  async regionInfo(index: number) {
    const { payload, fds } = await this.#call(5, bytes(u32(PAYLOAD, 0, index, 0), u64(0, 0)));
    const caps = payload.subarray(32);
    const areas = Array.from({ length: caps.length >= 16 ? caps.readUInt32LE(8) : 0 }, (_, n) => ({
      offset: Number(caps.readBigUInt64LE(16 + 16 * n)),
      size: Number(caps.readBigUInt64LE(24 + 16 * n)),
    }));
    return {
      flags: payload.readUInt32LE(4),
      size: Number(payload.readBigUInt64LE(16)),
      offset: Number(payload.readBigUInt64LE(24)),
      areas,
      fds,
    };
  }

  async read(region: number, offset: number, length: number): Promise<Buffer> {
    const { payload } = await this.#call(9, bytes(u64(offset), u32(region, length)));
    if (payload.length !== 16 + length) throw new PeerDied('short read');
    return payload.subarray(16);
  }

  async write(region: number, offset: number, data: Uint8Array): Promise<void> {
    await this.#call(10, bytes(u64(offset), u32(region, data.length), data));
  }

  async dmaMap(offset: number, iova: number, size: number, fd: number): Promise<void> {
    await this.#call(2, bytes(u32(32, 3), u64(offset, iova, size)), [fd]);
  }

  async dmaUnmap(iova: number, size: number): Promise<void> {
    await this.#call(3, bytes(u32(24, 0), u64(iova, size)));
  }

  async irqInfo(index: number): Promise<{ flags: number; count: number }> {
    const { payload } = await this.#call(7, u32(16, 0, index, 0));
    return { flags: payload.readUInt32LE(4), count: payload.readUInt32LE(12) };
  }

  async setIrqs(index: number, flags: number, start: number, count: number, fds: readonly number[] = []) {
    await this.#call(8, u32(20, flags, index, start, count), fds);
  }

  async reset(): Promise<void> {
    await this.#call(13, Buffer.alloc(0));
  }
}
