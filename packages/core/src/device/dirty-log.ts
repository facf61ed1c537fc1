import type { DmaLoggingReport } from './features.js';
import type { IovaRange } from './migration-types.js';

/** Pages in one piece of the bitmap: 4 KiB of bits, so that memory is spent only where something was written. */
const CHUNK_PAGES = 32768;
const MIN_PAGE_SHIFT = 12n;
const MAX_PAGE_SHIFT = 30n;

/** Whether 64-bit words of this machine have their low byte first; report bitmaps are in its byte order. */
const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/**
 * Which pages a device has written since they were last reported. Pages are numbers (2^52 of 4 KiB at most), so marking
 * needs no bigint, and bits live in a sparse bitmap.
 */
export class DirtyLog {
  /** The page size that is really tracked: the wanted one, cut down to a power of two between 4 KiB and 1 GiB. */
  readonly pageSize: bigint;
  readonly ranges: readonly IovaRange[];
  readonly #shift: bigint;
  readonly #pageBytes: number;
  readonly #chunks = new Map<number, Uint32Array>();
  #lastIndex = -1;
  #lastChunk: Uint32Array | undefined;
  #allDirty = false;

  /** @param ranges checked already: not empty, aligned, apart from one another. */
  constructor(wantedPageSize: bigint, ranges: readonly IovaRange[]) {
    let shift = BigInt(wantedPageSize.toString(2).length - 1);
    if (shift < MIN_PAGE_SHIFT) shift = MIN_PAGE_SHIFT;
    if (shift > MAX_PAGE_SHIFT) shift = MAX_PAGE_SHIFT;
    this.#shift = shift;
    this.pageSize = 1n << shift;
    this.#pageBytes = Number(this.pageSize);
    this.ranges = ranges.map(({ iova, length }) => ({ iova, length }));
  }

  /** Notes that bytes were written. Neither throws nor makes a bigint; `length` 0 marks nothing. */
  mark(iova: number, length: number): void {
    if (length <= 0) return;
    const pageBytes = this.#pageBytes;
    this.#markPages(Math.floor(iova / pageBytes), Math.floor((iova + length - 1) / pageBytes));
  }

  /** {@link mark} for addresses above 2^53. */
  markBig(iova: bigint, length: bigint): void {
    if (length <= 0n) return;
    this.#markPages(Number(iova >> this.#shift), Number((iova + length - 1n) >> this.#shift));
  }

  /** Gives up knowing: the next report of any range says that all of it is dirty. */
  markAll(): void {
    this.#allDirty = true;
  }

