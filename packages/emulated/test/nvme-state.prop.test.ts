import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  type ControllerState,
  decodeControllerState,
  encodeControllerState,
} from '../src/devices/nvme/controller-state.js';
import { BadState } from '../src/devices/nvme/state-codec.js';

const u16 = fc.nat({ max: 0xffff });
const u32 = fc.nat({ max: 0xffffffff });
const address = fc.nat({ max: 2 ** 40 }).map((page) => page * 4096);
const list = <T>(item: fc.Arbitrary<T>, maxLength: number) => fc.array(item, { maxLength });

/** A queue that may be: its indexes lie in it. */
const place = fc
  .record({
    size: fc.integer({ min: 2, max: 0x10000 }),
    head: fc.double({ min: 0, max: 0.999, noNaN: true }),
    tail: fc.double({ min: 0, max: 0.999, noNaN: true }),
  })
  .map(({ size, head, tail }) => ({ size, head: Math.floor(head * size), tail: Math.floor(tail * size) }));

const queues = fc.record({
  sqs: list(
    fc.tuple(place, fc.record({ base: address, id: u16, cqId: u16 })).map(([at, rest]) => ({ ...at, ...rest })),
    40,
  ),
  cqs: list(
    fc
      .tuple(
        place,
        fc.record({ base: address, id: u16, vector: u16, interrupts: fc.boolean(), phase: fc.nat({ max: 1 }) }),
      )
      .map(([at, rest]) => ({ ...at, ...rest })),
    40,
  ),
});

const words = { sqHead: u32, sqTail: u32, cqHead: u32, cqTail: u32, cqPhase: u32 };
const vendor = fc.record({
  cc: u32,
  csts: u32,
  aqa: u32,
  asq: fc.tuple(u32, u32),
  acq: fc.tuple(u32, u32),
  interruptMask: u32,
  admin: fc.option(fc.record(words), { nil: undefined }),
  features: list(fc.tuple(u32, u32, u32), 300),
  held: list(u32, 16),
  pending: list(fc.record({ type: u32, info: u32, log: u32 }), 16),
  quiet: list(u32, 8),
  changedNamespaces: list(u32, 300),
  backlog: list(fc.record({ cqId: u32, result: u32, sqId: u32, sqHead: u32, cid: u32, status: u32 }), 300),
  errors: list(
    fc.record({ count: fc.maxSafeNat(), sqId: u32, cid: u32, status: u32, at: u32, lba: fc.maxSafeNat(), nsid: u32 }),
    64,
  ),
  errorCount: fc.maxSafeNat(),
});

const state: fc.Arbitrary<ControllerState> = fc.record({
  queues: fc.option(queues, { nil: undefined }),
  vendor: fc.option(vendor, { nil: undefined }),
});

test('a state that was written is read as it was, whatever its size', () => {
  fc.assert(
    fc.property(state, fc.boolean(), (one, wasSuspended) => {
      const bytes = encodeControllerState(one, wasSuspended);
      expect(bytes[2]).toBe(wasSuspended ? 1 : 0);
      expect(decodeControllerState(bytes)).toEqual(one);
    }),
  );
});

test('a state that was cut is refused', () => {
  fc.assert(
    fc.property(state, fc.nat(), (one, place) => {
      const bytes = encodeControllerState(one, true);
      expect(() => decodeControllerState(bytes.subarray(0, place % bytes.length))).toThrow(BadState);
    }),
  );
});

test('a state of which a byte was changed is refused, or is another one of the same length', () => {
  fc.assert(
    fc.property(state, fc.nat(), fc.integer({ min: 1, max: 255 }), (one, place, bits) => {
      const bytes = encodeControllerState(one, true);
      const at = place % bytes.length;
      bytes[at] = (bytes[at] ?? 0) ^ bits;
      let changed: ControllerState;
      try {
        changed = decodeControllerState(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(BadState);
        return;
      }
      expect(encodeControllerState(changed, true).length).toBe(bytes.length);
    }),
  );
});
