import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { AccessWidth } from '../../src/pci/raw-function.js';
import { bitsOf, RULES } from './rules.js';
import { type CapSpec, resource, type SpaceOptions, TestSpace, u16, u32 } from './support.js';

/*
 * A second, independent reading of the rules: per byte, which bits are virtual and which may be written, written down
 * as text. A byte is (hardware & ~virtual) | (shadow & virtual); a write changes shadow where virtual, else hardware.
 */

interface Part {
  readonly at: number;
  readonly length: number;
  readonly rules: keyof typeof RULES;
  /** Registers that do more than take bits. */
  readonly trapped?: readonly [offset: number, length: number][];
}

const CAPS: readonly (CapSpec & Part)[] = [
  { at: 0x40, id: 0x01, length: 8, rules: 'pm', trapped: [[4, 1]] },
  { at: 0x48, id: 0x05, length: 24, rules: 'msi64Maskable', trapped: [[1, 3]], body: u16(0x018a) },
  { at: 0x60, id: 0x11, length: 12, rules: 'readOnly' },
  { at: 0x6c, id: 0x0d, length: 0, rules: 'raw' },
  { at: 0x74, id: 0x10, length: 52, rules: 'express', trapped: [[8, 2]], body: [2] },
  { at: 0xa8, id: 0x03, length: 8, rules: 'vpd', trapped: [[3, 1]] },
  { at: 0xb2, id: 0x13, length: 6, rules: 'af', body: [6, 3], trapped: [[4, 1]] },
  { at: 0xb8, id: 0x09, length: 11, rules: 'vendor', body: [11], trapped: [[1, 1]] },
  { at: 0xc8, id: 0x07, length: 24, rules: 'pcix', body: u16(0x1000) },
  { at: 0xe0, id: 0x08, length: 28, rules: 'readOnly' },
];
const ECAPS: readonly (CapSpec & Part)[] = [
  { at: 0x100, id: 0x01, length: 44, rules: 'err' },
  { at: 0x130, id: 0x03, length: 12, rules: 'extReadOnly' },
  { at: 0x13c, id: 0x1e, length: 0, rules: 'raw' },
  { at: 0x150, id: 0x23, length: 18, rules: 'vendor', body: u32(0x0120_0001), trapped: [[0, 4]] },
  { at: 0x164, id: 0x0d, length: 12, rules: 'extReadOnly', body: [0x20, 8] },
];
const HEADER: Part = {
  at: 0,
  length: 64,
  rules: 'header',
  trapped: [
    [0x04, 2],
    [0x10, 0x18],
    [0x30, 4],
  ],
};
const SIZE = 0x1000;

/** Virtual and writable bits of every byte, and which bytes do more. */
function compile(): { virtual: Uint8Array; writable: Uint8Array; trapped: Uint8Array } {
  const virtual = new Uint8Array(SIZE);
  const writable = new Uint8Array(SIZE).fill(0xff);
  const trapped = new Uint8Array(SIZE);
  for (const { at, length, rules, trapped: traps = [] } of [HEADER, ...CAPS, ...ECAPS]) {
    if (rules !== 'vendor' && rules !== 'raw') writable.fill(0, at, at + length);
    for (const { offset, virtual: v, writable: w } of bitsOf(RULES[rules])) {
      virtual[at + offset] = v;
      writable[at + offset] = w;
    }
    for (const [offset, count] of traps) trapped.fill(1, at + offset, at + offset + count);
  }
  return { virtual, writable, trapped };
}

const { virtual, writable, trapped } = compile();

const OPTIONS: SpaceOptions = {
  size: SIZE,
  caps: CAPS,
  ecaps: ECAPS,
  resources: [resource({ size: 0x4000, is64Bit: true }), undefined, resource({ size: 0x100, io: true })],
  setup: (hw) => {
    for (let i = 0x200; i < SIZE; i += 3) hw.bytes[i] = i;
    hw.poke(0x08, 4, 0x0200_0001);
    hw.poke(0x2c, 4, 0x1100_1af4);
  },
};

/** The same function, served byte by byte. */
class Model {
  readonly hardware: Uint8Array;
  readonly shadow: Uint8Array;

  constructor(space: TestSpace) {
    this.hardware = space.hw.bytes.slice();
    this.shadow = space.space.vconfig.slice();
  }

  read(offset: number, length: number): Uint8Array {
    return Uint8Array.from(
      { length },
      (_, i) =>
        (this.hardware[offset + i]! & ~virtual[offset + i]!) | (this.shadow[offset + i]! & virtual[offset + i]!),
    );
  }

