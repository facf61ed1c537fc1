import type { AccessWidth, RawConfigSpace } from '@vfio/core';
import {
  errnoError,
  hex,
  PCI_CAP_LIST_NEXT,
  PCI_CAPABILITY_LIST,
  PCI_CFG_SPACE_EXP_SIZE,
  PCI_CFG_SPACE_SIZE,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
  pciExtCapHeader,
} from '@vfio/uapi';

/** How a register came to its reset value. `power`: everything; `bus`: all but sticky bits; `flr` and `pm`: what the
 * specification leaves alone too (PCIe Base 6.6.2). */
export type ResetKind = 'power' | 'bus' | 'flr' | 'pm' | 'device';

/** What software may do to the bits of a register; bits in none of these masks are read-only. */
export interface RegisterBits {
  /** Read-write bits. */
  readonly rw?: number;
  /** Write-1-to-clear bits. */
  readonly w1c?: number;
  /** Bits (of any kind) that only a power cycle resets. */
  readonly sticky?: number;
  /** Bits that a function-level reset leaves alone. */
  readonly flrKeep?: number;
}

/** Called after software wrote into a dword: where, how wide, and the whole dword as it was. */
export type ConfigWriteHook = (offset: number, width: AccessWidth, before: number) => void;

/**
 * The configuration registers of a function as hardware has them: each bit is read-only, read-write or
 * write-1-to-clear, has a reset value, and may survive resets. Reads have no side effects. Reads and writes follow the
 * rules of {@link RawConfigSpace}; all other methods are the function's own side.
 */
export class ConfigSpace implements RawConfigSpace {
  #size: 256 | 4096;
  /** False: the function does not answer (removed, or a VF that is not enabled): all ones, writes dropped. */
  present = true;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #initial: Uint8Array;
  readonly #initialView: DataView;
  readonly #rw: Uint8Array;
  readonly #w1c: Uint8Array;
  readonly #sticky: Uint8Array;
  readonly #flrKeep: Uint8Array;
  readonly #hooks: (ConfigWriteHook | undefined)[];
  #nextFree = PCI_STD_HEADER_SIZEOF;
  #lastPointer = PCI_CAPABILITY_LIST;
  #nextExtended = PCI_CFG_SPACE_SIZE;
  #lastExtended = 0;

  /** @throws EINVAL for a size other than 256 and 4096. */
  constructor(size: 256 | 4096 = PCI_CFG_SPACE_EXP_SIZE) {
    if (size !== PCI_CFG_SPACE_SIZE && size !== PCI_CFG_SPACE_EXP_SIZE)
      throw errnoError('EINVAL', `config space of ${size} bytes: 256 and 4096 are allowed`);
    this.#size = size;
    this.#bytes = new Uint8Array(size);
    this.#view = new DataView(this.#bytes.buffer);
    this.#initial = new Uint8Array(size);
    this.#initialView = new DataView(this.#initial.buffer);
    this.#rw = new Uint8Array(size);
    this.#w1c = new Uint8Array(size);
    this.#sticky = new Uint8Array(size);
    this.#flrKeep = new Uint8Array(size);
    this.#hooks = new Array<ConfigWriteHook | undefined>(size >> 2).fill(undefined);
  }

  get size(): 256 | 4096 {
    return this.#size;
  }

  /** The function has no extended config space: it is conventional PCI. */
  makeConventional(): void {
    this.#size = PCI_CFG_SPACE_SIZE;
  }

