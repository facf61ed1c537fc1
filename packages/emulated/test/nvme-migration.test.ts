import { describe, expect, test } from 'vitest';
import {
  NVME_ADMIN as ADMIN,
  type EmulatedFunction,
  NVME_FEATURE as FEATURE,
  NVME_MIGRATION_ADMIN as MIGRATION,
  NvmeController,
  type NvmeOptions,
  NVME_REG as REG,
  NVME_STATUS as STATUS,
} from '../src/index.js';
import { MemorySpace } from './helpers/memory-space.js';
import { type CompletionFields, NvmeDriver, PAGE, pattern } from './helpers/nvme-driver.js';
import { MIB } from './helpers/nvme-setup.js';
import { manualHost, setMaster } from './helpers/setup.js';

const HEADER = 48;
const code = (status: number): number => status & 0x7ff;

/** A physical function whose controller manages those of two virtual ones; the guest's memory is behind both of these. */
async function subsystem(options: NvmeOptions & { remote?: boolean } = {}) {
  const { remote = false, ...nvme } = options;
  const { host, deferred, clock } = manualHost();
  host.addRootPort({ address: '0000:00:1c.0', secondaryBus: 1 });
  const pf = host.add({
    address: '0000:01:00.0',
    model: (ctx) => new NvmeController(ctx, { virtualFunctions: 4, ...nvme }),
  });
  setMaster(pf, true);
  const parentMemory = new MemorySpace(8 * MIB, { base: MIB });
  pf.attachDma(parentMemory);
  const parent = new NvmeDriver(pf, parentMemory, deferred);
  await parent.enable();
  pf.sriov?.enable(2);
  const memory = new MemorySpace(16 * MIB, { base: 2 * MIB, remote });
  const vfs = ['0000:01:00.1', '0000:01:00.2'].map((address) => host.find(address) as EmulatedFunction<NvmeController>);
  for (const vf of vfs) {
    setMaster(vf, true);
    vf.attachDma(memory);
  }
  const [source, destination] = vfs as [EmulatedFunction<NvmeController>, EmulatedFunction<NvmeController>];
  const guest = new NvmeDriver(source, memory, deferred);

  // One buffer for all commands, as there is one at a time.
  const buffer = parent.allocate(16);
  const prps = (length: number) => parent.prps(buffer, Math.min(length, 2 * PAGE));
  const send = (select: number, dword11: number, more: Partial<Record<number, number>> = {}, prp1 = 0) =>
    parent.admin({
      opcode: MIGRATION.MIGRATION_SEND,
      prp1,
      dwords: { 10: select, 11: dword11, ...(more as Record<number, number>) },
    });
  const receive = async (id: number, length: number, more: { offset?: number; csvi?: number; uuid?: number } = {}) => {
    const { offset = 0, csvi = 1, uuid = 1 } = more;
    const completion = await parent.admin({
      opcode: MIGRATION.MIGRATION_RECEIVE,
      ...prps(length),
      dwords: { 10: csvi << 16, 11: id | (uuid << 16), 12: offset, 15: length / 4 - 1 },
    });
    return { completion, data: parent.bytes(buffer, length).slice() };
  };
  const set = async (
    id: number,
    bytes: Uint8Array,
    more: { sequence?: number; offset?: number; csvi?: number; uuid?: number } = {},
  ) => {
    const { sequence = 3, offset = 0, csvi = 1, uuid = 1 } = more;
    parent.bytes(buffer, bytes.length).set(bytes);
    return parent.admin({
      opcode: MIGRATION.MIGRATION_SEND,
      ...prps(bytes.length),
      dwords: { 10: 2 | (sequence << 16), 11: id | (csvi << 16) | (uuid << 24), 12: offset, 15: bytes.length / 4 },
    });
  };
  return {
    host,
    deferred,
    clock,
    pf,
    parent,
    source,
    destination,
    memory,
    guest,
    suspend: (id: number, type = 1) => send(0, id | (type << 16)),
    resume: (id: number) => send(1, id),
    send,
    receive,
    set,
    /** The whole state. */
    async state(id: number): Promise<Uint8Array> {
      const { data } = await receive(id, HEADER);
      const v = new DataView(data.buffer);
      const length = HEADER + 4 * (v.getUint32(16, true) + v.getUint32(32, true));
      return (await receive(id, length)).data;
    },
    async track(id: number, ranges: readonly [number, number][], granularity = 0): Promise<CompletionFields> {
      const bytes = parent.bytes(buffer, PAGE).fill(0);
      const v = new DataView(bytes.buffer, bytes.byteOffset);
      v.setUint8(3, granularity);
      v.setUint32(4, ranges.length, true);
      for (const [n, [address, count]] of ranges.entries()) {
        v.setBigUint64(8 + 12 * n, BigInt(address), true);
        v.setUint32(16 + 12 * n, count, true);
      }
      return parent.admin({
        opcode: MIGRATION.TRACK_SEND,
        ...prps(PAGE),
        dwords: { 10: 1 | (1 << 16), 11: id },
      });
    },
    untrack: (id: number) => parent.admin({ opcode: MIGRATION.TRACK_SEND, dwords: { 10: 1, 11: id } }),
    async report(id: number, length = PAGE) {
      const completion = await parent.admin({
        opcode: MIGRATION.TRACK_RECEIVE,
        ...prps(length),
        dwords: { 10: 0, 11: id, 12: length / 4 - 1 },
      });
      const bytes = parent.bytes(buffer, length).slice();
      const v = new DataView(bytes.buffer);
      const ranges = Array.from({ length: v.getUint32(4, true) }, (_, n): [number, number] => [
        Number(v.getBigUint64(16 + 16 * n, true)),
        v.getUint32(24 + 16 * n, true),
      ]);
      return { completion, more: (bytes[1]! & 1) !== 0, suspended: (bytes[1]! & 2) !== 0, ranges, v };
    },
  };
}

