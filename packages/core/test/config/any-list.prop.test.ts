import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ListModel } from './list-model.js';
import { TestSpace } from './support.js';

/** Bytes of no meaning, the same for the same seed. */
function noise(seed: number, length: number): Uint8Array {
  let state = seed | 1;
  return Uint8Array.from({ length }, () => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b_3c6d) + 0x9e37_79b9;
    return state >>> 24;
  });
}

interface Entry {
  readonly id: number;
  /** Bytes between what came before and this one; negative: over it. */
  readonly gap: number;
  /** What else the capability holds. */
  readonly body: Uint8Array;
  readonly span: number;
}

interface Layout {
  readonly size: 256 | 4096;
  readonly seed: number;
  readonly hasList: boolean;
  readonly first: number;
  readonly caps: readonly Entry[];
  readonly ecaps: readonly Entry[];
  /** Where the last of each list leads: nowhere, into the header, back to one of them, anywhere. */
  readonly last: number;
  readonly extLast: number;
}

const gap = fc.oneof(
  { weight: 5, arbitrary: fc.constantFrom(0, 4, 8) },
  { weight: 2, arbitrary: fc.integer({ min: 1, max: 9 }) },
  { weight: 1, arbitrary: fc.integer({ min: -12, max: -1 }) },
);

function entries(ids: readonly number[], spans: readonly number[], maxLength: number): fc.Arbitrary<Entry[]> {
  const entry = fc.record({
    id: fc.constantFrom(...ids),
    gap,
    body: fc.uint8Array({ minLength: 8, maxLength: 8 }),
    span: fc.constantFrom(...spans),
  });
  return fc.array(entry, { maxLength });
}

const STANDARD_IDS = [
  ...[0x00, 0x01, 0x01, 0x02, 0x03, 0x04, 0x05, 0x05, 0x06, 0x07, 0x08, 0x09, 0x09, 0x0a, 0x0b, 0x0d],
  ...[0x10, 0x10, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x7f, 0xfe, 0xff],
];
const EXTENDED_IDS = [
  ...[0x00, 0x01, 0x01, 0x02, 0x03, 0x04, 0x05, 0x08, 0x09, 0x0b, 0x0b, 0x0d, 0x0e, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14],
  ...[0x15, 0x16, 0x17, 0x18, 0x19, 0x1b, 0x1d, 0x1e, 0x23, 0x23, 0x26, 0x2e, 0x31, 0x32, 0x100, 0x101, 0x1fe, 0x2ff],
];

const layout: fc.Arbitrary<Layout> = fc.record({
  size: fc.constantFrom<256 | 4096>(256, 4096, 4096),
  seed: fc.integer(),
  hasList: fc.oneof({ weight: 9, arbitrary: fc.constant(true) }, { weight: 1, arbitrary: fc.constant(false) }),
  first: fc.oneof(fc.constantFrom(0x40, 0x44, 0x80, 0xdc), fc.integer({ min: 0x38, max: 0xff })),
  caps: entries(STANDARD_IDS, [4, 6, 8, 12, 24, 52], 8),
  ecaps: entries(EXTENDED_IDS, [4, 8, 16, 44, 64], 9),
  last: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xff }) }),
  extLast: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(0xfff) }),
});

/** Config space as hardware has it. */
function bytesOf({ size, seed, hasList, first, caps, ecaps, last, extLast }: Layout): Uint8Array {
  const bytes = noise(seed, size);
  bytes[0x06] = hasList ? bytes[0x06]! | 0x10 : bytes[0x06]! & 0xef;
  bytes[0x0e] = 0;
  const placed: { at: number; entry: Entry }[] = [];
  let at = first;
  for (const entry of caps) {
    at = Math.max(at + entry.gap, 0x40);
    // MSI and PCI-X fail at odd places, which has a test of its own.
    if (entry.id === 0x05 || entry.id === 0x07) at += at & 1;
    if (at > 0xff) break;
    placed.push({ at, entry });
    at += entry.span;
  }
  bytes[0x34] = placed[0]?.at ?? last;
  for (const [i, { at: here, entry }] of placed.entries()) {
    const cap = [entry.id, placed[i + 1]?.at ?? last, ...entry.body];
    bytes.set(cap.slice(0, 0x100 - here), here);
  }
  // Later ones may have been written over the links of earlier ones: those are the lists that lead anywhere.
  let ext = 0x100;
  for (const [i, entry] of ecaps.entries()) {
    if (size === 0x100 || ext > 0xfe0) break;
    const after = Math.max(0x104, (ext + entry.span + entry.gap + 3) & ~3);
    const next = i + 1 < ecaps.length ? after : extLast;
    const header = [entry.id & 0xff, entry.id >> 8, 1 | ((next & 0xf) << 4), next >> 4];
    bytes.set([...header, ...entry.body], ext);
    ext = after;
  }
  return bytes;
}

