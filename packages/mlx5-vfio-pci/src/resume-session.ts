import type { MigrationData, PrecopyInfo, RecordReader } from '@vfio/core';
import { errnoError } from '@vfio/uapi';
import { BufferPool } from './buffers.js';
import { deallocPd, type KeyedBuffer, load, type Vhca } from './cmd.js';
import { imageReader } from './stream.js';

/** The state of a function on its way in: each image is loaded when all of it has come. */
export class ResumeSession implements MigrationData {
  readonly #vhca: Vhca;
  readonly #pd: number;
  readonly #buffers: BufferPool;
  readonly #reader: RecordReader;
  #buffer: KeyedBuffer | undefined;
  #error: unknown;
  #work: Promise<unknown> = Promise.resolve();
  #closed = false;
  readonly released: Promise<void>;
  #release: () => void = () => {};

  constructor(vhca: Vhca, pd: number) {
    this.#vhca = vhca;
    this.#pd = pd;
    this.#buffers = new BufferPool(vhca.hca, pd);
    this.released = new Promise((resolve) => {
      this.#release = resolve;
    });
    this.#reader = imageReader({
      begin: async (size) => {
        this.#buffer = await this.#buffers.get(size);
        return this.#buffer.buffer.bytes;
      },
      complete: (size) => this.#load(size),
      // What will be needed at the end is made ready while there is time.
      stopCopySize: async (size) => this.#buffers.put(await this.#buffers.get(size)),
    });
  }

  async write(from: Uint8Array): Promise<number> {
    if (this.#error !== undefined)
      throw errnoError('ENODEV', 'the stream was refused before', { op: 'write', cause: this.#error });
    const work = this.#work.then(() => this.#reader.write(from));
    this.#work = work.catch(() => undefined);
    try {
      await work;
    } catch (error) {
      this.#error ??= error;
      throw error;
    }
    return from.length;
  }

  read(): number {
    throw errnoError('EINVAL', 'the stream of a device that is being resumed can only be written', { op: 'read' });
  }

  precopyInfo(): PrecopyInfo {
    throw errnoError('EINVAL', 'a device that is being resumed has no precopy info', { op: 'MIG_GET_PRECOPY_INFO' });
  }

  /** All was written. @throws EINVAL where it was not, the error that was met before. */
  async finish(): Promise<void> {
    await this.#work;
    if (this.#error !== undefined) throw this.#error;
    this.#reader.finish();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#error ??= errnoError('ENODEV', 'the session has ended', { op: 'write' });
    void this.#work
      .then(() => this.#buffers.close())
      .then(() => deallocPd(this.#vhca.hca, this.#pd).catch(() => undefined))
      .then(() => this.#release());
  }

  async #load(size: number): Promise<void> {
    const buffer = this.#buffer;
    if (buffer === undefined) return;
    this.#buffer = undefined;
    await load(this.#vhca, buffer, size);
    this.#buffers.put(buffer);
  }
}
