import type { BlockStore } from './store.js';

/** Bytes of a cache line, and of the units in it that are dirty or not: the smallest logical block. */
const LINE = 0x10000;
const UNIT = 512;
const UNITS = LINE / UNIT;

/** One line: the bytes, and which of its units are newer than the store's. */
interface Line {
  readonly bytes: Uint8Array;
  readonly dirty: Uint8Array;
}

/**
 * A volatile write cache in front of a store. What was written and not flushed is lost with power. Lines beyond the
 * capacity are written back, oldest first, as a drive does when its cache is full.
 */
export class WriteCache {
  readonly #store: BlockStore;
  readonly #capacityLines: number;
  readonly #lines = new Map<number, Line>();
  readonly #spare: Line[] = [];
  /** Off: writes go through. */
  enabled: boolean;

  /** @param capacity bytes; 0 makes a drive without a cache. */
  constructor(store: BlockStore, capacity: number) {
    this.#store = store;
    this.#capacityLines = Math.floor(capacity / LINE);
    this.enabled = this.#capacityLines > 0;
  }

  /** Whether anything would be lost with power now. */
  get isDirty(): boolean {
    return this.#lines.size > 0;
  }

  read(offset: number, into: Uint8Array): void {
    this.#store.read(offset, into);
    if (this.#lines.size === 0) return;
    this.#each(offset, into.length, (line, within, length, done) => {
      let at = within;
      while (at < within + length) {
        const end = Math.min(runEnd(line, at), within + length);
        if (line.dirty[Math.floor(at / UNIT)] === 1) into.set(line.bytes.subarray(at, end), done + at - within);
        at = end;
      }
    });
  }

  /** @param through past the cache (FUA): the caller flushes the store. Whole units only. */
  write(offset: number, from: Uint8Array, through: boolean): void {
    if (through || !this.enabled) {
      this.#forget(offset, from.length);
      this.#store.write(offset, from);
      return;
    }
    let done = 0;
    while (done < from.length) {
      const at = offset + done;
      const within = at % LINE;
      const length = Math.min(LINE - within, from.length - done);
      const line = this.#line((at - within) / LINE);
      line.bytes.set(from.subarray(done, done + length), within);
      line.dirty.fill(1, within / UNIT, (within + length) / UNIT);
      done += length;
    }
  }

  /** The range reads as zeros, at once and for good. */
  discard(offset: number, length: number): void {
    this.#forget(offset, length);
    this.#store.discard(offset, length);
  }

  /** Writes everything back; durable when the store has flushed. What the store does not take stays, and is thrown. */
  writeBack(): void {
    const errors: unknown[] = [];
    for (const index of [...this.#lines.keys()]) {
      try {
        this.#evict(index);
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }

  /** Power is gone. */
  lose(): void {
    this.#lines.clear();
    this.#spare.length = 0;
  }

  #line(index: number): Line {
    let line = this.#lines.get(index);
    if (line !== undefined) return line;
    if (this.#lines.size >= this.#capacityLines) {
      const oldest = this.#lines.keys().next().value;
      if (oldest !== undefined) this.#evict(oldest);
    }
    line = this.#spare.pop() ?? { bytes: new Uint8Array(LINE), dirty: new Uint8Array(UNITS) };
    this.#lines.set(index, line);
    return line;
  }

  #evict(index: number): void {
    const line = this.#lines.get(index);
    if (line === undefined) return;
    for (let at = 0; at < LINE; ) {
      const end = runEnd(line, at);
      if (line.dirty[at / UNIT] === 1) this.#store.write(index * LINE + at, line.bytes.subarray(at, end));
      at = end;
    }
    this.#lines.delete(index);
    line.dirty.fill(0);
    if (this.#spare.length < 16) this.#spare.push(line);
  }

  #forget(offset: number, length: number): void {
    if (this.#lines.size === 0) return;
    if (length / LINE > this.#lines.size) {
      // A discard may name far more than is here.
      for (const index of [...this.#lines.keys()]) {
        const start = Math.max(offset, index * LINE);
        const end = Math.min(offset + length, (index + 1) * LINE);
        if (start < end) this.#forgetIn(index, start - index * LINE, end - start);
      }
      return;
    }
    for (let at = offset; at < offset + length; ) {
      const within = at % LINE;
      const part = Math.min(LINE - within, offset + length - at);
      this.#forgetIn((at - within) / LINE, within, part);
      at += part;
    }
  }

  #forgetIn(index: number, within: number, length: number): void {
    const line = this.#lines.get(index);
    if (line === undefined) return;
    line.dirty.fill(0, within / UNIT, (within + length) / UNIT);
    if (!line.dirty.includes(1)) this.#evict(index);
  }

  #each(
    offset: number,
    length: number,
    visit: (line: Line, within: number, length: number, done: number) => void,
  ): void {
    for (let done = 0; done < length; ) {
      const at = offset + done;
      const within = at % LINE;
      const part = Math.min(LINE - within, length - done);
      const line = this.#lines.get((at - within) / LINE);
      if (line !== undefined) visit(line, within, part, done);
      done += part;
    }
  }
}

/** Where the run of equally dirty units that holds byte `at` ends. */
function runEnd(line: Line, at: number): number {
  let unit = Math.floor(at / UNIT);
  const dirty = line.dirty[unit];
  do unit += 1;
  while (unit < UNITS && line.dirty[unit] === dirty);
  return unit * UNIT;
}
