import type { DmaBuffer, DmaPool } from '@vfio/core';
import { errnoError, hex } from '@vfio/uapi';
import { lost, refused, undelivered } from './errors.js';
import { REG, type Registers } from './registers.js';

const ENTRY = 64;
const INLINE = 16;
const MAILBOX_DATA = 512;
const MAILBOX = 576;
const TRANSPORT_PCI = 7;

/** How long the queue is looked at before a wait of its own length comes between two looks. */
const FIRST_POLLS = 20;
const POLL_MS = 1;
const EVENT_LOOK_MS = 100;
const NEVER = new Promise<void>(() => {});

/** All ones: what a function that is gone reads as. */
const GONE = 0xffffffff;

export interface CommandQueueOptions {
  /** Milliseconds after which a command counts as lost, by its name. */
  timeoutMs(command: string): number;
}

/** One command that is under way. */
interface Pending {
  readonly done: Promise<void>;
  readonly finish: () => void;
  hasFired: boolean;
}

/**
 * The way to the firmware: a page of entries, mailboxes for what does not fit one. Any number of commands may be under
 * way; the last entry is kept for MANAGE_PAGES, without which the others may wait for ever.
 */
export class CommandQueue {
  readonly #registers: Registers;
  readonly #pool: DmaPool;
  readonly #device: string;
  readonly #timeoutMs: (command: string) => number;
  readonly #page: DmaBuffer;
  readonly #slots: number;
  readonly #stride: number;
  readonly #busy = new Set<number>();
  readonly #waiting: (() => void)[] = [];
  readonly #pending = new Map<number, Pending>();
  /** Mailboxes of commands that nobody waits for any more, by slot: the hardware's until it gives the entry back. */
  readonly #abandoned = new Map<number, readonly DmaBuffer[]>();
  /** Software is told by events when a command has ended. */
  usesEvents = false;
  /** Told once, when the function is not talked to any more. */
  onBroken: (() => void) | undefined;
  #token = 0;
  /** Why the function is not talked to any more. */
  #broken: Error | undefined;

