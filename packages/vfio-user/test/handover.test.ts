import { existsSync } from 'node:fs';
import { eventfdRead } from '@vfio/native';
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START as LOGGING_START,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE as MIG_STATE,
  VFIO_DEVICE_FEATURE_SET as SET,
  VFIO_IRQ_SET_ACTION_UNMASK as UNMASK,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { HANDOVER } from '../src/handover/protocol.js';
import { VfioUserClient } from '../src/index.js';
import { MemfdMemory, makeDevice, makeEdu } from './helpers/devices.js';
import { le, read32 } from './helpers/edu-program.js';
import { deferred } from './helpers/fake-device.js';
import { add, arm, borrowed, relay, served, sums, waiting } from './helpers/handover.js';
import { MOVABLE, type Movable, MovableModel, movable } from './helpers/movable.js';
import { bytes, message, turn, u32, u64, until } from './helpers/raw-client.js';
import { cleanup, eventfd, guestMemory, openFds, serve } from './helpers/serve.js';
import { STATE } from './helpers/toy-migration.js';

const MSI = 1;
const MSIX = 2;

/** A device that is served and one that waits for it, and who has the client. */
async function pair(source?: Movable, target?: Movable) {
  const a = await served(source);
  const b = target ?? (await movable());
  return { a, b: { ...b, ...(await waiting(b)) } };
}

describe('a client is handed over', () => {
  test('with everything it has: registers, config space, memory, interrupts; and both servers are as they should be', async () => {
    const { a, b } = await pair();
    const memory = guestMemory(0x2000);
    await a.client.dmaMap({
      iova: 0x10000n,
      size: 0x2000n,
      readable: true,
      writable: true,
      memory: { bytes: memory.bytes, fd: memory.fd, fdOffset: 0 },
    });
    const vectors = await arm(a.client, MSIX, 3);
    await a.client.write(7, 0x3c, Uint8Array.of(0x0b));
    await add(a.client, 1);
    const seen = new Uint8Array(256);
    await a.client.read(7, 0, seen);

    const report = await a.server.handover(b.path);
    expect(report).toMatchObject({ maps: 1, stateBytes: 1 + MOVABLE.SIZE });
    const after = new Uint8Array(256);
    await a.client.read(7, 0, after);
    expect(after).toEqual(seen);
    await add(a.client, 2);
    expect(await sums(a.client)).toEqual([3, 2]);
    await a.client.write(0, MOVABLE.DMA, le(0x11000, 4));
    await until(() => memory.bytes[0x1000] === 3);
    expect(vectors.map((fd) => eventfdRead(fd))).toEqual([0, 1, 1]);
    // The first server has ended, and its device is as after any client.
    await a.idle();
    expect([a.server.isListening, a.detached, a.warnings]).toEqual([false, ['the device was handed over'], []]);
    expect([a.device.openCount, a.model.faults, b.model.faults]).toEqual([0, [], []]);
    // The second one has its socket, and nobody can hand anything else over.
    expect([existsSync(b.path), b.server.isBusy, b.server.path]).toEqual([false, true, a.path]);
    await a.client.close();
    await until(() => !b.server.isBusy);
    const next = await VfioUserClient.connect(a.path);
    expect(await sums(next)).toEqual([0, 0]);
    await next.close();
    await b.server.close();
    expect(existsSync(a.path)).toBe(false);
  });

  test('ten times while it sends as fast as it can: no write is lost, none comes twice, none overtakes another', async () => {
    const first = await served();
    const vectors = await arm(first.client, MSIX, 8);
    const { client } = first;
    let [server, sent, sum, isOver] = [first.server, 0, 0, false];
    const sending = (async () => {
      while (!isOver) {
        for (let n = 0; n < 50; n++) {
          const value = (sent * 7 + 3) & 0xffff;
          const data = le(value, 4);
          if (n % 3 === 0) client.post({ region: 0, offset: MOVABLE.ADD, data });
          else if (n % 3 === 1) void client.write(0, MOVABLE.ADD, data);
          else client.postAll([{ region: 0, offset: MOVABLE.ADD, data }]);
          sent++;
          sum += value;
        }
        // Order: what is read is what all before have made.
        expect(await sums(client)).toEqual([sum, sent]);
      }
    })();
    let kept = 0;
    for (let n = 0; n < 10; n++) {
      const b = await waiting(await movable());
      kept += (await server.handover(b.path)).waiting;
      server = b.server;
      for (let turns = 0; turns < 5; turns++) await turn();
    }
    isOver = true;
    await sending;
    expect(kept).toBeGreaterThan(0);
    const fired = vectors.map((fd) => eventfdRead(fd)).reduce((all, count) => all + count, 0);
    expect(fired).toBe(sent);
  });

  test('with INTx that is signalled and not yet unmasked: it is signalled again after the unmasking, and only then', async () => {
    const { a, b } = await pair();
    const [fd] = (await arm(a.client, 0, 1)) as [number];
    const [unmask] = (await arm(a.client, 0, 1, UNMASK)) as [number];
    await a.client.write(0, MOVABLE.LINE, le(1, 4));
    expect(eventfdRead(fd)).toBe(1);
    await a.server.handover(b.path);
    expect(eventfdRead(fd)).toBe(0);
    borrowed(unmask).signal();
    await until(() => eventfdRead(fd) === 1);
    expect(b.device.irqs.intxMasked).toBe(true);
  });

  test('between two versions of a driver; the older one refuses what it cannot read, and the client stays', async () => {
    const a = await served(await movable({ version: 1 }));
    const newer = await waiting(await movable({ version: 2 }));
    await add(a.client, 5);
    await a.server.handover(newer.path);
    expect(await sums(a.client)).toEqual([5, 1]);
    const old = await movable({ version: 1 });
    const older = await waiting(old);
    await expect(newer.server.handover(older.path)).rejects.toMatchObject({
      errno: 'EINVAL',
      message: expect.stringContaining('a state of version 2, 1 is the newest known here'),
    });
    await add(a.client, 6);
    expect(await sums(a.client)).toEqual([11, 2]);
    expect([old.device.openCount, older.server.isBusy]).toEqual([0, false]);
  });
});

