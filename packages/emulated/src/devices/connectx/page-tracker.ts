import { DirtyPages, type TrackedRange } from '../dirty-pages.js';
import type { HcaFunction } from './hca.js';
import type { QueuePair } from './queue-pair.js';

/** States of a tracker. What a report's message carries in bits 31:28 of its immediate data. */
export const TRACKER_STATE = { TRACKING: 0, REPORTING: 1, ERROR: 2 } as const;

/** Bytes of one page address in a report. */
const ENTRY = 8;

export interface PageTrackerShape {
  /** Whose writes are tracked. */
  readonly target: HcaFunction;
  readonly ranges: readonly TrackedRange[];
  readonly logPageSize: number;
  readonly logMessageSize: number;
  readonly reporter: QueuePair;
}

/** Remembers which pages a virtual function has written, and reports them through a queue pair. */
export class PageTracker {
  readonly shape: PageTrackerShape;
  readonly #dirty: DirtyPages;
  #state: number = TRACKER_STATE.TRACKING;

  constructor(shape: PageTrackerShape) {
    this.shape = shape;
    this.#dirty = new DirtyPages(shape.ranges, 2 ** shape.logPageSize);
    shape.target.dma.observe(this.#dirty);
  }

  get state(): number {
    return this.#state;
  }

  /** Pages that are waiting to be reported. */
  get dirtyPages(): number {
    return this.#dirty.size;
  }

  destroy(): void {
    this.shape.target.dma.unobserve(this.#dirty);
  }

  /** Something went wrong: what is reported from now on cannot be believed. */
  fail(): void {
    this.#state = TRACKER_STATE.ERROR;
  }

  /** Sends the written pages of a range in messages, and forgets them; the last message says how it ended. */
  async report(start: number, length: number): Promise<void> {
    if (this.#state === TRACKER_STATE.TRACKING) this.#state = TRACKER_STATE.REPORTING;
    // What is written from here on is for the next report.
    const pages = this.#dirty.take(start, length);
    const perMessage = 2 ** this.shape.logMessageSize / ENTRY;
    for (let i = 0; i < pages.length; i += perMessage) {
      const part = pages.slice(i, i + perMessage);
      const message = new Uint8Array(part.length * ENTRY);
      const view = new DataView(message.buffer);
      for (const [n, page] of part.entries()) view.setBigUint64(n * ENTRY, BigInt(page * this.#dirty.pageSize));
      if (!(await this.#send(message, TRACKER_STATE.REPORTING))) return;
    }
    if (this.#state === TRACKER_STATE.REPORTING) this.#state = TRACKER_STATE.TRACKING;
    await this.#send(new Uint8Array(0), this.#state);
  }

  async #send(message: Uint8Array, state: number): Promise<boolean> {
    const sent = await this.shape.reporter.send(message, (state << 28) >>> 0);
    if (!sent) this.#state = TRACKER_STATE.ERROR;
    return sent;
  }
}
