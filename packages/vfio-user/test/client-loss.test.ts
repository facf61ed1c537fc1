/** Clients that come and go: one at a time, and nothing of one is left for the next. */
import { ftruncateSync } from 'node:fs';
import { EDU } from '@vfio/emulated';
import { eventfdRead } from '@vfio/native';
import { expect, test } from 'vitest';
import { makeEdu } from './helpers/devices.js';
import { deferred, FakeDevice } from './helpers/fake-device.js';
import { bytes, message, turn, u16, u32, u64, until } from './helpers/raw-client.js';
import { cleanup, eventfd, guestMemory, openFds, serve } from './helpers/serve.js';

const VERSION = message(1, 1, bytes(u16(0, 2), '{}', [0]));
const map = (iova: number, size = 0x1000, flags = 3) => bytes(u32(32, flags), u64(0, iova, size));
const arm = (vector: number, count = 1) => u32(20, 0x24, 2, vector, count);

test('[vfio-user 7.21] when a client goes its maps and eventfds go, the device is closed, and the next client starts anew', async () => {
  const device = new FakeDevice();
  const { attached, idle, server } = await serve(device);
  const fd = eventfd();
  const { fd: memory } = guestMemory(0x1000);
  const before = openFds();
  for (let round = 0; round < 4; round++) {
    const client = await attached();
    await client.ok(2, map(0x10000), [memory]);
    await client.ok(2, map(0x20000, 0x1000, 3 | 8), [memory]);
    await client.ok(8, arm(0, 2), [fd, fd]);
    expect([device.maps.size, device.triggers.size]).toEqual([2, 2]);
    client.close();
    await idle();
    expect([device.maps.size, device.triggers.size, device.opens, device.closes]).toEqual([0, 0, round + 1, round + 1]);
    expect(openFds()).toBe(before);
  }
  expect(server.stats().clients).toBe(4);
});

test('[vfio-user 7.21] a device model’s own state outlives its client: what was in its memory is there for the next one', async () => {
  const device = new FakeDevice();
  const { attached, idle } = await serve(device);
  const first = await attached();
  await first.ok(10, bytes(u64(0x10), u32(0, 4), u32(0xabcd)));
  first.close();
  await idle();
  const next = await attached();
  expect((await next.ok(9, bytes(u64(0x10), u32(0, 4)))).subarray(16)).toEqual(u32(0xabcd));
});

test('[vfio-user 7.21] a PCI function is left as by the last close of its file: no bus mastering, no interrupts', async () => {
  const { device } = await makeEdu({}, { express: true });
  const { attached, idle } = await serve(device);
  const first = await attached();
  await first.ok(10, bytes(u64(4), u32(7, 2), u16(6)));
  await first.ok(10, bytes(u64(EDU.LIVENESS), u32(0, 4), u32(1)));
  first.close();
  await idle();
  const next = await attached();
  expect((await next.ok(9, bytes(u64(4), u32(7, 2)))).readUInt16LE(16) & 4).toBe(0);
});

test('[vfio-user 7.21] a second client waits until the first has gone, and is served then', async () => {
  const device = new FakeDevice();
  const { attached, raw, server } = await serve(device);
  const first = await attached();
  const second = raw();
  await second.send(VERSION);
  await second.send(message(2, 4, u32(16, 0, 0, 0)));
  expect(await second.isSilent()).toBe(true);
  await first.ok(4, u32(16, 0, 0, 0));
  expect(device.opens).toBe(1);
  first.close();
  expect(await second.receive()).toMatchObject({ id: 1, flags: 1 });
  expect(await second.receive()).toMatchObject({ id: 2, flags: 1 });
  expect([device.opens, device.closes, server.isBusy]).toEqual([2, 1, true]);
});

test('[vfio-user 7.21] a client that gave up while it waited is passed over', async () => {
  const { attached, raw, idle } = await serve(new FakeDevice());
  const first = await attached();
  const gone = raw();
  await gone.send(VERSION);
  gone.close();
  first.close();
  await idle();
  await attached();
});

test.each([
  ['before it said anything', async () => {}],
  ['in the middle of a header', async (send: (data: Uint8Array) => Promise<void>) => send(VERSION.subarray(0, 7))],
  ['in the middle of VERSION', async (send: (data: Uint8Array) => Promise<void>) => send(VERSION.subarray(0, 20))],
  ['without waiting for the answer', async (send: (data: Uint8Array) => Promise<void>) => send(VERSION)],
])('a client that goes %s leaves nothing', async (_name, act) => {
  const { raw, attached, idle } = await serve(new FakeDevice());
  const warm = await attached();
  warm.close();
  await idle();
  const before = openFds();
  const client = raw();
  await act((data) => client.send(data));
  client.close();
  await until(() => openFds() === before);
  await idle();
  await attached();
});