  /** Reads the shape of the queue from the registers; {@link CommandQueue.start} tells the device where it is. */
  constructor(registers: Registers, pool: DmaPool, device: string, options: CommandQueueOptions) {
    this.#registers = registers;
    this.#pool = pool;
    this.#device = device;
    this.#timeoutMs = (command) => options.timeoutMs(command);
    const shape = registers.read(REG.CMDQ_ADDRESS_LOW);
    this.#slots = 1 << ((shape >>> 4) & 0xf);
    this.#stride = 1 << (shape & 0xf);
    if (shape === GONE || this.#slots > 32 || this.#stride < ENTRY || this.#slots * this.#stride > 4096)
      throw lost('boot', 'EIO', `a command queue of ${this.#slots} entries of ${this.#stride} bytes`, device);
    this.#page = pool.page();
  }

  async start(): Promise<void> {
    const { iova } = this.#page;
    await this.#registers.write(REG.CMDQ_ADDRESS_HIGH, Math.floor(iova / 0x100000000));
    await this.#registers.write(REG.CMDQ_ADDRESS_LOW, iova % 0x100000000);
  }

  /** Gives the page back. Commands that are under way fail. */
  close(error: Error): void {
    this.fail(error);
    this.#pool.freePage(this.#page.iova);
  }

  /** Nothing is sent any more; what waits ends now. */
  fail(error: Error): void {
    if (this.#broken !== undefined) return;
    this.#broken = error;
    for (const { finish } of this.#pending.values()) finish();
    for (const wake of this.#waiting.splice(0)) wake();
    this.onBroken?.();
  }

  /** The event of commands: a bit for each entry that has ended. */
  completed(slots: number): void {
    for (const [slot, { finish }] of this.#pending) if ((slots & (1 << slot)) !== 0) finish();
    this.#reclaim();
  }

  /**
   * Carries out a command and gives its output.
   *
   * @param input the whole input, opcode first
   * @param outputBytes how much output there is room for
   * @throws what the firmware or the interface answered (see errors.ts), ETIMEDOUT, ENOLINK where the function is gone.
   */
  async execute(name: string, input: Uint8Array, outputBytes: number, isPages = false): Promise<DataView> {
    const timeoutMs = this.#timeoutMs(name);
    const slot = await this.#takeSlot(name, isPages, timeoutMs);
    let isOurs = false;
    const mailboxes: DmaBuffer[] = [];
    try {
      const entry = this.#entry(slot);
      const token = this.#nextToken();
      const inputChain = this.#chain(input.subarray(INLINE), input.length - INLINE, token, mailboxes);
      const outputChain = this.#chain(new Uint8Array(0), outputBytes - INLINE, token, mailboxes);
      this.#fill(entry, input, inputChain[0]?.iova ?? 0, outputChain[0]?.iova ?? 0, outputBytes, token);
      const pending = this.#expect(slot);
      await this.#registers.write(REG.COMMAND_DOORBELL, (1 << slot) >>> 0);
      await this.#wait(name, entry, pending, timeoutMs);
      isOurs = true;
      const delivery = entry.getUint8(0x3f) >> 1;
      if (delivery !== 0) throw undelivered(name, delivery, this.#device);
      const output = this.#collect(entry, outputChain, outputBytes);
      const status = output.getUint8(0);
      if (status !== 0) throw refused(name, status, output.getUint32(4), this.#device);
      return output;
    } finally {
      this.#pending.delete(slot);
      // What the hardware still owns is not used again before it gives it back: it may write there at any time.
      if (isOurs) this.#free(slot, mailboxes);
      else this.#abandoned.set(slot, mailboxes);
    }
  }

  #free(slot: number, mailboxes: readonly DmaBuffer[]): void {
    for (const { iova } of mailboxes) this.#pool.freePage(iova);
    this.#busy.delete(slot);
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** Takes what was answered too late. */
  #reclaim(): void {
    for (const [slot, mailboxes] of this.#abandoned) {
      if (isOwned(this.#entry(slot))) continue;
      this.#abandoned.delete(slot);
      this.#free(slot, mailboxes);
    }
  }

  async #takeSlot(name: string, isPages: boolean, timeoutMs: number): Promise<number> {
    const end = Date.now() + timeoutMs;
    for (;;) {
      if (this.#broken !== undefined) throw lost(name, 'ENOLINK', this.#broken.message, this.#device);
      this.#reclaim();
      const slot = this.#freeSlot(isPages);
      if (slot !== undefined) {
        this.#busy.add(slot);
        return slot;
      }
      const left = end - Date.now();
      // Nothing was sent, so nothing was done: those before it are what is not answered.
      if (left <= 0)
        throw errnoError('EBUSY', `${name}: no entry of the command queue became free within ${timeoutMs} ms`, {
          op: name,
          device: this.#device,
        });
      await withTimeout(new Promise<void>((resolve) => this.#waiting.push(resolve)), left);
    }
  }

  #freeSlot(isPages: boolean): number | undefined {
    const last = this.#slots - 1;
    // Pages have the last entry, and another where nobody answers for that one.
    if (isPages && !this.#busy.has(last)) return last;
    for (let slot = 0; slot < last; slot++) if (!this.#busy.has(slot)) return slot;
    return undefined;
  }

  #entry(slot: number): DataView {
    const { bytes } = this.#page;
    return new DataView(bytes.buffer, bytes.byteOffset + slot * this.#stride, ENTRY);
  }

  #nextToken(): number {
    this.#token = (this.#token % 255) + 1;
    return this.#token;
  }

  #chain(data: Uint8Array, length: number, token: number, all: DmaBuffer[]): DmaBuffer[] {
    const chain = Array.from({ length: Math.max(0, Math.ceil(length / MAILBOX_DATA)) }, () => this.#pool.page());
    all.push(...chain);
    for (const [block, { bytes, view }] of chain.entries()) {
      bytes.set(data.subarray(block * MAILBOX_DATA, (block + 1) * MAILBOX_DATA));
      view.setBigUint64(0x230, BigInt(chain[block + 1]?.iova ?? 0));
      view.setUint32(0x238, block);
      bytes[0x23d] = token;
      bytes[0x23e] = signature(bytes, MAILBOX_DATA, 0x23e);
      bytes[MAILBOX - 1] = signature(bytes, 0, MAILBOX - 1);
    }
    return chain;
  }

  #fill(
    entry: DataView,
    input: Uint8Array,
    inputAt: number,
    outputAt: number,
    outputBytes: number,
    token: number,
  ): void {
    const bytes = new Uint8Array(entry.buffer, entry.byteOffset, ENTRY);
    bytes.fill(0);
    bytes[0] = TRANSPORT_PCI;
    entry.setUint32(0x04, input.length);
    entry.setBigUint64(0x08, BigInt(inputAt));
    bytes.set(input.subarray(0, INLINE), 0x10);
    entry.setBigUint64(0x30, BigInt(outputAt));
    entry.setUint32(0x38, outputBytes);
    bytes[0x3c] = token;
    bytes[0x3f] = 1;
    bytes[0x3d] = signature(bytes, 0, ENTRY);
  }

  #expect(slot: number): Pending {
    let resolveDone = (): void => {};
    const done = new Promise<void>((resolve) => {
      resolveDone = resolve;
    });
    const pending: Pending = {
      done,
      finish: () => {
        pending.hasFired = true;
        resolveDone();
      },
      hasFired: false,
    };
    this.#pending.set(slot, pending);
    return pending;
  }

  /** Waits until the entry is ours again: told by an event, or looked at. */
  async #wait(name: string, entry: DataView, pending: Pending, timeoutMs: number): Promise<void> {
    const end = Date.now() + timeoutMs;
    for (let polls = 0; isOwned(entry); polls++) {
      if (this.#broken !== undefined) throw lost(name, 'ENOLINK', this.#broken.message, this.#device);
      const left = end - Date.now();
      if (left <= 0) throw this.#timedOut(name, timeoutMs);
      // With events too the entry is looked at now and then: an event can be lost, or come too early.
      const waitsForEvent = this.usesEvents && !pending.hasFired;
      const pause = waitsForEvent ? EVENT_LOOK_MS : polls < FIRST_POLLS ? 0 : POLL_MS;
      await withTimeout(waitsForEvent ? pending.done : NEVER, Math.min(left, pause));
    }
  }

  #timedOut(name: string, timeoutMs: number): Error {
    if (this.#registers.read(REG.CMDIF_REV) === GONE) return this.#isOver(name, 'ENOLINK', 'the function is gone');
    // Only a syndrome that asks for a reset (rfr) is the end of the firmware.
    const syndrome = (this.#registers.read(REG.HEALTH_SYNDROME) >>> 16) & 0xff;
    if (syndrome !== 0 && this.#registers.read(REG.HEALTH_SEVERITY) >>> 31 !== 0)
      return this.#isOver(name, 'EIO', `the firmware has stopped with an error, syndrome ${hex(syndrome)}`);
    return lost(name, 'ETIMEDOUT', `no answer within ${timeoutMs} ms`, this.#device);
  }

  /** Nothing more is to be had of this function: nobody waits as long again. */
  #isOver(name: string, errno: 'ENOLINK' | 'EIO', what: string): Error {
    const error = lost(name, errno, what, this.#device);
    this.fail(error);
    return error;
  }

  #collect(entry: DataView, chain: readonly DmaBuffer[], length: number): DataView {
    const output = new Uint8Array(Math.max(INLINE, length));
    output.set(new Uint8Array(entry.buffer, entry.byteOffset + 0x20, INLINE));
    for (const [block, { bytes }] of chain.entries()) {
      const at = INLINE + block * MAILBOX_DATA;
      output.set(bytes.subarray(0, Math.min(MAILBOX_DATA, length - at)), at);
    }
    return new DataView(output.buffer, 0, Math.max(INLINE, length));
  }
}

/** Whether an entry is the hardware's. */
function isOwned(entry: DataView): boolean {
  return (entry.getUint8(0x3f) & 1) !== 0;
}

/** The value that makes the bytes' XOR 0xff. */
function signature(bytes: Uint8Array, from: number, to: number): number {
  let sum = 0;
  for (let i = from; i < to; i++) sum ^= bytes[i] ?? 0;
  return ~sum & 0xff;
}

/** Settles with the promise, or after a while. */
async function withTimeout(promise: Promise<void>, ms: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  await Promise.race([
    promise,
    new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ms);
    }),
  ]);
  clearTimeout(timer);
}
