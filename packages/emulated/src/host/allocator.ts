import { errnoError, hex } from '@vfio/uapi';

/** Hands out aligned parts of an address range, lowest first, and takes them back. */
export class RangeAllocator {
  readonly #what: string;
  readonly #start: number;
  readonly #end: number;
  #used: { readonly start: number; readonly end: number }[] = [];

  /** @param end first address that is no longer part of the range. */
  constructor(what: string, start: number, end: number) {
    this.#what = what;
    this.#start = start;
    this.#end = end;
  }

  /** @throws ENOSPC. */
  allocate(size: number, alignment = size): number {
    let candidate = align(this.#start, alignment);
    let at = 0;
    for (const range of this.#used) {
      if (candidate + size <= range.start) break;
      candidate = Math.max(candidate, align(range.end, alignment));
      at += 1;
    }
    if (candidate + size > this.#end)
      throw errnoError(
        'ENOSPC',
        `${this.#what}: no room for ${hex(size)} bytes between ${hex(this.#start)} and ${hex(this.#end)}`,
      );
    this.#used.splice(at, 0, { start: candidate, end: candidate + size });
    return candidate;
  }

  release(start: number): void {
    this.#used = this.#used.filter((range) => range.start !== start);
  }
}

function align(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}