describe('what is announced', () => {
  test('the physical function manages migration, its virtual functions do not, and a drive without any is as before', async () => {
    const { parent, guest } = await subsystem();
    const manager = (await parent.identify(1)).data;
    const v = new DataView(manager.buffer, manager.byteOffset);
    expect([v.getUint16(256, true), manager[76], v.getUint16(78, true)]).toEqual([0x0802, 2, 0]);
    expect([v.getUint16(570, true), manager[574], manager[575], manager[576]]).toEqual([16, 0, 9, 3]);
    expect([578, 580, 582, 584, 586].map((at) => v.getUint16(at, true))).toEqual([4, 4, 1, 4, 0]);
    await guest.enable();
    const managed = (await guest.identify(1)).data;
    const m = new DataView(managed.buffer, managed.byteOffset);
    expect([m.getUint16(256, true), managed[76], m.getUint16(78, true), managed[576]]).toEqual([0x0002, 6, 1, 0]);
    expect(managed.subarray(768, 1024)).toEqual(manager.subarray(768, 1024));
  });

  test('secondary controllers are listed with the virtual functions that they are of', async () => {
    const { parent } = await subsystem();
    const { data } = await parent.identify(0x15);
    const v = new DataView(data.buffer, data.byteOffset);
    expect(data[0]).toBe(2);
    expect(
      [32, 64].map((at) => [v.getUint16(at, true), v.getUint16(at + 2, true), data[at + 4], v.getUint16(at + 8, true)]),
    ).toEqual([
      [1, 0, 1, 1],
      [2, 0, 1, 2],
    ]);
  });

  test('the formats of a controller’s state: one of the specification, one of the vendor', async () => {
    const { data } = await (await subsystem()).parent.identify(0x20);
    expect([...data.subarray(0, 4)]).toEqual([1, 1, 0, 0]);
    expect(data.subarray(4, 20).some((byte) => byte !== 0)).toBe(true);
  });

  test.each(Object.values(MIGRATION))('a controller that is managed knows no command %i', async (opcode) => {
    const { guest } = await subsystem();
    await guest.enable();
    expect((await guest.admin({ opcode, dwords: { 11: 2 } })).status).toBe(code(STATUS.INVALID_OPCODE));
    for (const cns of [0x15, 0x20])
      expect((await guest.identify(cns)).completion.status).toBe(code(STATUS.INVALID_FIELD));
  });
});

