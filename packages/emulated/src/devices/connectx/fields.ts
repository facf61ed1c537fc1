import { hex } from '@vfio/uapi';

/** Where a field lies: bits counted from the start of its structure, the most significant first, as the manual counts. */
export type Field = readonly [at: number, width: number];

/** A field of at most 32 bits that lies in one dword. */
export function getField(view: DataView, [at, width]: Field, base = 0): number {
  const dword = view.getUint32(base + 4 * (at >>> 5));
  const shift = 32 - (at & 31) - width;
  return width === 32 ? dword : (dword >>> shift) & (2 ** width - 1);
}

/** @throws RangeError where the value does not fit: a mistake of the model. */
export function setField(view: DataView, [at, width]: Field, value: number, base = 0): void {
  if (value < 0 || value >= 2 ** width) throw new RangeError(`${hex(value)} does not fit ${width} bits`);
  const offset = base + 4 * (at >>> 5);
  const shift = 32 - (at & 31) - width;
  const mask = width === 32 ? 0xffffffff : (2 ** width - 1) << shift;
  view.setUint32(offset, ((view.getUint32(offset) & ~mask) | (width === 32 ? value : value << shift)) >>> 0);
}

/** A 64-bit field as a number: addresses above 2^53 do not exist here. Undefined where the value is larger. */
export function getNumber64(view: DataView, offset: number): number | undefined {
  const high = view.getUint32(offset);
  return high < 0x200000 ? high * 0x100000000 + view.getUint32(offset + 4) : undefined;
}

export function setNumber64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, Math.floor(value / 0x100000000));
  view.setUint32(offset + 4, value >>> 0);
}

/** The fields of a structure of fixed length. What no field covers is reserved. */
export class Layout<Name extends string = string> {
  readonly bytes: number;
  readonly fields: Readonly<Record<Name, Field>>;
  readonly #known: Uint8Array;

  constructor(bytes: number, fields: Readonly<Record<Name, Field>>) {
    this.bytes = bytes;
    this.fields = fields;
    this.#known = new Uint8Array(bytes);
    for (const [at, width] of Object.values<Field>(fields)) this.know(at, width);
  }

  /** Bits that have a meaning but no name. */
  know(at: number, width: number): this {
    for (let bit = at; bit < at + width; bit++)
      this.#known[bit >>> 3] = (this.#known[bit >>> 3] ?? 0) | (0x80 >>> (bit & 7));
    return this;
  }

  /** A structure inside this one. */
  nest(at: number, inner: Layout): this {
    for (let i = 0; i < inner.bytes; i++) this.#known[(at >>> 3) + i] = inner.#known[i] ?? 0;
    return this;
  }

  /** The first byte in which a reserved bit is set; -1 where there is none. Bytes past the structure are not looked at. */
  firstReserved(bytes: Uint8Array, base = 0): number {
    const end = Math.min(this.bytes, bytes.length - base);
    for (let i = 0; i < end; i++) if (((bytes[base + i] ?? 0) & ~(this.#known[i] ?? 0)) !== 0) return i;
    return -1;
  }
}
