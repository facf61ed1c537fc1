import type { TrackedDma } from '../tracked-dma.js';
import { CommandError, SYNDROME } from './command.js';
import { STATUS } from './constants.js';

/** Memory that software has registered: a stretch of addresses of its own, made of pages anywhere. */
export interface MemoryKeyShape {
  /** The index in bits 31:8, the byte that software chose in bits 7:0. */
  readonly key: number;
  readonly pd: number;
  readonly start: number;
  readonly length: number;
  readonly logPageSize: number;
  readonly pages: readonly number[];
  readonly localRead: boolean;
  readonly localWrite: boolean;
}

/** Pages that follow each other in memory, as one. */
interface Run {
  readonly start: number;
  readonly iova: number;
  readonly length: number;
}

export class MemoryKey {
  readonly shape: MemoryKeyShape;
  readonly #runs: Run[] = [];

  constructor(shape: MemoryKeyShape) {
    this.shape = shape;
    const page = 2 ** shape.logPageSize;
    let start = 0;
    for (const iova of shape.pages) {
      const last = this.#runs.at(-1);
      if (last !== undefined && last.iova + last.length === iova)
        this.#runs[this.#runs.length - 1] = { ...last, length: last.length + page };
      else this.#runs.push({ start, iova, length: page });
      start += page;
    }
  }

  /** Copies `data` to `address`. @throws CommandError where the key does not allow it or memory does not answer. */
  async write(dma: TrackedDma, address: number, data: Uint8Array): Promise<void> {
    if (!this.shape.localWrite) throw denied(this.shape.key, 'written');
    await this.#each(address, data.length, (iova, at, length) => dma.write(iova, data.subarray(at, at + length)));
  }

  /** Copies from `address`. @throws CommandError as {@link MemoryKey.write}. */
  async read(dma: TrackedDma, address: number, into: Uint8Array): Promise<void> {
    if (!this.shape.localRead) throw denied(this.shape.key, 'read');
    await this.#each(address, into.length, (iova, at, length) => dma.read(iova, into.subarray(at, at + length)));
  }

  /** @throws CommandError where the key does not reach over `length` bytes from `address`. */
  check(address: number, length: number): void {
    const { start, length: size, key } = this.shape;
    if (address < start || address + length > start + size)
      throw new CommandError(STATUS.BAD_PARAM, SYNDROME.BAD_MKEY, `${length} bytes at ${address}: not in key ${key}`);
  }

  async #each(
    address: number,
    length: number,
    copy: (iova: number, at: number, length: number) => void | Promise<void>,
  ): Promise<void> {
    this.check(address, length);
    const { start, key } = this.shape;
    // The key's address space starts inside the first page where `start` does.
    const page = 2 ** this.shape.logPageSize;
    let position = address - start + (start % page);
    let done = 0;
    for (let index = this.#find(position); done < length; index++) {
      const run = this.#runs[index];
      if (run === undefined)
        throw new CommandError(STATUS.BAD_PARAM, SYNDROME.BAD_MKEY, `key ${key} has too few pages`);
      const inside = position - run.start;
      const part = Math.min(length - done, run.length - inside);
      try {
        await copy(run.iova + inside, done, part);
      } catch {
        throw new CommandError(STATUS.INTERNAL, SYNDROME.MEMORY_ERROR, 'memory did not answer');
      }
      done += part;
      position += part;
    }
  }

  #find(position: number): number {
    let low = 0;
    let high = this.#runs.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#runs[middle]?.start ?? 0) <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

function denied(key: number, what: string): CommandError {
  return new CommandError(STATUS.BAD_PARAM, SYNDROME.BAD_MKEY, `key ${key} may not be ${what}`);
}