  read(offset: number, width: AccessWidth): number {
    if (!this.present || offset + width > this.#size) return width === 4 ? -1 : width === 2 ? 0xffff : 0xff;
    return this.get(offset, width);
  }

  write(offset: number, width: AccessWidth, value: number): void {
    if (!this.present || offset + width > this.#size) return;
    const before = this.#view.getInt32(offset & ~3, true);
    const bytes = this.#bytes;
    for (let i = 0; i < width; i++) {
      const at = offset + i;
      const byte = (value >>> (8 * i)) & 0xff;
      const rw = this.#rw[at] ?? 0;
      const kept = (bytes[at] ?? 0) & ~rw & ~(byte & (this.#w1c[at] ?? 0));
      bytes[at] = kept | (byte & rw);
    }
    this.#hooks[offset >> 2]?.(offset, width, before);
  }

  /** The hardware's view of a register, whether or not the function answers. A dword is an int32 pattern. */
  get(offset: number, width: AccessWidth): number {
    if (width === 4) return this.#view.getInt32(offset, true);
    return width === 2 ? this.#view.getUint16(offset, true) : this.#view.getUint8(offset);
  }

  /** Sets a register from the hardware's side, past every mask. */
  set(offset: number, width: AccessWidth, value: number): void {
    if (width === 4) this.#view.setInt32(offset, value, true);
    else if (width === 2) this.#view.setUint16(offset, value, true);
    else this.#view.setUint8(offset, value);
  }

  /** Sets or clears bits from the hardware's side. */
  change(offset: number, width: AccessWidth, set: number, clear: number): void {
    this.set(offset, width, (this.get(offset, width) & ~clear) | set);
  }

  /** Declares a register: its value at power-on, now too, and what may be done to its bits. Replaces what was declared. */
  define(offset: number, width: AccessWidth, value: number, bits: RegisterBits = {}): void {
    if (offset < 0 || offset + width > this.#size)
      throw errnoError(
        'EINVAL',
        `register at ${hex(offset)}+${width}: outside config space of ${hex(this.size)} bytes`,
      );
    this.set(offset, width, value);
    for (let i = 0; i < width; i++) {
      const at = offset + i;
      const shift = 8 * i;
      this.#initialView.setUint8(at, (value >>> shift) & 0xff);
      this.#rw[at] = ((bits.rw ?? 0) >>> shift) & 0xff;
      this.#w1c[at] = ((bits.w1c ?? 0) >>> shift) & 0xff;
      this.#sticky[at] = ((bits.sticky ?? 0) >>> shift) & 0xff;
      this.#flrKeep[at] = ((bits.flrKeep ?? 0) >>> shift) & 0xff;
    }
  }

  /** The value that a register has after power-on. */
  initialValue(offset: number, width: AccessWidth): number {
    if (width === 4) return this.#initialView.getInt32(offset, true);
    return width === 2 ? this.#initialView.getUint16(offset, true) : this.#initialView.getUint8(offset);
  }

  /** Bits of a register that software can set and clear. */
  writableBits(offset: number, width: AccessWidth): number {
    let bits = 0;
    for (let i = 0; i < width; i++) bits |= (this.#rw[offset + i] ?? 0) << (8 * i);
    return bits;
  }

  /** Bits of a register that software clears by writing 1. */
  clearableBits(offset: number, width: AccessWidth): number {
    let bits = 0;
    for (let i = 0; i < width; i++) bits |= (this.#w1c[offset + i] ?? 0) << (8 * i);
    return bits;
  }

  /** Calls `hook` after each write into the dword at `offset`. Hooks of one dword run in the order they were added. */
  onWrite(offset: number, hook: ConfigWriteHook): void {
    const index = offset >> 2;
    const earlier = this.#hooks[index];
    this.#hooks[index] =
      earlier === undefined
        ? hook
        : (at, width, before) => {
            earlier(at, width, before);
            hook(at, width, before);
          };
  }

  /**
   * Appends a capability of `length` bytes (its two header bytes included) to the list and returns its offset.
   * @param at where it is to be; the next free dword by default.
   * @throws EINVAL where it does not fit between 0x40 and 0x100 or `at` is not dword-aligned.
   */
  addCapability(id: number, length: number, at = this.#nextFree): number {
    if (at < PCI_STD_HEADER_SIZEOF || (at & 3) !== 0 || at + length > PCI_CFG_SPACE_SIZE)
      throw errnoError(
        'EINVAL',
        `capability ${hex(id)} of ${length} bytes at ${hex(at)}: dwords from 0x40 up to 0x100 are allowed`,
      );
    this.define(at, 2, id & 0xff);
    const pointer = this.#lastPointer;
    this.#setFixed(pointer, at);
    this.#lastPointer = at + PCI_CAP_LIST_NEXT;
    this.#nextFree = Math.max(this.#nextFree, (at + length + 3) & ~3);
    this.#setFixed(PCI_STATUS, this.#view.getUint8(PCI_STATUS) | PCI_STATUS_CAP_LIST);
    return at;
  }

  /**
   * Appends an extended capability and returns its offset. The first one is at 0x100.
   * @throws EINVAL where config space has 256 bytes or it does not fit.
   */
  addExtendedCapability(id: number, version: number, length: number, at = this.#nextExtended): number {
    const first = this.#lastExtended === 0;
    if ((at & 3) !== 0 || at < PCI_CFG_SPACE_SIZE || at + length > this.size || (first && at !== PCI_CFG_SPACE_SIZE))
      throw errnoError(
        'EINVAL',
        `extended capability ${hex(id)} of ${length} bytes at ${hex(at)}: config space has ${hex(this.size)} bytes, and the first one is at 0x100`,
      );
    this.define(at, 4, pciExtCapHeader(id, version, 0));
    if (!first) {
      const header = this.#view.getUint32(this.#lastExtended, true);
      this.define(this.#lastExtended, 4, (header & 0xfffff) | (at << 20));
    }
    this.#lastExtended = at;
    this.#nextExtended = Math.max(this.#nextExtended, (at + length + 3) & ~3);
    return at;
  }

  /** Brings every register to its value after a reset of this kind. Hooks do not run. */
  reset(kind: ResetKind): void {
    for (let i = 0; i < this.size; i++) {
      let keep = kind === 'power' ? 0 : (this.#sticky[i] ?? 0);
      if (kind === 'flr' || kind === 'pm' || kind === 'device') keep |= this.#flrKeep[i] ?? 0;
      this.#bytes[i] = ((this.#bytes[i] ?? 0) & keep) | ((this.#initial[i] ?? 0) & ~keep);
    }
  }

  #setFixed(at: number, byte: number): void {
    this.#bytes[at] = byte;
    this.#initial[at] = byte;
  }
}