describe('suspend and resume', () => {
  test('a suspended controller fetches nothing, and fetches what was rung meanwhile when it is resumed', async () => {
    const { guest, suspend, resume } = await subsystem();
    await guest.start();
    expect((await suspend(1)).status).toBe(0);
    const cid = guest.put({ opcode: 0x00, nsid: 1 }, 1);
    guest.ring(1);
    await guest.settle();
    expect(guest.isDone(cid, 1)).toBe(false);
    expect((await resume(1)).status).toBe(0);
    expect((await guest.complete(cid, 1)).status).toBe(0);
  });

  test('what was fetched ends before the suspension does, with memory that is reached by messages', async () => {
    const { guest, parent, suspend } = await subsystem({ remote: true });
    await guest.start();
    const cids = Array.from({ length: 8 }, (_, n) =>
      guest.put({ opcode: 0x02, nsid: 1, prp1: guest.allocate(), dwords: { 10: n } }, 1),
    );
    guest.ring(1);
    await suspend(1);
    const before = guest.memory.bytes.slice();
    await parent.settle();
    expect(Buffer.compare(guest.memory.bytes, before)).toBe(0);
    const done = cids.filter((cid) => guest.isDone(cid, 1)).length;
    expect([0, cids.length]).toContain(done);
  });

  test('an event that comes to a suspended controller is told when it is resumed', async () => {
    const { guest, source, suspend, resume } = await subsystem();
    await guest.start();
    await guest.admin({ opcode: ADMIN.SET_FEATURES, dwords: { 10: FEATURE.ASYNC_EVENT, 11: 0x2 } });
    const cid = guest.put({ opcode: ADMIN.ASYNC_EVENT });
    guest.ring();
    await guest.settle();
    await suspend(1);
    source.model.setTemperature(400);
    await guest.settle();
    expect(guest.isDone(cid)).toBe(false);
    await resume(1);
    expect((await guest.complete(cid)).result & 0xff).toBe(1);
  });

  test('suspending twice is no error; resuming what runs is Controller Not Suspended', async () => {
    const { guest, suspend, resume } = await subsystem();
    await guest.start();
    expect([(await suspend(1)).status, (await suspend(1)).status]).toEqual([0, 0]);
    expect([(await resume(1)).status, (await resume(1)).status]).toEqual([0, code(STATUS.CONTROLLER_NOT_SUSPENDED)]);
  });

  test('a notification suspends nothing; another type is refused', async () => {
    const { guest, suspend } = await subsystem();
    await guest.start();
    expect((await suspend(1, 0)).status).toBe(0);
    expect((await guest.flush()).status).toBe(0);
    expect((await suspend(1, 2)).status).toBe(code(STATUS.INVALID_FIELD));
  });

  test.each([0, 3, 0xffff])('there is no controller %i to suspend, resume, read or set', async (id) => {
    const { suspend, resume, receive, set, track, report } = await subsystem();
    const statuses = [
      await suspend(id),
      await resume(id),
      (await receive(id, HEADER)).completion,
      await set(id, new Uint8Array(HEADER)),
      await track(id, [[2 * MIB, 1]]),
      (await report(id)).completion,
    ].map(({ status }) => status);
    expect(new Set(statuses)).toEqual(new Set([code(STATUS.INVALID_CONTROLLER_ID)]));
  });

  test('a reset of the controller ends its suspension', async () => {
    const { guest, suspend, resume } = await subsystem();
    await guest.start();
    await suspend(1);
    await guest.disable();
    expect((await resume(1)).status).toBe(code(STATUS.CONTROLLER_NOT_SUSPENDED));
    await guest.start();
    expect((await guest.flush()).status).toBe(0);
  });

  test('a reset of the one that manages lets the others go on', async () => {
    const { guest, parent, suspend } = await subsystem();
    await guest.start();
    await suspend(1);
    await parent.disable();
    expect((await guest.flush()).status).toBe(0);
  });

  test('a controller that is enabled while it is suspended becomes ready when it is resumed', async () => {
    const { guest, suspend, resume } = await subsystem();
    await suspend(1);
    const enabled = guest.enable();
    await guest.settle();
    expect(guest.status & 1).toBe(0);
    await resume(1);
    await enabled;
    expect(guest.status & 1).toBe(1);
  });

  test('what was written is on the media when the suspension ends: it may be shared with another subsystem', async () => {
    const { guest, source, suspend } = await subsystem();
    await guest.start();
    await guest.write(0, pattern(PAGE, 1));
    expect(source.model.isDirty).toBe(true);
    await suspend(1);
    expect(source.model.isDirty).toBe(false);
  });
});