  #markPages(first: number, last: number): void {
    for (let page = first; page <= last; page++) {
      const index = Math.floor(page / CHUNK_PAGES);
      const chunk = index === this.#lastIndex && this.#lastChunk !== undefined ? this.#lastChunk : this.#chunkAt(index);
      const bit = page - index * CHUNK_PAGES;
      const word = bit >>> 5;
      chunk[word] = chunk[word]! | (1 << (bit & 31));
    }
  }

  #chunkAt(index: number): Uint32Array {
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      chunk = new Uint32Array(CHUNK_PAGES / 32);
      this.#chunks.set(index, chunk);
    }
    this.#lastIndex = index;
    this.#lastChunk = chunk;
    return chunk;
  }

  /**
   * Calls `dirty` for every dirty piece of `range` that is also in a logged range, then clears the pages that were
   * reported whole: a page that is larger than what was asked stays dirty, because its other part was not told yet. If
   * `dirty` throws nothing is cleared.
   */
  readAndClear(range: IovaRange, dirty: (iova: bigint, length: bigint) => void): void {
    const end = range.iova + range.length;
    for (const logged of this.ranges) {
      const from = max(range.iova, logged.iova);
      const to = min(end, logged.iova + logged.length);
      if (from >= to) continue;
      if (this.#allDirty) dirty(from, to - from);
      else this.#report(from, to, dirty);
    }
    for (const logged of this.ranges) {
      const from = max(range.iova, logged.iova);
      const to = min(end, logged.iova + logged.length);
      if (from < to) this.#clear(from, to);
    }
    if (this.#allDirty) this.#settleAllDirty(range.iova, end);
  }

  /** After "all dirty" was told for the whole of what is logged, exact knowledge starts again. */
  #settleAllDirty(from: bigint, end: bigint): void {
    const all = this.ranges.every((logged) => from <= logged.iova && end >= logged.iova + logged.length);
    if (all) this.#allDirty = false;
  }

  #report(from: bigint, to: bigint, dirty: (iova: bigint, length: bigint) => void): void {
    const first = Number(from >> this.#shift);
    const last = Number((to - 1n) >> this.#shift);
    const emit = (start: number, end: number) => {
      const pieceFrom = max(BigInt(start) << this.#shift, from);
      const pieceTo = min(BigInt(end) << this.#shift, to);
      dirty(pieceFrom, pieceTo - pieceFrom);
    };
    let runStart = -1;
    let runEnd = -1;
    for (const [base, words] of this.#chunksIn(first, last)) {
      for (let word = 0; word < words.length; word++) {
        let bits = words[word]!;
        while (bits !== 0) {
          const bit = 31 - Math.clz32(bits & -bits);
          bits &= bits - 1;
          const page = base + word * 32 + bit;
          if (page < first || page > last) continue;
          if (page !== runEnd) {
            if (runStart >= 0) emit(runStart, runEnd);
            runStart = page;
          }
          runEnd = page + 1;
        }
      }
    }
    if (runStart >= 0) emit(runStart, runEnd);
  }

  #clear(from: bigint, to: bigint): void {
    const first = Number((from + this.pageSize - 1n) >> this.#shift);
    const last = Number(to >> this.#shift) - 1;
    for (const [base, words] of this.#chunksIn(first, last)) {
      for (let word = 0; word < words.length; word++) {
        if (words[word] === 0) continue;
        const page = base + word * 32;
        if (page >= first && page + 31 <= last) {
          words[word] = 0;
          continue;
        }
        for (let bit = 0; bit < 32; bit++) {
          if (page + bit >= first && page + bit <= last) words[word] = words[word]! & ~(1 << bit);
        }
      }
    }
  }

  /** The existing pieces of the bitmap between two pages, by address. */
  #chunksIn(first: number, last: number): [base: number, words: Uint32Array][] {
    const firstIndex = Math.floor(first / CHUNK_PAGES);
    const lastIndex = Math.floor(last / CHUNK_PAGES);
    const found: [number, Uint32Array][] = [];
    for (const [index, words] of this.#chunks) {
      if (index >= firstIndex && index <= lastIndex) found.push([index * CHUNK_PAGES, words]);
    }
    return found.sort((a, b) => a[0] - b[0]);
  }
}

/** Sets the bits of a report for a dirty piece; never clears one. Parts outside of the report's range are left out. */
export function setDirtyBits(report: DmaLoggingReport, iova: bigint, length: bigint): void {
  const from = max(iova, report.iova);
  const to = min(iova + length, report.iova + report.length);
  if (from >= to) return;
  const first = Number((from - report.iova) / report.pageSize);
  const last = Number((to - 1n - report.iova) / report.pageSize);
  const { bitmap } = report;
  for (let bit = first; bit <= last; bit++) {
    if ((bit & 7) === 0 && bit + 7 <= last) {
      bitmap[bitmapByte(bit)] = 0xff;
      bit += 7;
    } else {
      const at = bitmapByte(bit);
      bitmap[at] = bitmap[at]! | (1 << (bit & 7));
    }
  }
}

/** The byte of a native-endian array of 64-bit words that holds a bit; within it bit `n % 8` is meant. */
function bitmapByte(bit: number): number {
  const byte = Math.floor(bit / 8);
  return LITTLE_ENDIAN ? byte : byte - (byte % 8) + (7 - (byte % 8));
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}
