import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createDmaSpace, DirtyLog, type DmaLoggingReport, setDirtyBits } from '../../src/index.js';
import { errnoOf } from './helpers.js';

const PAGE = 4096n;
const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

function reportOf(log: DirtyLog, iova: bigint, length: bigint): [bigint, bigint][] {
  const found: [bigint, bigint][] = [];
  log.readAndClear({ iova, length }, (at, size) => found.push([at, size]));
  return found;
}

/** Set bits of a bitmap by the uAPI's rule: bit n % 64 of the native 64-bit word n / 64. */
function bitsOf(bitmap: Uint8Array): number[] {
  const words = new BigUint64Array(bitmap.slice().buffer);
  const bits: number[] = [];
  for (const [index, word] of words.entries()) {
    for (let bit = 0; bit < 64; bit++) if ((word >> BigInt(bit)) & 1n) bits.push(index * 64 + bit);
  }
  return bits;
}

describe('dirty log', () => {
  test('reports runs of pages once and clears them', () => {
    const log = new DirtyLog(PAGE, [{ iova: 0n, length: 1n << 40n }]);
    log.mark(0x1234, 1);
    log.mark(0x2fff, 2);
    log.mark(0x8000, 0);
    log.mark(2 ** 32 - 1, 2);
    expect(reportOf(log, 0n, 1n << 40n)).toEqual([
      [0x1000n, 0x3000n],
      [(1n << 32n) - PAGE, 2n * PAGE],
    ]);
    expect(reportOf(log, 0n, 1n << 40n)).toEqual([]);
  });

  test.each([
    [1n, 4096n],
    [4096n, 4096n],
    [6000n, 4096n],
    [65536n, 65536n],
    [1n << 40n, 1n << 30n],
  ])('asked for pages of %s tracks pages of %s', (wanted, tracked) => {
    expect(new DirtyLog(wanted, []).pageSize).toBe(tracked);
  });

  test('reports only what is in a logged range', () => {
    const log = new DirtyLog(PAGE, [
      { iova: 0x2000n, length: 0x1000n },
      { iova: 0x8000n, length: 0x1000n },
    ]);
    log.mark(0, 0x10000);
    expect(reportOf(log, 0n, 0x10000n)).toEqual([
      [0x2000n, 0x1000n],
      [0x8000n, 0x1000n],
    ]);
  });

  test('keeps a large page dirty until all of it was reported', () => {
    const log = new DirtyLog(65536n, [{ iova: 0n, length: 1n << 20n }]);
    log.mark(0x10010, 1);
    expect(reportOf(log, 0x10000n, 0x8000n)).toEqual([[0x10000n, 0x8000n]]);
    expect(reportOf(log, 0x18000n, 0x8000n)).toEqual([[0x18000n, 0x8000n]]);
    expect(reportOf(log, 0x10000n, 0x10000n)).toEqual([[0x10000n, 0x10000n]]);
    expect(reportOf(log, 0x10000n, 0x10000n)).toEqual([]);
  });

  test('clears nothing where the report fails', () => {
    const log = new DirtyLog(PAGE, [{ iova: 0n, length: 0x10000n }]);
    log.mark(0x1000, 1);
    log.mark(0x5000, 1);
    let calls = 0;
    expect(() =>
      log.readAndClear({ iova: 0n, length: 0x10000n }, () => {
        if (++calls === 2) throw new Error('no room');
      }),
    ).toThrow('no room');
    expect(reportOf(log, 0n, 0x10000n)).toEqual([
      [0x1000n, 0x1000n],
      [0x5000n, 0x1000n],
    ]);
  });

  test('that gave up says that everything is dirty, until all of it was told', () => {
    const log = new DirtyLog(PAGE, [{ iova: 0n, length: 0x10000n }]);
    log.markAll();
    expect(reportOf(log, 0n, 0x8000n)).toEqual([[0n, 0x8000n]]);
    expect(reportOf(log, 0n, 0x10000n)).toEqual([[0n, 0x10000n]]);
    expect(reportOf(log, 0n, 0x10000n)).toEqual([]);
  });

  test('counts pages up to the top of 64-bit space', () => {
    const top = (1n << 64n) - 0x4000n;
    const log = new DirtyLog(PAGE, [{ iova: top, length: 0x3000n }]);
    log.markBig(top + 0x1800n, 1n);
    expect(reportOf(log, top, 0x3000n)).toEqual([[top + 0x1000n, 0x1000n]]);
  });

  test('agrees with a set of pages for any marks and reports', () => {
    const range = fc.record({ iova: fc.nat(200_000 * 4096), length: fc.integer({ min: 1, max: 40_000 }) });
    fc.assert(
      fc.property(
        fc.array(range, { maxLength: 20 }),
        fc.nat(200_000),
        fc.integer({ min: 1, max: 100_000 }),
        (marks, first, pages) => {
          const log = new DirtyLog(PAGE, [{ iova: 0n, length: 1n << 40n }]);
          const model = new Set<number>();
          for (const { iova, length } of marks) {
            log.mark(iova, length);
            for (let page = Math.floor(iova / 4096); page <= Math.floor((iova + length - 1) / 4096); page++)
              model.add(page);
          }
          const seen: number[] = [];
          for (const [at, size] of reportOf(log, BigInt(first) * PAGE, BigInt(pages) * PAGE)) {
            for (let page = Number(at / PAGE); page < Number((at + size) / PAGE); page++) seen.push(page);
          }
          const expected = [...model].filter((page) => page >= first && page < first + pages).sort((a, b) => a - b);
          expect(seen).toEqual(expected);
          const left: number[] = [];
          for (const [at, size] of reportOf(log, 0n, 1n << 40n)) {
            for (let page = Number(at / PAGE); page < Number((at + size) / PAGE); page++) left.push(page);
          }
          expect(left).toEqual([...model].filter((page) => !expected.includes(page)).sort((a, b) => a - b));
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('report bitmap', () => {
  function report(iova: bigint, length: bigint, pageSize: bigint, bytes = 64): DmaLoggingReport {
    return { iova, length, pageSize, bitmap: new Uint8Array(bytes) };
  }

  test('bit n stands for page n of the report, in native 64-bit words', () => {
    const into = report(0x10000n, 0x100000n, PAGE);
    setDirtyBits(into, 0x10000n + 3n * PAGE, PAGE);
    setDirtyBits(into, 0x10000n + 70n * PAGE, 2n * PAGE);
    expect(bitsOf(into.bitmap)).toEqual([3, 70, 71]);
    const byte = LITTLE_ENDIAN ? 0 : 7;
    expect(into.bitmap[byte]).toBe(0x08);
  });

  test('never clears a bit, and drops what is outside of the report', () => {
    const into = report(0x10000n, 0x8000n, PAGE);
    into.bitmap.fill(0xff, 8, 16);
    setDirtyBits(into, 0n, 0x11000n);
    setDirtyBits(into, 0x17000n, 1n << 40n);
    const bits = bitsOf(into.bitmap);
    expect(bits.filter((bit) => bit < 64)).toEqual([0, 7]);
    expect(bits.filter((bit) => bit >= 64)).toHaveLength(64);
  });

  test('in other pages than the log has rounds outwards', () => {
    const coarse = report(0n, 1n << 20n, 65536n);
    setDirtyBits(coarse, 0xf000n, 0x2000n);
    expect(bitsOf(coarse.bitmap)).toEqual([0, 1]);
    const fine = report(0n, 1n << 20n, PAGE);
    setDirtyBits(fine, 0x10000n, 65536n);
    expect(bitsOf(fine.bitmap)).toEqual(Array.from({ length: 16 }, (_, i) => 16 + i));
  });
});

describe('log of a DMA space', () => {
  function logged() {
    const space = createDmaSpace();
    const bytes = new Uint8Array(0x10000);
    space.map({
      iova: 0n,
      size: 0x10000n,
      readable: true,
      writable: true,
      memory: { bytes, fd: undefined, fdOffset: 0 },
    });
    space.startLog([{ iova: 0n, length: 0x10000n }], PAGE);
    const pages = () => {
      const found: number[] = [];
      space.readAndClearLog({ iova: 0n, length: 0x10000n }, (iova, length) => {
        for (let page = iova / PAGE; page < (iova + length) / PAGE; page++) found.push(Number(page));
      });
      return found;
    };
    return { space, pages };
  }

  test('has writes of every kind and no reads', async () => {
    const { space, pages } = logged();
    space.read(0x9000, new Uint8Array(8));
    space.view(0x9000, 8, false);
    space.write(0x1ffc, new Uint8Array(8));
    space.write(0x5000, new Uint8Array(0x400));
    space.view(0x7000, 8, true);
    space.writeBig(0xa000n, new Uint8Array(1));
    expect(pages()).toEqual([1, 2, 5, 7, 10]);
    expect(pages()).toEqual([]);
    expect(errnoOf(() => space.write(0xfffe, new Uint8Array(4)))).toBe('EFAULT');
    expect(pages(), 'a write that failed').toEqual([]);
  });

  test('counts a writable pin as dirty for as long as it is held, and once more after', () => {
    const { space, pages } = logged();
    const pin = space.pin(0x3000, 0x1001, true);
    const readOnly = space.pin(0x8000, 1, false);
    expect(pages()).toEqual([3, 4]);
    expect(pages()).toEqual([3, 4]);
    pin.release();
    readOnly.release();
    expect(pages(), 'written between the last report and the release').toEqual([3, 4]);
    expect(pages()).toEqual([]);
  });

  test('started under a pin has it from the start', () => {
    const { space, pages } = logged();
    space.stopLog();
    const pin = space.pin(0x6000, 1, true);
    space.startLog([{ iova: 0n, length: 0x10000n }], PAGE);
    expect(pages()).toEqual([6]);
    pin.release();
  });

  test('has what was written before an unmap', () => {
    const { space, pages } = logged();
    space.write(0x2000, Uint8Array.of(1));
    space.unmap(0n, 0x10000n);
    expect(pages()).toEqual([2]);
  });

  test('has what remote memory was written', async () => {
    const { space, pages } = logged();
    space.unmap(0n, 0x10000n);
    space.map({ iova: 0n, size: 0x10000n, readable: true, writable: true, memory: undefined });
    space.remote = { async read() {}, async write() {} };
    await space.write(0x4000, Uint8Array.of(1));
    expect(pages()).toEqual([4]);
  });

  test('refuses a second start and a report while it is off; stopping twice is fine', () => {
    const { space, pages } = logged();
    expect(errnoOf(() => space.startLog([], PAGE))).toBe('EINVAL');
    space.stopLog();
    space.stopLog();
    expect(errnoOf(pages)).toBe('EINVAL');
    expect(space.isLogging).toBe(false);
  });
});
