import type { AccessWidth, MmapArea, RegisterSpace, SharedMemory } from '@vfio/core';
import type { MsixTable } from '../irq/msix-table.js';

/**
 * What a model puts behind a BAR. Offsets are naturally aligned and in range. Values are int32 patterns (see
 * {@link RegisterSpace}); accessors must not throw, allocate or do DMA: that is what `defer` is for.
 */
export interface BarHandler {
  read(offset: number, width: AccessWidth): number;
  write(offset: number, width: AccessWidth, value: number): void;
  /** Only where one 8-byte access differs from two of 4 bytes. */
  readQword?(offset: number, into: DataView, at: number): void;
  writeQword?(offset: number, from: DataView, at: number): void;
  /** Parts that are plain memory. An access to them that is not a load or store must reach the same bytes. */
  readonly mmapAreas?: readonly MmapArea[];
}

/** All ones of a width: what a load from nowhere gives. */
export function allOnes(width: AccessWidth): number {
  return width === 4 ? -1 : width === 2 ? 0xffff : 0xff;
}

/** A BAR that is memory from end to end. */
export class MemoryBar implements BarHandler {
  readonly mmapAreas: readonly MmapArea[];
  readonly #view: DataView;

  constructor(memory: SharedMemory) {
    const { bytes } = memory;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.mmapAreas = [{ offset: 0, size: bytes.byteLength, memory }];
  }

  read(offset: number, width: AccessWidth): number {
    if (width === 4) return this.#view.getInt32(offset, true);
    return width === 2 ? this.#view.getUint16(offset, true) : this.#view.getUint8(offset);
  }

  write(offset: number, width: AccessWidth, value: number): void {
    if (width === 4) this.#view.setInt32(offset, value, true);
    else if (width === 2) this.#view.setUint16(offset, value, true);
    else this.#view.setUint8(offset, value);
  }
}

/** An expansion ROM: bytes that cannot be written; past the image all ones. */
export class RomHandler implements BarHandler {
  readonly #view: DataView;

  constructor(image: Uint8Array) {
    this.#view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  }

  read(offset: number, width: AccessWidth): number {
    let value = 0;
    for (let i = 0; i < width; i++) {
      const byte = offset + i < this.#view.byteLength ? this.#view.getUint8(offset + i) : 0xff;
      value |= byte << (8 * i);
    }
    return value;
  }

  write(): void {}
}

/** A BAR (or none) that holds nothing but what is laid over it. */
export const emptyBar: BarHandler = { read: () => 0, write: () => {} };

const NO_AREAS: readonly MmapArea[] = [];

/**
 * A BAR as the host's loads and stores reach it: through address decoding, which software switches on and off, and with
 * the MSI-X structures in front of the model.
 */
export class BarSpace implements RegisterSpace {
  readonly size: number;
  readonly mmapAreas: readonly MmapArea[];
  readQword?: (offset: number, into: DataView, at: number) => void;
  writeQword?: (offset: number, from: DataView, at: number) => void;
  /** Whether an access arrives: COMMAND, the BAR register, power and the bridges above allow it. */
  decoded = false;
  readonly #handler: BarHandler;
  #table: MsixTable | undefined;
  #tableStart = 0;
  #tableEnd = 0;
  #pendingTable: MsixTable | undefined;
  #pendingStart = 0;
  #pendingEnd = 0;

  constructor(size: number, handler: BarHandler) {
    this.size = size;
    this.#handler = handler;
    this.mmapAreas = handler.mmapAreas ?? NO_AREAS;
    const { readQword, writeQword } = handler;
    if (readQword !== undefined)
      this.readQword = (offset, into, at) => {
        if (this.decoded && !this.#isOverlaid(offset)) {
          readQword.call(handler, offset, into, at);
          return;
        }
        into.setInt32(at, this.read(offset, 4), true);
        into.setInt32(at + 4, this.read(offset + 4, 4), true);
      };
    if (writeQword !== undefined)
      this.writeQword = (offset, from, at) => {
        if (this.decoded && !this.#isOverlaid(offset)) {
          writeQword.call(handler, offset, from, at);
          return;
        }
        this.write(offset, 4, from.getInt32(at, true));
        this.write(offset + 4, 4, from.getInt32(at + 4, true));
      };
  }

  overlayTable(table: MsixTable, offset: number): void {
    this.#table = table;
    this.#tableStart = offset;
    this.#tableEnd = offset + table.tableSize;
  }

  overlayPending(table: MsixTable, offset: number): void {
    this.#pendingTable = table;
    this.#pendingStart = offset;
    this.#pendingEnd = offset + table.pendingSize;
  }

  read(offset: number, width: AccessWidth): number {
    if (!this.decoded) return allOnes(width);
    if (this.#table !== undefined && offset >= this.#tableStart && offset < this.#tableEnd)
      return this.#table.readTable(offset - this.#tableStart, width);
    if (this.#pendingTable !== undefined && offset >= this.#pendingStart && offset < this.#pendingEnd)
      return this.#pendingTable.readPending(offset - this.#pendingStart, width);
    return this.#handler.read(offset, width);
  }

  write(offset: number, width: AccessWidth, value: number): void {
    if (!this.decoded) return;
    if (this.#table !== undefined && offset >= this.#tableStart && offset < this.#tableEnd)
      this.#table.writeTable(offset - this.#tableStart, width, value);
    else if (this.#pendingTable === undefined || offset < this.#pendingStart || offset >= this.#pendingEnd)
      this.#handler.write(offset, width, value);
  }

  #isOverlaid(offset: number): boolean {
    return (
      (this.#table !== undefined && offset >= this.#tableStart && offset < this.#tableEnd) ||
      (this.#pendingTable !== undefined && offset >= this.#pendingStart && offset < this.#pendingEnd)
    );
  }
}
