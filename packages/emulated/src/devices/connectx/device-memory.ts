/** What is tracked, and what moves in one piece. */
export const MEMORY_PAGE = 4096;

/** The function's own memory: what makes up most of its state. Pages that were never written take no room in an image. */
export class DeviceMemory {
  readonly size: number;
  readonly #bytes: Uint8Array;
  readonly #pages: number;
  /** Pages that are not all zero, as far as is known. */
  readonly #used: Uint8Array;
  /** Pages written since {@link DeviceMemory.takeDirty}. */
  readonly #dirty = new Set<number>();

  /** @param size a multiple of {@link MEMORY_PAGE} */
  constructor(size: number) {
    this.size = size;
    this.#bytes = new Uint8Array(size);
    this.#pages = size / MEMORY_PAGE;
    this.#used = new Uint8Array(this.#pages);
  }

  get dirtyPages(): number {
    return this.#dirty.size;
  }

  read(offset: number, into: Uint8Array): void {
    into.set(this.#bytes.subarray(offset, offset + into.length));
  }

  write(offset: number, from: Uint8Array): void {
    this.#bytes.set(from, offset);
    const last = Math.floor((offset + from.length - 1) / MEMORY_PAGE);
    for (let page = Math.floor(offset / MEMORY_PAGE); page <= last; page++) {
      this.#used[page] = 1;
      this.#dirty.add(page);
    }
  }

  /** The bytes of a page themselves: to be used at once. */
  page(index: number): Uint8Array {
    return this.#bytes.subarray(index * MEMORY_PAGE, (index + 1) * MEMORY_PAGE);
  }

  usedPages(): number[] {
    const pages: number[] = [];
    for (let page = 0; page < this.#pages; page++) if (this.#used[page] === 1) pages.push(page);
    return pages;
  }

  /** The pages written since the last call, in order. */
  takeDirty(): number[] {
    const pages = [...this.#dirty].sort((a, b) => a - b);
    this.#dirty.clear();
    return pages;
  }

  markDirty(pages: Iterable<number>): void {
    for (const page of pages) this.#dirty.add(page);
  }

  clear(): void {
    this.#bytes.fill(0);
    this.#used.fill(0);
    this.#dirty.clear();
  }
}
