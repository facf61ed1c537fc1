import { constants, PerformanceObserver } from 'node:perf_hooks';
import { Worker } from 'node:worker_threads';
import {
  closeFd,
  EventFd,
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  MAX_MAPPING_LENGTH,
  type Mapping,
  mapFile,
  mappingCount,
  memfdCreate,
  mmap,
  O_RDONLY,
  openFd,
  PROT_READ,
  PROT_WRITE,
  pageSize,
  preadFd,
  socketpair,
} from '@vfio/native';
import { describe, expect, test } from 'vitest';
import { builtAddon } from './helpers/child.js';
import { countFds, leakedFds } from './helpers/fds.js';
import { collect, collectUntil } from './helpers/gc.js';

const PAGE = pageSize();

/** A sealed memfd of `pages` pages. */
function ram(pages: number): number {
  return memfdCreate('ram', { size: pages * PAGE });
}

/** Calls `use` with a mapping that nothing else holds, so that it can be collected afterwards. */
function withMapping<T>(use: (map: Mapping) => T): T {
  const fd = ram(2);
  try {
    return use(mmap(fd, 0, 2 * PAGE));
  } finally {
    closeFd(fd);
  }
}

describe('a mapping', () => {
  test('is the memory itself: what one mapping stores another and the file see', () => {
    const fd = ram(2);
    const one = mmap(fd, 0, 2 * PAGE);
    const two = mmap(fd, PAGE, PAGE);
    closeFd(fd);
    one.bytes[PAGE + 5] = 42;
    expect(two.bytes[5]).toBe(42);
    two.bytes[6] = 43;
    expect(one.bytes[PAGE + 6]).toBe(43);
    one.unmap();
    expect(two.bytes[5]).toBe(42);
    two.unmap();
  });

  test('shows exactly the length asked for', () => {
    const fd = ram(1);
    const map = mmap(fd, 0n, 100);
    expect(map).toMatchObject({ length: 100, isMapped: true });
    expect(map.bytes.length).toBe(100);
    expect(map.buffer.byteLength).toBe(100);
    map.unmap();
    closeFd(fd);
  });

  test('keeps private stores to itself', () => {
    const fd = ram(1);
    const map = mmap(fd, 0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    map.bytes[0] = 9;
    const back = new Uint8Array(1);
    preadFd(fd, back, 0);
    expect(back[0]).toBe(0);
    map.unmap();
    closeFd(fd);
  });

  test('needs no file with MAP_ANONYMOUS', () => {
    const map = mmap(-1, 0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    map.bytes[2 * PAGE] = 1;
    map.advise(2 * PAGE, PAGE, MADV_DONTNEED);
    expect(map.bytes[2 * PAGE]).toBe(0);
    expect(() => map.advise(PAGE, 3 * PAGE, MADV_DONTNEED)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    map.unmap();
  });

  test.each([
    ['an offset that is not a multiple of the page size', () => mmap(memfd, 1, PAGE), 'EINVAL'],
    ['no length', () => mmap(memfd, 0, 0), 'EINVAL'],
    ['a negative length', () => mmap(memfd, 0, -PAGE), 'EINVAL'],
    ['a negative offset', () => mmap(memfd, -PAGE, PAGE), 'EINVAL'],
    ['an offset beyond 2^63', () => mmap(memfd, 1n << 63n, PAGE), 'EINVAL'],
    ['neither shared nor private', () => mmap(memfd, 0, PAGE, PROT_READ, 0), 'EINVAL'],
    [
      'a fixed address, which would replace somebody else’s memory',
      () => mmap(memfd, 0, PAGE, PROT_READ, MAP_SHARED | 0x10),
      'EINVAL',
    ],
    ['a descriptor that cannot be mapped', () => mmap(socket, 0, PAGE), 'ENODEV'],
    ['a descriptor that is not open', () => mmap(987_654, 0, PAGE), 'EBADF'],
    ['stores to a file that is open for reading', () => mmap(readOnly, 0, PAGE), 'EACCES'],
  ])('of %s is refused', (_, map, errno) => {
    const before = mappingCount();
    expect(map).toThrow(expect.objectContaining({ code: 'ERR_VFIO_SYSCALL', errno, op: 'mmap' }));
    expect(mappingCount()).toBe(before);
  });

  test('longer than one buffer can be is refused as a limit', () => {
    expect(() => mmap(memfd, 0, MAX_MAPPING_LENGTH + 1)).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_LIMIT', errno: 'E2BIG' }),
    );
  });
});

const memfd = ram(1);
const [socket] = socketpair();
const readOnly = openFd('/proc/self/exe', O_RDONLY);

describe('unmapping', () => {
  test('leaves every view with length 0 and no way to the memory', () => {
    withMapping((map) => {
      const whole = map.bytes;
      const part = new Uint32Array(map.buffer, PAGE, 4);
      const data = new DataView(map.buffer);
      part[0] = 7;
      map.unmap();
      expect([map.isMapped, map.buffer.byteLength, whole.length, part.length]).toEqual([false, 0, 0, 0]);
      expect(part[0]).toBeUndefined();
      whole[0] = 1;
      expect(() => data.getUint8(0)).toThrow(TypeError);
      expect(map.length).toBe(2 * PAGE);
    });
  });

  test('can be repeated', () => {
    withMapping((map) => {
      const before = mappingCount();
      map.unmap();
      map.unmap();
      expect(mappingCount()).toBe(before - 1);
      expect(map.isPoisoned).toBe(false);
    });
  });

  test('ends what could be asked of a mapping', () => {
    withMapping((map) => {
      map.unmap();
      const event = EventFd.create();
      expect(() => map.notifyPoison(event.fd)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
      expect(() => map.advise(0, PAGE, MADV_DONTNEED)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
      event.close();
    });
  });

  test('happens when neither the mapping nor a view can be reached any more', async () => {
    const before = mappingCount();
    withMapping((map) => expect(map.isMapped).toBe(true));
    expect(await collectUntil(() => mappingCount() === before)).toBe(true);
  });

  test('does not happen while a view lives that outlived the mapping object', async () => {
    const before = mappingCount();
    let view: Uint8Array | undefined = withMapping((map) => {
      map.bytes[PAGE] = 77;
      return map.bytes.subarray(PAGE);
    });
    await collect();
    expect(mappingCount()).toBe(before + 1);
    expect(view[0]).toBe(77);
    view = undefined;
    expect(await collectUntil(() => mappingCount() === before)).toBe(true);
  });

  test('by hand and by the collector together happens once', async () => {
    const before = mappingCount();
    for (let round = 0; round < 100; round++) withMapping((map) => map.unmap());
    await collect();
    expect(mappingCount()).toBe(before);
  });

  test('leaks neither descriptors nor mappings', async () => {
    const before = mappingCount();
    const event = EventFd.create();
    expect(
      await leakedFds(100, () =>
        withMapping((map) => {
          map.notifyPoison(event.fd);
          map.notifyPoison(event.fd);
          map.unmap();
        }),
      ),
    ).toBe(0);
    expect(mappingCount()).toBe(before);
    event.close();
  });
});

describe('threads', () => {
  test('cannot be handed a mapping: it would outlive its owner', () => {
    withMapping((map) => {
      map.bytes[0] = 1;
      let copy: ArrayBuffer | undefined;
      try {
        copy = structuredClone(map.buffer, { transfer: [map.buffer] });
      } catch (error) {
        expect(error).toMatchObject({ name: 'DataCloneError' });
      }
      if (copy !== undefined) new Uint8Array(copy)[0] = 2;
      expect(map.bytes.length).toBe(2 * PAGE);
      expect(map.bytes[0]).toBe(1);
      map.unmap();
    });
  });

  test.skipIf(!('transfer' in ArrayBuffer.prototype))(
    'share no mapping that was given another owner here: it lives as long as that (ArrayBuffer.transfer, Node 21)',
    async () => {
      const before = mappingCount();
      const transferred = (map: Mapping) => (map.buffer as unknown as { transfer(): ArrayBuffer }).transfer();
      let other: ArrayBuffer | undefined = withMapping((map) => {
        map.bytes[PAGE] = 7;
        const buffer = transferred(map);
        expect(map.bytes.length).toBe(0);
        for (let n = 0; n < 2; n++) expect(() => map.unmap()).toThrow(expect.objectContaining({ errno: 'EBUSY' }));
        return buffer;
      });
      await collect();
      expect(new Uint8Array(other)[PAGE]).toBe(7);
      expect(mappingCount()).toBe(before + 1);
      other = undefined;
      expect(await collectUntil(() => mappingCount() === before)).toBe(true);
    },
  );

  test('that end take their mappings with them', async () => {
    const before = mappingCount();
    const memfds = countFds('memfd:worker');
    const worker = new Worker(
      `const native = require(${JSON.stringify(builtAddon)});
       const { parentPort } = require('node:worker_threads');
       const fd = native.memfdCreate('worker', 2);
       native.ftruncate(fd, 65536);
       globalThis.maps = Array.from({ length: 10 }, () => native.mmap(fd, 0, 65536, 3, 1));
       native.close(fd);
       parentPort.on('message', () => {});
       parentPort.postMessage(native.mappingCount());`,
      { eval: true },
    );
    const inside = await new Promise((resolve) => worker.once('message', resolve));
    expect(inside).toBe(before + 10);
    await worker.terminate();
    expect(mappingCount()).toBe(before);
    expect(countFds('memfd:worker')).toBe(memfds);
  });
});

describe('mapping a file of a stranger', () => {
  test('gives the range that was asked for', () => {
    const fd = ram(3);
    const map = mapFile(fd, PAGE, 2 * PAGE);
    expect(map.bytes.length).toBe(2 * PAGE);
    map.unmap();
    expect(map.bytes.length).toBe(0);
    closeFd(fd);
  });

  test.each([
    ['beyond the end of the file', 3 * PAGE, PAGE],
    ['that ends one byte beyond the end', 0, 3 * PAGE + 1],
    ['that wraps around', (1n << 63n) - BigInt(PAGE), 2 * PAGE],
    ['of no bytes', 0, 0],
    ['of a fraction', 0, 1.5],
    ['at no page boundary', 512, PAGE],
    ['at a negative offset', -PAGE, PAGE],
  ])('refuses a range %s', (_, offset, length) => {
    const fd = ram(3);
    expect(() => mapFile(fd, offset, length)).toThrow(
      expect.objectContaining({ code: 'ERR_VFIO_INVALID_ARGUMENT', errno: 'EINVAL', op: 'mmap' }),
    );
    closeFd(fd);
  });

  test('refuses what is not a file', () => {
    const event = EventFd.create();
    const zero = openFd('/dev/zero', O_RDONLY);
    for (const fd of [event.fd, zero]) {
      expect(() => mapFile(fd, 0, PAGE)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    }
    event.close();
    closeFd(zero);
  });
});

// From Node 23 on the engine's count cannot be lowered (see memory.cc): there large maps may cost a collection each.
const COUNTS = Number(process.versions.node.split('.')[0]) < 23;

test.skipIf(!COUNTS)(
  'the bytes of a file are not the engine’s: mapping gigabytes does not collect garbage for each of them (needs Node before 23)',
  async () => {
    const size = 1 << 30;
    const fd = memfdCreate('large', { size });
    let collections = 0;
    const observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        const { kind } = (entry as { detail?: { kind?: number } }).detail ?? {};
        if (kind === constants.NODE_PERFORMANCE_GC_MAJOR) collections++;
      }
    });
    observer.observe({ entryTypes: ['gc'] });
    const mappings = Array.from({ length: 60 }, () => mmap(fd, 0, size));
    // Entries are told later.
    await new Promise((resolve) => setTimeout(resolve, 20));
    observer.disconnect();
    for (const mapping of mappings) mapping.unmap();
    closeFd(fd);
    expect(collections).toBeLessThan(30);
  },
);
