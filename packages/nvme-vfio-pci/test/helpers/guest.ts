import type { VfioDevice } from '@vfio/core';
import { VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX } from '@vfio/uapi';

export const PAGE = 4096;
export const BLOCK = 512;
const IOVA = 0x100000;
const ENTRIES = 16;
const CC_RUN = (4 << 20) | (6 << 16) | 1;
/** Pages of the guest's memory: queues, then one data page for each slot of the I/O queue. */
const PAGES = { adminSq: 0, adminCq: 1, ioSq: 2, ioCq: 3, data: 4 } as const;

/** What a guest asks of the first namespace. */
export type Request =
  | {
      readonly kind: 'write';
      readonly lba: number;
      readonly blocks: number;
      readonly fill: number;
      readonly fua: boolean;
    }
  | { readonly kind: 'read'; readonly lba: number; readonly blocks: number }
  | { readonly kind: 'zero'; readonly lba: number; readonly blocks: number }
  | { readonly kind: 'flush' };

interface Queue {
  readonly id: number;
  readonly sq: number;
  readonly cq: number;
  tail: number;
  head: number;
  phase: number;
}

/** The NVMe driver of a guest, over an open device: an admin queue and one I/O queue pair, polled. */
export class Guest {
  device: VfioDevice;
  memory = new Uint8Array((PAGES.data + ENTRIES) * PAGE);
  #view = new DataView(this.memory.buffer);
  #admin!: Queue;
  #io!: Queue;

  readonly #signals: boolean;

  /** @param signals completions of the I/O queue signal vector 1 */
  constructor(device: VfioDevice, signals = false) {
    this.device = device;
    this.#signals = signals;
    this.#map(device);
  }

  /** The guest as it is, on another device, with memory that was copied perhaps. */
  moveTo(device: VfioDevice, memory = this.memory): void {
    this.device = device;
    this.memory = memory;
    this.#view = new DataView(memory.buffer);
    this.#map(device);
  }

  /** Pages that the guest itself has written, or may have. */
  get ownPages(): readonly number[] {
    return [PAGES.adminSq, PAGES.ioSq];
  }

