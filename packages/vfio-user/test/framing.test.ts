/** Messages in a stream: split anywhere, many at once, and descriptors that belong to the right one. */
import { readFileSync } from 'node:fs';
import { eventfdRead, recvMessage, sendMessage, setSendBuffer } from '@vfio/native';
import { isVfioError } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { FakeDevice } from './helpers/fake-device.js';
import { bytes, message, type RawClient, turn, u16, u32, u64 } from './helpers/raw-client.js';
import { eventfd, openFds, serve } from './helpers/serve.js';

const info = (id: number, flags = 0) => message(id, 4, u32(16, 0, 0, 0), flags);
const read = (id: number, count = 4, flags = 0) => message(id, 9, bytes(u64(0), u32(0, count)), flags);
const arm = (id: number, vector: number, count = 1) => message(id, 8, u32(20, 0x24, 2, vector, count));

/** Ids of the next replies. */
async function ids(client: RawClient, count: number): Promise<number[]> {
  const found: number[] = [];
  for (let at = 0; at < count; at++) found.push((await client.receive()).id);
  return found;
}

test('[vfio-user 7.3] a conversation that is cut at any byte is the same conversation', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const talk = bytes(info(1), read(2), message(3, 10, bytes(u64(0), u32(0, 3), [1, 2, 3])), message(4, 13), info(5));
  for (let cut = 1; cut < talk.length; cut++) {
    await client.send(talk.subarray(0, cut));
    await turn();
    await client.send(talk.subarray(cut));
    expect(await ids(client, 5)).toEqual([1, 2, 3, 4, 5]);
  }
  expect(device.calls.filter((call) => call === 'reset')).toHaveLength(talk.length - 1);
});

test('[vfio-user 7.3] byte by byte', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  for (const byte of bytes(info(1), read(2), info(3))) {
    await client.send(Uint8Array.of(byte));
    await turn();
  }
  expect(await ids(client, 3)).toEqual([1, 2, 3]);
});

test('hundreds of messages in one piece are answered in their order', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  const all = Array.from({ length: 600 }, (_, id) => (id % 3 === 0 ? info(id) : read(id)));
  await client.send(bytes(...all));
  expect(await ids(client, 600)).toEqual(all.map((_, id) => id));
});

test('[vfio-user 7.1] descriptors belong to the message that they were sent with, however messages are received', async () => {
  const device = new FakeDevice({ irqs: [1, 1, 16, 1, 1] });
  const { attached } = await serve(device);
  const client = await attached();
  const fds = Array.from({ length: 4 }, () => eventfd());
  // A, B, C(fd), D, E(2 fds), F(fd), G, all before the server looks.
  await client.send(info(1));
  await client.send(read(2));
  await client.send(arm(3, 0), [fds[0]!]);
  await client.send(info(4));
  await client.send(arm(5, 1, 2), [fds[1]!, fds[2]!]);
  await client.send(arm(6, 3), [fds[3]!]);
  await client.send(info(7));
  expect(await ids(client, 7)).toEqual([1, 2, 3, 4, 5, 6, 7]);
  for (const vector of [0, 1, 2, 3]) {
    device.triggers.get(`36 2 ${vector}`)?.signal();
    expect(fds.map((fd) => eventfdRead(fd))).toEqual([0, 1, 2, 3].map((at) => (at === vector ? 1 : 0)));
  }
});

test('[vfio-user 7.1] descriptors come with the first byte of a message that arrives in pieces', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const whole = arm(1, 0);
  for (const cut of [1, 8, 15, 16, 17, 35]) {
    const fd = eventfd();
    await client.send(whole.subarray(0, cut), [fd]);
    await turn();
    await client.send(bytes(whole.subarray(cut), info(2)));
    expect(await ids(client, 2)).toEqual([1, 2]);
    device.triggers.get('36 2 0')?.signal();
    expect(eventfdRead(fd)).toBe(1);
  }
});

test('[vfio-user 7.1] a descriptor in the middle of a batch is not given to its neighbours, which are refused nothing', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const fd = eventfd();
  // In one send: the descriptor goes with all bytes of it, so with the last message that starts in it.
  await client.send(bytes(info(1), read(2), arm(3, 0)), [fd]);
  expect(await ids(client, 3)).toEqual([1, 2, 3]);
  device.triggers.get('36 2 0')?.signal();
  expect(eventfdRead(fd)).toBe(1);
});

test('[vfio-user 7.2] received descriptors are closed on exec', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  await client.send(arm(1, 0), [eventfd()]);
  await client.receive();
  const fd = device.triggers.get('36 2 0')?.fd;
  const flags = /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1];
  expect(Number.parseInt(flags ?? '0', 8) & 0o2000000).toBe(0o2000000);
});

