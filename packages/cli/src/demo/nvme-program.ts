import { errnoError } from '@vfio/core';
import { type ProgramContext, Registers } from './registers.js';

/** Registers and fields of NVM Express 1.4, section 3.1; commands, sections 5 and 6. */
const CAP_HIGH = 0x04;
const CC = 0x14;
const CSTS = 0x1c;
const AQA = 0x24;
const ASQ = 0x28;
const ACQ = 0x30;
const DOORBELLS = 0x1000;
const CC_ENABLE = (4 << 20) | (6 << 16) | 1;
const READY = 1;
const ADMIN = { createSq: 0x01, createCq: 0x05, identify: 0x06 } as const;
const IO = { flush: 0x00, write: 0x01, read: 0x02 } as const;

const PAGE = 4096;
const ENTRIES = 16;
/** Where the pages of the shared memory are used for what. */
const LAYOUT = { adminSq: 0, adminCq: 1, ioSq: 2, ioCq: 3, identify: 4, prpList: 5, data: 8 } as const;

interface Queue {
  readonly id: number;
  readonly sq: number;
  readonly cq: number;
  tail: number;
  head: number;
  phase: number;
}

/** What Identify says of a controller and its first namespace. */
export interface NvmeIdentity {
  readonly model: string;
  readonly serial: string;
  readonly firmware: string;
  readonly blocks: number;
  readonly blockSize: number;
}

/**
 * The smallest driver that deserves the name: an admin queue, one I/O queue pair with an MSI-X interrupt, reads, writes and
 * flushes of whole pages through a PRP list.
 */
export class NvmeProgram {
  readonly #ctx: ProgramContext;
  readonly #bar: Registers;
  readonly #view: DataView;
  readonly #admin: Queue = { id: 0, sq: LAYOUT.adminSq, cq: LAYOUT.adminCq, tail: 0, head: 0, phase: 1 };
  readonly #io: Queue = { id: 1, sq: LAYOUT.ioSq, cq: LAYOUT.ioCq, tail: 0, head: 0, phase: 1 };
  #stride = 4;
  #commandId = 0;
  #blockSize = 512;

  constructor(ctx: ProgramContext) {
    this.#ctx = ctx;
    this.#bar = new Registers(ctx.device, 0);
    this.#view = new DataView(ctx.memory.buffer, ctx.memory.byteOffset, ctx.memory.byteLength);
  }

  /** Most bytes that one {@link write} or {@link read} moves: what the memory behind the queues holds. */
  get maxTransfer(): number {
    return this.#ctx.memory.byteLength - LAYOUT.data * PAGE;
  }

