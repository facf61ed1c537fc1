/** State that does not hold together, or does not fit: who gave it is told Invalid Field. */
export class BadState extends Error {}

/** Appends little-endian words. */
export class StateWriter {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  u16(...values: readonly number[]): this {
    for (const value of values) {
      const at = this.#take(2);
      this.#view.setUint16(at, value, true);
    }
    return this;
  }

  u32(...values: readonly number[]): this {
    for (const value of values) {
      // First of all: taking room may change what the bytes are in.
      const at = this.#take(4);
      this.#view.setUint32(at, value >>> 0, true);
    }
    return this;
  }

  /** An integer below 2^53. */
  u64(value: number): this {
    return this.u32(value % 0x100000000, Math.floor(value / 0x100000000));
  }

  bytes(from: Uint8Array): this {
    const at = this.#take(from.length);
    this.#bytes.set(from, at);
    return this;
  }

  /** A count, and what each item has. */
  list<T>(items: readonly T[], write: (item: T) => void): this {
    this.u32(items.length);
    for (const item of items) write(item);
    return this;
  }

  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  #take(length: number): number {
    const at = this.#length;
    this.#length += length;
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.#length, 2 * this.#bytes.length));
      larger.set(this.#bytes);
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    return at;
  }
}

/** Reads what a {@link StateWriter} wrote. Every method throws {@link BadState} where the bytes end. */
export class StateReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get rest(): number {
    return this.#bytes.length - this.#at;
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u64(): number {
    const low = this.u32();
    const value = this.u32() * 0x100000000 + low;
    if (!Number.isSafeInteger(value)) throw new BadState('a number above 2^53');
    return value;
  }

  bytes(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  /** A count of `most` at most, and that many items. */
  list<T>(most: number, read: () => T): T[] {
    const count = this.u32();
    if (count > most) throw new BadState(`${count} items, ${most} are the most`);
    return Array.from({ length: count }, read);
  }

  /** Reserved bytes, which must be 0. */
  reserved(length: number): void {
    if (this.bytes(length).some((byte) => byte !== 0)) throw new BadState('reserved bytes are not 0');
  }

  end(): void {
    if (this.rest !== 0) throw new BadState(`${this.rest} bytes too many`);
  }

  #take(length: number): number {
    if (length > this.rest) throw new BadState('it ends too early');
    const at = this.#at;
    this.#at += length;
    return at;
  }
}
