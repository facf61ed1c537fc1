import type { FunctionDma } from '../host/dma.js';

/** Is told of memory that a function writes. */
export interface WriteObserver {
  written(iova: number, length: number): void;
}

/** A function's way to memory, watched: who tracks pages must see every byte that the function writes, its events included. */
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

  get enabled(): boolean {
    return this.#dma.enabled;
  }

  /** @throws EFAULT as {@link FunctionDma.read}. */
  read(iova: number, into: Uint8Array): void | Promise<void> {
    return this.#dma.read(iova, into);
  }

  /**
   * Counts as written before it is, so that what fails half-way is not missed; and once more when it has arrived, where
   * that takes time: a report in between took the page as it was before. @throws EFAULT as {@link FunctionDma.write}.
   */
  write(iova: number, from: Uint8Array): void | Promise<void> {
    this.#written(iova, from.length);
    const wait = this.#dma.write(iova, from);
    return wait === undefined || this.#observers.size === 0
      ? wait
      : wait.finally(() => this.#written(iova, from.length));
  }

  /** {@link FunctionDma.view}; a writable one counts as written. */
  view(iova: number, length: number, writable: boolean): Uint8Array | undefined {
    if (writable) this.#written(iova, length);
    return this.#dma.view(iova, length, writable);
  }

  #written(iova: number, length: number): void {
    for (const observer of this.#observers) observer.written(iova, length);
  }
}