  #map(device: VfioDevice): void {
    const memory = { bytes: this.memory, fd: undefined, fdOffset: 0 };
    const size = BigInt(this.memory.length);
    device.dmaMap({ iova: BigInt(IOVA), size, readable: true, writable: true, memory });
  }

  read32(register: number): number {
    const bytes = new Uint8Array(4);
    this.device.read(VFIO_PCI_BAR0_REGION_INDEX, register, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  async write32(register: number, value: number): Promise<void> {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value >>> 0, true);
    await this.device.write(VFIO_PCI_BAR0_REGION_INDEX, register, bytes);
  }

  async command(value: number): Promise<void> {
    await this.device.write(VFIO_PCI_CONFIG_REGION_INDEX, 4, Uint8Array.of(value & 0xff, value >>> 8));
  }

  /** Memory decode and bus mastering on, the controller enabled, the I/O queues made. */
  async start(): Promise<void> {
    await this.command(0x0406);
    this.memory.fill(0);
    this.#admin = { id: 0, sq: PAGES.adminSq, cq: PAGES.adminCq, tail: 0, head: 0, phase: 1 };
    this.#io = { id: 1, sq: PAGES.ioSq, cq: PAGES.ioCq, tail: 0, head: 0, phase: 1 };
    await this.write32(0x24, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
    for (const [register, page] of [
      [0x28, PAGES.adminSq],
      [0x30, PAGES.adminCq],
    ] as const) {
      await this.write32(register, IOVA + page * PAGE);
      await this.write32(register + 4, 0);
    }
    await this.write32(0x14, CC_RUN);
    await this.until(() => (this.read32(0x1c) & 1) !== 0);
    await this.#createQueue(0x05, PAGES.ioCq, this.#signals ? (1 << 16) | 3 : 1);
    await this.#createQueue(0x01, PAGES.ioSq, (1 << 16) | 1);
  }

  /** A controller reset, after which the guest starts anew. */
  async restart(): Promise<void> {
    await this.write32(0x14, this.read32(0x14) & ~1);
    await this.until(() => (this.read32(0x1c) & 1) === 0);
    await this.start();
  }

  async shutDown(): Promise<void> {
    await this.write32(0x14, (this.read32(0x14) & ~0xc000) | 0x4000);
    await this.until(() => (this.read32(0x1c) & 0xc) === 8);
  }

  /** Hands a request over without waiting for its completion. */
  async submit(request: Request): Promise<void> {
    await this.#put(this.#io, this.#commandOf(request));
  }

  /** Hands a request over and waits. */
  async run(request: Request): Promise<void> {
    await this.submit(request);
    await this.#complete(this.#io);
  }

  /** Waits for requests that were handed over. */
  async finish(count: number): Promise<void> {
    for (let n = 0; n < count; n++) await this.#complete(this.#io);
  }

  /** Hands over a request that waits for an event; its id. */
  async requestEvent(): Promise<number> {
    const id = this.#admin.tail;
    await this.#put(this.#admin, { opcode: 0x0c, nsid: 0, prp1: 0, dwords: [] });
    return id;
  }

  /** Waits for the completion of an admin command; its id and result. */
  async adminCompletion(): Promise<{ id: number; result: number }> {
    const at = this.#admin.cq * PAGE + this.#admin.head * 16;
    await this.#complete(this.#admin);
    return { id: this.#view.getUint16(at + 12, true), result: this.#view.getUint32(at, true) };
  }

  /** Sets a feature. */
  async setFeature(feature: number, value: number): Promise<void> {
    await this.#put(this.#admin, { opcode: 0x09, nsid: 0, prp1: 0, dwords: [feature, value] });
    await this.#complete(this.#admin);
  }

  /** Where a request that is handed over next has its data. */
  get nextData(): Uint8Array {
    const at = (PAGES.data + this.#io.tail) * PAGE;
    return this.memory.subarray(at, at + PAGE);
  }

  /** Whether a request that was handed over has completed. */
  get hasCompletion(): boolean {
    return (this.#status(this.#io) & 1) === this.#io.phase;
  }

  async until(condition: () => boolean): Promise<void> {
    const end = performance.now() + 10_000;
    while (!condition()) {
      if (performance.now() > end) throw new Error('the device does not come to what the guest waits for');
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  #commandOf(request: Request): { opcode: number; nsid: number; prp1: number; dwords: readonly number[] } {
    const dataPage = PAGES.data + this.#io.tail;
    if (request.kind === 'flush') return { opcode: 0x00, nsid: 1, prp1: 0, dwords: [] };
    const { lba, blocks } = request;
    if (request.kind === 'zero') return { opcode: 0x08, nsid: 1, prp1: 0, dwords: [lba, 0, blocks - 1] };
    if (request.kind === 'read') {
      return { opcode: 0x02, nsid: 1, prp1: IOVA + dataPage * PAGE, dwords: [lba, 0, blocks - 1] };
    }
    this.memory.fill(request.fill, dataPage * PAGE, dataPage * PAGE + blocks * BLOCK);
    const length = (blocks - 1) | (request.fua ? 0x40000000 : 0);
    return { opcode: 0x01, nsid: 1, prp1: IOVA + dataPage * PAGE, dwords: [lba, 0, length] };
  }

  async #createQueue(opcode: number, page: number, dword11: number): Promise<void> {
    const dwords = [((ENTRIES - 1) << 16) | 1, dword11];
    await this.#put(this.#admin, { opcode, nsid: 0, prp1: IOVA + page * PAGE, dwords });
    await this.#complete(this.#admin);
  }

  async #put(
    queue: Queue,
    command: { opcode: number; nsid: number; prp1: number; dwords: readonly number[] },
  ): Promise<void> {
    const at = queue.sq * PAGE + queue.tail * 64;
    this.memory.fill(0, at, at + 64);
    this.#view.setUint32(at, command.opcode | (queue.tail << 16), true);
    this.#view.setUint32(at + 4, command.nsid, true);
    this.#view.setUint32(at + 24, command.prp1, true);
    for (const [n, value] of command.dwords.entries()) this.#view.setUint32(at + 40 + 4 * n, value >>> 0, true);
    queue.tail = (queue.tail + 1) % ENTRIES;
    await this.write32(0x1000 + 8 * queue.id, queue.tail);
  }

  #status(queue: Queue): number {
    return this.#view.getUint16(queue.cq * PAGE + queue.head * 16 + 14, true);
  }

  async #complete(queue: Queue): Promise<void> {
    await this.until(() => (this.#status(queue) & 1) === queue.phase);
    const status = this.#status(queue) >>> 1;
    queue.head = (queue.head + 1) % ENTRIES;
    if (queue.head === 0) queue.phase ^= 1;
    await this.write32(0x1000 + 8 * queue.id + 4, queue.head);
    if (status !== 0) throw new Error(`status 0x${status.toString(16)}`);
  }
}