describe('what comes while the client is handed over', () => {
  test('waits and is carried out by the other server, in order, with its descriptors', async () => {
    const { a, b } = await pair();
    const gate = deferred();
    a.migration.slow = gate.promise;
    const handover = a.server.handover(b.path);
    await until(() => a.device.pending !== undefined);
    const memory = guestMemory(0x1000);
    const fd = eventfd();
    const calls = [
      add(a.client, 1),
      a.client.dmaMap({
        iova: 0n,
        size: 0x1000n,
        readable: true,
        writable: true,
        memory: { bytes: memory.bytes, fd: memory.fd, fdOffset: 0 },
      }),
      a.client.setIrqs({ index: MSI, flags: 0x24, start: 0, count: 1, triggers: [borrowed(fd)] }),
      a.client.write(0, MOVABLE.DMA, le(0x100, 4)),
    ];
    a.client.post({ region: 0, offset: MOVABLE.ADD, data: le(8, 4) });
    for (let n = 0; n < 5; n++) await turn();
    expect(a.model.registers[MOVABLE.SUM]).toBe(0);
    gate.resolve();
    expect((await handover).waiting).toBe(5);
    await Promise.all(calls);
    expect(await sums(a.client)).toEqual([9, 2]);
    await until(() => memory.bytes[0x100] === 1);
    expect([eventfdRead(fd), a.model.faults, b.model.faults]).toEqual([1, [], []]);
  });

  test('in the middle of a message: the rest is waited for, and where it does not come, all goes on here', async () => {
    const source = await movable();
    const server = await serve(source.device);
    const client = await server.attached();
    await client.ok(10, bytes(u64(4), u32(7, 2), [6, 0]));
    const target = await movable();
    const b = await waiting(target);
    const write = (id: number, value: number) => message(id, 10, bytes(u64(MOVABLE.ADD), u32(0, 4), u32(value)));
    await client.send(bytes(write(50, 1), write(51, 2).subarray(0, 21)));
    expect((await client.receive()).id).toBe(50);
    await expect(server.server.handover(b.path, { maxPauseMs: 100 })).rejects.toMatchObject({
      errno: 'EAGAIN',
      message: expect.stringContaining('a part of a message'),
    });
    expect(source.migration.current).toBe(STATE.RUNNING);
    await until(() => target.device.openCount === 0);
    const handover = server.server.handover(b.path);
    await until(() => source.migration.current === STATE.STOP_COPY);
    await client.send(bytes(write(51, 2).subarray(21), write(52, 4), message(53, 9, bytes(u64(0), u32(0, 4)))));
    await handover;
    for (const id of [51, 52]) expect((await client.receive()).id).toBe(id);
    expect((await client.receive()).payload.readUInt32LE(16)).toBe(7);
  });

  test.each([true, false])(
    'asks for memory by messages before and after, with a second socket: %s',
    async (twinSocket) => {
      const a = await served(undefined, { twinSocket });
      const b = await waiting(await movable());
      const memory = await a.client.dmaAlloc({ iova: 0n, size: 0x1000, messagesOnly: true });
      await add(a.client, 3);
      await a.client.write(0, MOVABLE.DMA, le(0x10, 4));
      await a.server.handover(b.path);
      expect(memory.bytes[0x10]).toBe(3);
      await add(a.client, 4);
      await a.client.write(0, MOVABLE.DMA, le(0x20, 4));
      await until(() => memory.bytes[0x20] === 7);
    },
  );

  test('does not keep the vectors of MSI from growing, which a client sends in parts', async () => {
    const { a, b } = await pair();
    const fds = await arm(a.client, MSI, 2);
    await a.server.handover(b.path);
    await a.client.setIrqs({ index: MSI, flags: 0x24, start: 0, count: 1, triggers: [borrowed(fds[1]!)] });
    await add(a.client, 1);
    await add(a.client, 0);
    expect(fds.map((fd) => eventfdRead(fd))).toEqual([0, 2]);
  });
});

