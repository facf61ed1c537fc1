import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type BlockStore, NVME_IO as IO, SparseMemoryStore } from '../src/index.js';
import { type CommandFields, lbaDwords, type NvmeDriver, PAGE, pattern } from './helpers/nvme-driver.js';
import { MIB, nvme } from './helpers/nvme-setup.js';
import { setMaster } from './helpers/setup.js';

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

describe.each([false, true])('memory reached by messages: %s', (remote) => {
  test.each([512, 4096, 4608, 8192, 65536, 512 * 1024])('%i bytes written come back', async (length) => {
    const { driver } = nvme({}, { remote });
    await driver.start();
    const data = pattern(length, length);
    expect(await driver.write(3, data)).toMatchObject({ status: 0 });
    const { completion, data: back } = await driver.read(3, length);
    expect(completion.status).toBe(0);
    expect(same(back, data)).toBe(true);
  });

  test('what was never written reads as zeros', async () => {
    const { driver } = nvme({}, { remote });
    await driver.start();
    await driver.write(8, pattern(512, 1));
    const { data } = await driver.read(0, 16 * 512);
    expect(data.every((byte, i) => byte === 0 || (i >= 8 * 512 && i < 9 * 512))).toBe(true);
  });

  test('PRPs with an offset, over lists that continue on other pages, reach exactly their bytes', async () => {
    const { driver, memory } = nvme({ mdts: 9 }, { remote });
    await driver.start();
    const length = 1.5 * MIB;
    const data = pattern(length, 9);
    // Pages in descending order, so that nothing is contiguous.
    const pages = Array.from({ length: length / PAGE + 1 }, () => driver.allocate()).reverse();
    const [lists, offset] = [[driver.allocate(), driver.allocate(), driver.allocate()], 0x104];
    const prp1 = (pages[0] as number) + offset;
    const rest = pages.slice(1);
    // The first list starts near the end of its page and holds 3 entries, one of them the pointer to the next.
    let list = (lists[0] as number) + PAGE - 24;
    const prp2 = list;
    let nextList = 1;
    for (let i = 0; i < rest.length; i++) {
      const isLastInPage = (list + 8) % PAGE === 0;
      if (isLastInPage && i < rest.length - 1) {
        memory.view32.setBigUint64(list, BigInt(lists[nextList] as number), true);
        list = lists[nextList++] as number;
      }
      memory.view32.setBigUint64(list, BigInt(rest[i] as number), true);
      list += 8;
    }
    let at = 0;
    for (const [i, page] of pages.entries()) {
      const start = i === 0 ? page + offset : page;
      const size = Math.min(i === 0 ? PAGE - offset : PAGE, length - at);
      driver.bytes(start, size).set(data.subarray(at, at + size));
      at += size;
    }
    const dwords = { ...lbaDwords(100), 12: length / 512 - 1 };
    expect(await driver.io({ opcode: IO.WRITE, prp1, prp2, dwords })).toMatchObject({ status: 0 });
    const { data: back } = await driver.read(100, length / 2);
    expect(same(back, data.subarray(0, length / 2))).toBe(true);
    for (const page of pages) driver.bytes(page, PAGE).fill(0xee);
    expect(await driver.io({ opcode: IO.READ, prp1, prp2, dwords })).toMatchObject({ status: 0 });
    expect(driver.bytes((pages[0] as number) + offset - 1, 1)[0]).toBe(0xee);
    expect(same(driver.bytes(prp1, PAGE - offset), data.subarray(0, PAGE - offset))).toBe(true);
    const tail = length - (PAGE - offset) - (pages.length - 2) * PAGE;
    const last = pages[pages.length - 1] as number;
    expect(same(driver.bytes(last, tail), data.subarray(length - tail))).toBe(true);
    expect(driver.bytes(last + tail, 1)[0]).toBe(0xee);
  });

  test.each([1, 2, 3].flatMap((room) => [0, 1, 2].map((more) => [room, Math.max(2, room + more)] as const)))(
    'a list with room for %i entries that has to name %i pages continues exactly where it must',
    async (room, count) => {
      const { driver, memory } = nvme({}, { remote });
      await driver.start();
      const data = pattern((count + 1) * PAGE, 4);
      const pages = Array.from({ length: count + 1 }, () => driver.allocate()).reverse();
      for (const [i, page] of pages.entries()) driver.bytes(page, PAGE).set(data.subarray(i * PAGE, (i + 1) * PAGE));
      const first = driver.allocate();
      // What lies behind the list's page must not be taken for entries.
      driver.bytes(driver.allocate(), PAGE).fill(0xff);
      const next = driver.allocate();
      let at = first + PAGE - 8 * room;
      const prp2 = at;
      for (const [i, page] of pages.slice(1).entries()) {
        if (at === first + PAGE - 8 && i < count - 1) {
          memory.view32.setBigUint64(at, BigInt(next), true);
          at = next;
        }
        memory.view32.setBigUint64(at, BigInt(page), true);
        at += 8;
      }
      const dwords = { 12: data.length / 512 - 1 };
      expect(await driver.io({ opcode: IO.WRITE, prp1: pages[0] ?? 0, prp2, dwords })).toMatchObject({ status: 0 });
      expect(same((await driver.read(0, data.length)).data, data)).toBe(true);
    },
  );

  test.each<[string, CommandFields, number]>([
    ['PRP 1 that is not a dword', { opcode: IO.READ, prp1: 0x100002 }, 0x13],
    ['PRP 2 inside a page', { opcode: IO.READ, prp1: 0x100000, prp2: 0x200008, dwords: { 12: 15 } }, 0x13],
    ['a list that is not a qword', { opcode: IO.READ, prp1: 0x100000, prp2: 0x200004, dwords: { 12: 63 } }, 0x13],
    ['PRP 1 out of reach', { opcode: IO.READ, prp1: 0x70000000 }, 0x04],
    ['PRP 2 out of reach', { opcode: IO.READ, prp1: 0x100000, prp2: 0x70000000, dwords: { 12: 15 } }, 0x04],
    ['a list out of reach', { opcode: IO.READ, prp1: 0x100000, prp2: 0x70000000, dwords: { 12: 63 } }, 0x04],
    ['data to write out of reach', { opcode: IO.WRITE, prp1: 0x70000000 }, 0x04],
    ['an address of 64 bits', { opcode: IO.READ, prp1: 2 ** 60 }, 0x04],
    ['a namespace that is not there', { opcode: IO.READ, nsid: 2 }, 0x0b],
    ['namespace 0', { opcode: IO.READ, nsid: 0 }, 0x0b],
    ['all namespaces to read', { opcode: IO.READ, nsid: 0xffffffff }, 0x0b],
    ['a block past the end', { opcode: IO.READ, prp1: 0x100000, dwords: lbaDwords(131072) }, 0x80],
    ['blocks over the end', { opcode: IO.READ, prp1: 0x100000, dwords: { ...lbaDwords(131071), 12: 1 } }, 0x80],
    ['a block at 2^63', { opcode: IO.WRITE, prp1: 0x100000, dwords: { 10: 0, 11: 0x80000000 } }, 0x80],
    ['a block at 2^64 - 1', { opcode: IO.WRITE, prp1: 0x100000, dwords: { 10: 0xffffffff, 11: 0xffffffff } }, 0x80],
    ['more than MDTS', { opcode: IO.WRITE, prp1: 0x100000, dwords: { 12: 1024 } }, 0x02],
    ['a fused command', { opcode: IO.READ, flags: 2 }, 0x02],
    ['an SGL', { opcode: IO.READ, flags: 0x80 }, 0x02],
    ['an unknown command', { opcode: 0x7f }, 0x01],
    ['Write Uncorrectable', { opcode: 0x04 }, 0x01],
    ['a reservation', { opcode: 0x0d }, 0x01],
    ['zeroes past the end', { opcode: IO.WRITE_ZEROES, dwords: { ...lbaDwords(131072) } }, 0x80],
    ['verifying past the end', { opcode: IO.VERIFY, dwords: { ...lbaDwords(131072) } }, 0x80],
    ['comparing past the end', { opcode: IO.COMPARE, prp1: 0x100000, dwords: { ...lbaDwords(131072) } }, 0x80],
    ['flushing a namespace that is not there', { opcode: IO.FLUSH, nsid: 7 }, 0x0b],
    ['ranges out of reach', { opcode: IO.DATASET_MANAGEMENT, prp1: 0x70000000, dwords: { 11: 4 } }, 0x04],
  ])('%s is refused, and the next command works', async (_name, command, status) => {
    const { driver, memory } = nvme({}, { remote });
    await driver.start();
    await driver.write(0, pattern(4096, 3));
    memory.bytes.fill(0, 0x200000, 0x201000);
    const completion = await driver.io(command);
    expect(completion).toMatchObject({ status, more: true, dnr: status !== 0x04 });
    const { data } = await driver.read(0, 4096);
    expect(same(data, pattern(4096, 3))).toBe(true);
  });

  test('a list entry inside a page is refused', async () => {
    const { driver, memory } = nvme({}, { remote });
    await driver.start();
    const list = driver.allocate();
    memory.view32.setBigUint64(list, BigInt(driver.allocate()), true);
    memory.view32.setBigUint64(list + 8, BigInt(driver.allocate() + 512), true);
    const completion = await driver.io({ opcode: IO.READ, prp1: driver.allocate(), prp2: list, dwords: { 12: 23 } });
    expect(completion.status).toBe(0x13);
  });
});

