import type { RegisterSpace } from '@vfio/core';
import { CC, CSTS, type DeferredQueue, type EmulatedFunction, NVME_REG as REG } from '../../src/index.js';
import type { MemorySpace } from './memory-space.js';

/** Fields of a command; what is not given is 0. */
export interface CommandFields {
  opcode: number;
  flags?: number;
  nsid?: number;
  prp1?: number;
  prp2?: number;
  dwords?: Readonly<Record<number, number>>;
}

/** A completion taken apart. */
export interface CompletionFields {
  result: number;
  sqHead: number;
  sqId: number;
  cid: number;
  /** Status code and type, without DNR and More. */
  status: number;
  dnr: boolean;
  more: boolean;
}

interface Queue {
  readonly id: number;
  readonly base: number;
  readonly size: number;
  index: number;
  phase: number;
}

export const PAGE = 4096;

/** A small NVMe driver for tests: queues in guest memory, polled. */
export class NvmeDriver {
  readonly memory: MemorySpace;
  bar: RegisterSpace;
  fn: EmulatedFunction;
  readonly #deferred: DeferredQueue;
  readonly sqs = new Map<number, Queue>();
  readonly cqs = new Map<number, Queue>();
  readonly #done = new Map<number, CompletionFields>();
  #nextPage: number;
  #nextCid = 1;

  constructor(fn: EmulatedFunction, memory: MemorySpace, deferred: DeferredQueue) {
    this.fn = fn;
    this.memory = memory;
    this.bar = fn.open(0);
    this.#deferred = deferred;
    this.#nextPage = memory.base + PAGE;
  }

  /** The same driver, with its memory and its queues as they are, on another function. */
  moveTo(fn: EmulatedFunction): void {
    this.fn = fn;
    this.bar = fn.open(0);
  }