describe('a client stays where it is', () => {
  const stays = async (a: Awaited<ReturnType<typeof served>>, expected: readonly [number, number] = [1, 1]) => {
    await add(a.client, 1);
    expect(await sums(a.client)).toEqual(expected);
    expect([a.server.isBusy, a.server.isListening, a.detached, a.model.faults]).toEqual([true, true, [], []]);
  };

  test.each([
    ['another driver', { ops: 'other' }, 'the driver of the device is movable, here it is other'],
    ['another revision', { revision: 2 }, 'revision of the device is 0x0, here it is 0x2'],
  ])('before %s', async (_name, options, text) => {
    const { a, b } = await pair(undefined, await movable(options));
    await expect(a.server.handover(b.path)).rejects.toMatchObject({
      errno: 'EINVAL',
      message: expect.stringContaining(text),
    });
    await stays(a);
    expect([b.server.isBusy, b.device.openCount, b.warnings.length]).toEqual([false, 0, 1]);
  });

  test('before a device that cannot be migrated, and as one', async () => {
    const a = await served();
    const plain = await makeDevice((ctx) => new MovableModel(ctx));
    const b = await waiting(plain);
    await expect(a.server.handover(b.path)).rejects.toMatchObject({ errno: 'EINVAL' });
    await stays(a);
    const edu = await makeEdu();
    const server = await serve(edu.device);
    const client = await server.connect();
    const other = await waiting(await makeEdu());
    await expect(server.server.handover(other.path)).rejects.toMatchObject({ errno: 'ENOTTY' });
    expect(await read32(client, 0, 0)).toBe(0x010000ed);
  });

  test('where nobody has attached, nobody waits, or it is handed over already', async () => {
    const server = await serve((await movable()).device);
    await expect(server.server.handover('/nowhere')).rejects.toMatchObject({ errno: 'EAGAIN' });
    const { a, b } = await pair();
    await expect(a.server.handover('/nowhere')).rejects.toMatchObject({ errno: 'ENOENT' });
    const first = a.server.handover(b.path);
    await expect(a.server.handover(b.path)).rejects.toMatchObject({ errno: 'EAGAIN' });
    await first;
  });

  test('where it migrates the device itself, or has it log its writes', async () => {
    const { a, b } = await pair();
    await a.client.deviceFeature({ flags: SET | MIG_STATE, value: { state: STATE.STOP } });
    await expect(a.server.handover(b.path)).rejects.toMatchObject({ errno: 'EBUSY' });
    await a.client.deviceFeature({ flags: SET | MIG_STATE, value: { state: STATE.RUNNING } });
    const value = { pageSize: 4096n, ranges: [{ iova: 0n, length: 4096n }] };
    await a.client.deviceFeature({ flags: SET | LOGGING_START, value });
    await expect(a.server.handover(b.path)).rejects.toMatchObject({ errno: 'EBUSY' });
    await stays(a);
  });

  test('where it may have memory of the device mapped', async () => {
    const memory = new MemfdMemory();
    cleanup(() => memory.close());
    const { device } = await makeDevice(
      (ctx) => {
        ctx.bar(2, { size: 0x4000, memory: true });
        return new MovableModel(ctx);
      },
      {},
      { memory },
    );
    const server = await serve(device);
    const client = await server.connect();
    await client.mmapArea(2, 0, 0x4000);
    const b = await waiting(await movable());
    await expect(server.server.handover(b.path)).rejects.toMatchObject({
      errno: 'EBUSY',
      message: expect.stringContaining('region 2'),
    });
  });

  test('where the device does not stop in time: what came meanwhile is carried out here', async () => {
    const { a, b } = await pair();
    const gate = deferred();
    a.migration.slow = gate.promise;
    const handover = a.server.handover(b.path, { maxPauseMs: 50 });
    await until(() => a.device.pending !== undefined);
    const call = add(a.client, 4);
    for (let n = 0; n < 3; n++) await turn();
    setTimeout(() => gate.resolve(), 100);
    await expect(handover).rejects.toMatchObject({ errno: 'EAGAIN' });
    await call;
    await stays(a, [5, 2]);
    expect(b.device.openCount).toBe(0);
  });

  test('and hears nothing of a server that did not take it, however late that finds its commands', async () => {
    const a = await served();
    const target = await movable();
    const b = await waiting(target, { deadlineMs: 1 });
    const gate = deferred();
    a.migration.slow = gate.promise;
    target.migration.failing.add(STATE.RUNNING);
    const handover = a.server.handover(b.path);
    await until(() => a.device.pending !== undefined);
    const call = add(a.client, 4);
    const reading = read32(a.client, 0, MOVABLE.SUM);
    await new Promise((resolve) => setTimeout(resolve, 20));
    gate.resolve();
    await expect(handover).rejects.toMatchObject({ errno: 'EIO' });
    expect([await call, await reading]).toEqual([4, 4]);
    await stays(a, [5, 2]);
  });

  test('where the device does not run at the other server: it gives the client back', async () => {
    const { a, b } = await pair();
    b.migration.failing.add(STATE.RUNNING);
    await expect(a.server.handover(b.path)).rejects.toMatchObject({
      errno: 'EIO',
      message: expect.stringContaining('the arc to 2 fails'),
    });
    await stays(a);
    expect([b.server.isBusy, b.device.openCount]).toEqual([false, 0]);
  });
});