describe('data that is out of reach in part', () => {
  test('changes nothing on the media', async () => {
    const { driver, memory } = nvme();
    await driver.start();
    await driver.write(0, pattern(8192, 1));
    const good = driver.allocate();
    memory.bytes.fill(0x55, good, good + PAGE);
    expect(await driver.io({ opcode: IO.WRITE, prp1: good, prp2: 0x70000000, dwords: { 12: 15 } })).toMatchObject({
      status: 4,
    });
    expect(same((await driver.read(0, 8192)).data, pattern(8192, 1))).toBe(true);
  });
});

describe('Compare and Verify', () => {
  test('equal data compares, different data fails with Compare Failure', async () => {
    const { driver } = nvme();
    await driver.start();
    const data = pattern(1024, 5);
    await driver.write(4, data);
    const buffer = driver.allocate();
    driver.bytes(buffer, 1024).set(data);
    const command = { opcode: IO.COMPARE, prp1: buffer, dwords: { ...lbaDwords(4), 12: 1 } };
    expect(await driver.io(command)).toMatchObject({ status: 0 });
    driver.bytes(buffer, 1024)[1023] = (data[1023] ?? 0) ^ 1;
    expect(await driver.io(command)).toMatchObject({ status: 0x285 });
    expect(await driver.io({ opcode: IO.VERIFY, dwords: { ...lbaDwords(4), 12: 1 } })).toMatchObject({ status: 0 });
  });
});

