/** What a server tells of its messages: trace lines, counters, the pulse; and that it leaves time for others. */
import { Worker } from 'node:worker_threads';
import { eventfdCreate, eventfdWrite } from '@vfio/native';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { COMMAND_NAMES, Counters, commandName, describeMessage, PulseWatcher, ServiceLoop } from '../src/index.js';
import { PULSE } from '../src/service-loop.js';
import { FakeDevice } from './helpers/fake-device.js';
import { bytes, message, u16, u32, u64, until } from './helpers/raw-client.js';
import { cleanup, serve } from './helpers/serve.js';

/** Lines without their time. */
const texts = (lines: readonly string[]) => lines.map((line) => line.replace(/^ *\d+\.\d{6} /, ''));

test('one line for each message, decoded, with the function’s address', async () => {
  const lines: string[] = [];
  const { raw } = await serve(new FakeDevice(), { trace: (line) => lines.push(line) });
  const client = raw();
  await client.send(message(0x12, 1, bytes(u16(0, 0), '{}', [0])));
  await client.receive();
  await client.send(message(0x13, 9, bytes(u64(0x10), u32(0, 4))));
  await client.receive();
  await client.send(message(0x14, 10, bytes(u64(0x10), u32(0, 1), [7]), 0x10));
  await client.send(message(0x15, 4, u32(1)));
  await client.receive();
  await client.send(message(0x16, 2, bytes(u32(32, 3), u64(0, 0x1000, 0x2000))));
  await client.receive();
  for (const line of lines) expect(line).toMatch(/^ *\d+\.\d{6} 0000:00:01\.0 /);
  expect(texts(lines)).toEqual([
    '0000:00:01.0 > 0x0012 VERSION 0.0 {}',
    '0000:00:01.0 < 0x0012 VERSION reply 0.0 {}',
    '0000:00:01.0 > 0x0013 REGION_READ region 0 offset 0x10 count 4',
    '0000:00:01.0 < 0x0013 REGION_READ reply region 0 offset 0x10 count 4 00 00 00 00',
    '0000:00:01.0 > 0x0014 REGION_WRITE posted region 0 offset 0x10 count 1 07',
    '0000:00:01.0 > 0x0015 DEVICE_GET_INFO argsz 1',
    expect.stringMatching(/^0000:00:01\.0 - .*needs 16 bytes/),
    '0000:00:01.0 < 0x0015 DEVICE_GET_INFO reply error EINVAL',
    '0000:00:01.0 > 0x0016 DMA_MAP iova 0x1000 size 0x2000 offset 0x0 flags 0x3',
    '0000:00:01.0 < 0x0016 DMA_MAP reply',
  ]);
});

test('any bytes become one short line without control characters', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 200 }),
      fc.integer({ min: 0, max: 20 }),
      fc.nat(3),
      (noise, command, fds) => {
        for (const data of [noise, message(1, command, noise), message(1, command, noise, 1)]) {
          const line = describeMessage('>', data, fds);
          // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
          expect(line).not.toMatch(/[\u0000-\u001f]/);
          expect(line.length).toBeLessThan(2500);
        }
      },
    ),
  );
  const huge = describeMessage('>', message(1, 1, bytes(u16(0, 1), 'x'.repeat(60_000))), 0);
  expect(huge.length).toBeLessThan(1000);
});

test('every command has a name', () => {
  expect(COMMAND_NAMES.indexOf('MIG_DATA_WRITE')).toBe(18);
  expect([commandName(9), commandName(99)]).toEqual(['REGION_READ', 'command 99']);
});

test('messages and errors are counted by command, over all clients', async () => {
  const { attached, server, idle } = await serve(new FakeDevice());
  for (let round = 0; round < 2; round++) {
    const client = await attached();
    for (let at = 0; at < 3; at++) await client.ok(9, bytes(u64(0), u32(0, 4)));
    await client.fails(9, bytes(u64(0), u32(77, 4)));
    await client.fails(4, u32(1));
    await client.fails(1000, u32(1));
    client.close();
    await idle();
  }
  const { commands, ...rest } = server.stats();
  const version = commands['VERSION']?.bytes ?? 0;
  expect(version).toBeGreaterThan(2 * 20);
  expect(commands).toEqual({
    VERSION: { messages: 2, errors: 0, bytes: version },
    REGION_READ: { messages: 8, errors: 2, bytes: 8 * 32 },
    DEVICE_GET_INFO: { messages: 2, errors: 2, bytes: 2 * 20 },
    unknown: { messages: 2, errors: 2, bytes: 2 * 20 },
  });
  // Six reads of 4 bytes were answered, six commands with an error, and VERSION.
  expect(rest).toEqual({
    clients: 2,
    bytes: { received: version + 8 * 32 + 4 * 20, sent: expect.any(Number) },
    queue: { messages: 0, bytes: 0, running: undefined },
  });
  expect(rest.bytes.sent).toBeGreaterThan(6 * 36 + 6 * 16 + 2 * 20);
});