  write(offset: number, data: Uint8Array): void {
    for (const [i, byte] of data.entries()) {
      const at = offset + i;
      const toShadow = virtual[at]! & writable[at]!;
      const toHardware = writable[at]! & ~virtual[at]!;
      this.shadow[at] = (this.shadow[at]! & ~toShadow) | (byte & toShadow);
      this.hardware[at] = (this.hardware[at]! & ~toHardware) | (byte & toHardware);
    }
  }
}

/** Offset of the first byte that differs, -1 where none does. */
function firstDifference(actual: Uint8Array, expected: Uint8Array): number {
  return actual.findIndex((byte, i) => byte !== expected[i]);
}

interface Access {
  readonly write: boolean;
  readonly offset: number;
  readonly data: Uint8Array;
}

/** Accesses of 1 to 24 bytes, most of them where something is. */
const access: fc.Arbitrary<Access> = fc
  .record({
    write: fc.boolean(),
    offset: fc.oneof(
      { weight: 4, arbitrary: fc.integer({ min: 0, max: 0xff }) },
      { weight: 2, arbitrary: fc.integer({ min: 0x100, max: 0x180 }) },
      { weight: 1, arbitrary: fc.integer({ min: 0x180, max: SIZE - 1 }) },
    ),
    data: fc.uint8Array({ minLength: 1, maxLength: 24 }),
  })
  .map(({ write, offset, data }) => ({ write, offset, data: data.slice(0, SIZE - offset) }));

const plain = (offset: number, length: number) => !trapped.subarray(offset, offset + length).includes(1);

describe('against an independent model', () => {
  test('the function is laid out as the model thinks', () => {
    const space = new TestSpace(OPTIONS);
    expect(space.walk().map(([at]) => at)).toEqual(CAPS.filter(({ length }) => length > 0).map(({ at }) => at));
    expect(space.walkExtended().map(([at]) => at)).toEqual(
      ECAPS.filter(({ length }) => length > 0).map(({ at }) => at),
    );
    expect(space.host.warnings).toEqual([]);
  });

  test('every access outside the trapped registers gives the same bytes, view and hardware', () => {
    fc.assert(
      fc.property(fc.array(access, { minLength: 1, maxLength: 60 }), (accesses) => {
        const space = new TestSpace(OPTIONS);
        space.read(0x10, 4);
        const model = new Model(space);
        for (const { write, offset, data } of accesses) {
          if (!plain(offset, data.length)) continue;
          if (write) {
            expect(space.space.write(offset, data)).toBe(data.length);
            model.write(offset, data);
          }
          expect(space.bytes(offset, data.length)).toEqual(model.read(offset, data.length));
          expect(firstDifference(space.hw.bytes, model.hardware)).toBe(-1);
        }
      }),
      { numRuns: 150 },
    );
  });
});

/** Cuts at random places. */
function cut(length: number, cuts: readonly number[]): [number, number][] {
  const at = [...new Set([0, ...cuts.map((c) => c % length), length])].sort((a, b) => a - b);
  return at.slice(0, -1).map((from, i) => [from, at[i + 1]!]);
}

describe('an access in parts', () => {
  const cuts = fc.array(fc.nat(64), { maxLength: 8 });

  test('reads the same bytes however it is cut, and a read changes nothing', () => {
    fc.assert(
      fc.property(fc.array(access, { maxLength: 20 }), access, cuts, (before, { offset, data }, where) => {
        const space = new TestSpace(OPTIONS);
        for (const a of before) if (a.write) space.space.write(a.offset, a.data);
        const whole = space.bytes(offset, data.length);
        const [hardware, shadow] = [space.hw.bytes.slice(), space.space.vconfig.slice()];
        const parts = new Uint8Array(data.length);
        for (const [from, to] of cut(data.length, where)) space.space.read(offset + from, parts.subarray(from, to));
        expect(parts).toEqual(whole);
        expect(firstDifference(space.hw.bytes, hardware)).toBe(-1);
        expect(firstDifference(space.space.vconfig, shadow)).toBe(-1);
      }),
      { numRuns: 300 },
    );
  });

  test('writes the same outside the trapped registers however it is cut', () => {
    fc.assert(
      fc.property(access, cuts, ({ offset, data }, where) => {
        fc.pre(plain(offset, data.length));
        const [whole, parts] = [new TestSpace(OPTIONS), new TestSpace(OPTIONS)];
        whole.space.write(offset, data);
        for (const [from, to] of cut(data.length, where)) parts.space.write(offset + from, data.subarray(from, to));
        expect(firstDifference(parts.hw.bytes, whole.hw.bytes)).toBe(-1);
        expect(firstDifference(parts.space.vconfig, whole.space.vconfig)).toBe(-1);
      }),
      { numRuns: 500 },
    );
  });
});

