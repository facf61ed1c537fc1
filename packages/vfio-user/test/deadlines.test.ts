/** Operations that take long: order, deadlines, and what a client hears of them. */
import { ERRNO, errnoError } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { deferred, FakeDevice } from './helpers/fake-device.js';
import { bytes, message, u16, u32, u64, until } from './helpers/raw-client.js';
import { serve } from './helpers/serve.js';

const info = (id: number) => message(id, 4, u32(16, 0, 0, 0));
const reset = (id: number) => message(id, 13);
const read = (id: number, offset = 0) => message(id, 9, bytes(u64(offset), u32(0, 4)));
const write = (id: number, offset: number, value: number, flags = 0) =>
  message(id, 10, bytes(u64(offset), u32(0, 1), [value]), flags);
const EBUSY = { flags: 0x21, errno: ERRNO.EBUSY };

/** A device whose reset ends when the test says so. */
function stuck() {
  const over = deferred();
  return { over, device: new FakeDevice({ reset: () => over.promise }) };
}

test('[vfio-user 7.23] an operation that does not end is answered EBUSY at its deadline; the late result is never sent', async () => {
  const { over, device } = stuck();
  const { attached, warnings } = await serve(device, { deadlineMs: 40 });
  const client = await attached();
  await client.send(reset(1));
  expect(await client.receive()).toMatchObject({ id: 1, command: 13, ...EBUSY });
  expect(warnings[0]).toMatch(/DEVICE_RESET did not end within 40 ms: the client was answered EBUSY/);
  over.resolve();
  await client.send(info(2));
  // Nothing came in between.
  expect((await client.receive()).id).toBe(2);
});

test('[vfio-user 7.23] the operation runs on, and its outcome is read by a GET', async () => {
  const over = deferred();
  let state = 2;
  const device = new FakeDevice({
    deviceFeature: async ({ flags }) => {
      if ((flags & 0xffff) !== 2) return { flags: 1 };
      if ((flags & (1 << 17)) !== 0) {
        await over.promise;
        state = 1;
      }
      return { state };
    },
  });
  const { attached } = await serve(device, { deadlineMs: 40 });
  const client = await attached();
  expect(await client.fails(16, bytes(u32(16, (1 << 17) | 2), u32(1, 0)))).toBe(ERRNO.EBUSY);
  await client.send(message(50, 16, bytes(u32(16, (1 << 16) | 2), u32(0, 0))));
  over.resolve();
  const reply = await client.receive();
  expect(reply).toMatchObject({ id: 50, flags: 1 });
  expect(reply.payload.readUInt32LE(8)).toBe(1);
});

test('[vfio-user 7.23] an operation that fails after its deadline is not answered twice', async () => {
  const { over, device } = stuck();
  const { attached } = await serve(device, { deadlineMs: 30 });
  const client = await attached();
  await client.send(reset(1));
  expect(await client.receive()).toMatchObject({ id: 1, ...EBUSY });
  over.reject(errnoError('EIO', 'broken'));
  await client.send(info(2));
  expect((await client.receive()).id).toBe(2);
});

test('what waits behind an operation is carried out in its order', async () => {
  const { over, device } = stuck();
  const { attached } = await serve(device);
  const client = await attached();
  await client.send(bytes(reset(1), write(2, 0, 7), read(3), write(4, 0, 8, 0x10), read(5), info(6)));
  expect(await client.isSilent(20)).toBe(true);
  over.resolve();
  const replies = [];
  for (let at = 0; at < 5; at++) replies.push(await client.receive());
  expect(replies.map(({ id }) => id)).toEqual([1, 2, 3, 5, 6]);
  expect([replies[2]?.payload[16], replies[3]?.payload[16]]).toEqual([7, 8]);
});

test('[vfio-user 7.23] requests behind one that hangs are answered in time too, in their order', async () => {
  const { over, device } = stuck();
  const { attached } = await serve(device, { deadlineMs: 40 });
  const client = await attached();
  await client.send(bytes(reset(1), info(2), read(3), info(4)));
  for (const id of [1, 2, 3, 4]) expect(await client.receive()).toMatchObject({ id, ...EBUSY });
  over.resolve();
  await client.send(info(5));
  expect((await client.receive()).id).toBe(5);
});

test('[vfio-user 7.23] a write that was answered EBUSY still happens, in its place; a posted one too', async () => {
  const { over, device } = stuck();
  const { attached } = await serve(device, { deadlineMs: 30 });
  const client = await attached();
  await client.send(bytes(reset(1), write(2, 0, 7), write(3, 1, 8, 0x10)));
  for (const id of [1, 2]) expect(await client.receive()).toMatchObject({ id, ...EBUSY });
  over.resolve();
  await client.send(read(4));
  const reply = await client.receive();
  expect(reply.id).toBe(4);
  expect([...reply.payload.subarray(16, 18)]).toEqual([7, 8]);
});

test('[vfio-user 7.23] accesses to a device that is known to hang are answered at once: the guest’s CPU stands still meanwhile', async () => {
  const { over, device } = stuck();
  const { attached } = await serve(device, { deadlineMs: 200 });
  const client = await attached();
  await client.send(reset(1));
  expect(await client.receive()).toMatchObject({ id: 1, ...EBUSY });
  const start = performance.now();
  for (let id = 2; id < 22; id++) {
    await client.send(read(id));
    expect(await client.receive()).toMatchObject({ id, ...EBUSY });
  }
  // Twenty deadlines would be four seconds.
  expect(performance.now() - start).toBeLessThan(3000);
  over.resolve();
});