describe('the state of a controller', () => {
  test('another one takes it over in the middle of its work: indexes, phases, requests, features, completions without room', async () => {
    const { guest, parent, source, destination, suspend, resume, state, set } = await subsystem();
    await guest.start(4);
    // More commands than entries: both queues have wrapped around.
    for (let n = 0; n < 9; n++) expect((await guest.write(8 * n, pattern(PAGE, n))).status).toBe(0);
    await guest.admin({ opcode: ADMIN.SET_FEATURES, dwords: { 10: FEATURE.ASYNC_EVENT, 11: 0x2 } });
    const event = guest.put({ opcode: ADMIN.ASYNC_EVENT });
    guest.ring();
    await guest.settle();
    // Three completions fill the queue, which nobody empties: two more wait for room.
    const full = [0, 1, 2].map(() => guest.put({ opcode: 0x00, nsid: 1 }, 1));
    guest.ring(1);
    await guest.settle();
    const waiting = [0, 1].map(() => guest.put({ opcode: 0x00, nsid: 1 }, 1));
    guest.ring(1);
    await guest.settle();
    await suspend(1);
    await suspend(2);
    const bytes = await state(1);
    expect((await set(2, bytes)).status).toBe(0);
    // What is read of the new one is what was written to it.
    expect(await state(2)).toEqual(bytes);
    // The old one is not of this world any more.
    source.reset('flr');
    guest.moveTo(destination);
    expect(guest.bar.read(REG.CC, 4)).toBe(0x00460001);
    expect((await resume(2)).status).toBe(0);
    for (const cid of [...full, ...waiting]) expect((await guest.complete(cid, 1)).status).toBe(0);
    for (let n = 0; n < 9; n++) expect((await guest.read(8 * n, PAGE)).data).toEqual(pattern(PAGE, n));
    expect(guest.isDone(event)).toBe(false);
    destination.model.setTemperature(400);
    expect((await guest.complete(event)).result & 0xff).toBe(1);
    await guest
      .admin({ opcode: ADMIN.GET_FEATURES, dwords: { 10: FEATURE.ASYNC_EVENT } })
      .then(({ result }) => expect(result).toBe(2));
    await parent.settle();
  });

  test('a completion that was posted and not consumed signals anew where the controller goes on', async () => {
    const { guest, destination, suspend, resume, state, set } = await subsystem();
    await guest.enable();
    await guest.createCq(1, 16, 3);
    await guest.createSq(1, 16, 1);
    const cid = guest.put({ opcode: 0x00, nsid: 1 }, 1);
    guest.ring(1);
    await guest.settle();
    await suspend(1);
    await suspend(2);
    await set(2, await state(1));
    const sent: number[] = [];
    destination.irq.send = (vector: number) => void sent.push(vector);
    guest.moveTo(destination);
    await resume(2);
    await guest.settle();
    expect(sent).toContain(3);
    expect(guest.isDone(cid, 1)).toBe(true);
  });

  test('that of a controller which nobody enabled makes one', async () => {
    const { guest, destination, suspend, resume, state, set } = await subsystem();
    await suspend(1);
    await suspend(2);
    expect((await set(2, await state(1))).status).toBe(0);
    await resume(2);
    guest.moveTo(destination);
    await guest.start();
    expect((await guest.flush()).status).toBe(0);
  });

  test('says whether the controller was suspended, in the data and in the completion', async () => {
    const { guest, receive, suspend } = await subsystem();
    await guest.start();
    const running = await receive(1, HEADER);
    expect([running.completion.result, running.data[2]]).toEqual([0, 0]);
    await suspend(1);
    const suspended = await receive(1, HEADER);
    expect([suspended.completion.result, suspended.data[2]]).toEqual([1, 1]);
  });

  test('has the parts that are asked for', async () => {
    const { guest, receive } = await subsystem();
    await guest.start();
    const sizes = async (csvi: number, uuid: number) => {
      const v = new DataView((await receive(1, HEADER, { csvi, uuid })).data.buffer);
      return [v.getUint32(16, true) > 0, v.getUint32(32, true) > 0];
    };
    expect([await sizes(0, 0), await sizes(1, 0), await sizes(0, 1)]).toEqual([
      [false, false],
      [true, false],
      [false, true],
    ]);
  });

  test('is read from an offset on, and sent in pieces', async () => {
    const { guest, suspend, state, receive, set, destination, resume } = await subsystem();
    await guest.start();
    await guest.write(0, pattern(PAGE, 5));
    await suspend(1);
    await suspend(2);
    const bytes = await state(1);
    const rest = await receive(1, bytes.length - 100, { offset: 100 });
    expect(rest.data).toEqual(bytes.subarray(100));
    for (let at = 0; at < bytes.length; at += 64)
      expect((await set(2, bytes.subarray(at, at + 64), { sequence: at === 0 ? 1 : 0, offset: at })).status).toBe(0);
    expect((await resume(2)).status).toBe(code(STATUS.COMMAND_SEQUENCE));
    expect((await set(2, new Uint8Array(0), { sequence: 2, offset: bytes.length })).status).toBe(0);
    guest.moveTo(destination);
    await resume(2);
    expect((await guest.read(0, PAGE)).data).toEqual(pattern(PAGE, 5));
  });

  test.each([
    ['a format of the specification that is not listed', { csvi: 2 }],
    ['a format of the vendor that is not listed', { uuid: 2 }],
    ['an offset that is not of a dword', { offset: 2 }],
    ['an offset past the end', { offset: 0x100000 }],
  ])('is not read with %s', async (_what, more) => {
    const { receive } = await subsystem();
    expect((await receive(1, HEADER, more)).completion.status).toBe(code(STATUS.INVALID_FIELD));
  });

  test.each([
    ['a format of the specification that is not listed', { csvi: 2 }, STATUS.INVALID_FIELD],
    ['a format of the vendor that is not listed', { uuid: 2 }, STATUS.INVALID_FIELD],
    ['no format at all', { csvi: 0, uuid: 0 }, STATUS.INVALID_FIELD],
    ['queues and no format of queues', { csvi: 0 }, STATUS.INVALID_FIELD],
    ['a vendor’s part and no format of it', { uuid: 0 }, STATUS.INVALID_FIELD],
    ['an offset that is not of a dword', { offset: 2 }, STATUS.INVALID_FIELD],
    ['an offset past what came before', { offset: 64 }, STATUS.INVALID_FIELD],
    ['a piece without a first one', { sequence: 0 }, STATUS.COMMAND_SEQUENCE],
    ['a last piece without a first one', { sequence: 2 }, STATUS.COMMAND_SEQUENCE],
  ])('is not set with %s', async (_what, more, status) => {
    const { guest, suspend, state, set } = await subsystem();
    await guest.start();
    await suspend(1);
    await suspend(2);
    expect((await set(2, await state(1), more)).status).toBe(code(status));
  });

  test('is not set in a controller that neither is suspended nor runs, nor where there are queues', async () => {
    const { guest, suspend, state, set } = await subsystem();
    await guest.start();
    await suspend(1);
    const bytes = await state(1);
    expect((await set(2, bytes)).status).toBe(code(STATUS.INVALID_CONTROLLER_ID));
    expect((await set(1, bytes)).status).toBe(code(STATUS.INVALID_FIELD));
  });

  test('a state with any byte changed is refused, or is another that holds together; nothing throws and nobody is half set', async () => {
    const { guest, suspend, state, set, destination } = await subsystem();
    await guest.start();
    await suspend(1);
    const bytes = await state(1);
    let refused = 0;
    for (let at = 0; at < bytes.length; at++) {
      destination.reset('flr');
      await suspend(2);
      const before = await state(2);
      const changed = bytes.slice();
      changed[at] = (changed[at] ?? 0) ^ 0x55;
      const { status } = await set(2, changed);
      if (status === 0) continue;
      expect(status).toBe(code(STATUS.INVALID_FIELD));
      expect(await state(2)).toEqual(before);
      refused++;
    }
    expect(refused).toBeGreaterThan(bytes.length / 2);
  });

  test('a state that is cut anywhere is refused', async () => {
    const { guest, suspend, state, set } = await subsystem();
    await guest.start();
    await suspend(1);
    await suspend(2);
    const bytes = await state(1);
    for (let length = 4; length < bytes.length; length += 4)
      expect((await set(2, bytes.subarray(0, length))).status).toBe(code(STATUS.INVALID_FIELD));
  });
});

