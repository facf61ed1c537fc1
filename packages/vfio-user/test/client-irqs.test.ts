import { callbackTrigger, type EventTrigger } from '@vfio/core';
import { type DeviceModel, EDU, Edu, type FunctionContext } from '@vfio/emulated';
import { dupFd, eventfdRead, eventfdWrite } from '@vfio/native';
import { errnoError } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { EventfdTrigger } from '../src/eventfd-trigger.js';
import type { VfioUserClient } from '../src/index.js';
import { acquireSharedLoop, releaseSharedLoop } from '../src/service-loop.js';
import { enable, le, read32 } from './helpers/edu-program.js';
import { FakeDevice } from './helpers/fake-device.js';
import { generic } from './helpers/generic.js';
import { errorTo, played, replyTo } from './helpers/played-server.js';
import { until } from './helpers/raw-client.js';
import { cleanup, eventfd, openFds, serve } from './helpers/serve.js';

const INTX = 0;
const MSI = 1;
const MSIX = 2;
const SET = 0x24;
const UNMASK_BY_TRIGGER = 0x14;
const DISABLE = { flags: 0x21, start: 0, count: 0 };
const FIRE = 0x21;

/** Triggers that count their signals and releases. */
function counting(count: number) {
  const signals = new Array<number>(count).fill(0);
  const releases = new Array<number>(count).fill(0);
  const triggers = signals.map((_, vector): EventTrigger => {
    const trigger = callbackTrigger(() => {
      signals[vector]!++;
    });
    return { ...trigger, fd: undefined, release: () => void releases[vector]!++ };
  });
  return { signals, releases, triggers };
}

