import { describe, expect, test, vi } from 'vitest';
import { createDmaSpace, type DmaMapRequest, type GuestMemory, type RemoteDma } from '../../src/index.js';
import { errnoOf, errnoOfAsync, leastGarbage } from './helpers.js';

const TOP = 1n << 64n;

function memory(size: number, fill = 0): Uint8Array {
  return new Uint8Array(size).fill(fill);
}

interface MapOptions extends Partial<DmaMapRequest> {
  readonly bytes?: Uint8Array;
}

function mapAt(space: GuestMemory, iova: bigint, size: bigint, options: MapOptions = {}): Uint8Array {
  const bytes = options.bytes ?? memory(Number(size));
  space.map({ iova, size, readable: true, writable: true, memory: { bytes, fd: undefined, fdOffset: 0 }, ...options });
  return bytes;
}

describe('DMA map', () => {
  test.each([
    ['zero size', 0x1000n, 0n, 'EINVAL'],
    ['a negative address', -1n, 0x1000n, 'EINVAL'],
    ['wrap-around', TOP - 0x1000n, 0x2000n, 'EINVAL'],
    ['an address beyond 64 bits', TOP, 0x1000n, 'EINVAL'],
    ['overlap at its start', 0x0800n, 0x1000n, 'EEXIST'],
    ['overlap at its end', 0x1fffn, 0x1000n, 'EEXIST'],
    ['overlap from inside', 0x1400n, 0x100n, 'EEXIST'],
    ['overlap around', 0n, 0x10000n, 'EEXIST'],
    ['the same range again', 0x1000n, 0x1000n, 'EEXIST'],
  ])('of %s is refused and the memory let go of', (_name, iova, size, errno) => {
    const space = createDmaSpace();
    mapAt(space, 0x1000n, 0x1000n);
    const release = vi.fn();
    const request = { iova, size, readable: true, writable: true, memory: undefined, release };
    expect(errnoOf(() => space.map(request))).toBe(errno);
    expect(release).toHaveBeenCalledTimes(1);
    expect(space.mappings).toBe(1);
  });

  test('without any access is refused with EINVAL', () => {
    const space = createDmaSpace();
    const request = { iova: 0n, size: 1n, readable: false, writable: false, memory: undefined };
    expect(errnoOf(() => space.map(request))).toBe('EINVAL');
  });

  test('of memory that is shorter than the range is refused with EINVAL', () => {
    const space = createDmaSpace();
    expect(errnoOf(() => mapAt(space, 0n, 0x2000n, { bytes: memory(0x1000) }))).toBe('EINVAL');
  });

  test('beyond the number of mappings is refused with ENOSPC', () => {
    const space = createDmaSpace({ maxMappings: 2 });
    mapAt(space, 0x0000n, 0x1000n);
    mapAt(space, 0x1000n, 0x1000n);
    expect(errnoOf(() => mapAt(space, 0x2000n, 0x1000n))).toBe('ENOSPC');
  });

  test('may end exactly at the top of 64-bit space', () => {
    const space = createDmaSpace();
    const bytes = mapAt(space, TOP - 0x1000n, 0x1000n);
    space.writeBig(TOP - 1n, Uint8Array.of(7));
    expect(bytes[0xfff]).toBe(7);
    expect(errnoOf(() => space.writeBig(TOP - 1n, Uint8Array.of(1, 2)))).toBe('EFAULT');
  });

  test('of neighbours on both sides is no overlap', () => {
    const space = createDmaSpace();
    mapAt(space, 0x1000n, 0x1000n);
    mapAt(space, 0x2000n, 0x1000n);
    mapAt(space, 0n, 0x1000n);
    expect(space.mappings).toBe(3);
  });
});