test('a client that goes in the middle of a message leaves nothing', async () => {
  const device = new FakeDevice();
  const { attached, idle } = await serve(device);
  const client = await attached();
  await client.send(message(1, 10, bytes(u64(0), u32(0, 100), new Uint8Array(100))).subarray(0, 60));
  client.close();
  await idle();
  expect(device.calls).toEqual([]);
  await attached();
});

test('a client that goes while its operation runs: the operation ends, then the device is closed, then the next one comes', async () => {
  const over = deferred();
  const device = new FakeDevice({ reset: () => over.promise });
  const { attached, raw } = await serve(device);
  const client = await attached();
  await client.send(bytes(message(1, 13), message(2, 10, bytes(u64(0), u32(0, 1), [1]))));
  await until(() => device.calls.length > 0);
  client.close();
  const next = raw();
  await next.send(VERSION);
  expect(await next.isSilent()).toBe(true);
  expect(device.closes).toBe(0);
  over.resolve();
  expect(await next.receive()).toMatchObject({ id: 1, flags: 1 });
  // What waited behind it was the old client's.
  expect(device.calls).toEqual(['reset']);
  expect([device.opens, device.closes]).toEqual([2, 1]);
});

test('a client that goes while the device opens: it is closed again', async () => {
  const opening = deferred();
  const device = new FakeDevice({ open: () => opening.promise });
  const { raw, idle, server } = await serve(device);
  const client = raw();
  await client.send(VERSION);
  await turn();
  client.close();
  await turn();
  expect(server.isBusy).toBe(true);
  opening.resolve();
  await idle();
  expect([device.opens, device.closes]).toEqual([1, 1]);
});

test('a device that fails to close does not keep the next client out', async () => {
  let closes = 0;
  const device = new FakeDevice({
    close: () => {
      if (closes++ === 0) throw new Error('stuck valve');
    },
  });
  const { attached, idle, warnings } = await serve(device);
  (await attached()).close();
  await idle();
  expect(warnings[0]).toMatch(/closing the device: .*stuck valve/s);
  await attached();
});

test('replies that the client did not wait for do no harm', async () => {
  const { attached, idle } = await serve(new FakeDevice());
  for (let round = 0; round < 5; round++) {
    const client = await attached();
    for (let id = 0; id < 200; id++) await client.send(message(id, 9, bytes(u64(0), u32(0, 4096))));
    client.close();
    await idle();
  }
});

test('[vfio-user 7.11] a client that cuts the memory which it gave is left, and another device’s client does not notice', async () => {
  const { device } = await makeEdu();
  const one = await serve(device);
  const two = await serve(new FakeDevice());
  const hostile = await one.attached();
  const other = await two.attached();
  const { fd } = guestMemory(0x4000, 0);
  await hostile.ok(10, bytes(u64(4), u32(7, 2), u16(6)));
  await hostile.ok(2, map(0x10000, 0x4000), [fd]);
  ftruncateSync(fd, 0x1000);
  const into = new Uint8Array(64);
  await device.dmaSpace.read(0x12000, into);
  expect([...into]).toEqual(new Array(64).fill(0));
  await hostile.untilClosed();
  await one.idle();
  expect(one.detached).toEqual(['the client cut the memory that it had given']);
  await other.ok(4, u32(16, 0, 0, 0));
  await one.attached();
});

test('a server that closes lets the operation under way end, and leaves the client', async () => {
  const over = deferred();
  const device = new FakeDevice({ reset: () => over.promise });
  const { attached, server } = await serve(device);
  const client = await attached();
  await client.send(message(1, 13));
  await until(() => device.calls.length > 0);
  const closing = server.close();
  expect(server.close()).toBe(closing);
  over.resolve();
  await closing;
  expect(await client.receive()).toMatchObject({ id: 1, flags: 1 });
  await client.untilClosed();
  expect(device.closes).toBe(1);
});

test('an AbortSignal closes the server', async () => {
  const { VfioUserServer } = await import('../src/index.js');
  const { socketPath } = await import('./helpers/raw-client.js');
  const { existsSync } = await import('node:fs');
  const socket = socketPath();
  cleanup(socket.remove);
  const server = new VfioUserServer(new FakeDevice());
  const controller = new AbortController();
  await server.listen(socket.path, { signal: controller.signal });
  await expect(server.listen(socket.path)).rejects.toMatchObject({ code: 'ERR_VFIO_STATE' });
  expect(existsSync(socket.path)).toBe(true);
  controller.abort();
  await server.close();
  expect(existsSync(socket.path)).toBe(false);
  await expect(server.listen(socket.path)).rejects.toMatchObject({ code: 'ERR_VFIO_STATE' });
});

test('an interrupt that a device raises without a client goes nowhere', async () => {
  const { device, model } = await makeEdu();
  const { attached, idle } = await serve(device);
  const client = await attached();
  const fd = eventfd();
  await client.ok(8, u32(20, 0x24, 0, 0, 1), [fd]);
  client.close();
  await idle();
  model.write(EDU.INTERRUPT_RAISE, 4, 1);
  expect(eventfdRead(fd)).toBe(0);
});
