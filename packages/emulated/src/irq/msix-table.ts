import type { AccessWidth } from '@vfio/core';
import { PCI_MSIX_ENTRY_CTRL_MASKBIT, PCI_MSIX_ENTRY_SIZE } from '@vfio/uapi';

const WORDS = PCI_MSIX_ENTRY_SIZE / 4;
const CONTROL = 3;

/** MSI-X vector table and pending bit array (PCIe Base 6.1.4.2). Reset leaves every vector masked. */
export class MsixTable {
  readonly vectors: number;
  readonly #entries: Int32Array;
  readonly #pending: Int32Array;
  /** Called when software has changed the mask bit of a vector. */
  onMaskChange: ((vector: number, masked: boolean) => void) | undefined;

  constructor(vectors: number) {
    this.vectors = vectors;
    this.#entries = new Int32Array(vectors * WORDS);
    this.#pending = new Int32Array(2 * Math.ceil(vectors / 64));
    this.reset();
  }

  get tableSize(): number {
    return this.#entries.byteLength;
  }

  get pendingSize(): number {
    return this.#pending.byteLength;
  }

  reset(): void {
    this.#entries.fill(0);
    for (let v = 0; v < this.vectors; v++) this.#entries[v * WORDS + CONTROL] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
    this.#pending.fill(0);
  }

  address(vector: number): number {
    return this.#entries[vector * WORDS] ?? 0;
  }

  addressHigh(vector: number): number {
    return this.#entries[vector * WORDS + 1] ?? 0;
  }

  data(vector: number): number {
    return this.#entries[vector * WORDS + 2] ?? 0;
  }

  isMasked(vector: number): boolean {
    return ((this.#entries[vector * WORDS + CONTROL] ?? 1) & PCI_MSIX_ENTRY_CTRL_MASKBIT) !== 0;
  }

  isPending(vector: number): boolean {
    return ((this.#pending[vector >> 5] ?? 0) & (1 << (vector & 31))) !== 0;
  }

  setPending(vector: number, pending: boolean): void {
    const word = vector >> 5;
    const bit = 1 << (vector & 31);
    const now = this.#pending[word] ?? 0;
    this.#pending[word] = pending ? now | bit : now & ~bit;
  }

  readTable(offset: number, width: AccessWidth): number {
    return narrow(this.#entries[offset >> 2] ?? 0, offset, width);
  }

  writeTable(offset: number, width: AccessWidth, value: number): void {
    const word = offset >> 2;
    let next = merge(this.#entries[word] ?? 0, offset, width, value);
    const field = word & (WORDS - 1);
    if (field === 0) next &= ~3;
    if (field !== CONTROL) {
      this.#entries[word] = next;
      return;
    }
    const vector = word >> 2;
    const wasMasked = this.isMasked(vector);
    this.#entries[word] = next & PCI_MSIX_ENTRY_CTRL_MASKBIT;
    const isMasked = this.isMasked(vector);
    if (isMasked !== wasMasked) this.onMaskChange?.(vector, isMasked);
  }

  /** The pending bits; software cannot write them. */
  readPending(offset: number, width: AccessWidth): number {
    return narrow(this.#pending[offset >> 2] ?? 0, offset, width);
  }
}

function narrow(word: number, offset: number, width: AccessWidth): number {
  if (width === 4) return word;
  return (word >>> (8 * (offset & 3))) & (width === 2 ? 0xffff : 0xff);
}

function merge(word: number, offset: number, width: AccessWidth, value: number): number {
  if (width === 4) return value | 0;
  const shift = 8 * (offset & 3);
  const mask = (width === 2 ? 0xffff : 0xff) << shift;
  return (word & ~mask) | ((value << shift) & mask);
}