describe('DMA unmap', () => {
  test.each([
    ['nothing mapped', 0x8000n, 0x1000n, 'ENOENT'],
    ['a part of a mapping', 0x1000n, 0x800n, 'ENOENT'],
    ['more than a mapping', 0x1000n, 0x2000n, 'ENOENT'],
    ['zero size', 0x1000n, 0n, 'EINVAL'],
    ['wrap-around', TOP - 1n, 2n, 'EINVAL'],
  ])('of %s is refused', (_name, iova, size, errno) => {
    const space = createDmaSpace();
    mapAt(space, 0x1000n, 0x1000n);
    expect(errnoOf(() => space.unmap(iova, size))).toBe(errno);
    expect(space.mappings).toBe(1);
  });

  test('lets go of the memory once and makes the range unreachable', () => {
    const space = createDmaSpace();
    const release = vi.fn();
    mapAt(space, 0x1000n, 0x1000n, { release });
    space.read(0x1000, new Uint8Array(4));
    expect(space.unmap(0x1000n, 0x1000n)).toBeUndefined();
    expect(release).toHaveBeenCalledTimes(1);
    expect(errnoOf(() => space.read(0x1000, new Uint8Array(4)))).toBe('EFAULT');
    expect(errnoOf(() => space.unmap(0x1000n, 0x1000n))).toBe('ENOENT');
  });

  test('tells listeners while the memory can still be reached', () => {
    const space = createDmaSpace();
    mapAt(space, 0x1000n, 0x1000n, { bytes: memory(0x1000, 5) });
    const seen: number[] = [];
    const stop = space.onUnmap((iova, size) => {
      const data = new Uint8Array(1);
      space.read(Number(iova), data);
      seen.push(Number(iova), Number(size), data[0]!);
    });
    space.unmap(0x1000n, 0x1000n);
    expect(seen).toEqual([0x1000, 0x1000, 5]);
    stop();
    mapAt(space, 0x1000n, 0x1000n);
    space.unmap(0x1000n, 0x1000n);
    expect(seen).toHaveLength(3);
  });

  test('waits for the last pin, and the memory goes only then', async () => {
    const space = createDmaSpace();
    const release = vi.fn();
    mapAt(space, 0x1000n, 0x1000n, { release });
    const one = space.pin(0x1000, 16, false);
    const two = space.pin(0x1800, 16, true);
    const unmapped = space.unmap(0x1000n, 0x1000n) as Promise<void>;
    let done = false;
    unmapped.then(() => {
      done = true;
    });
    expect(
      errnoOf(() => space.pin(0x1000, 4, false)),
      'no new pins',
    ).toBe('EFAULT');
    one.release();
    one.release();
    await Promise.resolve();
    expect(done).toBe(false);
    expect(release).not.toHaveBeenCalled();
    two.release();
    await unmapped;
    expect(release).toHaveBeenCalledTimes(1);
  });

  test('gives EBUSY after the deadline; the memory lives on under the pin, and a second unmap waits for it again', async () => {
    const space = createDmaSpace({ unmapDeadlineMs: 5 });
    const release = vi.fn();
    mapAt(space, 0x1000n, 0x1000n, { release });
    const pin = space.pin(0x1000, 16, true);
    expect(await errnoOfAsync(() => space.unmap(0x1000n, 0x1000n))).toBe('EBUSY');
    expect(release).not.toHaveBeenCalled();
    expect(pin.bytes).toHaveLength(16);
    const again = space.unmap(0x1000n, 0x1000n);
    pin.release();
    await again;
    expect(release).toHaveBeenCalledTimes(1);
    expect(errnoOf(() => space.unmap(0x1000n, 0x1000n))).toBe('ENOENT');
  });

  test('of everything unmaps everything, pinned or not, and tells a failure at the end', async () => {
    const space = createDmaSpace({ unmapDeadlineMs: 5 });
    const releases = [vi.fn(), vi.fn()];
    mapAt(space, 0x1000n, 0x1000n, { release: releases[0]! });
    mapAt(space, 0x2000n, 0x1000n, { release: releases[1]! });
    const pin = space.pin(0x1000, 1, false);
    expect(await errnoOfAsync(() => space.unmapAll())).toBe('EBUSY');
    expect(space.mappings).toBe(0);
    expect(releases.map((release) => release.mock.calls.length)).toEqual([0, 1]);
    pin.release();
    expect(releases[0]).toHaveBeenCalledTimes(1);
    expect(space.unmapAll()).toBeUndefined();
  });
});

