import type { RegisterSpace } from '@vfio/core';
import { PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from '@vfio/uapi';
import type { DeferredQueue, EmulatedFunction } from '../../src/index.js';
import type { MemorySpace } from './memory-space.js';

const PAGE = 4096;
const MAILBOX_DATA = 512;

/** Changes bytes of an entry or a mailbox before the device sees them. */
export type Tamper = (bytes: Uint8Array) => void;

export interface SendOptions {
  readonly slot?: number;
  /** Bytes of output to make room for. Default 16. */
  readonly output?: number;
  readonly entry?: Tamper;
  /** Input mailbox by its number. */
  readonly mailbox?: (bytes: Uint8Array, block: number) => void;
  /** The doorbell is not rung. */
  readonly quiet?: boolean;
}

/** What came of a command. */
export interface Answer {
  readonly delivery: number;
  readonly status: number;
  readonly syndrome: number;
  readonly output: DataView;
  readonly isOurs: boolean;
}

/** A small driver of the command interface for tests, polled: packs its bytes by hand from the manual's tables. */
export class HcaDriver {
  readonly memory: MemorySpace;
  readonly fn: EmulatedFunction;
  readonly bar: RegisterSpace;
  readonly queue: number;
  readonly #deferred: DeferredQueue;
  #nextPage: number;
  #token = 1;

  constructor(fn: EmulatedFunction, memory: MemorySpace, deferred: DeferredQueue) {
    this.fn = fn;
    this.memory = memory;
    this.#deferred = deferred;
    fn.attachDma(memory);
    fn.config.write(PCI_COMMAND, 2, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
    this.bar = fn.open(0);
    this.#nextPage = memory.base + PAGE;
    this.queue = this.allocate();
  }

  allocate(pages = 1): number {
    const at = this.#nextPage;
    this.#nextPage += pages * PAGE;
    return at;
  }

  bytes(address: number, length: number): Uint8Array {
    return this.memory.bytes.subarray(address - this.memory.base, address - this.memory.base + length);
  }

  view(address: number, length: number): DataView {
    const bytes = this.bytes(address, length);
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** A dword of BAR 0, which is big-endian. */
  read(offset: number): number {
    const view = new DataView(new ArrayBuffer(4));
    view.setInt32(0, this.bar.read(offset, 4), true);
    return view.getUint32(0);
  }

  write(offset: number, value: number): void {
    const view = new DataView(new ArrayBuffer(4));
    view.setUint32(0, value);
    this.bar.write(offset, 4, view.getInt32(0, true));
  }

  /** Tells the device where the command queue is. */
  setQueue(): void {
    this.write(0x10, Math.floor(this.queue / 0x100000000));
    this.write(0x14, this.queue % 0x100000000);
  }

  /** Lets the device work until it has nothing left to do. */
  async settle(): Promise<void> {
    for (let i = 0; i < 50; i++) {
      this.#deferred.run();
      await Promise.resolve();
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#deferred.pending === 0 && i > 3) return;
    }
  }

  /** Sends a command and reads what came back. */
  async send(input: Uint8Array, options: SendOptions = {}): Promise<Answer> {
    const { slot = 0, output: outputLength = 16 } = options;
    this.#token = (this.#token % 255) + 1;
    const at = this.queue + slot * 64;
    const entry = this.bytes(at, 64);
    const view = this.view(at, 64);
    entry.fill(0);
    entry[0] = 7;
    view.setUint32(0x04, input.length);
    view.setBigUint64(0x08, BigInt(this.#chain(input.length, input.subarray(16), options.mailbox)));
    entry.set(input.subarray(0, 16), 0x10);
    const out = this.#chain(outputLength, new Uint8Array(0));
    view.setBigUint64(0x30, BigInt(out));
    view.setUint32(0x38, outputLength);
    entry[0x3c] = this.#token;
    entry[0x3f] = 1;
    entry[0x3d] = ~entry.reduce((sum, byte) => sum ^ byte, 0) & 0xff;
    options.entry?.(entry);
    if (options.quiet !== true) this.write(0x18, (1 << slot) >>> 0);
    await this.settle();
    const data = new Uint8Array(Math.max(16, outputLength));
    data.set(entry.subarray(0x20, 0x30));
    let block = out;
    for (let i = 16; i < outputLength; i += MAILBOX_DATA) {
      data.set(this.bytes(block, Math.min(MAILBOX_DATA, outputLength - i)), i);
      block = Number(this.view(block, 576).getBigUint64(0x230));
    }
    const result = new DataView(data.buffer, 0, Math.max(8, outputLength));
    const last = entry[0x3f] ?? 0;
    return {
      delivery: last >> 1,
      isOurs: (last & 1) === 0,
      status: result.getUint8(0),
      syndrome: result.getUint32(4),
      output: result,
    };
  }

  /** Sends opcode and op_mod with a few dwords after them. */
  async command(
    opcode: number,
    opMod = 0,
    words: readonly number[] = [0, 0],
    options: SendOptions = {},
  ): Promise<Answer> {
    const input = new Uint8Array(8 + 4 * words.length);
    const view = new DataView(input.buffer);
    view.setUint16(0, opcode);
    view.setUint16(6, opMod);
    for (const [i, word] of words.entries()) view.setUint32(8 + 4 * i, word >>> 0);
    return this.send(input, options);
  }

  /** Gives `count` pages to function `id`, and their addresses back. */
  async givePages(count: number, id = 0): Promise<number[]> {
    const pages = Array.from({ length: count }, () => this.allocate());
    await this.command(0x108, 1, [id, count, ...pages.flatMap((page) => [Math.floor(page / 2 ** 32), page % 2 ** 32])]);
    return pages;
  }

  /** Boots the function up to INIT_HCA, as a driver does. */
  async boot(): Promise<void> {
    this.setQueue();
    await this.command(0x104);
    const boot = await this.command(0x107, 1);
    await this.givePages(boot.output.getUint32(12));
    const init = await this.command(0x107, 2);
    await this.givePages(init.output.getUint32(12));
    await this.command(0x102, 0, [0, 0, 0, 0, 0, 0]);
  }

  /** A chain of mailboxes for what does not fit the entry; 0 where everything does. */
  #chain(length: number, data: Uint8Array, tamper?: (bytes: Uint8Array, block: number) => void): number {
    const blocks = Math.max(0, Math.ceil((length - 16) / MAILBOX_DATA));
    const pages = Array.from({ length: blocks }, () => this.allocate());
    for (const [i, page] of pages.entries()) {
      const mailbox = this.bytes(page, 576);
      const view = this.view(page, 576);
      mailbox.fill(0);
      mailbox.set(data.subarray(i * MAILBOX_DATA, (i + 1) * MAILBOX_DATA));
      view.setBigUint64(0x230, BigInt(pages[i + 1] ?? 0));
      view.setUint32(0x238, i);
      mailbox[0x23d] = this.#token;
      mailbox[0x23e] = ~mailbox.subarray(512, 0x23e).reduce((sum, byte) => sum ^ byte, 0) & 0xff;
      mailbox[0x23f] = ~mailbox.subarray(0, 0x23f).reduce((sum, byte) => sum ^ byte, 0) & 0xff;
      tamper?.(mailbox, i);
    }
    return pages[0] ?? 0;
  }
}