test('counting any command number stays in its place', () => {
  const counters = new Counters();
  for (const command of [0, 18, 19, 0xffff]) counters.countMessage(command, 16);
  expect(counters.snapshot()).toEqual({
    NONE: { messages: 1, errors: 0, bytes: 16 },
    MIG_DATA_WRITE: { messages: 1, errors: 0, bytes: 16 },
    unknown: { messages: 2, errors: 0, bytes: 32 },
  });
});

test('a watcher in another thread names what blocks a loop, once for each time', async () => {
  const pulse = new Int32Array(new SharedArrayBuffer(PULSE.WORDS * 4));
  const told: string[] = [];
  const watcher = new PulseWatcher(pulse, 20, (what, socket, milliseconds) => {
    told.push(`${what} on ${socket}`);
    expect(milliseconds).toBeGreaterThanOrEqual(20);
  });
  cleanup(() => watcher.stop());
  // The other thread: in a handler, and not coming back for a while.
  const worker = new Worker(
    `const { workerData: pulse } = require('node:worker_threads');
     pulse[1] = 5; pulse[2] = 10; pulse[3] = 2; pulse[4] = 0x98;
     Atomics.add(pulse, 0, 1);
     Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
     Atomics.add(pulse, 0, 1);`,
    { eval: true, workerData: pulse },
  );
  cleanup(() => worker.terminate());
  await new Promise((resolve) => worker.once('exit', resolve));
  expect(told).toEqual(['REGION_WRITE of region 2, offset 0x98 on 5']);
});

test('a loop shows what it does: even between handlers, and the last command', async () => {
  const pulse = new Int32Array(new SharedArrayBuffer(PULSE.WORDS * 4));
  const loop = new ServiceLoop({ pulse });
  cleanup(() => loop.close());
  let during = 0;
  const device = new FakeDevice({
    read: (_region, _offset, data) => {
      during = pulse[PULSE.COUNT]!;
      return data.length;
    },
  });
  const { attached } = await serve(device, { loop });
  const client = await attached();
  await client.ok(9, bytes(u64(0x40), u32(0, 4)));
  expect(during & 1).toBe(1);
  await until(() => (pulse[PULSE.COUNT]! & 1) === 0);
  expect([pulse[PULSE.COMMAND], pulse[PULSE.REGION], pulse[PULSE.OFFSET]]).toEqual([9, 0, 0x40]);
});

test('[vfio-user 7.32] timers and other events get their turn while messages flow without end', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  let isOver = false;
  let answered = 0;
  const flood = (async () => {
    while (!isOver) {
      await client.send(message(1, 9, bytes(u64(0), u32(0, 4))));
      await client.receive();
      answered++;
    }
  })();
  for (let step = 0; step < 5; step++) await new Promise((resolve) => setTimeout(resolve, 5));
  isOver = true;
  await flood;
  expect(answered).toBeGreaterThan(0);
});

test('[vfio-user 7.32] a loop is woken by an eventfd that another thread writes, while it waits for messages', async () => {
  const { acquireSharedLoop, releaseSharedLoop } = await import('../src/service-loop.js');
  const { EventfdTrigger } = await import('../src/eventfd-trigger.js');
  const { attached } = await serve(new FakeDevice());
  await attached();
  const loop = acquireSharedLoop();
  cleanup(releaseSharedLoop);
  const fd = eventfdCreate();
  const trigger = new EventfdTrigger(loop, fd);
  cleanup(() => trigger.release());
  let seen = 0;
  trigger.watch(() => seen++);
  const worker = new Worker(
    `const { writeSync } = require('node:fs');
     const { workerData: fd } = require('node:worker_threads');
     writeSync(fd, new BigUint64Array([1n]));`,
    { eval: true, workerData: fd },
  );
  cleanup(() => worker.terminate());
  await until(() => seen === 1);
  eventfdWrite(fd);
  await until(() => seen === 2);
});

test('a sink that is added while a client is attached sees every message from then on, and none after it is taken away', async () => {
  const { attached, server } = await serve(new FakeDevice());
  const client = await attached();
  const lines: string[] = [];
  await client.ok(9, bytes(u64(0), u32(0, 4)));
  const end = server.addTrace((line) => lines.push(line));
  await client.ok(9, bytes(u64(0), u32(0, 4)));
  end();
  await client.ok(9, bytes(u64(0), u32(0, 4)));
  expect(lines.map((line) => line.replace(/^ *\d+\.\d{6} /, ''))).toEqual([
    expect.stringMatching(/^\S+ > 0x[0-9a-f]{4} REGION_READ region 0/),
    expect.stringMatching(/^\S+ < 0x[0-9a-f]{4} REGION_READ reply/),
  ]);
});

test('the client that is attached is known, with when it came, until it goes', async () => {
  const { attached, server, idle } = await serve(new FakeDevice());
  const before = Date.now();
  expect(server.client).toBeUndefined();
  const client = await attached();
  expect(server.client).toMatchObject({ peer: expect.any(String), pid: process.pid });
  expect(server.client?.since).toBeGreaterThanOrEqual(before);
  client.close();
  await idle();
  expect(server.client).toBeUndefined();
});