describe('host memory that a controller writes', () => {
  const base = 2 * MIB;

  test.each([
    ['at once', false],
    ['by messages', true],
  ])('is reported, each page once, completions too (%s)', async (_what, remote) => {
    const { guest, track, report } = await subsystem({ remote });
    await guest.start();
    expect((await track(1, [[base, (16 * MIB) / PAGE]])).status).toBe(0);
    expect((await report(1)).ranges).toEqual([]);
    const page = guest.allocate(2);
    await guest.io({ opcode: 0x02, prp1: page, prp2: page + PAGE, dwords: { 12: 15 } });
    const { ranges, more } = await report(1);
    const cq = guest.cqs.get(1)!.base;
    expect(ranges).toEqual([
      [cq, 1],
      [page, 2],
    ]);
    expect(more).toBe(false);
    expect((await report(1)).ranges).toEqual([]);
  });

  test('what has no room in a report is in the next one', async () => {
    const { guest, track, report } = await subsystem();
    await guest.start();
    await track(1, [[base, (16 * MIB) / PAGE]]);
    const written = [];
    for (let n = 0; n < 4; n++) {
      const page = guest.allocate(2);
      written.push(page);
      await guest.io({ opcode: 0x02, prp1: page, dwords: { 12: 7 } });
    }
    const seen: number[] = [];
    for (let more = true; more; ) {
      const told = await report(1, 16 + 32);
      expect(told.ranges.length).toBeLessThanOrEqual(2);
      seen.push(...told.ranges.map(([address]) => address));
      more = told.more;
    }
    for (const page of written) expect(seen).toContain(page);
  });

  test('is reported of a suspended controller to the last page, which is said', async () => {
    const { guest, track, report, suspend } = await subsystem({ remote: true });
    await guest.start();
    await track(1, [[base, (16 * MIB) / PAGE]]);
    const page = guest.allocate();
    guest.put({ opcode: 0x02, nsid: 1, prp1: page, dwords: { 12: 7 } }, 1);
    guest.ring(1);
    await guest.settle();
    await suspend(1);
    const told = await report(1);
    expect([told.suspended, told.more]).toEqual([true, false]);
    expect(told.ranges.map(([address]) => address)).toContain(page);
  });

  test('outside of the ranges is not', async () => {
    const { guest, track, report } = await subsystem();
    await guest.start();
    await track(1, [[base + 8 * MIB, 1]]);
    await guest.io({ opcode: 0x02, prp1: guest.allocate(), dwords: { 12: 7 } });
    expect((await report(1)).ranges).toEqual([]);
  });

  test('is tracked in grains of the size that is asked for', async () => {
    const { guest, track, report } = await subsystem();
    await guest.start();
    await track(1, [[base, 8]], 9);
    await guest.io({ opcode: 0x02, prp1: guest.allocate(), dwords: { 12: 7 } });
    const { ranges, v } = await report(1);
    expect(v.getUint16(8, true)).toBe(9);
    expect(ranges).toEqual([[base, 1]]);
  });

  test.each([
    ['no range', [], 0],
    [
      'more ranges than there may be',
      Array.from({ length: 17 }, (_, n): [number, number] => [base + n * 2 * PAGE, 1]),
      0,
    ],
    ['a range of nothing', [[base, 0]], 0],
    ['a range that does not begin at a grain', [[base + PAGE, 1]], 1],
    ['grains that are too large', [[0, 1]], 10],
  ] as [string, [number, number][], number][])('is not tracked for %s', async (_what, ranges, granularity) => {
    const { track, report } = await subsystem();
    expect((await track(1, ranges, granularity)).status).toBe(code(STATUS.INVALID_FIELD));
    expect((await report(1)).completion.status).toBe(code(STATUS.INVALID_CONTROLLER_ID));
  });

  test('is tracked once at a time, and not begun nor ended while the controller is suspended', async () => {
    const { track, untrack, suspend, resume, report } = await subsystem();
    const ranges: [number, number][] = [[base, 1]];
    await suspend(1);
    expect((await track(1, ranges)).status).toBe(code(STATUS.CONTROLLER_SUSPENDED));
    await resume(1);
    expect((await track(1, ranges)).status).toBe(0);
    expect((await track(1, ranges)).status).toBe(code(STATUS.INVALID_CONTROLLER_ID));
    await suspend(1);
    expect((await untrack(1)).status).toBe(code(STATUS.CONTROLLER_SUSPENDED));
    await resume(1);
    expect((await untrack(1)).status).toBe(0);
    expect((await report(1)).completion.status).toBe(code(STATUS.INVALID_CONTROLLER_ID));
  });

  test('is not tracked any more when the one that manages is reset', async () => {
    const { parent, track, report } = await subsystem();
    await track(1, [[base, 1]]);
    await parent.disable();
    await parent.enable();
    expect((await report(1)).completion.status).toBe(code(STATUS.INVALID_CONTROLLER_ID));
  });
});