interface Access {
  readonly write: boolean;
  readonly where: number;
  readonly offset: number;
  readonly data: Uint8Array;
}

const access: fc.Arbitrary<Access> = fc.record({
  write: fc.boolean(),
  where: fc.nat(3),
  offset: fc.nat(0xfff),
  data: fc.uint8Array({ minLength: 1, maxLength: 20 }),
});

/** Where an access goes: a quarter anywhere, the others to where some owner's bytes begin, and a little on. */
function offsetOf({ where, offset }: Access, { owner, size }: ListModel): number {
  if (where === 0) return offset % size;
  const starts = [0, 0x40];
  for (let at = 1; at < size; at++) if (owner[at] !== owner[at - 1]) starts.push(at);
  return Math.min(starts[offset % starts.length]! + (offset >> 8), size - 1);
}

/** The first byte that differs; comparing thousands of bytes by `toEqual` takes too long. */
function difference(actual: Uint8Array, expected: Uint8Array): string {
  const at = actual.findIndex((byte, i) => byte !== expected[i]);
  return at < 0 ? 'none' : `byte ${at}: ${actual[at]}, not ${expected[at]}`;
}

describe('any capability lists at all', () => {
  test('give the bytes, owners and links that the model says, and hardware what it says of every access', () => {
    fc.assert(
      fc.property(layout, fc.array(access, { maxLength: 25 }), (made, accesses) => {
        const bytes = bytesOf(made);
        const model = new ListModel(bytes);
        if (model.impossible) {
          expect(() => new TestSpace({ size: made.size, setup: (hw) => hw.bytes.set(bytes) })).toThrow(/odd offset/);
          return;
        }
        const space = new TestSpace({ size: made.size, setup: (hw) => hw.bytes.set(bytes) });
        space.hw.mask.set(noise(made.seed ^ 0x5555, made.size));
        space.read(0x10, 4);
        expect(difference(space.space.map, model.owner)).toBe('none');
        expect(difference(space.bytes(0, made.size), model.read(0, made.size))).toBe('none');
        for (const one of accesses) {
          const offset = offsetOf(one, model);
          const data = one.data.slice(0, made.size - offset);
          if (model.trapped.subarray(offset, offset + data.length).includes(1)) continue;
          if (one.write) {
            expect(space.space.write(offset, data)).toBe(data.length);
            model.write(offset, data, space.hw.mask);
          }
          expect(difference(space.bytes(offset, data.length), model.read(offset, data.length))).toBe('none');
          expect(difference(space.hw.bytes, model.hardware)).toBe('none');
        }
      }),
      { numRuns: 400 },
    );
  });

  test('never make an access that hardware has not, whatever is written to what traps', async () => {
    await fc.assert(
      fc.asyncProperty(layout, fc.array(access, { maxLength: 25 }), async (made, accesses) => {
        const bytes = bytesOf(made);
        const model = new ListModel(bytes);
        if (model.impossible) return;
        const space = new TestSpace({ size: made.size, setup: (hw) => hw.bytes.set(bytes) });
        // VPD answers at once: F is always what is waited for.
        space.hw.onRead = (offset, width) => {
          if (width === 2) space.hw.bytes[offset + 1]! ^= 0x80;
        };
        for (const one of accesses) {
          const offset = offsetOf(one, model);
          const data = one.data.slice(0, made.size - offset);
          if (one.write) expect(await space.space.write(offset, data)).toBe(data.length);
          else space.bytes(offset, data.length);
          expect(space.hw.accesses.every((a) => a.offset % a.width === 0 && a.offset + a.width <= made.size)).toBe(
            true,
          );
          space.hw.accesses.length = 0;
        }
      }),
      { numRuns: 200 },
    );
  });
});
