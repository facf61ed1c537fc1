import type { FunctionDma } from '../../host/dma.js';

/** Is told of memory that a function writes. */
export interface WriteObserver {
  written(iova: number, length: number): void;
}

/** A function's way to memory, watched: a page tracker must see every byte that the function writes, its events included. */
export class TrackedDma {
  readonly #dma: FunctionDma;
  readonly #observers = new Set<WriteObserver>();

  constructor(dma: FunctionDma) {
    this.#dma = dma;
  }

  observe(observer: WriteObserver): void {
    this.#observers.add(observer);
  }

  unobserve(observer: WriteObserver): void {
    this.#observers.delete(observer);
  }

  /** @throws EFAULT as {@link FunctionDma.read}. */
  read(iova: number, into: Uint8Array): void | Promise<void> {
    return this.#dma.read(iova, into);
  }

  /** Counts as written before it is: a report in between names the page once too often rather than never.
   * @throws EFAULT as {@link FunctionDma.write}. */
  write(iova: number, from: Uint8Array): void | Promise<void> {
    for (const observer of this.#observers) observer.written(iova, from.length);
    return this.#dma.write(iova, from);
  }
}