  /** Enables the controller, reads who it is and makes the I/O queues. */
  async start(): Promise<NvmeIdentity> {
    const { iova } = this.#ctx;
    this.#stride = 4 << ((await this.#bar.read32(CAP_HIGH)) & 0xf);
    await this.#bar.write32(AQA, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
    await this.#bar.write64(ASQ, iova + LAYOUT.adminSq * PAGE);
    await this.#bar.write64(ACQ, iova + LAYOUT.adminCq * PAGE);
    await this.#bar.write32(CC, CC_ENABLE);
    for (let n = 0; ((await this.#bar.read32(CSTS)) & READY) === 0; n++) {
      if (n > 5000) throw errnoError('ETIME', 'the NVMe controller did not become ready', { op: 'nvme' });
    }
    const controller = await this.#identify(1, 0);
    const text = (at: number, length: number): string =>
      String.fromCharCode(...controller.subarray(at, at + length)).trim();
    const identity = { serial: text(4, 20), model: text(24, 40), firmware: text(64, 8) };
    const namespace = await this.#identify(0, 1);
    const shape = new DataView(namespace.buffer, namespace.byteOffset, PAGE);
    const format = shape.getUint8(26) & 0xf;
    this.#blockSize = 1 << shape.getUint8(128 + format * 4 + 2);
    const interruptsOn = (1 << 16) | 0b11;
    await this.#submit(this.#admin, ADMIN.createCq, 0, LAYOUT.ioCq, [((ENTRIES - 1) << 16) | 1, interruptsOn]);
    await this.#submit(this.#admin, ADMIN.createSq, 0, LAYOUT.ioSq, [((ENTRIES - 1) << 16) | 1, (1 << 16) | 1]);
    return {
      ...identity,
      blocks: shape.getUint32(0, true) + shape.getUint32(4, true) * 2 ** 32,
      blockSize: this.#blockSize,
    };
  }

  /** Writes whole pages at a byte offset of the namespace. */
  async write(offset: number, data: Uint8Array): Promise<void> {
    this.#ctx.memory.set(data, LAYOUT.data * PAGE);
    await this.#transfer(IO.write, offset, data.byteLength);
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    await this.#transfer(IO.read, offset, length);
    return this.#ctx.memory.slice(LAYOUT.data * PAGE, LAYOUT.data * PAGE + length);
  }

  async flush(): Promise<void> {
    await this.#submit(this.#io, IO.flush, 1, undefined, []);
  }

  async #identify(cns: number, namespace: number): Promise<Uint8Array> {
    await this.#submit(this.#admin, ADMIN.identify, namespace, LAYOUT.identify, [cns]);
    return this.#ctx.memory.slice(LAYOUT.identify * PAGE, (LAYOUT.identify + 1) * PAGE);
  }

  async #transfer(opcode: number, offset: number, length: number): Promise<void> {
    if (length % PAGE !== 0 || length === 0 || length > this.maxTransfer || offset % this.#blockSize !== 0) {
      throw errnoError('EINVAL', `transfer of ${length} bytes: whole pages, at most ${this.maxTransfer}`, {
        op: 'nvme',
      });
    }
    const block = offset / this.#blockSize;
    const count = length / this.#blockSize - 1;
    await this.#submit(
      this.#io,
      opcode,
      1,
      LAYOUT.data,
      [block % 2 ** 32, Math.floor(block / 2 ** 32), count],
      length / PAGE,
    );
  }

  /** Puts one command and waits for its completion. `page` is where its data is, `pages` how much. */
  async #submit(
    queue: Queue,
    opcode: number,
    namespace: number,
    page: number | undefined,
    dwords: readonly number[],
    pages = 1,
  ): Promise<void> {
    const { iova, memory } = this.#ctx;
    const at = queue.sq * PAGE + queue.tail * 64;
    memory.fill(0, at, at + 64);
    this.#commandId = (this.#commandId + 1) & 0x7fff;
    this.#view.setUint32(at, opcode | (this.#commandId << 16), true);
    this.#view.setUint32(at + 4, namespace, true);
    if (page !== undefined) {
      this.#putAddress(at + 24, iova + page * PAGE);
      if (pages === 2) this.#putAddress(at + 32, iova + (page + 1) * PAGE);
      if (pages > 2) {
        for (let n = 1; n < pages; n++) this.#putAddress(LAYOUT.prpList * PAGE + (n - 1) * 8, iova + (page + n) * PAGE);
        this.#putAddress(at + 32, iova + LAYOUT.prpList * PAGE);
      }
    }
    for (const [n, value] of dwords.entries()) this.#view.setUint32(at + 40 + n * 4, value >>> 0, true);
    queue.tail = (queue.tail + 1) % ENTRIES;
    await this.#bar.write32(DOORBELLS + 2 * queue.id * this.#stride, queue.tail);
    await this.#complete(queue);
  }

  async #complete(queue: Queue): Promise<void> {
    const at = queue.cq * PAGE + queue.head * 16;
    for (let n = 0; (this.#view.getUint16(at + 14, true) & 1) !== queue.phase; n++) {
      if (n > 1000) throw errnoError('ETIME', 'an NVMe command did not complete', { op: 'nvme' });
      // The I/O queue has an interrupt; the admin queue is looked at again after a round trip, which lets the device work.
      if (queue.id === 0) await this.#bar.read32(CSTS);
      else await this.#ctx.waitInterrupt();
    }
    const status = this.#view.getUint16(at + 14, true) >>> 1;
    queue.head = (queue.head + 1) % ENTRIES;
    if (queue.head === 0) queue.phase ^= 1;
    await this.#bar.write32(DOORBELLS + (2 * queue.id + 1) * this.#stride, queue.head);
    if (status !== 0)
      throw errnoError('EIO', `NVMe command failed with status 0x${status.toString(16)}`, { op: 'nvme' });
  }

  #putAddress(at: number, address: number): void {
    this.#view.setUint32(at, address % 2 ** 32, true);
    this.#view.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
  }
}
