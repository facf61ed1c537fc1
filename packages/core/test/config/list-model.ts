import { bitsOf, RULES } from './rules.js';

/*
 * What a user is shown of any bytes at all as a config space: a second reading of the rules about capability lists, which
 * looks at the whole list where the implementation walks it once. Every byte ends with three masks.
 */

type Byte = (offset: number) => number;

/** Length of each standard capability that is shown, from its bytes; 0 hides it. PCI Express: see {@link expressLength}. */
const STANDARD: Readonly<Record<number, (b: Byte) => number>> = {
  1: () => 8,
  2: () => 12,
  3: () => 8,
  5: (b) => 10 + ((b(2) & 0x80) !== 0 ? 4 : 0) + ((b(3) & 0x01) !== 0 ? 10 : 0),
  7: (b) => ((b(3) & 0x30) === 0 ? 8 : 24),
  8: (b) => (b(3) >= 0x20 ? 24 : 28),
  9: (b) => b(2),
  17: () => 12,
  18: (b) => ((b(4) & 0x0f) === 0x0f ? 16 : 8),
  19: () => 6,
};

const word = (b: Byte, at: number) => b(at) + 0x100 * b(at + 1);
const dword = (b: Byte, at: number) => word(b, at) + 0x1_0000 * word(b, at + 2);

function virtualChannels(b: Byte): number {
  const phases = [128, 64, 32].find((_, i) => (b(8) & (8 >> i)) !== 0) ?? 0;
  const length = 16 + 12 * (1 + (b(4) & 7));
  return phases === 0 ? length : Math.ceil(length / 16) * 16 + phases / 2;
}

const vendorLength = (b: Byte) => Math.floor(dword(b, 4) / 0x10_0000);

/** The same of extended capabilities. */
const EXTENDED: Readonly<Record<number, (b: Byte) => number>> = {
  1: () => 44,
  2: virtualChannels,
  3: () => 12,
  4: () => 16,
  8: virtualChannels,
  9: virtualChannels,
  11: vendorLength,
  13: (b) => ((b(4) & 0x20) === 0 ? 8 : 8 + Math.ceil((b(5) || 256) / 32) * 4),
  14: () => 8,
  15: () => 8,
  16: () => 64,
  18: () => 40,
  19: () => 16,
  21: (b) => 4 + 8 * (b(8) >> 5),
  22: (b) => 17 + (b(4) & 0x1f),
  23: (b) => 12 + ((b(5) & 0x06) === 0x02 ? 2 * ((word(b, 6) & 0x7ff) + 1) : 0),
  24: () => 8,
  35: vendorLength,
};

const TABLES: Readonly<Record<number, keyof typeof RULES>> = {
  1: 'pm',
  3: 'vpd',
  7: 'pcix',
  9: 'vendor',
  16: 'express',
  19: 'af',
};
const EXT_TABLES: Readonly<Record<number, keyof typeof RULES>> = {
  1: 'err',
  4: 'pwr',
  11: 'vendor',
  35: 'vendor',
};

/** Registers that do more than take bits, by owner: offset and length. */
const TRAPS: Readonly<Record<number, readonly [offset: number, length: number]>> = {
  1: [4, 1],
  3: [3, 1],
  5: [1, 3],
  16: [8, 2],
  19: [4, 1],
};

const RAW_OWNER = 0xff;
const VIRTUAL_OWNER = 0xfe;

interface Visit {
  readonly at: number;
  readonly id: number;
  readonly length: number;
  /** One that a function with extended space has: PCI Express, or PCI-X of the second version. */
  readonly extends: boolean;
}

export class ListModel {
  readonly size: number;
  readonly hardware: Uint8Array;
  readonly shadow: Uint8Array;
  readonly owner: Uint8Array;
  /** Bits read from the shadow, bits that writes change there, bits that writes change in hardware. */
  readonly shown: Uint8Array;
  readonly taken: Uint8Array;
  readonly passed: Uint8Array;
  /** Bytes whose writes (or, for BARs and vendor ids, reads too) are somebody else's test. */
  readonly trapped: Uint8Array;
  /** MSI or PCI-X at an odd place. */
  readonly impossible: boolean;
  #msi: keyof typeof RULES | undefined;