describe('user data that a controller changes', () => {
  /** A data queue for controller 1, and what stands in it. */
  async function queue(entries = 8, made?: Awaited<ReturnType<typeof subsystem>>) {
    const all = made ?? (await subsystem());
    const { parent, guest } = all;
    await guest.start();
    const page = parent.allocate();
    const create = (dwords: Partial<Record<number, number>> = {}, prp1 = page) =>
      parent.admin({
        opcode: MIGRATION.CONTROLLER_DATA_QUEUE,
        prp1,
        dwords: { 10: 0, 11: 1 | (1 << 16), 12: 8 * entries, ...(dwords as Record<number, number>) },
      });
    const log = (id: number, isStart: boolean) =>
      parent.admin({ opcode: MIGRATION.TRACK_SEND, dwords: { 10: (isStart ? 1 : 0) << 16, 11: id } });
    /** Entries as namespace, first block, blocks, phase, place in the sequence, deallocated, what they tell of. */
    const seen = (count: number, from = 0) =>
      Array.from({ length: count }, (_, n) => {
        const bytes = parent.bytes(page + 32 * ((from + n) % entries), 32).slice();
        const v = new DataView(bytes.buffer);
        const last = bytes[31] ?? 0;
        return [
          v.getUint32(0, true),
          Number(v.getBigUint64(8, true)),
          v.getUint32(4, true) + 1,
          last & 1,
          (last >> 1) & 7,
          (last >> 5) & 1,
          last >> 6,
        ];
      });
    const consume = (id: number, head: number) =>
      parent.admin({ opcode: ADMIN.SET_FEATURES, dwords: { 10: 0x21, 11: id, 12: head } });
    return { ...all, create, log, seen, consume };
  }

  test('is told in a queue: what was written, what was deallocated, that all is other, that logging has ended', async () => {
    const { create, log, seen, guest } = await queue();
    const { status, result: id } = await create();
    expect([status, id]).toEqual([0, 1]);
    await guest.write(5, pattern(PAGE, 1));
    expect((await log(id, true)).status).toBe(0);
    await guest.write(8, pattern(PAGE, 1));
    await guest.io({ opcode: 0x08, dwords: { 10: 64, 12: 3 } });
    await guest.admin({ opcode: ADMIN.FORMAT_NVM, nsid: 1, dwords: { 10: 0 } });
    await log(id, false);
    await guest.write(16, pattern(PAGE, 1));
    expect(seen(5)).toEqual([
      [1, 8, 8, 1, 1, 0, 0],
      [1, 64, 4, 1, 0, 1, 0],
      [1, 0, 1, 1, 0, 0, 1],
      [0, 0, 1, 1, 2, 0, 2],
      [0, 0, 1, 0, 0, 0, 0],
    ]);
  });

  test('its last entry comes before a suspension has ended, and the first one after it says so', async () => {
    const { create, log, seen, guest, suspend, resume } = await queue();
    const { result: id } = await create();
    await log(id, true);
    await guest.write(0, pattern(PAGE, 1));
    await suspend(1);
    expect(seen(3).map(([, , , phase, sequence]) => [phase, sequence])).toEqual([
      [1, 1],
      [1, 3],
      [0, 0],
    ]);
    await resume(1);
    await guest.write(0, pattern(PAGE, 1));
    expect(seen(1, 2)[0]?.[4]).toBe(1);
  });

  test('a suspension deletes the queue where it is told to', async () => {
    const { create, log, send } = await queue();
    const { result: id } = await create();
    await log(id, true);
    expect((await send(0, (1 | (1 << 16) | (1 << 31)) >>> 0)).status).toBe(0);
    expect((await log(id, false)).status).toBe(code(STATUS.INVALID_CONTROLLER_DATA_QUEUE));
  });

  test('wraps around with the other phase, as far as the host has consumed', async () => {
    const { create, log, seen, guest, consume, parent } = await queue(4);
    const { result: id } = await create();
    await log(id, true);
    for (let n = 0; n < 10; n++) {
      await guest.write(8 * n, pattern(PAGE, n));
      expect(seen(1, n)[0]?.slice(1, 4)).toEqual([8 * n, 8, Math.floor(n / 4) % 2 === 0 ? 1 : 0]);
      expect((await consume(id, (n + 1) % 4)).status).toBe(0);
    }
    const data = parent.allocate();
    await parent.admin({ opcode: ADMIN.GET_FEATURES, prp1: data, dwords: { 10: 0x21, 11: id } });
    expect(parent.bytes(data, 4)[0]).toBe(2);
  });

  test('that has no room ends the log, with an entry that says so', async () => {
    const { create, log, seen, guest } = await queue(4);
    const { result: id } = await create();
    await log(id, true);
    for (let n = 0; n < 5; n++) await guest.write(8 * n, pattern(PAGE, n));
    expect(seen(4).map(([, start, , phase, sequence]) => [start, phase, sequence])).toEqual([
      [0, 1, 1],
      [8, 1, 0],
      [16, 1, 7],
      [0, 0, 0],
    ]);
  });

  test.each<[string, Partial<Record<number, number>>, number]>([
    ['of another type', { 10: 1 << 16 }, STATUS.INVALID_FIELD],
    ['in pieces', { 11: 1 << 16 }, STATUS.INVALID_FIELD],
    ['of another operation', { 10: 2 }, STATUS.INVALID_FIELD],
    ['of half an entry', { 12: 12 }, STATUS.INVALID_FIELD],
    ['of one entry', { 12: 8 }, STATUS.INVALID_FIELD],
    ['of nothing', { 12: 0 }, STATUS.INVALID_FIELD],
    ['for a controller that there is not', { 11: 1 | (9 << 16) }, STATUS.INVALID_CONTROLLER_ID],
    ['for the one that manages', { 11: 1 }, STATUS.INVALID_CONTROLLER_ID],
  ])('has no queue %s', async (_what, dwords, status) => {
    const { create } = await queue();
    expect((await create(dwords)).status).toBe(code(status));
  });

  test('has one queue for each controller, at a page', async () => {
    const { create, parent } = await queue();
    expect((await create({}, parent.allocate() + 64)).status).toBe(code(STATUS.PRP_OFFSET_INVALID));
    expect((await create()).status).toBe(0);
    expect((await create()).status).toBe(code(STATUS.INVALID_FIELD));
  });

  test('is not logged twice, nor begun while the controller is suspended, nor in a queue that there is not', async () => {
    const { create, log, consume, suspend, parent } = await queue();
    const { result: id } = await create();
    const unknown = code(STATUS.INVALID_CONTROLLER_DATA_QUEUE);
    expect((await log(7, true)).status).toBe(unknown);
    expect((await consume(7, 0)).status).toBe(unknown);
    // Nothing was posted that could have been consumed; and no events are sent.
    expect((await consume(id, 1)).status).toBe(code(STATUS.INVALID_FIELD));
    expect((await consume((id | 0x80000000) >>> 0, 0)).status).toBe(code(STATUS.INVALID_FIELD));
    expect((await log(id, true)).status).toBe(0);
    expect((await log(id, true)).status).toBe(unknown);
    await suspend(1);
    expect((await log(id, false)).status).toBe(code(STATUS.CONTROLLER_SUSPENDED));
    const remove = { opcode: MIGRATION.CONTROLLER_DATA_QUEUE, dwords: { 10: 1, 11: id } };
    expect([(await parent.admin(remove)).status, (await parent.admin(remove)).status]).toEqual([0, unknown]);
  });
});
