/** Writes into the big-endian structures of commands. Offsets are in bytes, bits counted from the least significant. */
export class CommandInput {
  readonly bytes: Uint8Array;
  readonly view: DataView;

  /** @param length bytes of the whole input */
  constructor(opcode: number, length = 16, opMod = 0) {
    this.bytes = new Uint8Array(length);
    this.view = new DataView(this.bytes.buffer);
    this.view.setUint16(0, opcode);
    this.view.setUint16(6, opMod);
  }

  u16(offset: number, value: number): this {
    this.view.setUint16(offset, value);
    return this;
  }

  u32(offset: number, value: number): this {
    this.view.setUint32(offset, value >>> 0);
    return this;
  }

  u64(offset: number, value: number): this {
    this.view.setBigUint64(offset, BigInt(value));
    return this;
  }

  /** ORs bits into a dword. */
  or(offset: number, value: number): this {
    return this.u32(offset, this.view.getUint32(offset) | value);
  }
}

/** One bit of a structure, counted from its start with the most significant first, as the capabilities are documented. */
export function bit(bytes: Uint8Array, index: number): boolean {
  return ((bytes[index >> 3] ?? 0) & (0x80 >> (index & 7))) !== 0;
}