describe('Write Zeroes and Dataset Management', () => {
  test('zeroed blocks read as zeros, their neighbours stay', async () => {
    const { driver } = nvme();
    await driver.start();
    const data = pattern(64 * 1024, 2);
    await driver.write(0, data);
    expect(await driver.io({ opcode: IO.WRITE_ZEROES, dwords: { ...lbaDwords(3), 12: 9 } })).toMatchObject({
      status: 0,
    });
    data.fill(0, 3 * 512, 13 * 512);
    expect(same((await driver.read(0, data.length)).data, data)).toBe(true);
  });

  function ranges(driver: NvmeDriver, list: readonly (readonly [number, number])[]): number {
    const page = driver.allocate();
    for (const [i, [start, length]] of list.entries()) {
      driver.memory.view32.setUint32(page + 16 * i + 4, length, true);
      driver.memory.view32.setBigUint64(page + 16 * i + 8, BigInt(start), true);
    }
    return page;
  }

  test.each([true, false])('ranges are deallocated exactly where asked for (%s)', async (deallocate) => {
    const { driver } = nvme();
    await driver.start();
    const data = pattern(128 * 512, 2);
    await driver.write(0, data);
    await driver.flush();
    const prp1 = ranges(driver, [
      [0, 8],
      [100, 1],
      [5, 0],
    ]);
    const dwords = { 10: 2, 11: deallocate ? 4 : 1 };
    expect(await driver.io({ opcode: IO.DATASET_MANAGEMENT, prp1, dwords })).toMatchObject({ status: 0 });
    if (deallocate) {
      data.fill(0, 0, 8 * 512);
      data.fill(0, 100 * 512, 101 * 512);
    }
    expect(same((await driver.read(0, data.length)).data, data)).toBe(true);
  });

  test('a range past the end is refused and none is deallocated', async () => {
    const { driver } = nvme();
    await driver.start();
    const data = pattern(512, 2);
    await driver.write(0, data);
    const prp1 = ranges(driver, [
      [0, 1],
      [131071, 2],
    ]);
    expect(await driver.io({ opcode: IO.DATASET_MANAGEMENT, prp1, dwords: { 10: 1, 11: 4 } })).toMatchObject({
      status: 0x80,
    });
    expect(same((await driver.read(0, 512)).data, data)).toBe(true);
  });
});

