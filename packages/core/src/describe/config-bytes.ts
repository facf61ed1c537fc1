/** Little-endian reads of a copy of config space that may be cut short. */
export class ConfigBytes {
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get size(): number {
    return this.#view.byteLength;
  }

  /** An unsigned value, or undefined where a part of it lies outside. */
  read(offset: number, width: 1 | 2 | 4): number | undefined {
    if (offset < 0 || offset + width > this.size) return undefined;
    if (width === 1) return this.#view.getUint8(offset);
    return width === 2 ? this.#view.getUint16(offset, true) : this.#view.getUint32(offset, true);
  }
}
