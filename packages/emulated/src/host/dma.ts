import type { DmaSpace } from '@vfio/core';
import { errnoError, hex, PCI_COMMAND, PCI_COMMAND_MASTER, PCI_STATUS, PCI_STATUS_REC_MASTER_ABORT } from '@vfio/uapi';
import type { ConfigSpace } from '../config/config-space.js';

/**
 * A function's way to memory. Where everything is mapped in this process calls return at once; where a part is reached
 * by messages they return a promise, so a model awaits what is not undefined. Never used inside a register access.
 */
export class FunctionDma {
  readonly #config: ConfigSpace;
  readonly #isPowered: () => boolean;
  readonly #isForwarded: () => boolean;
  readonly #address: string;
  #space: DmaSpace | undefined;

  /** @param isForwarded the bridge above passes requests up */
  constructor(config: ConfigSpace, address: string, isPowered: () => boolean, isForwarded: () => boolean) {
    this.#config = config;
    this.#address = address;
    this.#isPowered = isPowered;
    this.#isForwarded = isForwarded;
  }

  /** Where requests go; undefined: nowhere. */
  attach(space: DmaSpace | undefined): void {
    this.#space = space;
  }

  /** Whether the function may master the bus now. */
  get enabled(): boolean {
    return this.#config.present && this.#isPowered() && (this.#config.get(PCI_COMMAND, 2) & PCI_COMMAND_MASTER) !== 0;
  }

  /** Copies from memory. @throws EFAULT (also by promise) where bus mastering is off or a part cannot be read. */
  read(iova: number, into: Uint8Array): void | Promise<void> {
    const space = this.#reach('read', iova, into.length);
    try {
      const result = space.read(iova, into);
      return result === undefined ? undefined : result.catch((error: unknown) => this.#abort(error));
    } catch (error) {
      return this.#abort(error);
    }
  }

  /** Copies to memory. @throws EFAULT as for read. */
  write(iova: number, from: Uint8Array): void | Promise<void> {
    const space = this.#reach('write', iova, from.length);
    try {
      const result = space.write(iova, from);
      return result === undefined ? undefined : result.catch((error: unknown) => this.#abort(error));
    } catch (error) {
      return this.#abort(error);
    }
  }

  /** The bytes themselves where one local mapping has them all: to be used at once, never kept. A writable view is
   * logged as dirty. Undefined where they must be copied. @throws EFAULT as for read. */
  view(iova: number, length: number, writable: boolean): Uint8Array | undefined {
    const space = this.#reach('view', iova, length);
    try {
      return space.view(iova, length, writable);
    } catch (error) {
      return this.#abort(error);
    }
  }

  #reach(what: string, iova: number, length: number): DmaSpace {
    const space = this.#space;
    if (!this.enabled)
      throw errnoError('EFAULT', `DMA ${what} at ${hex(iova)}+${hex(length)}: bus mastering is off`, {
        op: 'dma',
        device: this.#address,
      });
    const isForwarded = this.#isForwarded();
    if (space !== undefined && isForwarded) return space;
    const why = isForwarded ? 'no address space is attached' : 'the bridge above passes nothing up';
    return this.#abort(
      errnoError('EFAULT', `DMA ${what} at ${hex(iova)}+${hex(length)}: ${why}`, { op: 'dma', device: this.#address }),
    );
  }

  /** Nobody claimed the request: the function records it as it would an unsupported request. */
  #abort(error: unknown): never {
    this.#config.change(PCI_STATUS, 2, PCI_STATUS_REC_MASTER_ABORT, 0);
    throw error;
  }
}