describe('queues', () => {
  test.each([2, 3, 7, 16])('wrap around with %i entries, phase bit and head right', async (size) => {
    const { driver } = nvme();
    await driver.start(size);
    for (let i = 0; i < 3 * size + 1; i++) {
      const cid = driver.put({ opcode: IO.FLUSH, nsid: 1 }, 1);
      driver.ring(1);
      expect(await driver.complete(cid, 1)).toMatchObject({ status: 0, sqId: 1, sqHead: (i + 1) % size });
    }
  });

  test('a full completion queue holds completions back until its head moves; none is lost or doubled', async () => {
    const { driver, fn } = nvme();
    await driver.enable();
    await driver.createCq(1, 4);
    await driver.createSq(1, 64, 1);
    const cids = Array.from({ length: 20 }, () => driver.put({ opcode: IO.FLUSH, nsid: 1 }, 1));
    driver.ring(1);
    await driver.settle();
    const seen: number[] = [];
    for (let turn = 0; turn < 7; turn++) {
      const found = driver.reap(1, false);
      expect(found.length).toBe(turn < 6 ? 3 : 2);
      seen.push(...found.map((completion) => completion.cid));
      const index = driver.cqs.get(1)?.index ?? 0;
      fn.open(0).write(0x1000 + 12, 4, index);
      await driver.settle();
    }
    expect(seen).toEqual(cids);
  });

  test('several submission queues share one completion queue', async () => {
    const { driver } = nvme();
    await driver.enable();
    await driver.createCq(1, 32);
    for (const id of [1, 2, 3]) await driver.createSq(id, 8, 1);
    const cids = [1, 2, 3].flatMap((id) => [
      driver.put({ opcode: 0, nsid: 1 }, id),
      driver.put({ opcode: 0, nsid: 1 }, id),
    ]);
    for (const id of [3, 2, 1]) driver.ring(id);
    await driver.settle();
    const done = driver.reap(1);
    expect(done.map((c) => c.cid).sort()).toEqual(cids.sort());
    expect(new Set(done.map((c) => c.sqId))).toEqual(new Set([1, 2, 3]));
  });

  test('a long queue is served in turns that leave the thread to others', async () => {
    const { driver, deferred } = nvme();
    await driver.enable();
    await driver.createCq(1, 512);
    await driver.createSq(1, 512, 1);
    for (let i = 0; i < 500; i++) driver.put({ opcode: 0, nsid: 1 }, 1);
    driver.ring(1);
    deferred.run();
    const first = driver.reap(1).length;
    expect(first).toBeGreaterThan(0);
    expect(first).toBeLessThan(100);
    await driver.settle();
    expect(driver.reap(1)).toHaveLength(500 - first);
  });

  test('no doorbell touches memory before the access has been answered', async () => {
    const { driver, memory } = nvme();
    await driver.start();
    const before = memory.bytes.slice();
    driver.put({ opcode: 0, nsid: 1 }, 1);
    const queued = memory.bytes.slice();
    driver.ring(1);
    expect(same(memory.bytes, queued)).toBe(true);
    expect(same(before, queued)).toBe(false);
  });
});