describe('whatever is written', () => {
  /** Bits of hardware that any write may change: by table, and by the traps. */
  const allowed = Uint8Array.from({ length: SIZE }, (_, i) => writable[i]! & ~virtual[i]!);
  // MSI flags: enable and QSIZE, which the trap has put right; the upper byte is only written as it was.
  allowed[0x4a] = 0xff;
  // DEVCTL: MRRS, held above the real MPS.
  allowed[0x74 + 9]! |= 0x70;
  // VPD: the transfer itself.
  allowed.fill(0xff, 0xaa, 0xb0);

  test('no bit of hardware changes that permissions forbid', () => {
    fc.assert(
      fc.property(
        fc.array(access, { minLength: 1, maxLength: 40 }),
        fc.uint8Array({ minLength: 5, maxLength: 5 }),
        (accesses, noise) => {
          const space = new TestSpace({
            ...OPTIONS,
            setup: (hw) => {
              OPTIONS.setup!(hw);
              // PMCSR, DEVCTL, AF control in any state.
              for (const [i, at] of [0x44, 0x45, 0x7c, 0x7d, 0xb6].entries()) hw.bytes[at] = noise[i]!;
            },
          });
          const before = space.hw.bytes.slice();
          for (const { write, offset, data } of accesses) if (write) void space.space.write(offset, data);
          const forbidden = space.hw.bytes.findIndex((byte, i) => ((byte ^ before[i]!) & ~allowed[i]!) !== 0);
          expect(forbidden).toBe(-1);
        },
      ),
      { numRuns: 300 },
    );
  });

  test('hardware is asked in whole registers and in range, on any bytes at all as a config space', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 256, maxLength: 256 }),
        fc.array(access, { maxLength: 30 }),
        fc.constantFrom<256 | 4096>(256, 4096),
        (registers, accesses, size) => {
          let space: TestSpace;
          try {
            space = new TestSpace({
              size,
              setup: (hw) => {
                hw.bytes.set(registers);
                // The same noise as extended headers.
                if (size === 4096) for (let i = 0x100; i < size; i++) hw.bytes[i] = registers[(i * 7) & 0xff]!;
                hw.bytes[0x06]! |= 0x10;
              },
            });
          } catch (error) {
            expect((error as { errno?: string }).errno).toBe('EFAULT');
            return;
          }
          for (const { write, offset, data } of accesses) {
            const inside = data.slice(0, Math.max(0, size - offset));
            if (inside.length === 0) continue;
            if (write) void space.space.write(offset, inside);
            expect(space.bytes(offset, inside.length)).toHaveLength(inside.length);
          }
          // Owners stay in their half, and the header stays the header.
          expect(space.space.map.subarray(0, 0x40).every((owner) => owner === 0)).toBe(true);
          expect(space.space.map.subarray(0x40, 0x100).every((owner) => owner <= 0x14 || owner === 0xff)).toBe(true);
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('an access of 1, 2 or 4 bytes', () => {
  test.for<[string, number, AccessWidth]>([
    ['vendor', 0x00, 2],
    ['command', 0x04, 2],
    ['BAR', 0x10, 4],
    ['PMCSR', 0x44, 1],
    ['MSI flags', 0x4a, 2],
    ['MSI-X', 0x60, 4],
    ['DEVCTL', 0x7c, 2],
    ['AER', 0x104, 4],
    ['vendor registers', 0x158, 4],
    ['unassigned', 0xffc, 4],
  ])('allocates nothing: %s', ([name, offset, width]) => {
    const { space, hw, host } = new TestSpace(OPTIONS);
    // The test's own hardware and host would keep lists of what happened.
    hw.read = () => -1;
    hw.write = () => {};
    host.lockMemory = () => {};
    host.unlockMemory = () => {};
    const data = new Uint8Array(width);
    const grown: number[] = [];
    for (let round = 0; round < 5; round++) {
      const before = process.memoryUsage().heapUsed;
      for (let i = 0; i < 20_000; i++) {
        space.read(offset, data);
        // Power changes are the one trap here that is always sprung.
        if (name !== 'PMCSR') space.write(offset, data);
      }
      grown.push(Math.abs(process.memoryUsage().heapUsed - before));
    }
    grown.sort((a, b) => a - b);
    // One object of 16 bytes an access would be 320 kB a round.
    expect(grown[2]).toBeLessThan(150_000);
  });
});
