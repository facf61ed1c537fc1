/** What a request can be wrong in before its command matters. */
import { expect, test } from 'vitest';
import { deferred, FakeDevice } from './helpers/fake-device.js';
import { bytes, message, u16, u32, u64, until } from './helpers/raw-client.js';
import { eventfd, openFds, serve } from './helpers/serve.js';

test('a size below the header is answered EINVAL, and the connection is closed', async () => {
  const { attached, detached } = await serve(new FakeDevice());
  const client = await attached();
  await client.send(bytes(u16(0xabcd, 4), u32(15, 0, 0)));
  expect(await client.receive()).toMatchObject({ id: 0xabcd, command: 4, flags: 0x21, errno: 22, size: 16 });
  await client.untilClosed();
  expect(detached[0]).toMatch(/DEVICE_GET_INFO with an impossible size of 15 bytes/);
});

test('[vfio-user 7.4] a size above the largest message is answered EINVAL, and the connection is closed', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  await client.send(bytes(u16(1, 10), u32(16 + 48 + (1 << 20) + 1, 0, 0)));
  expect(await client.receive()).toMatchObject({ flags: 0x21, errno: 22 });
  await client.untilClosed();
});

test('an impossible size in a posted message is not answered: the connection is closed', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  await client.send(bytes(u16(1, 10), u32(3, 0x10, 0)));
  await expect(client.receive()).rejects.toThrow(/closed/);
});

test('[vfio-user 7.6] a reply to nothing ends the connection: the stream cannot be trusted', async () => {
  const { attached, detached } = await serve(new FakeDevice());
  const client = await attached();
  await client.send(message(7, 11, u64(0, 0), 1));
  await client.untilClosed();
  expect(detached[0]).toMatch(/reply 0x7 to nothing/);
});

test('a message that is neither command nor reply is answered EINVAL', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  await client.send(message(7, 4, u32(16, 0, 0, 0), 2));
  expect(await client.receive()).toMatchObject({ id: 7, flags: 0x21, errno: 22 });
  await client.ok(4, u32(16, 0, 0, 0));
});

test.each([0, 11, 12, 14, 19, 0xffff])(
  'command %i is none for a server: EINVAL, and the connection lives',
  async (command) => {
    const { attached } = await serve(new FakeDevice());
    const client = await attached();
    expect(await client.fails(command, u64(0, 0, 0, 0))).toBe(22);
    await client.ok(4, u32(16, 0, 0, 0));
  },
);

test.each([2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 18])(
  'command %i without a payload is answered EINVAL',
  async (command) => {
    const { attached } = await serve(new FakeDevice());
    const client = await attached();
    expect(await client.fails(command)).toBe(22);
    await client.ok(13);
  },
);

test('DEVICE_RESET is the one command without a payload, and takes one', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  expect(await client.ok(13)).toHaveLength(0);
  expect(await client.ok(13, u32(1))).toHaveLength(0);
  expect(device.calls).toEqual(['reset', 'reset']);
});

test('[vfio-user 7.2] descriptors that a command has no use for are closed, and do no harm', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  const fd = eventfd();
  const before = openFds();
  await client.ok(4, u32(16, 0, 0, 0), [fd, fd, fd]);
  await client.ok(9, bytes(u64(0), u32(0, 4)), [fd]);
  await client.ok(10, bytes(u64(0), u32(0, 4), u32(1)), [fd]);
  expect(await client.fails(2, u32(1), [fd, fd])).toBe(22);
  expect(await client.fails(99, u32(1), [fd])).toBe(22);
  await client.ok(13, undefined, [fd]);
  expect(openFds()).toBe(before);
});

test('[vfio-user 7.2] so are those of a read that waits behind an operation', async () => {
  const over = deferred();
  const device = new FakeDevice({ reset: () => over.promise });
  const { attached } = await serve(device);
  const client = await attached();
  const fd = eventfd();
  const before = openFds();
  await client.send(message(1, 13));
  await client.send(message(2, 9, bytes(u64(0), u32(0, 4))), [fd, fd]);
  await until(() => openFds() === before + 2);
  over.resolve();
  await client.receive();
  await client.receive();
  expect(openFds()).toBe(before);
});

test('[vfio-user 7.6] id and command of a reply are those of its request, whatever the id', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  for (const id of [0, 0xffff, 0x8000, 5, 5]) {
    await client.send(message(id, 7, u32(16, 0, 0, 0)));
    expect(await client.receive()).toMatchObject({ id, command: 7, flags: 1, errno: 0 });
    await client.send(message(id, 9, bytes(u64(0), u32(0, 4))));
    expect(await client.receive()).toMatchObject({ id, command: 9, flags: 1, errno: 0 });
  }
});

test('[vfio-user 7.5] a posted command is never answered, not even with an error', async () => {
  const { attached, warnings } = await serve(new FakeDevice());
  const client = await attached();
  await client.send(message(1, 4, u32(16, 0, 0, 0), 0x10));
  await client.send(message(2, 4, u32(1), 0x10));
  await client.send(message(3, 9, bytes(u64(0), u32(0, 4)), 0x10));
  await client.send(message(4, 10, bytes(u64(0), u32(77, 4), u32(1)), 0x10));
  await client.send(message(5, 77, u32(1), 0x10));
  await client.send(message(6, 4, u32(16, 0, 0, 0)));
  expect((await client.receive()).id).toBe(6);
  expect(warnings.filter((line) => line.includes('posted'))).toHaveLength(3);
});

test('[vfio-user 7.5] warnings about posted commands do not flood the log', async () => {
  const { attached, warnings } = await serve(new FakeDevice());
  const client = await attached();
  for (let at = 0; at < 100; at++) await client.send(message(at, 10, bytes(u64(0), u32(77, 4), u32(1)), 0x10));
  await client.ok(4, u32(16, 0, 0, 0));
  expect(warnings.length).toBe(8 + 3);
  expect(warnings.at(-1)).toMatch(/64 so far/);
});