describe('volatile write cache', () => {
  async function cached(options: Parameters<typeof nvme>[0] = {}) {
    const setup = nvme(options);
    await setup.driver.start();
    const restart = async (): Promise<void> => {
      setup.fn.powerCycle();
      setup.fn.config.write(4, 2, 6);
      await setup.driver.start();
    };
    return { ...setup, restart };
  }

  test('what was written and not flushed is read back, and gone with power', async () => {
    const { driver, restart, controller } = await cached();
    await driver.write(0, pattern(4096, 1));
    expect(same((await driver.read(0, 4096)).data, pattern(4096, 1))).toBe(true);
    expect(controller.isDirty).toBe(true);
    await restart();
    expect((await driver.read(0, 4096)).data.every((byte) => byte === 0)).toBe(true);
  });

  test.each<[string, (driver: NvmeDriver) => Promise<unknown>]>([
    ['Flush', (driver) => driver.flush()],
    ['Flush of all namespaces', (driver) => driver.flush(0xffffffff)],
    ['a shutdown', (driver) => driver.shutDown()],
    ['an abrupt shutdown', (driver) => driver.shutDown(0x8000)],
    ['switching the cache off', (driver) => driver.admin({ opcode: 9, dwords: { 10: 6, 11: 0 } })],
  ])('after %s it survives power', async (_name, act) => {
    const { driver, restart, controller } = await cached();
    await driver.write(0, pattern(4096, 1));
    await act(driver);
    expect(controller.isDirty).toBe(false);
    await restart();
    expect(same((await driver.read(0, 4096)).data, pattern(4096, 1))).toBe(true);
  });

  test('a forced unit access survives power, and a cached write before it does not come back over it', async () => {
    const { driver, restart } = await cached();
    await driver.write(0, pattern(4096, 1));
    await driver.write(2, pattern(512, 7), { fua: true });
    await restart();
    const { data } = await driver.read(0, 4096);
    const expected = new Uint8Array(4096);
    expected.set(pattern(512, 7), 1024);
    expect(same(data, expected)).toBe(true);
  });

  test.each([
    ['Read', IO.READ],
    ['Compare', IO.COMPARE],
    ['Verify', IO.VERIFY],
  ])('a %s with forced unit access brings what it names to the media first', async (_name, opcode) => {
    const { driver, fn } = nvme();
    await driver.start();
    await driver.write(0, pattern(512, 1));
    const run = async (control: number) => {
      const buffer = driver.allocate();
      driver.bytes(buffer, 512).set(pattern(512, 1));
      return driver.io({ opcode, prp1: buffer, dwords: { ...lbaDwords(0), 12: control } });
    };
    expect((await run(0)).status).toBe(0);
    expect((await run(2 ** 30)).status).toBe(0);
    await driver.write(8, pattern(512, 2));
    fn.powerCycle();
    setMaster(fn, true);
    await driver.start();
    expect(same((await driver.read(0, 512)).data, pattern(512, 1))).toBe(true);
    expect(same((await driver.read(8, 512)).data, new Uint8Array(512))).toBe(true);
  });

  test('with the cache off every write survives power', async () => {
    const { driver, restart } = await cached();
    await driver.admin({ opcode: 9, dwords: { 10: 6, 11: 0 } });
    await driver.write(0, pattern(4096, 1));
    await restart();
    expect(same((await driver.read(0, 4096)).data, pattern(4096, 1))).toBe(true);
  });

  test.each(['flr', 'bus', 'controller'] as const)('a %s reset keeps what is cached', async (kind) => {
    const { driver, fn } = await cached();
    await driver.write(0, pattern(4096, 1));
    if (kind === 'controller') await driver.disable();
    else {
      const saved = [fn.config.read(0x10, 4), fn.config.read(0x14, 4)];
      if (kind === 'flr') fn.tryResetFunction();
      else fn.parent?.resetSecondaryBus();
      for (const [i, bar] of saved.entries()) fn.config.write(0x10 + 4 * i, 4, bar);
      fn.config.write(4, 2, 6);
    }
    await driver.start();
    expect(same((await driver.read(0, 4096)).data, pattern(4096, 1))).toBe(true);
  });

  test('a cache that is full writes its oldest lines back', async () => {
    const { driver, restart } = await cached({ cacheSize: 2 * 65536 });
    for (const line of [0, 1, 2]) await driver.write(line * 128, pattern(512, line + 1));
    await restart();
    expect(same((await driver.read(0, 512)).data, pattern(512, 1))).toBe(true);
    expect((await driver.read(128, 512)).data.every((byte) => byte === 0)).toBe(true);
  });

  test('power lost without a notification is an unsafe shutdown, with one it is not', async () => {
    const { driver, restart, controller } = await cached();
    expect(controller.health.unsafeShutdowns).toBe(0);
    await driver.shutDown();
    await restart();
    expect(controller.health.unsafeShutdowns).toBe(0);
    await restart();
    expect(controller.health.unsafeShutdowns).toBe(1);
    await driver.disable();
    await restart();
    expect(controller.health.unsafeShutdowns).toBe(2);
  });

  test('a shut-down controller may be reset before power goes', async () => {
    const { driver, fn, controller } = await cached();
    await driver.shutDown();
    fn.tryResetFunction();
    expect(controller.abruptResets).toBe(0);
    fn.powerCycle();
    expect(controller.health.unsafeShutdowns).toBe(0);
  });

  test('a reset of an enabled controller without a notification is remembered for tests', async () => {
    const { fn, controller } = await cached();
    fn.tryResetFunction();
    expect(controller.abruptResets).toBe(1);
  });

  test('whatever was written, flushed, zeroed and lost, the drive shows what the rules give', async () => {
    const blocks = 64;
    const step = fc.oneof(
      fc.record({
        kind: fc.constantFrom('write' as const, 'fua' as const),
        at: fc.nat(blocks - 1),
        count: fc.integer({ min: 1, max: 8 }),
        seed: fc.nat(250),
      }),
      fc.record({
        kind: fc.constantFrom('zero' as const, 'deallocate' as const),
        at: fc.nat(blocks - 1),
        count: fc.integer({ min: 1, max: 8 }),
      }),
      fc.constantFrom({ kind: 'flush' as const }, { kind: 'power' as const }, { kind: 'check' as const }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 25 }), async (steps) => {
        const { driver, restart } = await cached({ namespaces: [{ size: blocks * 512 }] });
        const stable = new Uint8Array(blocks * 512);
        const seen = new Uint8Array(blocks * 512);
        for (const action of steps) {
          if (action.kind === 'flush') {
            await driver.flush();
            stable.set(seen);
          } else if (action.kind === 'power') {
            await restart();
            seen.set(stable);
          } else if (action.kind === 'check') {
            expect(same((await driver.read(0, blocks * 512)).data, seen)).toBe(true);
          } else {
            const count = Math.min(action.count, blocks - action.at);
            const from = action.at * 512;
            if (!('seed' in action)) {
              const page = driver.allocate();
              driver.memory.view32.setUint32(page + 4, count, true);
              driver.memory.view32.setBigUint64(page + 8, BigInt(action.at), true);
              await driver.io(
                action.kind === 'zero'
                  ? { opcode: IO.WRITE_ZEROES, dwords: { ...lbaDwords(action.at), 12: count - 1 } }
                  : { opcode: IO.DATASET_MANAGEMENT, prp1: page, dwords: { 10: 0, 11: 4 } },
              );
              for (const image of [stable, seen]) image.fill(0, from, from + count * 512);
            } else {
              const data = pattern(count * 512, action.seed + 1);
              await driver.write(action.at, data, { fua: action.kind === 'fua' });
              seen.set(data, from);
              if (action.kind === 'fua') stable.set(data, from);
            }
          }
        }
        expect(same((await driver.read(0, blocks * 512)).data, seen)).toBe(true);
      }),
      { numRuns: 25 },
    );
  });
});

