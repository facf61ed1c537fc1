import type { HcaFunction } from './hca.js';
import type { QueuePair } from './queue-pair.js';
import type { WriteObserver } from './tracked-dma.js';

/** States of a tracker. What a report's message carries in bits 31:28 of its immediate data. */
export const TRACKER_STATE = { TRACKING: 0, REPORTING: 1, ERROR: 2 } as const;

/** Bytes of one page address in a report. */
const ENTRY = 8;

export interface TrackedRange {
  readonly start: number;
  readonly length: number;
}

export interface PageTrackerShape {
  /** Whose writes are tracked. */
  readonly target: HcaFunction;
  readonly ranges: readonly TrackedRange[];
  readonly logPageSize: number;
  readonly logMessageSize: number;
  readonly reporter: QueuePair;
}

/** Remembers which pages a virtual function has written, and reports them through a queue pair. */
export class PageTracker implements WriteObserver {
  readonly shape: PageTrackerShape;
  readonly #pageSize: number;
  /** Numbers of written pages. */
  #dirty = new Set<number>();
  #state: number = TRACKER_STATE.TRACKING;

  constructor(shape: PageTrackerShape) {
    this.shape = shape;
    this.#pageSize = 2 ** shape.logPageSize;
    shape.target.dma.observe(this);
  }

  get state(): number {
    return this.#state;
  }

  /** Pages that are waiting to be reported. */
  get dirtyPages(): number {
    return this.#dirty.size;
  }

  destroy(): void {
    this.shape.target.dma.unobserve(this);
  }

  /** Something went wrong: what is reported from now on cannot be believed. */
  fail(): void {
    this.#state = TRACKER_STATE.ERROR;
  }

  written(iova: number, length: number): void {
    if (length === 0) return;
    for (const range of this.shape.ranges) {
      const start = Math.max(iova, range.start);
      const end = Math.min(iova + length, range.start + range.length);
      for (let at = Math.floor(start / this.#pageSize); at * this.#pageSize < end && start < end; at++)
        this.#dirty.add(at);
    }
  }

  /** Sends the written pages of a range in messages, and forgets them; the last message says how it ended. */
  async report(start: number, length: number): Promise<void> {
    if (this.#state === TRACKER_STATE.TRACKING) this.#state = TRACKER_STATE.REPORTING;
    const pages: number[] = [];
    for (const page of this.#dirty) {
      const address = page * this.#pageSize;
      if (address + this.#pageSize > start && address < start + length) pages.push(page);
    }
    // What is written from here on is for the next report.
    for (const page of pages) this.#dirty.delete(page);
    const perMessage = 2 ** this.shape.logMessageSize / ENTRY;
    for (let i = 0; i < pages.length; i += perMessage) {
      const part = pages.slice(i, i + perMessage);
      const message = new Uint8Array(part.length * ENTRY);
      const view = new DataView(message.buffer);
      for (const [n, page] of part.entries()) view.setBigUint64(n * ENTRY, BigInt(page * this.#pageSize));
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