  constructor(bytes: Uint8Array) {
    this.size = bytes.length;
    this.hardware = bytes.slice();
    this.shadow = new Uint8Array(this.size);
    this.owner = new Uint8Array(this.size).fill(RAW_OWNER);
    this.shown = new Uint8Array(this.size);
    this.taken = new Uint8Array(this.size);
    this.passed = new Uint8Array(this.size);
    this.trapped = new Uint8Array(this.size);
    this.#paint(0, 64, 0);
    // BARs without resources.
    this.shadow.fill(0, 0x10, 0x28).fill(0, 0x30, 0x34);
    const [visits, end] = this.#standardVisits();
    this.impossible = visits.some(({ at, id }) => (id === 0x05 || id === 0x07) && at % 2 === 1);
    this.#place(visits, end);
    if (visits.some((visit) => visit.extends)) this.#extended();
    this.#permit();
  }

  /** Gives bytes to an owner, with the values that hardware has. */
  #paint(at: number, end: number, owner: number): void {
    this.owner.fill(owner, at, end);
    this.shadow.set(this.hardware.subarray(at, end), at);
  }

  /** Everything that the list in hardware leads to, in order, and where it leads at last. */
  #standardVisits(): [Visit[], number] {
    const { hardware } = this;
    const visits: Visit[] = [];
    if ((hardware[0x06]! & 0x10) === 0) return [visits, hardware[0x34]!];
    let at = hardware[0x34]!;
    while (at >= 0x40 && visits.length < 48) {
      const b: Byte = (offset) => (at + offset < 0x100 ? hardware[at + offset]! : 0);
      const id = b(0);
      const length = id === 0x10 ? this.#expressLength() : (STANDARD[id]?.(b) ?? 0);
      if (id === 0x05) {
        this.#msi ??= `msi${(b(2) & 0x80) !== 0 ? 64 : 32}${(b(3) & 1) !== 0 ? 'Maskable' : ''}`;
      }
      visits.push({ at, id, length, extends: id === 0x10 || (id === 0x07 && length === 24) });
      at = b(1);
    }
    return [visits, at < 0x40 ? 0 : at];
  }

  /** By the first PCI Express capability of the list as a host follows it: to dwords. */
  #expressLength(): number {
    const { hardware } = this;
    let at = hardware[0x34]! & 0xfc;
    for (let i = 0; i < 48 && at >= 0x40 && hardware[at] !== 0xff && hardware[at] !== 0x10; i++)
      at = hardware[at + 1]! & 0xfc;
    const flags = at >= 0x40 && hardware[at] === 0x10 ? hardware[at + 2]! : 0;
    return ((flags & 0x0f) === 1 ? 20 : 52) - (flags >> 4 === 9 ? 8 : 0);
  }

  #place(visits: readonly Visit[], end: number): void {
    const visible = visits.filter(({ length }) => length > 0);
    this.shadow[0x34] = visible[0]?.at ?? end;
    for (const [i, { at, id, length }] of visible.entries()) {
      this.#paint(at, Math.min(at + length, 0x100), id);
      if (id === 0x01) {
        // PME: support, status and enable.
        if (at + 3 < 0x100) this.shadow[at + 3]! &= 0x07;
        if (at + 5 < 0x100) this.shadow[at + 5]! &= 0x7e;
      }
      if (at + 1 < 0x100) this.shadow[at + 1] = visible[i + 1]?.at ?? end;
    }
    if (visible.length === 0) this.shadow[0x06]! &= 0xef;
  }

  #extended(): void {
    const { hardware, shadow, size } = this;
    const header = (at: number) => dword((offset) => hardware[offset]!, at);
    if (size === 0x100 || header(0x100) === 0) return;
    const visits: Pick<Visit, 'at' | 'id' | 'length'>[] = [];
    let at = 0x100;
    while (at >= 0x100 && visits.length < (size - 0x100) / 4) {
      const b: Byte = (offset) => (at + offset < size ? hardware[at + offset]! : 0);
      const id = word(b, 0);
      visits.push({ at, id, length: EXTENDED[id]?.(b) ?? 0 });
      at = Math.floor(header(at) / 0x10_0000) & 0xffc;
    }
    // The head of the list cannot go: hidden it keeps its place, with nothing but the link.
    const kept = visits.filter(({ length }, i) => length > 0 || i === 0);
    for (const [i, visit] of kept.entries()) {
      this.#paint(visit.at, Math.min(visit.at + (visit.length || 4), size), visit.id & 0xff);
      const link = kept[i + 1]?.at ?? at;
      if (visit.length === 0) shadow.fill(0, visit.at, visit.at + 4);
      shadow[visit.at + 2] = (shadow[visit.at + 2]! & 0x3f) | ((link & 0x00c) << 4);
      shadow[visit.at + 3] = link >> 4;
    }
    if (!kept.some(({ length }) => length > 0)) shadow.fill(0, 0x100, 0x104);
  }

  #permit(): void {
    const { owner, size } = this;
    let start = 0;
    for (let at = 0; at < size; at++) {
      if (at === 0x40 || at === 0x100 || owner[at] !== owner[at - 1]) start = at;
      const id = owner[at]!;
      const isExtended = at >= 0x100;
      if (id === RAW_OWNER) this.passed[at] = 0xff;
      else if (id === VIRTUAL_OWNER) this.shown[at] = this.taken[at] = 0xff;
      // Id 0 above the header is a hidden head of the extended list: no start of it is ever found, so it is all hardware.
      else if (!isExtended || id !== 0) this.#register(at, at - start, id, isExtended);
    }
    this.trapped.fill(1, 0x04, 0x06).fill(1, 0x10, 0x28).fill(1, 0x30, 0x34);
  }

  #register(at: number, offset: number, id: number, isExtended: boolean): void {
    const table = isExtended
      ? (EXT_TABLES[id] ?? 'extReadOnly')
      : at < 0x40
        ? 'header'
        : id === 0x05
          ? this.#msi!
          : (TABLES[id] ?? 'readOnly');
    const trap = isExtended || at < 0x40 ? undefined : TRAPS[id];
    if (trap !== undefined && offset >= trap[0] && offset < trap[0] + trap[1]) this.trapped[at] = 1;
    if (table === 'vendor') {
      // All writes pass, links and all; reads show the links. A standard one's id shows as it was at open with the link only.
      this.passed[at] = 0xff;
      if (isExtended ? offset < 4 : offset === 1) this.shown[at] = 0xff;
      if (!isExtended && offset === 0) this.trapped[at] = 1;
      return;
    }
    const bits = ROWS.get(table)![offset];
    if (bits === undefined) return;
    this.shown[at] = bits.virtual;
    this.taken[at] = bits.virtual & bits.writable;
    this.passed[at] = bits.writable & ~bits.virtual;
  }

  read(offset: number, length: number): Uint8Array {
    const { hardware, shadow, shown } = this;
    return Uint8Array.from({ length }, (_, i) => {
      const at = offset + i;
      return (hardware[at]! & ~shown[at]!) | (shadow[at]! & shown[at]!);
    });
  }

  /** @param mask bits that hardware lets be written. */
  write(offset: number, data: Uint8Array, mask: Uint8Array): void {
    for (const [i, byte] of data.entries()) {
      const at = offset + i;
      const passed = this.passed[at]! & mask[at]!;
      this.shadow[at] = (this.shadow[at]! & ~this.taken[at]!) | (byte & this.taken[at]!);
      this.hardware[at] = (this.hardware[at]! & ~passed) | (byte & passed);
    }
  }
}

/** The bits of each rule by offset. */
const ROWS = new Map(
  Object.entries(RULES).map(([name, rule]) => {
    const rows: ({ virtual: number; writable: number } | undefined)[] = [];
    for (const { offset, virtual, writable } of bitsOf(rule)) rows[offset] = { virtual, writable };
    return [name as keyof typeof RULES, rows] as const;
  }),
);
