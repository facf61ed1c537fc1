import { errnoError } from '@vfio/uapi';

/** Messages go to the x86 interrupt range; ids beyond 16 bits of data use the address bits that name a destination. */
const MESSAGE_BASE = 0xfee00000;
const MESSAGE_RANGE = 0xfff00000;
const MAX_MESSAGES = 1 << 24;

/** Who takes interrupts of a line. */
interface LineHandler {
  readonly call: () => void;
  readonly exclusive: boolean;
  enabled: boolean;
}

/**
 * A level-triggered interrupt line that several functions may share. Handlers run when a source begins to assert it,
 * and when it is enabled again while it is asserted. They are not run over and over while it stays asserted: the
 * storm that a real line would make of a forgotten source would only hang the process.
 */
export class IntxLine {
  readonly number: number;
  #asserting = 0;
  #handlers: readonly LineHandler[] = [];

  constructor(number: number) {
    this.number = number;
  }

  get asserted(): boolean {
    return this.#asserting > 0;
  }

  /** A source begins or ceases to assert the line; each calls this once per change. */
  drive(asserted: boolean): void {
    this.#asserting += asserted ? 1 : -1;
    if (asserted) this.#fire();
  }

  /** @throws EBUSY where one of the parties wants the line alone. */
  request(call: () => void, exclusive: boolean): LineHandler {
    if (this.#handlers.length > 0 && (exclusive || this.#handlers.some((handler) => handler.exclusive)))
      throw errnoError(
        'EBUSY',
        `interrupt line ${this.number}: ${exclusive ? 'wanted exclusively but taken' : 'taken exclusively'} by another function`,
      );
    const handler: LineHandler = { call, exclusive, enabled: true };
    this.#handlers = [...this.#handlers, handler];
    if (this.asserted) call();
    return handler;
  }

  free(handler: LineHandler): void {
    this.#handlers = this.#handlers.filter((other) => other !== handler);
  }

  setEnabled(handler: LineHandler, enabled: boolean): void {
    handler.enabled = enabled;
    if (enabled && this.asserted) this.#fire();
  }

  #fire(): void {
    const handlers = this.#handlers;
    // Masking at the controller masks the line, so it masks it for everybody.
    for (let i = 0; i < handlers.length; i++) if (handlers[i]?.enabled === false) return;
    for (let i = 0; i < handlers.length; i++) handlers[i]?.call();
  }
}

/** What {@link IntxLine.request} gives. */
export type LineRegistration = ReturnType<IntxLine['request']>;

/** An MSI message as it is programmed into a function. */
export interface MsiMessage {
  readonly address: number;
  readonly addressHigh: number;
  readonly data: number;
}

/** The interrupt controller of the emulated host: INTx lines and the targets of MSI and MSI-X messages. */
export class IrqController {
  readonly #lines = new Map<number, IntxLine>();
  readonly #targets = new Map<number, (() => void) | undefined>();
  #next = 0x20;

  line(number: number): IntxLine {
    let line = this.#lines.get(number);
    if (line === undefined) {
      line = new IntxLine(number);
      this.#lines.set(number, line);
    }
    return line;
  }

  /** A block of `count` messages, aligned to a power of two as MSI needs it. @throws ENOSPC. */
  allocate(count: number): number {
    const block = 2 ** Math.ceil(Math.log2(count));
    for (let tried = 0; tried < MAX_MESSAGES; tried += block) {
      let start = Math.ceil(this.#next / block) * block;
      if (start + block > MAX_MESSAGES) start = Math.ceil(0x20 / block) * block;
      this.#next = start + block;
      let free = true;
      for (let i = 0; i < count && free; i++) free = !this.#targets.has(start + i);
      if (!free) continue;
      for (let i = 0; i < count; i++) this.#targets.set(start + i, undefined);
      return start;
    }
    throw errnoError('ENOSPC', `${count} interrupt messages: the host has none left`);
  }

  release(start: number, count: number): void {
    for (let i = 0; i < count; i++) this.#targets.delete(start + i);
  }

  setTarget(id: number, handler: (() => void) | undefined): void {
    this.#targets.set(id, handler);
  }

  message(id: number): MsiMessage {
    return { address: (MESSAGE_BASE | ((id >>> 16) << 12)) >>> 0, addressHigh: 0, data: id & 0xffff };
  }

  /** A function has written a message. One that was programmed by nobody goes nowhere. Returns whether it arrived. */
  deliver(address: number, addressHigh: number, data: number): boolean {
    if (addressHigh !== 0 || (address & MESSAGE_RANGE) !== (MESSAGE_BASE | 0)) return false;
    const handler = this.#targets.get(((address & 0xff000) << 4) | (data & 0xffff));
    if (handler === undefined) return false;
    handler();
    return true;
  }
}
