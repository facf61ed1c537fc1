import type { WriteObserver } from './tracked-dma.js';

export interface TrackedRange {
  readonly start: number;
  readonly length: number;
}

/** Numbers of the pages of some ranges that a function has written. */
export class DirtyPages implements WriteObserver {
  readonly ranges: readonly TrackedRange[];
  readonly pageSize: number;
  readonly #pages = new Set<number>();

  constructor(ranges: readonly TrackedRange[], pageSize: number) {
    this.ranges = ranges;
    this.pageSize = pageSize;
  }

  get size(): number {
    return this.#pages.size;
  }

  written(iova: number, length: number): void {
    if (length === 0) return;
    for (const range of this.ranges) {
      const start = Math.max(iova, range.start);
      const end = Math.min(iova + length, range.start + range.length);
      for (let at = Math.floor(start / this.pageSize); at * this.pageSize < end && start < end; at++)
        this.#pages.add(at);
    }
  }

  /** The pages that touch a piece of memory, which are clean from now on. */
  take(start: number, length: number): number[] {
    const taken: number[] = [];
    for (const page of this.#pages) {
      const address = page * this.pageSize;
      if (address + this.pageSize > start && address < start + length) taken.push(page);
    }
    for (const page of taken) this.#pages.delete(page);
    return taken;
  }

  /** All pages, ascending; they stay dirty. */
  sorted(): number[] {
    return [...this.#pages].sort((a, b) => a - b);
  }

  clean(page: number): void {
    this.#pages.delete(page);
  }
}
