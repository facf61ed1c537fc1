import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createDmaSpace } from '../../src/index.js';
import { errnoOf } from './helpers.js';

/** 64 pages of 16 bytes: small enough for a model that has one entry a byte. */
const UNIT = 16;
const UNITS = 64;

const step = fc.oneof(
  fc.record({
    kind: fc.constant('map' as const),
    at: fc.nat(UNITS - 1),
    units: fc.integer({ min: 1, max: 8 }),
    writable: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('unmap' as const), at: fc.nat(UNITS - 1), units: fc.integer({ min: 1, max: 8 }) }),
  fc.record({ kind: fc.constant('write' as const), at: fc.nat(UNITS * UNIT), length: fc.nat(80) }),
  fc.record({ kind: fc.constant('read' as const), at: fc.nat(UNITS * UNIT), length: fc.nat(80) }),
);

test('a space answers as one byte array with holes does, and logs exactly what was written', () => {
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 60 }),
      fc.constantFrom(0, 2 ** 40, 2 ** 53 - UNITS * UNIT),
      (steps, base) => {
        const space = createDmaSpace();
        const bytes: (number | undefined)[] = new Array(UNITS * UNIT + 100).fill(undefined);
        const writable: boolean[] = new Array(UNITS * UNIT + 100).fill(false);
        const mapped = new Map<number, number>();
        const dirty = new Set<number>();
        space.startLog([{ iova: BigInt(base), length: BigInt(UNITS * UNIT) }], 4096n);
        let value = 0;
        for (const now of steps) {
          if (now.kind === 'map') {
            const from = now.at * UNIT;
            const size = now.units * UNIT;
            const free =
              bytes.slice(from, from + size).every((byte) => byte === undefined) && from + size <= UNITS * UNIT;
            const errno = errnoOf(() => {
              if (from + size > UNITS * UNIT) return;
              space.map({
                iova: BigInt(base + from),
                size: BigInt(size),
                readable: true,
                writable: now.writable,
                memory: { bytes: new Uint8Array(size), fd: undefined, fdOffset: 0 },
              });
            });
            if (from + size > UNITS * UNIT) continue;
            expect(errno).toBe(free ? 'none' : 'EEXIST');
            if (!free) continue;
            mapped.set(from, size);
            bytes.fill(0, from, from + size);
            writable.fill(now.writable, from, from + size);
          } else if (now.kind === 'unmap') {
            const from = now.at * UNIT;
            const size = now.units * UNIT;
            const exact = mapped.get(from) === size;
            expect(errnoOf(() => space.unmap(BigInt(base + from), BigInt(size)))).toBe(exact ? 'none' : 'ENOENT');
            if (!exact) continue;
            mapped.delete(from);
            bytes.fill(undefined, from, from + size);
            writable.fill(false, from, from + size);
          } else if (now.kind === 'write') {
            const data = Uint8Array.from({ length: now.length }, () => ++value & 0xff);
            const allowed = data.every((_, i) => writable[now.at + i]);
            expect(errnoOf(() => space.write(base + now.at, data))).toBe(allowed ? 'none' : 'EFAULT');
            if (!allowed) continue;
            for (const [i, byte] of data.entries()) {
              bytes[now.at + i] = byte;
              dirty.add(Math.floor((base + now.at + i) / 4096));
            }
          } else {
            const data = new Uint8Array(now.length);
            const expected = bytes.slice(now.at, now.at + now.length);
            const allowed = expected.every((byte) => byte !== undefined);
            expect(errnoOf(() => space.read(base + now.at, data))).toBe(allowed ? 'none' : 'EFAULT');
            if (allowed) expect([...data]).toEqual(expected);
          }
        }
        const reported = new Set<number>();
        space.readAndClearLog({ iova: BigInt(base), length: BigInt(UNITS * UNIT) }, (iova, length) => {
          for (let at = Number(iova); at < Number(iova + length); at++) reported.add(Math.floor(at / 4096));
        });
        expect([...reported].sort()).toEqual([...dirty].sort());
      },
    ),
    { numRuns: 300 },
  );
});