describe('stores', () => {
  test('a terabyte of nothing takes no room, and its last block works', async () => {
    const store = new SparseMemoryStore();
    const { driver } = nvme({ namespaces: [{ size: MIB * MIB, store }] });
    await driver.start();
    const last = (MIB * MIB) / 512 - 8;
    await driver.write(last, pattern(4096, 4));
    await driver.flush();
    expect(same((await driver.read(last, 4096)).data, pattern(4096, 4))).toBe(true);
    expect(store.allocated).toBeLessThanOrEqual(65536);
    await driver.io({ opcode: IO.WRITE_ZEROES, dwords: { ...lbaDwords(last - 56), 12: 63 } });
    expect(store.allocated).toBe(0);
  });

  test('a sparse store is a plain array of bytes', () => {
    const size = 300_000;
    const range = fc
      .tuple(fc.nat(size - 1), fc.nat(150_000))
      .map(([at, length]) => [at, Math.min(length, size - at)] as const);
    const step = fc.tuple(fc.constantFrom('write', 'discard', 'read'), range, fc.integer({ min: 1, max: 255 }));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
        const store = new SparseMemoryStore();
        const plain = new Uint8Array(size);
        for (const [kind, [at, length], value] of steps) {
          if (kind === 'write') {
            store.write(at, new Uint8Array(length).fill(value));
            plain.fill(value, at, at + length);
          } else if (kind === 'discard') {
            store.discard(at, length);
            plain.fill(0, at, at + length);
          } else {
            const into = new Uint8Array(length).fill(1);
            store.read(at, into);
            expect(same(into, plain.subarray(at, at + length))).toBe(true);
          }
        }
        const all = new Uint8Array(size);
        store.read(0, all);
        expect(same(all, plain)).toBe(true);
      }),
      { numRuns: 50 },
    );
  });

  test('two namespaces do not touch each other', async () => {
    const { driver } = nvme({ namespaces: [{ size: MIB }, { size: MIB, blockSize: 4096 }] });
    await driver.start();
    await driver.write(0, pattern(4096, 1));
    await driver.write(0, pattern(4096, 2), { nsid: 2, blockSize: 4096 });
    expect(same((await driver.read(0, 4096)).data, pattern(4096, 1))).toBe(true);
    expect(same((await driver.read(0, 4096, { nsid: 2, blockSize: 4096 })).data, pattern(4096, 2))).toBe(true);
  });

  /** A store that fails or takes time as the test says. */
  class TroubledStore extends SparseMemoryStore {
    fails: 'read' | 'write' | 'flush' | undefined;
    flushes: (() => void)[] = [];
    waits = false;
    override read(offset: number, into: Uint8Array): void {
      if (this.fails === 'read') throw new Error('no');
      super.read(offset, into);
    }
    override write(offset: number, from: Uint8Array): void {
      if (this.fails === 'write') throw new Error('no');
      super.write(offset, from);
    }
    override flush(): void | Promise<void> {
      if (this.fails === 'flush') return Promise.reject(new Error('no'));
      if (this.waits) return new Promise((resolve) => this.flushes.push(resolve));
    }
  }
  const troubled: BlockStore = new TroubledStore();

  test('a store is anything with four methods', () => {
    expect(troubled.flush()).toBeUndefined();
  });

  test.each<['read' | 'write' | 'flush', number]>([
    ['read', 0x281],
    ['write', 0x280],
    ['flush', 0x280],
  ])('one that fails to %s makes a media error', async (fails, status) => {
    const store = new TroubledStore();
    const { driver, controller } = nvme({ namespaces: [{ size: MIB, store }] });
    await driver.start();
    store.fails = fails;
    const completion =
      fails === 'read' ? (await driver.read(0, 512)).completion : await driver.write(0, pattern(512, 1), { fua: true });
    expect(completion).toMatchObject({ status, dnr: false });
    expect(controller.health.mediaErrors).toBe(fails === 'flush' ? 0 : 1);
  });

  test('what a store does not take is kept, and written when it takes it again', async () => {
    const store = new TroubledStore();
    const { driver, fn } = nvme({ namespaces: [{ size: 4 * MIB, store }] });
    await driver.start();
    for (const lba of [0, 4096]) await driver.write(lba, pattern(1024, lba));
    store.fails = 'write';
    expect(await driver.flush()).toMatchObject({ status: 0x280, dnr: false });
    store.fails = undefined;
    expect((await driver.flush()).status).toBe(0);
    fn.powerCycle();
    for (const lba of [0, 4096]) {
      const kept = new Uint8Array(1024);
      store.read(lba * 512, kept);
      expect(same(kept, pattern(1024, lba))).toBe(true);
    }
  });

  test.each<[string, (driver: NvmeDriver) => Promise<{ status: number }>, 'read' | 'write', number]>([
    ['the cache is switched off', (driver) => driver.admin({ opcode: 0x09, dwords: { 10: 6, 11: 0 } }), 'write', 0x280],
    ['data is compared', (driver) => driver.io({ opcode: IO.COMPARE, prp1: driver.allocate() }), 'read', 0x281],
    ['data is verified', (driver) => driver.io({ opcode: IO.VERIFY }), 'read', 0x281],
  ])('one that fails while %s fails that command, and the controller goes on', async (_what, run, fails, status) => {
    const store = new TroubledStore();
    const { driver } = nvme({ namespaces: [{ size: MIB, store }] });
    await driver.start();
    await driver.write(0, pattern(512, 1));
    store.fails = fails;
    expect((await run(driver)).status).toBe(status);
    store.fails = undefined;
    expect((await driver.flush()).status).toBe(0);
    expect(driver.status).toBe(1);
  });

  test('one that fails in a shutdown leaves it unanswered; after a reset and a flush nothing is lost', async () => {
    const store = new TroubledStore();
    const { driver, fn } = nvme({ namespaces: [{ size: MIB, store }] });
    await driver.start();
    await driver.write(0, pattern(512, 1));
    store.fails = 'write';
    const bar = fn.open(0);
    bar.write(0x14, 4, bar.read(0x14, 4) | 0x4000);
    await driver.settle();
    expect(driver.status & 0xc).toBe(4);
    store.fails = undefined;
    await driver.disable();
    await driver.start();
    expect((await driver.flush()).status).toBe(0);
    fn.powerCycle();
    const kept = new Uint8Array(512);
    store.read(0, kept);
    expect(same(kept, pattern(512, 1))).toBe(true);
  });

  test('a flush completes when the store is done, and others go on meanwhile', async () => {
    const store = new TroubledStore();
    const { driver } = nvme({ namespaces: [{ size: MIB, store }] });
    await driver.start();
    await driver.write(0, pattern(512, 1));
    store.waits = true;
    const flush = driver.put({ opcode: IO.FLUSH, nsid: 1 }, 1);
    driver.ring(1);
    await driver.settle();
    expect(driver.isDone(flush, 1)).toBe(false);
    expect((await driver.read(0, 512)).completion.status).toBe(0);
    for (const done of store.flushes) done();
    expect((await driver.complete(flush, 1)).status).toBe(0);
  });

  test('a shutdown is complete when the store is done, not before', async () => {
    const store = new TroubledStore();
    const { driver, fn } = nvme({ namespaces: [{ size: MIB, store }] });
    await driver.start();
    store.waits = true;
    const bar = fn.open(0);
    bar.write(0x14, 4, bar.read(0x14, 4) | 0x4000);
    await driver.settle();
    expect(driver.status & 0xc).toBe(4);
    for (const done of store.flushes) done();
    await driver.settle();
    expect(driver.status & 0xc).toBe(8);
  });
});