  /** Zeroed pages of guest memory. */
  allocate(pages = 1, alignment = PAGE): number {
    const at = Math.ceil(this.#nextPage / alignment) * alignment;
    this.#nextPage = at + pages * PAGE;
    this.memory.bytes.fill(0, at - this.memory.base, this.#nextPage - this.memory.base);
    return at;
  }

  bytes(address: number, length: number): Uint8Array {
    return this.memory.bytes.subarray(address - this.memory.base, address - this.memory.base + length);
  }

  /** Lets the device work until `done`, or fails. */
  async until(done: () => boolean, what: string): Promise<void> {
    const end = Date.now() + 10_000;
    while (Date.now() < end) {
      if (done()) return;
      this.#deferred.run();
      if (done()) return;
      await new Promise((resolve) => setImmediate(resolve));
    }
    throw new Error(`the device does not come to: ${what}`);
  }

  /** Lets the device do all that it has to do. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 4; ) {
      quiet = this.#deferred.run() > 0 ? 0 : quiet + 1;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  get status(): number {
    return this.bar.read(REG.CSTS, 4);
  }

  async enable(options: { sqSize?: number; cqSize?: number; cc?: number; alignment?: number } = {}): Promise<void> {
    const { sqSize = 32, cqSize = 32, cc = 0x00460000, alignment = PAGE } = options;
    this.sqs.clear();
    this.cqs.clear();
    const sq = this.allocate(Math.ceil((sqSize * 64) / PAGE), alignment);
    const cq = this.allocate(Math.ceil((cqSize * 16) / PAGE), alignment);
    this.bar.write(REG.AQA, 4, (sqSize - 1) | ((cqSize - 1) << 16));
    this.bar.write(REG.ASQ, 4, (sq % 2 ** 32) | 0);
    this.bar.write(REG.ASQ + 4, 4, Math.floor(sq / 2 ** 32));
    this.bar.write(REG.ACQ, 4, (cq % 2 ** 32) | 0);
    this.bar.write(REG.ACQ + 4, 4, Math.floor(cq / 2 ** 32));
    this.bar.write(REG.CC, 4, cc | CC.EN);
    await this.until(() => (this.status & (CSTS.RDY | CSTS.CFS)) !== 0, 'ready or fatal');
    this.sqs.set(0, { id: 0, base: sq, size: sqSize, index: 0, phase: 1 });
    this.cqs.set(0, { id: 0, base: cq, size: cqSize, index: 0, phase: 1 });
  }

  async disable(): Promise<void> {
    this.bar.write(REG.CC, 4, this.bar.read(REG.CC, 4) & ~CC.EN);
    await this.until(() => (this.status & CSTS.RDY) === 0, 'disabled');
  }

  async shutDown(kind: number = CC.SHN_NORMAL): Promise<void> {
    this.bar.write(REG.CC, 4, this.bar.read(REG.CC, 4) | kind);
    await this.until(() => (this.status & CSTS.SHST_MASK) === CSTS.SHST_COMPLETE, 'shut down');
  }

  /** Puts a command into a queue without ringing the doorbell; its id. */
  put(fields: CommandFields, sqId = 0): number {
    const sq = this.sqs.get(sqId) as Queue;
    const at = sq.base - this.memory.base + sq.index * 64;
    this.memory.bytes.fill(0, at, at + 64);
    const cid = this.#nextCid++ & 0xffff;
    const view = this.memory.view32;
    view.setUint8(at, fields.opcode);
    view.setUint8(at + 1, fields.flags ?? 0);
    view.setUint16(at + 2, cid, true);
    view.setUint32(at + 4, fields.nsid ?? 0, true);
    view.setBigUint64(at + 24, BigInt(fields.prp1 ?? 0), true);
    view.setBigUint64(at + 32, BigInt(fields.prp2 ?? 0), true);
    for (const [index, value] of Object.entries(fields.dwords ?? {}))
      view.setUint32(at + 4 * Number(index), value >>> 0, true);
    sq.index = (sq.index + 1) % sq.size;
    return cid;
  }

  ring(sqId = 0): void {
    this.bar.write(REG.DOORBELLS + 8 * sqId, 4, (this.sqs.get(sqId) as Queue).index);
  }

  /** Takes what has been completed; `ring: false` leaves the head doorbell alone. */
  reap(cqId = 0, ring = true): CompletionFields[] {
    const cq = this.cqs.get(cqId) as Queue;
    const found: CompletionFields[] = [];
    const view = this.memory.view32;
    for (;;) {
      const at = cq.base - this.memory.base + cq.index * 16;
      const status = view.getUint16(at + 14, true);
      if ((status & 1) !== cq.phase) break;
      found.push({
        result: view.getUint32(at, true),
        sqHead: view.getUint16(at + 8, true),
        sqId: view.getUint16(at + 10, true),
        cid: view.getUint16(at + 12, true),
        status: (status >>> 1) & 0x7ff,
        dnr: (status & 0x8000) !== 0,
        more: (status & 0x4000) !== 0,
      });
      cq.index += 1;
      if (cq.index === cq.size) {
        cq.index = 0;
        cq.phase ^= 1;
      }
    }
    if (ring && found.length > 0) this.bar.write(REG.DOORBELLS + 8 * cqId + 4, 4, cq.index);
    return found;
  }

  /** Waits for the completion of a command. */
  async complete(cid: number, cqId = 0): Promise<CompletionFields> {
    await this.until(() => {
      for (const completion of this.reap(cqId)) this.#done.set(completion.cid, completion);
      return this.#done.has(cid);
    }, `completion of ${cid}`);
    const completion = this.#done.get(cid) as CompletionFields;
    this.#done.delete(cid);
    return completion;
  }

  /** Whether a command has completed by now. */
  isDone(cid: number, cqId = 0): boolean {
    for (const completion of this.reap(cqId)) this.#done.set(completion.cid, completion);
    return this.#done.has(cid);
  }

  async admin(fields: CommandFields): Promise<CompletionFields> {
    const cid = this.put(fields);
    this.ring();
    return this.complete(cid);
  }

  async io(fields: CommandFields, id = 1): Promise<CompletionFields> {
    const cid = this.put({ nsid: 1, ...fields }, id);
    this.ring(id);
    return this.complete(cid, id);
  }

  async identify(cns: number, nsid = 0): Promise<{ completion: CompletionFields; data: Uint8Array }> {
    const page = this.allocate();
    const completion = await this.admin({ opcode: 0x06, nsid, prp1: page, dwords: { 10: cns } });
    return { completion, data: this.bytes(page, PAGE) };
  }

  async logPage(page: number, length: number, options: { nsid?: number; offset?: number; rae?: boolean } = {}) {
    const data = this.allocate();
    const completion = await this.admin({
      opcode: 0x02,
      nsid: options.nsid ?? 0xffffffff,
      prp1: data,
      dwords: { 10: page | (options.rae === true ? 0x8000 : 0) | ((length / 4 - 1) << 16), 12: options.offset ?? 0 },
    });
    return { completion, data: this.bytes(data, length) };
  }

  async createCq(id: number, size: number, vector = 0, interrupts = true): Promise<CompletionFields> {
    const base = this.allocate(Math.ceil((size * 16) / PAGE));
    const completion = await this.admin({
      opcode: 0x05,
      prp1: base,
      dwords: { 10: id | ((size - 1) << 16), 11: 1 | (interrupts ? 2 : 0) | (vector << 16) },
    });
    if (completion.status === 0) this.cqs.set(id, { id, base, size, index: 0, phase: 1 });
    return completion;
  }

  async createSq(id: number, size: number, cqId: number): Promise<CompletionFields> {
    const base = this.allocate(Math.ceil((size * 64) / PAGE));
    const completion = await this.admin({
      opcode: 0x01,
      prp1: base,
      dwords: { 10: id | ((size - 1) << 16), 11: 1 | (cqId << 16) },
    });
    if (completion.status === 0) this.sqs.set(id, { id, base, size, index: 0, phase: 1 });
    return completion;
  }

  /** Enabled, with I/O queue pair 1. */
  async start(queueSize = 16): Promise<void> {
    await this.enable();
    await this.createCq(1, queueSize);
    await this.createSq(1, queueSize, 1);
  }

  /** PRP entries for a buffer of contiguous pages. */
  prps(address: number, length: number): { prp1: number; prp2: number } {
    const first = PAGE - (address % PAGE);
    if (length <= first) return { prp1: address, prp2: 0 };
    const second = address + first;
    if (length - first <= PAGE) return { prp1: address, prp2: second };
    const list = this.allocate();
    const pages = Math.ceil((length - first) / PAGE);
    for (let i = 0; i < pages; i++)
      this.memory.view32.setBigUint64(list - this.memory.base + 8 * i, BigInt(second + i * PAGE), true);
    return { prp1: address, prp2: list };
  }

  async write(lba: number, data: Uint8Array, options: { nsid?: number; fua?: boolean; blockSize?: number } = {}) {
    const buffer = this.allocate(Math.ceil(data.length / PAGE));
    this.bytes(buffer, data.length).set(data);
    return this.io({
      opcode: 0x01,
      nsid: options.nsid ?? 1,
      ...this.prps(buffer, data.length),
      dwords: {
        ...lbaDwords(lba),
        12: data.length / (options.blockSize ?? 512) - 1 + (options.fua === true ? 2 ** 30 : 0),
      },
    });
  }

  async read(lba: number, length: number, options: { nsid?: number; blockSize?: number } = {}) {
    const buffer = this.allocate(Math.ceil(length / PAGE));
    const completion = await this.io({
      opcode: 0x02,
      nsid: options.nsid ?? 1,
      ...this.prps(buffer, length),
      dwords: { ...lbaDwords(lba), 12: length / (options.blockSize ?? 512) - 1 },
    });
    return { completion, data: this.bytes(buffer, length) };
  }

  async flush(nsid = 1): Promise<CompletionFields> {
    return this.io({ opcode: 0x00, nsid });
  }
}

/** Command dwords 10 and 11. */
export function lbaDwords(lba: number): Record<number, number> {
  return { 10: lba % 2 ** 32, 11: Math.floor(lba / 2 ** 32) };
}

/** Bytes that tell where they are. */
export function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (Math.imul(i + seed, 0x9e3779b1) >>> 13) & 0xff;
  return bytes;
}