/** Lets everything that is on its way arrive: interrupts go a way of their own, so a round trip alone says nothing. */
async function settle(client: VfioUserClient): Promise<void> {
  for (let n = 0; n < 3; n++) {
    await client.getInfo();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** A function with as many vectors as are told. */
function vectors(shape: { msi?: number; msix?: number }) {
  return (ctx: FunctionContext): DeviceModel & { send(vector: number): void } => {
    ctx.identity({ vendor: 1, device: 2, subvendor: 0, subdevice: 0, class: 0, revision: 0 });
    ctx.bar(0, { size: 0x8000 });
    if (shape.msi !== undefined) ctx.msi({ vectors: shape.msi, is64Bit: true });
    if (shape.msix !== undefined) {
      ctx.msix({ vectors: shape.msix, table: { bar: 0, offset: 0 }, pba: { bar: 0, offset: 0x4000 } });
    }
    return { send: (vector: number) => ctx.irq.send(vector) };
  };
}

describe('INTx', () => {
  async function edu() {
    const { device } = await generic((ctx) => new Edu(ctx));
    const { connect } = await serve(device);
    const client = await connect();
    await enable(client);
    return client;
  }

  test('[vfio-user 7.17] masks itself when it fires, and fires again when it is unmasked while the line is high', async () => {
    const client = await edu();
    const { signals, triggers } = counting(1);
    await client.setIrqs({ flags: SET, index: INTX, start: 0, count: 1, triggers });
    await client.write(0, EDU.INTERRUPT_RAISE, le(1, 4));
    await until(() => signals[0] === 1);
    await client.write(0, EDU.INTERRUPT_RAISE, le(2, 4));
    await settle(client);
    expect(signals[0]).toBe(1);
    await client.setIrqs({ flags: 0x11, index: INTX, start: 0, count: 1 });
    await until(() => signals[0] === 2);
    await client.write(0, EDU.INTERRUPT_ACKNOWLEDGE, le(3, 4));
    await client.setIrqs({ flags: 0x11, index: INTX, start: 0, count: 1 });
    await settle(client);
    expect(signals[0]).toBe(2);
    await client.write(0, EDU.INTERRUPT_RAISE, le(1, 4));
    await until(() => signals[0] === 3);
  });

  test('is held back by MASK, by one byte of BOOL as by NONE', async () => {
    const client = await edu();
    const { signals, triggers } = counting(1);
    await client.setIrqs({ flags: SET, index: INTX, start: 0, count: 1, triggers });
    await client.setIrqs({ flags: 0x09, index: INTX, start: 0, count: 1 });
    await client.write(0, EDU.INTERRUPT_RAISE, le(1, 4));
    await settle(client);
    expect(signals[0]).toBe(0);
    await client.setIrqs({ flags: 0x12, index: INTX, start: 0, count: 1, bools: Uint8Array.of(0) });
    await settle(client);
    expect(signals[0]).toBe(0);
    await client.setIrqs({ flags: 0x12, index: INTX, start: 0, count: 1, bools: Uint8Array.of(1) });
    await until(() => signals[0] === 1);
  });

  test.each([
    ['an eventfd of the program', true],
    ['a trigger of this process', false],
  ])('[vfio-user 7.17] is unmasked by %s, each time that it is signalled', async (_name, isFd) => {
    const client = await edu();
    const { signals, triggers } = counting(1);
    await client.setIrqs({ flags: SET, index: INTX, start: 0, count: 1, triggers });
    const fd = eventfd();
    let watcher = () => {};
    const released: string[] = [];
    const resample: EventTrigger = {
      fd: isFd ? fd : undefined,
      signal() {},
      watch: (handler) => {
        watcher = handler;
        return () => {
          watcher = () => {};
        };
      },
      release: () => void released.push('resample'),
    };
    const kick = () => (isFd ? eventfdWrite(fd) : watcher());
    const unmask = { flags: UNMASK_BY_TRIGGER, index: INTX, start: 0, count: 1 };
    await client.setIrqs({ ...unmask, triggers: [resample] });
    await client.write(0, EDU.INTERRUPT_RAISE, le(1, 4));
    for (let n = 1; n <= 3; n++) {
      await until(() => signals[0] === n);
      kick();
    }
    await until(() => signals[0] === 4);
    await client.setIrqs({ ...unmask, triggers: [null] });
    expect(released).toEqual(['resample']);
    kick();
    await settle(client);
    expect(signals[0]).toBe(4);
    await client.setIrqs({ ...DISABLE, index: INTX });
  });

  test('lets go of both of its triggers when it is disabled', async () => {
    const client = await edu();
    const fire = counting(1);
    const unmask = counting(1);
    await client.setIrqs({ flags: SET, index: INTX, start: 0, count: 1, triggers: fire.triggers });
    await client.setIrqs({ flags: UNMASK_BY_TRIGGER, index: INTX, start: 0, count: 1, triggers: unmask.triggers });
    await client.setIrqs({ ...DISABLE, index: INTX });
    expect([fire.releases, unmask.releases]).toEqual([[1], [1]]);
    await client.write(0, EDU.INTERRUPT_RAISE, le(1, 4));
    await settle(client);
    expect(fire.signals).toEqual([0]);
  });
});

describe('MSI and MSI-X', () => {
  test.each([
    ['MSI', MSI, { msi: 32 }, 32],
    ['MSI-X', MSIX, { msix: 100 }, 100],
  ] as const)(
    '[vfio-user 7.18] all vectors of %s go in chunks that the server takes, and each signals its own trigger',
    async (_n, index, shape, count) => {
      const { device, model } = await generic(vectors(shape));
      const { connect } = await serve(device, { maxMsgFds: 16 });
      const lines: string[] = [];
      const client = await connect({ trace: (line) => lines.push(line) });
      await enable(client);
      const { signals, releases, triggers } = counting(count);
      await client.setIrqs({ flags: SET, index, start: 0, count, triggers });
      for (const line of lines) expect(Number(/fds (\d+)/.exec(line)?.[1] ?? 0)).toBeLessThanOrEqual(16);
      for (let vector = 0; vector < count; vector++) model.send(vector);
      await until(() => signals.every((n) => n === 1));
      await client.setIrqs({ ...DISABLE, index });
      expect(releases).toEqual(new Array(count).fill(1));
    },
  );

  test('a range in the middle of an index that is on replaces those vectors alone', async () => {
    const { device, model } = await generic(vectors({ msix: 40 }));
    const { connect } = await serve(device, { maxMsgFds: 3 });
    const client = await connect();
    await enable(client);
    const first = counting(40);
    await client.setIrqs({ flags: SET, index: MSIX, start: 0, count: 40, triggers: first.triggers });
    const second = counting(10);
    const triggers = second.triggers.map((trigger, at) => (at === 4 ? null : trigger));
    await client.setIrqs({ flags: SET, index: MSIX, start: 20, count: 10, triggers });
    for (let vector = 0; vector < 40; vector++) model.send(vector);
    await until(() => second.signals.filter((n) => n === 1).length === 9 && first.signals[39] === 1);
    expect(first.signals).toEqual(Array.from({ length: 40 }, (_, vector) => (vector >= 20 && vector < 30 ? 0 : 1)));
    expect(first.releases).toEqual(Array.from({ length: 40 }, (_, vector) => (vector >= 20 && vector < 30 ? 1 : 0)));
    expect(second.signals[4]).toBe(0);
  });

  test('loopback fires what is set: NONE a range, BOOL those whose byte is not 0', async () => {
    const { device } = await generic(vectors({ msix: 8 }));
    const { connect } = await serve(device);
    const client = await connect();
    const { signals, triggers } = counting(8);
    await client.setIrqs({ flags: SET, index: MSIX, start: 0, count: 8, triggers });
    await client.setIrqs({ flags: FIRE, index: MSIX, start: 2, count: 3 });
    await client.setIrqs({ flags: 0x22, index: MSIX, start: 0, count: 4, bools: Uint8Array.of(1, 0, 0, 7) });
    await until(() => signals[0] === 1 && signals[3] === 2);
    expect(signals).toEqual([1, 0, 1, 2, 1, 0, 0, 0]);
  });

  test('a new descriptor for a vector takes its place without a gap', async () => {
    const { device, model } = await generic(vectors({ msix: 2 }));
    const { connect } = await serve(device);
    const client = await connect();
    await enable(client);
    const fds = [eventfd(), eventfd()];
    const by = (fd: number): EventTrigger => ({ fd, signal() {}, watch: () => () => {}, release() {} });
    for (const fd of fds) {
      await client.setIrqs({ flags: SET, index: MSIX, start: 1, count: 1, triggers: [by(fd)] });
      model.send(1);
      expect(eventfdRead(fd)).toBe(1);
    }
    expect(eventfdRead(fds[0]!)).toBe(0);
  });
});

describe('a request that fails leaves everything as it was', () => {
  /** A device that refuses the vectors from `limit` on, and keeps what it has as the kernel does. */
  function picky(limit: number) {
    const device = new FakeDevice({ irqs: [1, 1, 64, 1, 1] });
    device.ops = {
      irqs: [1, 1, 64, 1, 1],
      setIrqs: (request) => {
        const { start, count, triggers } = request;
        if (triggers?.some((trigger) => trigger !== null) && start + count > limit) {
          for (const trigger of triggers) trigger?.release();
          throw errnoError('ENOSPC', 'no more vectors');
        }
        for (const [at, trigger] of (triggers ?? []).entries()) {
          device.triggers.get(`${start + at}`)?.release();
          device.triggers.delete(`${start + at}`);
          if (trigger !== null) device.triggers.set(`${start + at}`, trigger);
        }
        return 0;
      },
    };
    return device;
  }

  test('an index that was off is off again, when a later chunk is refused', async () => {
    const device = picky(10);
    const { connect } = await serve(device, { maxMsgFds: 4 });
    const client = await connect();
    const before = openFds();
    const { releases, triggers } = counting(16);
    await expect(client.setIrqs({ flags: SET, index: MSIX, start: 0, count: 16, triggers })).rejects.toMatchObject({
      code: 'ERR_VFIO_REMOTE',
      errno: 'ENOSPC',
    });
    expect(device.calls.filter((call) => call.startsWith('irqs'))).toEqual([
      `irqs 0x24 2 0+16 (${new Array(16).fill('-')})`,
      'irqs 0x24 2 0+4 (fd,fd,fd,fd)',
      'irqs 0x24 2 4+4 (fd,fd,fd,fd)',
      'irqs 0x24 2 8+4 (fd,fd,fd,fd)',
      'irqs 0x21 2 0+0',
    ]);
    expect(releases).toEqual(new Array(16).fill(1));
    for (const trigger of device.triggers.values()) trigger.release();
    device.triggers.clear();
    expect(openFds()).toBe(before);
  });

  test('vectors that had triggers get them back, also those of the refused chunk', async () => {
    const device = picky(64);
    const { connect } = await serve(device, { maxMsgFds: 2 });
    const client = await connect();
    const first = counting(3);
    await client.setIrqs({ flags: SET, index: MSIX, start: 0, count: 3, triggers: first.triggers });
    device.calls.length = 0;
    const pick = picky(2).ops.setIrqs!;
    const good = device.ops.setIrqs!;
    let n = 0;
    // The second message fails.
    device.ops = { ...device.ops, setIrqs: (request) => (++n === 2 ? pick(request) : good(request)) };
    const second = counting(4);
    await expect(
      client.setIrqs({ flags: SET, index: MSIX, start: 0, count: 4, triggers: second.triggers }),
    ).rejects.toMatchObject({ errno: 'ENOSPC' });
    expect(device.calls).toEqual([
      'irqs 0x24 2 0+2 (fd,fd)',
      'irqs 0x24 2 2+2 (fd,fd)',
      'irqs 0x24 2 0+1 (fd)',
      'irqs 0x24 2 1+1 (fd)',
      'irqs 0x24 2 2+1 (fd)',
    ]);
    expect(first.releases).toEqual([0, 0, 0]);
    expect(second.releases).toEqual([1, 1, 1, 1]);
    for (const key of ['0', '1', '2']) device.triggers.get(key)!.signal();
    await until(() => first.signals.every((signal) => signal === 1));
  });

  test('a number of triggers that is not the count is refused here, and they are released', async () => {
    const { connect } = await serve(new FakeDevice());
    const client = await connect();
    const before = openFds();
    const { releases, triggers } = counting(2);
    await expect(client.setIrqs({ flags: SET, index: MSIX, start: 0, count: 3, triggers })).rejects.toMatchObject({
      errno: 'EINVAL',
    });
    expect(releases).toEqual([1, 1]);
    expect(openFds()).toBe(before);
  });

  test('a server that takes no descriptors gets none, and triggers are refused', async () => {
    const { client, server } = await played({ max_msg_fds: 0 });
    const { releases, triggers } = counting(1);
    await expect(client.setIrqs({ flags: SET, index: MSIX, start: 0, count: 1, triggers })).rejects.toMatchObject({
      errno: 'ENOSPC',
    });
    expect(releases).toEqual([1]);
    const call = client.setIrqs({ flags: SET, index: MSIX, start: 0, count: 1, triggers: [null] });
    await server.send(replyTo(await server.receive()));
    expect(await call).toBe(0);
  });

  test('a request for no vectors is the server’s to judge', async () => {
    const { client, server } = await played();
    const call = client.setIrqs({ flags: SET, index: MSIX, start: 0, count: 0, triggers: [] });
    const request = await server.receive();
    expect(request.payload.readUInt32LE(16)).toBe(0);
    await server.send(errorTo(request, 22));
    await expect(call).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('triggers of a loop that was closed are released', async () => {
    const { client } = await played();
    await client.close();
    const { releases, triggers } = counting(2);
    await expect(client.setIrqs({ flags: SET, index: MSIX, start: 0, count: 2, triggers })).rejects.toMatchObject({
      code: expect.stringMatching(/ERR_VFIO_(DISCONNECTED|CLOSED)/),
    });
    expect(releases).toEqual([1, 1]);
  });
});

test('the eventfd of another trigger goes to the server as it is, and a signal before arming is not lost', async () => {
  const { device } = await generic((ctx) => new Edu(ctx));
  const { connect } = await serve(device);
  const client = await connect();
  await enable(client);
  const loop = acquireSharedLoop();
  cleanup(releaseSharedLoop);
  const fd = eventfd();
  const trigger = new EventfdTrigger(loop, dupFd(fd));
  let seen = 0;
  trigger.watch(() => seen++);
  await client.setIrqs({ flags: SET, index: MSI, start: 0, count: 1, triggers: [trigger] });
  await client.write(0, EDU.INTERRUPT_RAISE, le(1, 4));
  await until(() => seen === 1);
  await client.setIrqs({ ...DISABLE, index: MSI });
  expect(await read32(client, 0, EDU.INTERRUPT_STATUS)).toBe(1);
});

test('what the client held is released once when the server goes, and nothing is signalled after', async () => {
  const { device, model } = await generic(vectors({ msix: 4 }));
  const { connect, server } = await serve(device);
  const client = await connect();
  const { signals, releases, triggers } = counting(4);
  await client.setIrqs({ flags: SET, index: MSIX, start: 0, count: 4, triggers });
  await server.close();
  await client.closed;
  expect(releases).toEqual([1, 1, 1, 1]);
  model.send(0);
  await client.close();
  expect([signals, releases]).toEqual([
    [0, 0, 0, 0],
    [1, 1, 1, 1],
  ]);
});