test('[vfio-user 7.2] descriptors of a message that never becomes whole are closed with the connection', async () => {
  const { attached, idle } = await serve(new FakeDevice());
  const client = await attached();
  const fd = eventfd();
  const before = openFds();
  await client.send(arm(1, 0).subarray(0, 20), [fd, fd, fd]);
  await turn();
  client.close();
  await idle();
  // The client's socket and the server's.
  expect(openFds()).toBe(before - 2);
});

test('[vfio-user 7.2] descriptors of messages that wait behind an operation are closed when the client goes', async () => {
  const { deferred } = await import('./helpers/fake-device.js');
  const stuck = deferred();
  const { attached, idle } = await serve(new FakeDevice({ reset: () => stuck.promise }));
  const client = await attached();
  const fd = eventfd();
  const before = openFds();
  await client.send(message(1, 13));
  for (let id = 2; id < 6; id++) await client.send(arm(id, 0, 2), [fd, fd]);
  await client.isSilent(20);
  client.close();
  await turn();
  stuck.resolve();
  await idle();
  expect(openFds()).toBe(before - 2);
});

test('[vfio-user 7.3] a reply header arrives whole, also where the socket was full and replies had to wait', async () => {
  const { attached } = await serve(
    new FakeDevice({ regions: [{ size: 1 << 20 }], read: (_r, _o, data) => data.length }),
  );
  const client = await attached();
  const count = 20;
  const sizes = Array.from({ length: count }, (_, id) => 1 + ((id * 37_123) % 150_000));
  for (const [id, size] of sizes.entries()) await client.send(read(id, size));
  const buffer = new Uint8Array(1 << 20);
  const receive = async (length: number): Promise<number> => {
    for (;;) {
      const got = recvMessage(client.fd, buffer, 0, length, new Int32Array(4));
      if (got !== undefined) return got.bytes;
      await turn();
    }
  };
  for (const [id, size] of sizes.entries()) {
    expect(await receive(16)).toBe(16);
    expect(Buffer.from(buffer.subarray(0, 8))).toEqual(bytes(u16(id, 9), u32(32 + size)));
    for (let rest = 16 + size; rest > 0; ) rest -= await receive(rest);
  }
});

test('[vfio-user 7.3] a reply of a mebibyte arrives whole through a small socket buffer', async () => {
  const pattern = Uint8Array.from({ length: 1 << 20 }, (_, at) => at ^ (at >> 8));
  const device = new FakeDevice({
    regions: [{ size: 1 << 20 }],
    read: (_region, offset, data) => {
      data.set(pattern.subarray(offset, offset + data.length));
      return data.length;
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  setSendBuffer(client.fd, 4096);
  await client.send(read(1, 1 << 20));
  const reply = await client.receive();
  expect(Buffer.compare(reply.payload.subarray(16), pattern)).toBe(0);
});

test('[vfio-user 7.4] after a size that cannot be, nothing of the stream is looked at any more', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  await client.send(bytes(info(1), u16(2, 10), u32(0x7fffffff, 0, 0), message(3, 13)));
  expect(await client.receive()).toMatchObject({ id: 1, flags: 1 });
  expect(await client.receive()).toMatchObject({ id: 2, command: 10, flags: 0x21, errno: 22, size: 16 });
  await client.untilClosed();
  expect(device.calls).toEqual([]);
});

test.each([0, 1, 15, 0xffffffff, 0x80000000])(
  '[vfio-user 7.4] a size of %i ends the connection with EINVAL',
  async (size) => {
    const { attached, idle } = await serve(new FakeDevice());
    const client = await attached();
    await client.send(bytes(u16(9, 9), u32(size, 0, 0)));
    expect(await client.receive()).toMatchObject({ id: 9, flags: 0x21, errno: 22 });
    await client.untilClosed();
    await idle();
  },
);

test('the largest message is taken, one byte more is not', async () => {
  const { attached } = await serve(new FakeDevice(), { maxDataXferSize: 1 << 20 });
  const client = await attached();
  const most = 16 + 48 + (1 << 20);
  await client.send(message(1, 99, new Uint8Array(most - 16)));
  expect(await client.receive()).toMatchObject({ id: 1, errno: 22 });
  await client.send(message(2, 99, new Uint8Array(most - 16 + 1)).subarray(0, 16));
  expect(await client.receive()).toMatchObject({ id: 2, errno: 22 });
  await client.untilClosed();
});

test('a client that does not read its replies is not read from, and is left when it goes on', async () => {
  const { attached, idle } = await serve(
    new FakeDevice({ regions: [{ size: 1 << 20 }], read: (_r, _o, d) => d.length }),
  );
  const client = await attached();
  let refused = 0;
  for (let at = 0; at < 20_000 && refused < 50; at++) {
    try {
      sendMessage(client.fd, [read(at & 0xffff, 1 << 20)]);
    } catch (error) {
      if (!isVfioError(error) || error.errno !== 'EAGAIN') throw error;
      refused++;
      await turn();
    }
  }
  expect(refused).toBe(50);
  client.close();
  await idle();
});