test('[vfio-user 7.23] a guest that polls a device which hangs is answered for ever: its reads do not fill the queue', async () => {
  const { over, device } = stuck();
  const { attached, warnings } = await serve(device, { deadlineMs: 30 });
  const client = await attached();
  await client.send(reset(1));
  expect(await client.receive()).toMatchObject(EBUSY);
  for (let at = 0; at < 3000; at++) {
    await client.send(read(at & 0xffff));
    expect((await client.receive()).errno).toBe(ERRNO.EBUSY);
  }
  expect(warnings.length).toBeLessThan(30);
  over.resolve();
  await client.send(info(5));
  expect((await client.receive()).id).toBe(5);
});

test('[vfio-user 7.23] more reads than are kept: all are answered, while the device still hangs', async () => {
  const { over, device } = stuck();
  const { attached } = await serve(device, { deadlineMs: 500 });
  const client = await attached();
  const count = 1500;
  await client.send(bytes(reset(0), ...Array.from({ length: count }, (_, at) => read(at + 1))));
  for (let id = 0; id <= count; id++) expect(await client.receive()).toMatchObject({ id, ...EBUSY });
  over.resolve();
  await client.send(info(5));
  expect((await client.receive()).id).toBe(5);
});

test('a client that posts without end behind an operation is not read from; everything happens in the end', async () => {
  const { over, device } = stuck();
  const { attached } = await serve(device);
  const client = await attached();
  await client.send(reset(1));
  const posts = 5000;
  const sending = (async () => {
    for (let at = 0; at < posts; at++) await client.send(write(at & 0xffff, 0, at & 0xff, 0x10));
    await client.send(info(77));
  })();
  await client.isSilent(50);
  over.resolve();
  expect((await client.receive()).id).toBe(1);
  expect((await client.receive()).id).toBe(77);
  await sending;
  expect(device.calls).toHaveLength(1 + posts);
});

test('[vfio-user 7.30] descriptors that wait behind an operation are bounded: then the client is not read from', async () => {
  const { eventfd, openFds } = await import('./helpers/serve.js');
  const { over, device } = stuck();
  const { attached } = await serve(device);
  const client = await attached();
  const fd = eventfd();
  const before = openFds();
  await client.send(reset(1));
  const arm = (id: number) => message(id, 8, u32(20, 0x24, 2, 0, 8));
  const sending = (async () => {
    for (let id = 0; id < 200; id++) await client.send(arm(id), new Array(8).fill(fd));
  })();
  await client.isSilent(50);
  expect(openFds() - before).toBeLessThan(253 + 253);
  over.resolve();
  for (let at = 0; at < 201; at++) expect((await client.receive()).flags).toBe(1);
  await sending;
});

test('[vfio-user 7.23] a device that does not open in time: the client hears EBUSY, is left, and the next one attaches', async () => {
  const opening = deferred();
  let opens = 0;
  const device = new FakeDevice({ open: () => (opens++ === 0 ? opening.promise : Promise.resolve()) });
  const { raw, attached, idle, detached } = await serve(device, { deadlineMs: 30 });
  const client = raw();
  expect(await client.fails(1, bytes(u16(0, 1), '{}', [0]))).toBe(ERRNO.EBUSY);
  opening.resolve();
  await client.untilClosed();
  await idle();
  expect(detached[0]).toMatch(/VERSION was not answered in time/);
  expect([device.opens, device.closes]).toEqual([1, 1]);
  await attached();
});

test('[vfio-user 7.23] the watchdog names the operation that blocks the thread, wherever it runs', async () => {
  const block = (ms: number) => {
    const end = performance.now() + ms;
    while (performance.now() < end);
  };
  const over = deferred();
  const device = new FakeDevice({
    read: (_region, _offset, data) => {
      block(30);
      return data.length;
    },
    reset: () => over.promise,
  });
  const { attached, warnings } = await serve(device, { watchdogMs: 20 });
  const client = await attached();
  await client.send(read(1, 0x98));
  await client.receive();
  await until(() => warnings.length === 1);
  expect(warnings[0]).toMatch(/REGION_READ of region 0, offset 0x98 blocked this thread for \d+ ms/);
  // And one that waited behind an operation.
  await client.send(bytes(reset(2), read(3, 0x40)));
  await client.isSilent(20);
  over.resolve();
  await client.receive();
  await client.receive();
  expect(warnings[1]).toMatch(/REGION_READ of region 0, offset 0x40 blocked/);
});

test('[vfio-user 7.23] an operation that outlives its client is named, and the next client waits for it', async () => {
  const { over, device } = stuck();
  const { attached, raw, warnings, idle } = await serve(device);
  const client = await attached();
  await client.send(reset(1));
  await until(() => device.calls.length === 1);
  client.close();
  const next = raw();
  await next.send(message(1, 1, bytes(u16(0, 1), '{}', [0])));
  await until(() => warnings.length > 0);
  expect(warnings[0]).toMatch(/DEVICE_RESET has not ended: nobody can attach until it has/);
  expect(device.closes).toBe(0);
  over.resolve();
  expect(await next.receive()).toMatchObject({ id: 1, flags: 1 });
  next.close();
  await idle();
});

test.each([
  ['deadlineMs', { deadlineMs: 0 }],
  ['watchdogMs', { watchdogMs: -1 }],
  ['versionTimeoutMs', { versionTimeoutMs: 1.5 }],
  ['maxDmaMaps', { maxDmaMaps: 70_000 }],
  ['maxMsgFds', { maxMsgFds: 254 }],
  ['maxDataXferSize', { maxDataXferSize: 100 }],
  ['compat', { compat: 'xen' as 'qemu' }],
])('an option out of range is EINVAL: %s', async (name, options) => {
  const { VfioUserServer } = await import('../src/index.js');
  expect(() => new VfioUserServer(new FakeDevice(), options)).toThrow(
    expect.objectContaining({ errno: 'EINVAL', message: expect.stringContaining(name) }),
  );
});
