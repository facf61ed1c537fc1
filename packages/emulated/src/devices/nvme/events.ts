import type { NvmeCommand } from './command.js';
import { STATUS } from './status.js';

/** Something that waits to be told. */
export interface PendingEvent {
  readonly type: number;
  readonly info: number;
  readonly log: number;
}

/**
 * Asynchronous events (NVM Express 1.4, 5.2): requests wait for events, events for requests, and a type that was
 * reported is quiet until its log page has been read.
 */
export class AsyncEvents {
  readonly #limit: number;
  readonly #complete: (command: NvmeCommand, status: number) => void;
  #held: NvmeCommand[] = [];
  #pending: PendingEvent[] = [];
  readonly #quiet = new Set<number>();

  constructor(limit: number, complete: (command: NvmeCommand, status: number) => void) {
    this.#limit = limit;
    this.#complete = complete;
  }

  /** Requests that wait. */
  get held(): readonly NvmeCommand[] {
    return this.#held;
  }

  get pending(): readonly PendingEvent[] {
    return this.#pending;
  }

  /** Types that were told and whose log page was not read. */
  get quiet(): ReadonlySet<number> {
    return this.#quiet;
  }

  /** What another controller has not told yet, and may not tell; its requests come one by one. */
  adopt(pending: readonly PendingEvent[], quiet: Iterable<number>): void {
    this.#pending = [...pending];
    this.#quiet.clear();
    for (const type of quiet) this.#quiet.add(type);
  }

  /** Takes a request; false where the limit is reached. */
  hold(command: NvmeCommand): boolean {
    if (this.#held.length >= this.#limit) return false;
    this.#held.push(command);
    return true;
  }

  /** An event has come. The same one that still waits to be told is told once. */
  raise(type: number, info: number, log: number): void {
    if (this.#pending.some((event) => event.type === type && event.info === info)) return;
    this.#pending.push({ type, info, log });
    this.deliver();
  }

  /** Completes requests for the events that may be told. */
  deliver(): void {
    for (let i = 0; i < this.#pending.length && this.#held.length > 0; ) {
      const event = this.#pending[i];
      if (event === undefined || this.#quiet.has(event.type)) {
        i += 1;
        continue;
      }
      this.#pending.splice(i, 1);
      this.#quiet.add(event.type);
      const command = this.#held.shift();
      if (command === undefined) return;
      command.result = event.type | (event.info << 8) | (event.log << 16);
      this.#complete(command, STATUS.SUCCESS);
    }
  }

  /** A log page was read and its events with it: that type may be told again. */
  logRead(type: number): void {
    this.#quiet.delete(type);
    this.deliver();
  }

  /** Aborts the waiting request with this id; false where there is none. */
  abort(cid: number): boolean {
    const index = this.#held.findIndex((command) => command.cid === cid);
    const [command] = index < 0 ? [] : this.#held.splice(index, 1);
    if (command === undefined) return false;
    this.#complete(command, STATUS.ABORT_REQUESTED);
    return true;
  }

  /** A controller reset: requests are forgotten, events too. */
  reset(): NvmeCommand[] {
    const forgotten = this.#held;
    this.#held = [];
    this.#pending = [];
    this.#quiet.clear();
    return forgotten;
  }
}
