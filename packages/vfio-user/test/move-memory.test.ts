/** Which memory goes when a device moves: what is to become of each range, and which pages are dirty. */
import type { VfioDevice } from '@vfio/core';
import { errnoError, VFIO_DEVICE_FEATURE_MASK } from '@vfio/uapi';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { MappedRange } from '../src/dma.js';
import { DIRTY_PAGE, DirtyMemory, mergeRanges } from '../src/move/dirty-memory.js';
import { decideFates, FATE } from '../src/move/manifest.js';

const PAGE = BigInt(DIRTY_PAGE);
const FILE = { dev: 1n, ino: 2n, offset: 0n };

const range = (iova: bigint, size: bigint, more: Partial<MappedRange> = {}): MappedRange => ({
  iova,
  size,
  readable: true,
  writable: true,
  file: undefined,
  ...more,
});

describe('what becomes of a range', () => {
  const source = range(0x10000n, 0x4000n);
  const fate = (from: MappedRange, mine: readonly MappedRange[], isSameHost = true) =>
    decideFates([from], mine, isSameHost)[0];

  test('it is sent where the destination has memory at the same addresses, however that is cut', () => {
    expect(fate(source, [range(0x10000n, 0x4000n)])).toBe(FATE.SENT);
    expect(fate(source, [range(0x8000n, 0x9000n), range(0x11000n, 0x9000n)])).toBe(FATE.SENT);
  });

  test.each([
    ['nothing', []],
    ['too little', [range(0x10000n, 0x3000n)]],
    ['a hole', [range(0x10000n, 0x1000n), range(0x12000n, 0x2000n)]],
    ['a part that begins later', [range(0x11000n, 0x4000n)]],
    ['its neighbours', [range(0x8000n, 0x8000n), range(0x14000n, 0x1000n)]],
  ])('it is refused where the destination has %s there', (_what, mine) => {
    expect(() => fate(source, mine)).toThrow(/is not mapped at the destination/);
  });

  test('it is the same memory where both show the same bytes of a file, on one host', () => {
    const from = { ...source, file: FILE };
    expect(fate(from, [range(0x10000n, 0x4000n, { file: FILE })])).toBe(FATE.SHARED);
    // In two pieces, each where it belongs.
    const second = { ...FILE, offset: 0x1000n };
    expect(fate(from, [range(0x10000n, 0x1000n, { file: FILE }), range(0x11000n, 0x3000n, { file: second })])).toBe(
      FATE.SHARED,
    );
    expect(fate(from, [range(0x10000n, 0x4000n, { file: FILE })], false)).toBe(FATE.SENT);
    expect(fate(from, [range(0x10000n, 0x4000n, { file: second })])).toBe(FATE.SENT);
    expect(fate(from, [range(0x10000n, 0x4000n, { file: { ...FILE, ino: 3n } })])).toBe(FATE.SENT);
    expect(fate(from, [range(0x10000n, 0x4000n)])).toBe(FATE.SENT);
  });

  test('it is refused where only a part is the same memory: that part must not be written', () => {
    const mine = [range(0x10000n, 0x1000n, { file: FILE }), range(0x11000n, 0x3000n)];
    expect(() => fate({ ...source, file: FILE }, mine)).toThrow(/only in part/);
  });

  test('what the device may only read is left to its client, and refused where the source may write it', () => {
    const mine = [range(0x10000n, 0x4000n, { writable: false })];
    expect(fate({ ...source, writable: false }, mine)).toBe(FATE.LEFT);
    expect(() => fate(source, mine)).toThrow(/may only read it/);
    expect(fate({ ...source, writable: false }, [range(0x10000n, 0x4000n)])).toBe(FATE.SENT);
  });
});

test('merged ranges hold all of the ranges, in order, at most so many, with the smallest gaps filled', () => {
  const ranges = fc
    .array(fc.tuple(fc.bigInt(1n, 50n), fc.bigInt(1n, 50n)), { minLength: 1, maxLength: 30 })
    .map((gaps) => {
      let at = 0n;
      return gaps.map(([gap, length]) => {
        const iova = at + gap * PAGE;
        at = iova + length * PAGE;
        return { iova, length: length * PAGE };
      });
    });
  fc.assert(
    fc.property(ranges, fc.integer({ min: 1, max: 12 }), (all, limit) => {
      const merged = mergeRanges(all, limit);
      expect(merged.length).toBeLessThanOrEqual(limit);
      for (const { iova, length } of all) {
        expect(merged.some((one) => iova >= one.iova && iova + length <= one.iova + one.length)).toBe(true);
      }
      for (const [index, one] of merged.slice(1).entries()) {
        const before = merged[index]!;
        expect(one.iova).toBeGreaterThan(before.iova + before.length);
      }
    }),
  );
});

