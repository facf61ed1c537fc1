import { bytes, message, u16, u32, u64 } from '../helpers/raw-client.js';
import { PeerDied, PeerStream } from './stream.js';

/** What it proposes. Its keys are how it is known. */
const VERSION = '{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}';

/** A region as the client has found it. */
export interface RustRegion {
  readonly flags: number;
  readonly size: number;
  readonly offset: number;
  readonly areas: readonly { readonly offset: number; readonly size: number }[];
  readonly fd: number | undefined;
}

/**
 * The client of the Rust crate vfio_user 0.1.3, as Cloud Hypervisor drives it. What it is known for:
 * - it proposes 0.1 with exactly three keys, wants a JSON object with NUL in the answer, and ignores what it says;
 * - it never looks at the error flag, and reads a reply of fixed size: 16 bytes for DMA_MAP, SET_IRQS and RESET, 40 for
 *   DMA_UNMAP, 32 for GET_INFO, GET_IRQ_INFO and REGION_WRITE, 32 and the data for REGION_READ, 48 for region info. Where
 *   fewer come, it waits for ever, with a lock held that all vCPUs need: there is no timeout;
 * - it asks every region up to `num_regions`, ROM and VGA included, with argsz 32 and, where more is told, with that; the
 *   second answer must have exactly as many bytes as it says (it panics otherwise), and one descriptor at most, which comes
 *   with the first 48 bytes;
 * - its GET_INFO counts the header into argsz (32);
 * - its reset is inverted: it resets exactly the devices that do not advertise RESET;
 * - it ignores max_msg_fds: Cloud Hypervisor sends up to 16 descriptors in one SET_IRQS;
 * - maps have flags 3 and always a descriptor; it never posts and serves no command of the server.
 */
export class RustClient {
  readonly #stream: PeerStream;
  #id = 0;
  resettable = false;
  readonly regions: RustRegion[] = [];
  numIrqs = 0;

  private constructor(stream: PeerStream) {
    this.#stream = stream;
  }

  /** Connects, agrees on a version and asks for all regions. */
  static async connect(path: string, patienceMs?: number): Promise<RustClient> {
    const client = new RustClient(new PeerStream(path, patienceMs));
    await client.#negotiate();
    await client.#getInfo();
    return client;
  }

  close(): void {
    this.#stream.close();
  }

  async #send(command: number, payload: Uint8Array, fds: readonly number[] = []): Promise<number> {
    const id = this.#id++ & 0xffff;
    await this.#stream.send(message(id, command, payload), fds);
    return id;
  }

  /** Sends, and reads a reply of this size whatever it is. */
  async #call(command: number, payload: Uint8Array, size: number, fds: readonly number[] = []) {
    await this.#send(command, payload, fds);
    const reply = await this.#stream.read(size);
    return { ...reply, payload: reply.data.subarray(16) };
  }

  async #negotiate(): Promise<void> {
    const { data } = await this.#call(1, bytes(u16(0, 1), VERSION, [0]), 20);
    // A reply without JSON makes its slice underflow.
    const length = data.readUInt32LE(4) - 20;
    if (length < 1) throw new PeerDied('attempt to subtract with overflow');
    const text = (await this.#stream.read(length)).data;
    const answer: unknown = JSON.parse(text.subarray(0, -1).toString());
    if (typeof answer !== 'object' || text.at(-1) !== 0) throw new PeerDied('invalid JSON');
    for (const value of Object.values((answer as { capabilities?: object }).capabilities ?? {})) {
      if (typeof value === 'number' && value > 0xffffffff) throw new PeerDied('does not fit u32');
    }
  }

  async #getInfo(): Promise<void> {
    const { payload } = await this.#call(4, u32(32, 0, 0, 0), 32);
    this.resettable = (payload.readUInt32LE(4) & 1) !== 0;
    const numRegions = payload.readUInt32LE(8);
    this.numIrqs = payload.readUInt32LE(12);
    for (let index = 0; index < numRegions; index++) this.regions.push(await this.#regionInfo(index));
  }

  async #regionInfo(index: number): Promise<RustRegion> {
    const ask = (argsz: number) => this.#call(5, bytes(u32(argsz, 0, index, 0), u64(0, 0)), 48);
    let { payload, fds, data } = await ask(32);
    const argsz = payload.readUInt32LE(0);
    const areas: { offset: number; size: number }[] = [];
    if (argsz > 32) {
      ({ payload, fds, data } = await ask(argsz));
      const rest = data.readUInt32LE(4) - 48;
      if (rest !== argsz - 32) throw new PeerDied(`assertion failed: ${rest} == ${argsz - 32}`);
      areas.push(...parseAreas((await this.#stream.read(rest)).data));
    }
    if (fds.length > 1) throw new PeerDied('more descriptors than there is room for');
    return {
      flags: payload.readUInt32LE(4),
      size: Number(payload.readBigUInt64LE(16)),
      offset: Number(payload.readBigUInt64LE(24)),
      areas,
      fd: fds[0],
    };
  }

  /** Resets a device that does not say that it can be. */
  async reset(): Promise<boolean> {
    if (this.resettable) return false;
    await this.#call(13, Buffer.alloc(0), 16);
    return true;
  }

  async regionRead(region: number, offset: number, length: number): Promise<Buffer> {
    const { payload } = await this.#call(9, bytes(u64(offset), u32(region, length)), 32 + length);
    return payload.subarray(16);
  }

  async regionWrite(region: number, offset: number, data: Uint8Array): Promise<void> {
    await this.#call(10, bytes(u64(offset), u32(region, data.length), data), 32);
  }

  async dmaMap(offset: number, iova: number, size: number, fd: number): Promise<void> {
    await this.#call(2, bytes(u32(32, 3), u64(offset, iova, size)), 16, [fd]);
  }

  async dmaUnmap(iova: number, size: number): Promise<void> {
    await this.#call(3, bytes(u32(24, 0), u64(iova, size)), 40);
  }

  async irqInfo(index: number): Promise<{ flags: number; count: number }> {
    const { payload } = await this.#call(7, u32(16, 0, index, 0), 32);
    return { flags: payload.readUInt32LE(4), count: payload.readUInt32LE(12) };
  }

  async setIrqs(index: number, flags: number, start: number, count: number, fds: readonly number[] = []) {
    await this.#call(8, u32(20, flags, index, start, count), 16, fds);
  }
}

/** The sparse areas of a capability chain that starts behind the info. */
function parseAreas(caps: Buffer): { offset: number; size: number }[] {
  if (caps.readUInt16LE(0) !== 1) return [];
  return Array.from({ length: caps.readUInt32LE(8) }, (_, n) => ({
    offset: Number(caps.readBigUInt64LE(16 + 16 * n)),
    size: Number(caps.readBigUInt64LE(24 + 16 * n)),
  }));
}
