/**
 * What a namespace keeps its data in: bytes that survive loss of power. Reads and writes are synchronous and in range;
 * what takes time, making writes durable, may be a promise.
 */
export interface BlockStore {
  /** Copies `into.length` bytes from `offset`; bytes never written are zero. */
  read(offset: number, into: Uint8Array): void;
  write(offset: number, from: Uint8Array): void;
  /** The range reads as zeros and needs no room any more. */
  discard(offset: number, length: number): void;
  /** All that was written is durable when this is done. */
  flush(): void | Promise<void>;
  /** Lets go of files. */
  close?(): void;
}

/** Bytes per allocation of {@link SparseMemoryStore}: small enough for random writes, large enough for long ones. */
const CHUNK = 0x8000;

/** A store in memory that has room only for what was written: a terabyte of nothing costs nothing. */
export class SparseMemoryStore implements BlockStore {
  readonly #chunks = new Map<number, Uint8Array>();

  /** Bytes that are allocated now. */
  get allocated(): number {
    return this.#chunks.size * CHUNK;
  }

  read(offset: number, into: Uint8Array): void {
    let done = 0;
    while (done < into.length) {
      const at = offset + done;
      const within = at % CHUNK;
      const length = Math.min(CHUNK - within, into.length - done);
      const chunk = this.#chunks.get((at - within) / CHUNK);
      if (chunk === undefined) into.fill(0, done, done + length);
      else into.set(chunk.subarray(within, within + length), done);
      done += length;
    }
  }

  write(offset: number, from: Uint8Array): void {
    let done = 0;
    while (done < from.length) {
      const at = offset + done;
      const within = at % CHUNK;
      const length = Math.min(CHUNK - within, from.length - done);
      const index = (at - within) / CHUNK;
      let chunk = this.#chunks.get(index);
      if (chunk === undefined) {
        chunk = new Uint8Array(CHUNK);
        this.#chunks.set(index, chunk);
      }
      chunk.set(from.subarray(done, done + length), within);
      done += length;
    }
  }

  discard(offset: number, length: number): void {
    const end = offset + length;
    const firstWhole = Math.ceil(offset / CHUNK);
    const lastWhole = Math.floor(end / CHUNK);
    if (lastWhole - firstWhole > this.#chunks.size) {
      for (const index of this.#chunks.keys()) if (index >= firstWhole && index < lastWhole) this.#chunks.delete(index);
    } else for (let index = firstWhole; index < lastWhole; index++) this.#chunks.delete(index);
    const clear = (from: number, to: number): void => {
      if (from < to) this.#chunks.get(Math.floor(from / CHUNK))?.fill(0, from % CHUNK, ((to - 1) % CHUNK) + 1);
    };
    if (firstWhole > lastWhole) clear(offset, end);
    else {
      clear(offset, firstWhole * CHUNK);
      clear(lastWhole * CHUNK, end);
    }
  }

  flush(): void {}
}