describe('DMA access', () => {
  test('copies within a mapping, whatever the length', () => {
    const space = createDmaSpace();
    const bytes = mapAt(space, 0x1000n, 0x1000n);
    for (const length of [0, 1, 127, 128, 129, 1000]) {
      const data = Uint8Array.from({ length }, (_, i) => i * 7 + length);
      expect(space.write(0x1100, data)).toBeUndefined();
      expect([...bytes.subarray(0x100, 0x100 + length)]).toEqual([...data]);
      const back = new Uint8Array(length);
      expect(space.read(0x1100, back)).toBeUndefined();
      expect(back).toEqual(data);
    }
  });

  test('spans neighbouring mappings', () => {
    const space = createDmaSpace();
    const low = mapAt(space, 0x1000n, 0x1000n);
    const high = mapAt(space, 0x2000n, 0x1000n);
    space.write(0x1ffe, Uint8Array.of(1, 2, 3, 4));
    expect([low[0xffe], low[0xfff], high[0], high[1]]).toEqual([1, 2, 3, 4]);
    const back = new Uint8Array(4);
    space.read(0x1ffe, back);
    expect([...back]).toEqual([1, 2, 3, 4]);
    expect(space.view(0x1ffe, 4, false)).toBeUndefined();
    expect(errnoOf(() => space.pin(0x1ffe, 4, false))).toBe('EOPNOTSUPP');
  });

  test.each([
    ['into a hole', 0x2ffe],
    ['out of a hole', 0x0ffe],
    ['outside', 0x9000],
    ['below 0', -1],
    ['at no number', Number.NaN],
  ])('%s is EFAULT and moves nothing', (_name, iova) => {
    const space = createDmaSpace();
    const low = mapAt(space, 0x1000n, 0x1000n, { bytes: memory(0x1000, 9) });
    const high = mapAt(space, 0x2000n, 0x1000n, { bytes: memory(0x1000, 9) });
    const data = Uint8Array.of(1, 2, 3, 4);
    expect(errnoOf(() => space.write(iova, data))).toBe('EFAULT');
    expect(errnoOf(() => space.read(iova, data))).toBe('EFAULT');
    expect(errnoOf(() => space.view(iova, 4, false))).toBe('EFAULT');
    expect(errnoOf(() => space.pin(iova, 4, false))).toBe('EFAULT');
    expect([...data]).toEqual([1, 2, 3, 4]);
    expect(low.every((byte) => byte === 9) && high.every((byte) => byte === 9)).toBe(true);
  });

  test('that a mapping does not allow is EFAULT', () => {
    const space = createDmaSpace();
    mapAt(space, 0x1000n, 0x1000n, { writable: false });
    mapAt(space, 0x2000n, 0x1000n, { readable: false });
    const data = new Uint8Array(4);
    expect(errnoOf(() => space.write(0x1000, data))).toBe('EFAULT');
    expect(errnoOf(() => space.read(0x2000, data))).toBe('EFAULT');
    expect(errnoOf(() => space.view(0x1000, 4, true))).toBe('EFAULT');
    expect(errnoOf(() => space.pin(0x2000, 4, false))).toBe('EFAULT');
    expect(errnoOf(() => space.read(0x1ffe, data))).toBe('EFAULT');
    expect(space.write(0x2000, data)).toBeUndefined();
  });

  test('of memory that has gone is EFAULT, not a short copy', () => {
    const space = createDmaSpace();
    let bytes = memory(0x1000, 3);
    const gone = {
      get bytes() {
        return bytes;
      },
      fd: undefined,
      fdOffset: 0,
    };
    mapAt(space, 0x1000n, 0x1000n, { memory: gone });
    bytes = new Uint8Array(0);
    expect(errnoOf(() => space.read(0x1000, new Uint8Array(4)))).toBe('EFAULT');
    expect(errnoOf(() => space.write(0x1000, new Uint8Array(4)))).toBe('EFAULT');
    expect(errnoOf(() => space.view(0x1000, 4, false))).toBe('EFAULT');
  });

  test('views are the memory itself, and the same view comes back for the same range', () => {
    const space = createDmaSpace();
    const bytes = mapAt(space, 0x1000n, 0x1000n);
    const view = space.view(0x1040, 64, false)!;
    view[0] = 1;
    expect(bytes[0x40]).toBe(1);
    expect(space.view(0x1040, 64, false)).toBe(view);
    expect(space.view(0x1040, 32, false)).not.toBe(view);
  });

  test('above 2^53 goes through the bigint calls, also across the limit', () => {
    const space = createDmaSpace();
    const start = (1n << 53n) - 0x1000n;
    const bytes = mapAt(space, start, 0x2000n);
    space.write(2 ** 53 - 4, Uint8Array.of(1, 2, 3, 4));
    expect(errnoOf(() => space.write(2 ** 53 - 2, Uint8Array.of(1, 2, 3, 4)))).toBe('EFAULT');
    space.writeBig((1n << 53n) - 2n, Uint8Array.of(5, 6, 7, 8));
    expect([...bytes.subarray(0xffc, 0x1002)]).toEqual([1, 2, 5, 6, 7, 8]);
    const back = new Uint8Array(6);
    space.readBig((1n << 53n) - 4n, back);
    expect([...back]).toEqual([1, 2, 5, 6, 7, 8]);
    space.unmap(start, 0x2000n);
    expect(errnoOf(() => space.readBig((1n << 53n) + 1n, back))).toBe('EFAULT');
  });
});

