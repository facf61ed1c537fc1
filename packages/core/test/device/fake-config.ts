import type { AccessWidth, RawConfigSpace } from '../../src/index.js';

/** Config space of a fake function: bytes, a mask of what software can change, and what a reset brings back. */
export class FakeConfig implements RawConfigSpace {
  readonly size: number;
  readonly bytes: Uint8Array;
  readonly writable: Uint8Array;
  /** Called after a write that changed something, with the offset and width. */
  onWrite: ((offset: number, width: number) => void) | undefined;
  writes = 0;
  #initial: Uint8Array;

  constructor(size: number) {
    this.size = size;
    this.bytes = new Uint8Array(size);
    this.writable = new Uint8Array(size);
    this.#initial = this.bytes.slice();
  }

  /** Puts registers in place: their values, and which bits can be written. */
  put(offset: number, width: AccessWidth, value: number, writable = 0): void {
    for (let i = 0; i < width; i++) {
      this.bytes[offset + i] = value >> (8 * i);
      this.writable[offset + i] = writable >> (8 * i);
    }
  }

  /** What a reset restores: the state now. */
  seal(): void {
    this.#initial = this.bytes.slice();
  }

  reset(): void {
    this.bytes.set(this.#initial);
  }

  read(offset: number, width: AccessWidth): number {
    this.#check(offset, width);
    let value = 0;
    for (let i = 0; i < width; i++) value |= this.bytes[offset + i]! << (8 * i);
    return value;
  }

  write(offset: number, width: AccessWidth, value: number): void {
    this.#check(offset, width);
    this.writes++;
    for (let i = 0; i < width; i++) {
      const mask = this.writable[offset + i]!;
      this.bytes[offset + i] = (this.bytes[offset + i]! & ~mask) | ((value >> (8 * i)) & mask);
    }
    this.onWrite?.(offset, width);
  }

  #check(offset: number, width: number): void {
    if (offset % width !== 0 || offset < 0 || offset + width > this.size) {
      throw new Error(`fake config space: access at 0x${offset.toString(16)}+${width}`);
    }
  }
}
