import type { VfioUserClient } from '@vfio/vfio-user';

const PAGE = 4096;
const BLOCK = 512;
const ENTRIES = 16;
const IOVA = 0x100000;
const PAGES = { adminSq: 0, adminCq: 1, ioSq: 2, ioCq: 3, data: 4, end: 5 } as const;

/** A guest's NVMe driver at the other end of a socket: writes blocks, and does not flush them. */
export class NvmeGuest {
  readonly #client: VfioUserClient;
  readonly #memory: Uint8Array;
  readonly #view: DataView;
  readonly #tails = [0, 0];

  private constructor(client: VfioUserClient, memory: Uint8Array) {
    this.#client = client;
    this.#memory = memory;
    this.#view = new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
  }

  /** Enables the controller with an admin and an I/O queue pair. */
  static async start(client: VfioUserClient): Promise<NvmeGuest> {
    const { bytes } = await client.dmaAlloc({ iova: BigInt(IOVA), size: PAGES.end * PAGE });
    const guest = new NvmeGuest(client, bytes);
    await client.write(7, 4, Uint8Array.of(0x06, 0x04));
    await guest.#write(0x24, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
    await guest.#write(0x28, IOVA + PAGES.adminSq * PAGE);
    await guest.#write(0x30, IOVA + PAGES.adminCq * PAGE);
    await guest.#write(0x14, (4 << 20) | (6 << 16) | 1);
    while (((await guest.#read(0x1c)) & 1) === 0);
    await guest.#run(0, 0x05, 0, PAGES.ioCq, [((ENTRIES - 1) << 16) | 1, 1]);
    await guest.#run(0, 0x01, 0, PAGES.ioSq, [((ENTRIES - 1) << 16) | 1, (1 << 16) | 1]);
    return guest;
  }

  /** Writes one block and waits for its completion. */
  async writeBlock(lba: number, fill: number): Promise<void> {
    this.#memory.fill(fill, PAGES.data * PAGE, PAGES.data * PAGE + BLOCK);
    await this.#run(1, 0x01, 1, PAGES.data, [lba, 0, 0]);
  }

  /** Hands over a flush and waits for nothing. */
  async beginFlush(): Promise<void> {
    await this.#submit(1, 0x00, 1, PAGES.data, []);
  }

  async #run(queue: number, opcode: number, nsid: number, page: number, dwords: readonly number[]): Promise<void> {
    const slot = await this.#submit(queue, opcode, nsid, page, dwords);
    const at = (queue === 0 ? PAGES.adminCq : PAGES.ioCq) * PAGE + slot * 16;
    // A round trip lets the device work.
    while ((this.#view.getUint16(at + 14, true) & 1) === 0) await this.#read(0x1c);
    const status = this.#view.getUint16(at + 14, true) >>> 1;
    if (status !== 0) throw new Error(`NVMe status 0x${status.toString(16)}`);
  }

  async #submit(queue: number, opcode: number, nsid: number, page: number, dwords: readonly number[]): Promise<number> {
    const slot = this.#tails[queue] ?? 0;
    const at = (queue === 0 ? PAGES.adminSq : PAGES.ioSq) * PAGE + slot * 64;
    this.#memory.fill(0, at, at + 64);
    this.#view.setUint32(at, opcode | (slot << 16), true);
    this.#view.setUint32(at + 4, nsid, true);
    this.#view.setUint32(at + 24, IOVA + page * PAGE, true);
    for (const [n, value] of dwords.entries()) this.#view.setUint32(at + 40 + 4 * n, value, true);
    // Fewer commands than entries: no queue of this guest wraps around.
    this.#tails[queue] = slot + 1;
    await this.#write(0x1000 + 8 * queue, slot + 1);
    return slot;
  }

  async #read(register: number): Promise<number> {
    const bytes = new Uint8Array(4);
    await this.#client.read(0, register, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  async #write(register: number, value: number): Promise<void> {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value >>> 0, true);
    await this.#client.write(0, register, bytes);
  }
}