describe('remote memory', () => {
  function remoteOver(bytes: Uint8Array, base: number): RemoteDma {
    return {
      async read(iova, into) {
        into.set(bytes.subarray(iova - base, iova - base + into.length));
      },
      async write(iova, from) {
        bytes.set(from, iova - base);
      },
    };
  }

  test('is reached through the space, by promise, and only there', async () => {
    const space = createDmaSpace();
    const local = mapAt(space, 0x1000n, 0x1000n);
    space.map({ iova: 0x2000n, size: 0x1000n, readable: true, writable: true, memory: undefined });
    expect(errnoOf(() => space.read(0x2000, new Uint8Array(4)))).toBe('EFAULT');
    const far = memory(0x1000, 4);
    space.remote = remoteOver(far, 0x2000);
    const result = space.write(0x1ffe, Uint8Array.of(1, 2, 3, 4));
    expect(result).toBeInstanceOf(Promise);
    await result;
    expect([local[0xffe], local[0xfff], far[0], far[1], far[2]]).toEqual([1, 2, 3, 4, 4]);
    expect(space.view(0x2000, 4, false)).toBeUndefined();
    expect(errnoOf(() => space.pin(0x2000, 4, false))).toBe('EOPNOTSUPP');
    expect(space.read(0x1000, new Uint8Array(4)), 'local stays synchronous').toBeUndefined();
  });

  test('of one mapping may have its own way', async () => {
    const space = createDmaSpace();
    const far = memory(0x1000, 8);
    space.map({
      iova: 0x2000n,
      size: 0x1000n,
      readable: true,
      writable: true,
      memory: undefined,
      remote: remoteOver(far, 0x2000),
    });
    const back = new Uint8Array(2);
    await space.read(0x2000, back);
    expect([...back]).toEqual([8, 8]);
  });

  test('a mapping that goes while a transfer waits is EFAULT for the rest of it', async () => {
    const space = createDmaSpace();
    space.map({ iova: 0x2000n, size: 0x1000n, readable: true, writable: true, memory: undefined });
    mapAt(space, 0x3000n, 0x1000n);
    space.remote = {
      async read() {
        space.unmap(0x3000n, 0x1000n);
      },
      async write() {},
    };
    expect(await errnoOfAsync(() => space.read(0x2ffe, new Uint8Array(4)))).toBe('EFAULT');
  });

  test('above 2^53 needs a remote that has bigint calls', async () => {
    const space = createDmaSpace();
    const iova = 1n << 60n;
    space.map({ iova, size: 0x1000n, readable: true, writable: true, memory: undefined });
    const seen: bigint[] = [];
    space.remote = { async read() {}, async write() {} };
    expect(await errnoOfAsync(() => space.readBig(iova, new Uint8Array(1)))).toBe('EFAULT');
    space.remote = {
      async read() {},
      async write() {},
      async readBig(at) {
        seen.push(at);
      },
      async writeBig(at) {
        seen.push(-at);
      },
    };
    await space.readBig(iova + 1n, new Uint8Array(1));
    await space.writeBig(iova + 2n, new Uint8Array(1));
    expect(seen).toEqual([iova + 1n, -(iova + 2n)]);
  });
});

test('small DMA accesses make no garbage, logged or not', () => {
  const space = createDmaSpace();
  for (let i = 0n; i < 16n; i++) mapAt(space, i << 33n, 0x10000n);
  space.startLog([{ iova: 0n, length: 1n << 40n }], 4096n);
  const data = new Uint8Array(64);
  // Numbers beyond 32 bits are objects of their own; a string beside them keeps the array from storing them unboxed, so
  // that none is made in the loop.
  const addresses: (number | string)[] = ['boxed'];
  for (let i = 0; i < 256; i++) addresses.push((i & 15) * 2 ** 33 + i * 64);
  const garbage = leastGarbage(() => {
    for (let i = 0; i < 50_000; i++) {
      const iova = addresses[1 + (i & 0xff)] as number;
      space.read(iova, data);
      space.write(iova, data);
    }
  });
  expect(garbage).toBeLessThan(200_000);
});