/** A device whose log says what a test put into it, or fails. */
function logging() {
  const log = { dirty: new Set<number>(), calls: [] as number[], error: undefined as Error | undefined };
  const device = {
    deviceFeature: ({
      flags,
      value,
    }: {
      flags: number;
      value: { iova: bigint; length: bigint; bitmap: Uint8Array };
    }) => {
      const feature = flags & VFIO_DEVICE_FEATURE_MASK;
      log.calls.push(feature);
      if (log.error !== undefined && feature !== 7) throw log.error;
      if (feature !== 8) return { pageSize: PAGE };
      for (const page of log.dirty) {
        const at = BigInt(page) * PAGE - value.iova;
        if (at < 0n || at >= value.length) continue;
        const bit = Number(at / PAGE);
        value.bitmap[bit >> 3]! |= 1 << (bit & 7);
        log.dirty.delete(page);
      }
      return undefined;
    },
  };
  // The one method that is used.
  return { log, device: device as unknown as VfioDevice };
}

const taken = (memory: DirtyMemory, most = 1 << 20) =>
  [...memory.take(most)].flatMap(({ iova, length }) =>
    Array.from({ length: Number(length / PAGE) }, (_, n) => Number(iova / PAGE) + n),
  );

describe('pages that must go', () => {
  const ranges = [
    { iova: 0x10000n, length: 4n * PAGE },
    { iova: 0x100000n, length: 3n * PAGE },
  ];
  const all = [16, 17, 18, 19, 256, 257, 258];

  test('are all at first, then those that the device has written since', async () => {
    const { device, log } = logging();
    const memory = new DirtyMemory(device, ranges);
    await memory.startLog();
    expect(memory.dirtyBytes).toBe(all.length * DIRTY_PAGE);
    expect(taken(memory)).toEqual(all);
    await memory.collect();
    expect(taken(memory)).toEqual([]);
    for (const page of [17, 258, 5]) log.dirty.add(page);
    await memory.collect();
    expect(memory.dirtyBytes).toBe(2 * DIRTY_PAGE);
    expect(taken(memory)).toEqual([17, 258]);
  });

  test('are taken in stretches of so many bytes at most, and none is lost or told twice', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.integer({ min: 0, max: 499 })),
        fc.integer({ min: 1, max: 9 }),
        async (pages, most) => {
          const { device, log } = logging();
          const memory = new DirtyMemory(device, [{ iova: 0n, length: 500n * PAGE }]);
          taken(memory);
          for (const page of pages) log.dirty.add(page);
          await memory.startLog();
          await memory.collect();
          const stretches = [...memory.take(most * DIRTY_PAGE)];
          for (const { length } of stretches) expect(length).toBeLessThanOrEqual(BigInt(most * DIRTY_PAGE));
          const found = stretches.flatMap(({ iova, length }) =>
            Array.from({ length: Number(length / PAGE) }, (_, n) => Number(iova / PAGE) + n),
          );
          expect(found).toEqual([...pages].sort((a, b) => a - b));
        },
      ),
    );
  });

  test('are all of them again where the log fails, and from then on', async () => {
    const { device, log } = logging();
    const memory = new DirtyMemory(device, ranges);
    await memory.startLog();
    taken(memory);
    log.error = errnoError('EIO', 'the firmware has lost track');
    await memory.collect();
    expect(memory.isLogging).toBe(false);
    expect(taken(memory)).toEqual(all);
    await memory.collect();
    expect(taken(memory)).toEqual(all);
  });

  test('are all of them where the device has no log; any other failure to start it is told', async () => {
    for (const errno of ['ENOTTY', 'EOPNOTSUPP'] as const) {
      const { device, log } = logging();
      log.error = errnoError(errno, 'no log');
      const memory = new DirtyMemory(device, ranges);
      await memory.startLog();
      expect(memory.isLogging).toBe(false);
      taken(memory);
      await memory.collect();
      expect(taken(memory)).toEqual(all);
    }
    const { device, log } = logging();
    log.error = errnoError('EINVAL', 'its client logs already');
    await expect(new DirtyMemory(device, ranges).startLog()).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('of 1 TiB take one bit each, and are asked for by pieces', async () => {
    const { device, log } = logging();
    const memory = new DirtyMemory(device, [{ iova: 0n, length: 1n << 40n }]);
    await memory.startLog();
    log.dirty.add(2 ** 28 - 1);
    await memory.collect();
    expect(log.calls.filter((feature) => feature === 8)).toHaveLength(128);
    expect(memory.dirtyBytes).toBe(2 ** 40);
  });
});