describe('whoever is cut off, and when', () => {
  /** The messages of one handover: what there is to cut. */
  async function messages(): Promise<readonly number[]> {
    const { a, b } = await pair();
    await prepare(a.client);
    const between = relay(b.path, () => 'pass');
    await a.server.handover(between.path);
    return between.seen;
  }

  const prepare = async (client: VfioUserClient, vectors = 2) => {
    await client.dmaAlloc({ iova: 0n, size: 0x1000 });
    if (vectors > 0) await arm(client, MSIX, vectors);
    await add(client, 1);
  };

  test('one of both has the client, and the other one nothing of it', async () => {
    const commands = await messages();
    expect(commands).toEqual([HANDOVER.OFFER, 2, HANDOVER.DATA, HANDOVER.FDS, HANDOVER.TAKE]);
    for (const [at, command] of commands.entries()) {
      for (const cut of ['cut before', 'cut after'] as const) {
        const { a, b } = await pair();
        await prepare(a.client);
        const between = relay(b.path, (n) => (n === at ? cut : 'pass'));
        const isTaken = command === HANDOVER.TAKE && cut === 'cut after';
        if (isTaken) await a.server.handover(between.path);
        else await expect(a.server.handover(between.path)).rejects.toMatchObject({ errno: 'ENOTCONN' });
        await between.done;
        const [winner, loser] = isTaken ? [b, a] : [a, b];
        await until(() => !loser.server.isBusy && loser.device.openCount === 0);
        await add(a.client, 2);
        expect(await sums(a.client), `${cut} ${command}`).toEqual([3, 2]);
        expect([winner.server.isBusy, winner.model.faults, loser.model.faults]).toEqual([true, [], []]);
        await a.client.close();
        for (const one of [a, b]) await one.server.close();
      }
    }
  });

  test('one that answers too late finds the token gone', async () => {
    const { a, b } = await pair();
    await prepare(a.client);
    const between = relay(b.path, (_n, command) => (command === HANDOVER.TAKE ? 'hold' : 'pass'));
    await expect(a.server.handover(between.path, { maxPauseMs: 200 })).rejects.toMatchObject({ errno: 'EAGAIN' });
    await between.done;
    await between.held[0]?.();
    await until(() => b.warnings.length > 0);
    expect(b.warnings[0]).toContain('the other server goes on');
    await add(a.client, 2);
    expect(await sums(a.client)).toEqual([3, 2]);
    expect([a.server.isBusy, b.server.isBusy, b.device.openCount]).toEqual([true, false, 0]);
  });

  test('a server that closes meanwhile lets it end first; no descriptor is left', async () => {
    const before = openFds();
    for (const which of ['a', 'b'] as const) {
      const { a, b } = await pair();
      // Its eventfds would be the test's.
      await prepare(a.client, 0);
      const gate = deferred();
      a.migration.slow = gate.promise;
      const handover = a.server.handover(b.path).then(
        () => 'handed over',
        () => 'stayed',
      );
      await until(() => a.device.pending !== undefined);
      const closing = { a, b }[which].server.close();
      gate.resolve();
      expect(await handover).toBe(which === 'a' ? 'handed over' : 'stayed');
      await closing;
      await a.client.close();
      for (const one of [a, b]) await one.server.close();
    }
    await until(() => openFds() <= before);
  });
});
