import { createMkey, destroyMkey, type KeyedBuffer } from './cmd.js';
import type { Hca } from './hca/hca.js';

/** Buffers of one session: those that were read out are used again. */
export class BufferPool {
  readonly #hca: Hca;
  readonly #pd: number;
  readonly #free: KeyedBuffer[] = [];
  readonly #all = new Set<KeyedBuffer>();

  constructor(hca: Hca, pd: number) {
    this.#hca = hca;
    this.#pd = pd;
  }

  /** A buffer of at least `size` bytes: the smallest that is free and large enough, or a new one. */
  async get(size: number): Promise<KeyedBuffer> {
    const fits = this.#free.filter(({ buffer }) => buffer.bytes.length >= size);
    fits.sort((a, b) => a.buffer.bytes.length - b.buffer.bytes.length);
    const [found] = fits;
    if (found !== undefined) {
      this.#free.splice(this.#free.indexOf(found), 1);
      return found;
    }
    const buffer = this.#hca.pool.buffer(Math.max(size, 1));
    try {
      const keyed = { buffer, key: await createMkey(this.#hca, this.#pd, buffer) };
      this.#all.add(keyed);
      return keyed;
    } catch (error) {
      await this.#hca.pool.freeBuffer(buffer.iova);
      throw error;
    }
  }

  put(buffer: KeyedBuffer): void {
    this.#free.push(buffer);
  }

  /** Gives all back. Nothing of the firmware may be under way with one. */
  async close(): Promise<void> {
    for (const { buffer, key } of this.#all) {
      // Where the firmware cannot be asked any more, its memory is gone with the function.
      await destroyMkey(this.#hca, key).catch(() => undefined);
      await this.#hca.pool.freeBuffer(buffer.iova);
    }
    this.#all.clear();
    this.#free.length = 0;
  }
}
