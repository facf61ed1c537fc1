/** The second socket, on which the server's own commands go. */
import { ERRNO } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { deferred, FakeDevice } from './helpers/fake-device.js';
import { bytes, message, RawClient, u16, u32, u64 } from './helpers/raw-client.js';
import { cleanup, eventfd, openFds, serve } from './helpers/serve.js';

const map = (iova: number, size: number) => bytes(u32(32, 3), u64(0, iova, size));

/** A client with both sockets, and a device with memory that is reached by messages. */
async function attach() {
  const device = new FakeDevice();
  const served = await serve(device);
  const client = served.raw();
  const json = '{"capabilities":{"twin_socket":{"supported":true,"fd_index":0},"max_msg_fds":4}}';
  const reply = await client.call(1, bytes(u16(0, 2), json, [0]));
  expect(reply.fds).toHaveLength(1);
  const twin = new RawClient(reply.fds[0]!);
  cleanup(() => twin.close());
  await client.ok(2, map(0x10000, 0x1000));
  return { ...served, device, client, twin, remote: device.maps.get(0x10000n)!.remote! };
}

test('DMA messages go there, and their replies come from there', async () => {
  const { client, twin, remote } = await attach();
  const into = new Uint8Array(4);
  const reading = remote.read(0x10000, into);
  const request = await twin.receive();
  expect(request).toMatchObject({ command: 11, flags: 0, payload: u64(0x10000, 4) });
  expect(await client.isSilent(20)).toBe(true);
  await twin.send(message(request.id, 11, bytes(u64(0x10000, 4), u32(7)), 1));
  await reading;
  expect(into[0]).toBe(7);
});

test('an operation of an awaited command may wait for DMA there: the client serves it meanwhile', async () => {
  const { client, twin, device, remote } = await attach();
  device.ops.reset = () => remote.read(0x10000, new Uint8Array(4));
  await client.send(message(9, 13));
  const request = await twin.receive();
  await twin.send(message(request.id, 11, bytes(u64(0x10000, 4), u32(7)), 1));
  expect(await client.receive()).toMatchObject({ id: 9, flags: 1 });
});

test('commands do not belong there: EINVAL, and both sockets live', async () => {
  const { client, twin } = await attach();
  expect(await twin.fails(4, u32(16, 0, 0, 0))).toBe(ERRNO.EINVAL);
  await twin.send(message(1, 13, new Uint8Array(0), 0x10));
  await client.ok(4, u32(16, 0, 0, 0));
  expect(await twin.fails(13)).toBe(ERRNO.EINVAL);
});

test('descriptors there are closed', async () => {
  const { client, twin } = await attach();
  const fd = eventfd();
  const before = openFds();
  await twin.fails(4, u32(16, 0, 0, 0), [fd, fd]);
  await client.ok(4, u32(16, 0, 0, 0));
  expect(openFds()).toBe(before);
});

test.each([
  ['is closed by the client', async (twin: RawClient) => twin.close(), /closed the second socket/],
  ['gets an impossible size', async (twin: RawClient) => twin.send(bytes(u16(1, 11), u32(5, 1, 0))), /impossible size/],
  ['gets a reply to nothing', async (twin: RawClient) => twin.send(message(77, 11, u64(0, 0), 1)), /77|0x4d/],
])('when it %s the client is left, DMA under way fails, and nothing stays open', async (_name, act, reason) => {
  const { client, twin, remote, detached, idle, attached } = await attach();
  const reading = remote.read(0x10000, new Uint8Array(4));
  const failed = expect(reading).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
  await twin.receive();
  await act(twin);
  await client.untilClosed();
  await failed;
  await idle();
  expect(detached[0]).toMatch(reason);
  await attached();
});

test('the client’s end of it is not kept, and goes with a client that left during its VERSION', async () => {
  const opening = deferred();
  let opens = 0;
  const device = new FakeDevice({ open: () => (opens++ === 1 ? opening.promise : Promise.resolve()) });
  const { attached, raw, idle } = await serve(device);
  (await attached()).close();
  await idle();
  const before = openFds();
  const client = raw();
  const json = '{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}';
  await client.send(message(1, 1, bytes(u16(0, 2), json, [0])));
  await client.isSilent(20);
  client.close();
  opening.resolve();
  await idle();
  expect(openFds()).toBe(before);
});
