/** The server's own commands: DMA_READ and DMA_WRITE, on the main socket and on the second one, seen from the client's end. */
import type { RemoteDma } from '@vfio/core';
import { EDU } from '@vfio/emulated';
import { describe, expect, test } from 'vitest';
import type { VfioUserServerOptions } from '../src/index.js';
import { makeEdu } from './helpers/devices.js';
import { deferred, FakeDevice, type FakeOps } from './helpers/fake-device.js';
import { bytes, message, RawClient, type RawMessage, turn, u16, u32, u64 } from './helpers/raw-client.js';
import { cleanup, eventfd, openFds, serve } from './helpers/serve.js';

const READ = 11;
const WRITE = 12;
const IOVA = 0x10000;
const REGION_WRITE = bytes(u64(0), u32(0, 4), u32(1));

/** A client that has mapped 1 MiB without a descriptor, and the device's way to it. */
async function mapped(
  capabilities: object = { max_msg_fds: 16 },
  ops: FakeOps = {},
  options: VfioUserServerOptions = {},
) {
  const device = new FakeDevice(ops);
  const served = await serve(device, options);
  const client = await served.attached(capabilities);
  await client.ok(2, bytes(u32(32, 3), u64(0, IOVA, 1 << 20)));
  const remote = device.maps.get(BigInt(IOVA))!.remote as Required<RemoteDma>;
  return { device, client, remote, ...served };
}

function reply(to: RawMessage, payload: Uint8Array, flags = 1, errno = 0): Buffer {
  const out = message(to.id, to.command, payload, flags);
  out.writeUInt32LE(errno, 12);
  return out;
}

/** Answers a DMA_READ with bytes, as many as there are. */
const give = (to: RawMessage, data: Uint8Array) =>
  reply(to, bytes(u64(to.payload.readBigUInt64LE(0), data.length), data));
const take = (to: RawMessage, count: number) => reply(to, u64(to.payload.readBigUInt64LE(0), count));

/** What was asked: command, flags, address, count. */
const asked = ({ command, flags, payload }: RawMessage) => [
  command,
  flags,
  Number(payload.readBigUInt64LE(0)),
  Number(payload.readBigUInt64LE(8)),
];

describe('on the main socket', () => {
  test('[vfio-user 7.24] a read and a write say where and how much, in 64 bits each', async () => {
    const { client, remote } = await mapped();
    const into = new Uint8Array(3);
    const read = remote.read(IOVA + 5, into);
    const request = await client.receive();
    expect(asked(request)).toEqual([READ, 0, IOVA + 5, 3]);
    expect(request.payload).toHaveLength(16);
    await client.send(give(request, [7, 8, 9] as unknown as Uint8Array));
    await read;
    expect([...into]).toEqual([7, 8, 9]);
    const write = remote.write(IOVA, Uint8Array.of(1, 2));
    const written = await client.receive();
    expect(asked(written)).toEqual([WRITE, 0, IOVA, 2]);
    expect([...written.payload.subarray(16)]).toEqual([1, 2]);
    await client.send(take(written, 2));
    await write;
  });

  test('an address above 2^53 is asked for exactly', async () => {
    const { client, remote } = await mapped();
    const iova = (1n << 63n) + 1n;
    const into = new Uint8Array(1);
    const read = remote.readBig(iova, into);
    const request = await client.receive();
    expect(request.payload.readBigUInt64LE(0)).toBe(iova);
    await client.send(give(request, Uint8Array.of(5)));
    await read;
    expect(into[0]).toBe(5);
  });

  test('more than the client takes in a message goes in several, at once and in order', async () => {
    const { client, remote } = await mapped({ max_data_xfer_size: 100 });
    const data = Uint8Array.from({ length: 250 }, (_, at) => at);
    const write = remote.write(IOVA, data);
    const into = new Uint8Array(250);
    const read = remote.read(IOVA, into);
    const all: RawMessage[] = [];
    for (let n = 0; n < 6; n++) all.push(await client.receive());
    expect(all.map(asked)).toEqual([
      [WRITE, 0, IOVA, 100],
      [WRITE, 0, IOVA + 100, 100],
      [WRITE, 0, IOVA + 200, 50],
      [READ, 0, IOVA, 100],
      [READ, 0, IOVA + 100, 100],
      [READ, 0, IOVA + 200, 50],
    ]);
    // Answers may come in any order.
    for (const request of all.reverse()) {
      const [command, , at, count] = asked(request) as [number, number, number, number];
      await client.send(
        command === READ ? give(request, data.subarray(at - IOVA, at - IOVA + count)) : take(request, count),
      );
    }
    await Promise.all([write, read]);
    expect(into).toEqual(data);
  });

  test('not more than 32 requests are open at once; the others wait their turn', async () => {
    const { client, remote } = await mapped();
    const reads = Array.from({ length: 40 }, (_, n) => remote.read(IOVA + n, new Uint8Array(1)));
    const first: RawMessage[] = [];
    for (let n = 0; n < 32; n++) first.push(await client.receive());
    expect(await client.isSilent()).toBe(true);
    for (const request of first) await client.send(give(request, new Uint8Array(1)));
    for (let n = 0; n < 8; n++) await client.send(give(await client.receive(), new Uint8Array(1)));
    await Promise.all(reads);
  });

  test('a caller’s buffer may change after the call: what was to be written is', async () => {
    const { client, remote } = await mapped();
    const data = Uint8Array.of(1);
    const write = remote.write(IOVA, data);
    data[0] = 2;
    const request = await client.receive();
    expect(request.payload[16]).toBe(1);
    await client.send(take(request, 1));
    await write;
  });
});

describe('[vfio-user 7.24] a client that awaits a command', () => {
  test('gets its reply before it is asked for memory', async () => {
    let start = () => {};
    const { client, remote } = await mapped({}, { reset: () => start() });
    let read: Promise<void> | undefined;
    start = () => {
      read = remote.read(IOVA, new Uint8Array(4));
    };
    await client.send(message(9, 13));
    expect(await client.receive()).toMatchObject({ id: 9, command: 13, flags: 1 });
    await client.send(give(await client.receive(), new Uint8Array(4)));
    await read;
  });

  test('also by edu, whose transfer starts in the write and goes on after its reply', async () => {
    const { attached } = await serve((await makeEdu()).device);
    const client = await attached();
    await client.ok(10, bytes(u64(4), u32(7, 2), u16(6)));
    await client.ok(2, bytes(u32(32, 3), u64(0, IOVA, 4096)));
    for (const [offset, value] of [
      [EDU.DMA_SOURCE, IOVA],
      [EDU.DMA_DESTINATION, EDU.BUFFER],
      [EDU.DMA_COUNT, 8],
    ] as const) {
      await client.ok(10, bytes(u64(offset), u32(0, 8), u64(value)));
    }
    await client.send(message(50, 10, bytes(u64(EDU.DMA_COMMAND), u32(0, 8), u64(EDU.DMA_START))));
    expect(await client.receive()).toMatchObject({ id: 50, command: 10, flags: 1 });
    const request = await client.receive();
    expect(asked(request)).toEqual([READ, 0, IOVA, 8]);
    // Other commands are carried out while it is open.
    const status = await client.ok(9, bytes(u64(EDU.DMA_COMMAND), u32(0, 4)));
    expect(status[16]! & EDU.DMA_START).toBe(1);
    await client.send(give(request, new Uint8Array(8)));
    let after: Buffer;
    do after = await client.ok(9, bytes(u64(EDU.DMA_COMMAND), u32(0, 4)));
    while ((after[16]! & EDU.DMA_START) !== 0);
  });

  test('is not asked by a device that waits inside: it is answered EBUSY at the deadline, the log says why, and goes on', async () => {
    let remoteOf = (): Promise<void> => Promise.resolve();
    const { client, remote, warnings } = await mapped(
      {},
      { write: () => remoteOf().then(() => 4) },
      { deadlineMs: 60 },
    );
    remoteOf = () => remote.read(IOVA, new Uint8Array(4));
    await client.send(message(1, 10, REGION_WRITE));
    expect(await client.receive()).toMatchObject({ id: 1, flags: 0x21, errno: 16 });
    expect(warnings.join()).toMatch(/1 DMA requests wait for that reply \(do message DMA after it, not inside\)/);
    const request = await client.receive();
    expect(asked(request)).toEqual([READ, 0, IOVA, 4]);
    await client.send(give(request, new Uint8Array(4)));
    // Nothing is sent for the write any more.
    expect(await client.ok(4, u32(16, 0, 0, 0))).toHaveLength(16);
  });

  test('is asked within a posted write, which it does not await', async () => {
    let remoteOf = (): Promise<void> => Promise.resolve();
    const { client, remote } = await mapped({}, { write: () => remoteOf().then(() => 4) });
    remoteOf = () => remote.read(IOVA, new Uint8Array(4));
    await client.send(message(1, 10, REGION_WRITE, 0x10));
    const request = await client.receive();
    expect(asked(request)).toEqual([READ, 0, IOVA, 4]);
    // What comes meanwhile waits for the write, and is answered after it.
    await client.send(message(2, 9, bytes(u64(0), u32(0, 4))));
    expect(await client.isSilent()).toBe(true);
    await client.send(give(request, new Uint8Array(4)));
    expect(await client.receive()).toMatchObject({ id: 2, command: 9 });
  });
});

describe('a client’s answer', () => {
  test('that is short is honoured: the rest is asked for and sent again', async () => {
    const { client, remote } = await mapped();
    const into = new Uint8Array(10);
    const read = remote.read(IOVA, into);
    for (const [at, count] of [
      [0, 3],
      [3, 6],
      [9, 1],
    ] as const) {
      const request = await client.receive();
      expect(asked(request)).toEqual([READ, 0, IOVA + at, 10 - at]);
      await client.send(give(request, new Uint8Array(count).fill(at + 1)));
    }
    await read;
    expect([...into]).toEqual([1, 1, 1, 4, 4, 4, 4, 4, 4, 10]);
    const write = remote.write(IOVA, Uint8Array.of(1, 2, 3));
    const first = await client.receive();
    await client.send(take(first, 2));
    const second = await client.receive();
    expect(asked(second)).toEqual([WRITE, 0, IOVA + 2, 1]);
    expect([...second.payload.subarray(16)]).toEqual([3]);
    await client.send(take(second, 1));
    await write;
  });

  test.each<[string, (to: RawMessage) => Uint8Array]>([
    ['of no bytes', (to) => give(to, new Uint8Array(0))],
    ['of more bytes than were asked for', (to) => give(to, new Uint8Array(5))],
    ['with a count of bytes that did not come', (to) => reply(to, bytes(u64(IOVA, 4), u16(1)))],
    ['with an absurd count', (to) => reply(to, bytes(u64(IOVA, 2n ** 63n), u32(1)))],
    ['that is cut short', (to) => reply(to, u64(IOVA))],
    ['that is the header alone', (to) => reply(to, Buffer.alloc(0))],
  ])('to a read %s fails it, and the connection lives', async (_name, answer) => {
    const { client, remote } = await mapped();
    const read = remote.read(IOVA, new Uint8Array(4));
    const failed = expect(read).rejects.toMatchObject({ code: 'ERR_VFIO_PROTOCOL', op: 'DMA_READ' });
    await client.send(answer(await client.receive()));
    await failed;
    await client.ok(4, u32(16, 0, 0, 0));
  });

  test.each([
    ['of no bytes', 0],
    ['of more bytes than were sent', 5],
  ])('to a write %s fails it', async (_name, count) => {
    const { client, remote } = await mapped();
    const failed = expect(remote.write(IOVA, new Uint8Array(4))).rejects.toMatchObject({ code: 'ERR_VFIO_PROTOCOL' });
    await client.send(take(await client.receive(), count));
    await failed;
    await client.ok(4, u32(16, 0, 0, 0));
  });

  test.each([
    [19, 'EFAULT', /bus mastering is off/],
    [1, 'EPERM', /answered EPERM/],
    [22, 'EINVAL', /answered EINVAL/],
    [0, 'EINVAL', /answered EINVAL/],
    [99_999, 'EINVAL', /answered EINVAL/],
  ])('that refuses with errno %i fails it with %s', async (errno, name, text) => {
    const { client, remote } = await mapped();
    const error = remote.read(IOVA, new Uint8Array(4)).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    const request = await client.receive();
    await client.send(reply(request, Buffer.alloc(0), 0x21, errno));
    expect(await error).toMatchObject({ errno: name, message: expect.stringMatching(text) });
    await client.ok(4, u32(16, 0, 0, 0));
  });

  test('with descriptors leaves none of them here', async () => {
    const { client, remote } = await mapped();
    const fd = eventfd();
    const before = openFds();
    const read = remote.read(IOVA, new Uint8Array(1));
    await client.send(give(await client.receive(), new Uint8Array(1)), [fd, fd, fd]);
    await read;
    expect(openFds()).toBe(before);
  });

  test('[vfio-user 7.6] with another command ends the connection', async () => {
    const { client, remote, detached } = await mapped();
    const failed = expect(remote.read(IOVA, new Uint8Array(1))).rejects.toMatchObject({ code: 'ERR_VFIO_PROTOCOL' });
    const request = await client.receive();
    await client.send(message(request.id, WRITE, u64(IOVA, 1), 1));
    await client.untilClosed();
    await failed;
    expect(detached[0]).toMatch(/as DMA_WRITE/);
  });
});

test('[vfio-user 7.21] a client that goes in the middle of it fails every request, and the next one attaches', async () => {
  const { client, remote, device, idle, attached } = await mapped();
  const before = openFds();
  const requests = Array.from({ length: 40 }, (_, n) => remote.read(IOVA + n, new Uint8Array(1)));
  await client.receive();
  client.close();
  for (const result of await Promise.allSettled(requests)) {
    expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_VFIO_DISCONNECTED' } });
  }
  await idle();
  expect(device.closes).toBe(1);
  await expect(remote.read(IOVA, new Uint8Array(1))).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
  expect(openFds()).toBe(before - 2);
  await attached();
});

test('a DMA to the device’s own BAR comes back as a command, and is carried out while the DMA is open', async () => {
  const { client, remote, device } = await mapped();
  device.memory.set([1, 2, 3, 4], 0x100);
  const into = new Uint8Array(4);
  const read = remote.read(IOVA + 0x100, into);
  const request = await client.receive();
  // What the client does to serve it.
  const data = (await client.ok(9, bytes(u64(0x100), u32(0, 4)))).subarray(16);
  await client.send(give(request, data));
  await read;
  expect([...into]).toEqual([1, 2, 3, 4]);
  const write = remote.write(IOVA + 0x200, Uint8Array.of(9));
  const written = await client.receive();
  await client.ok(10, bytes(u64(0x200), u32(0, 1), written.payload.subarray(16)));
  await client.send(take(written, 1));
  await write;
  expect(device.memory[0x200]).toBe(9);
});

describe('the second socket', () => {
  async function twin(ops: FakeOps = {}, options: VfioUserServerOptions = {}) {
    const device = new FakeDevice(ops);
    const served = await serve(device, options);
    const client = served.raw();
    const json = JSON.stringify({ capabilities: { twin_socket: { supported: true }, max_msg_fds: 8 } });
    const version = await client.call(1, bytes(u16(0, 2), json, [0]));
    const { capabilities } = JSON.parse(version.payload.subarray(4, -1).toString()) as {
      capabilities: { twin_socket?: { supported: boolean; fd_index: number } };
    };
    const second = version.fds.map((fd) => {
      const end = new RawClient(fd);
      cleanup(() => end.close());
      return end;
    });
    await client.ok(2, bytes(u32(32, 3), u64(0, IOVA, 1 << 20)));
    const remote = device.maps.get(BigInt(IOVA))!.remote!;
    return { device, client, second, capabilities, remote, ...served };
  }

  test('is given where it is offered, by the index that the reply names; the server’s commands go there', async () => {
    const { client, second, capabilities, remote } = await twin();
    expect(capabilities.twin_socket).toEqual({ supported: true, fd_index: 0 });
    expect(second).toHaveLength(1);
    const read = remote.read(IOVA, new Uint8Array(2));
    const request = await second[0]!.receive();
    expect(asked(request)).toEqual([READ, 0, IOVA, 2]);
    await second[0]!.send(give(request, Uint8Array.of(1, 2)));
    await read;
    expect(await client.isSilent()).toBe(true);
  });

  test('serves a device that waits inside a command: there is nothing to wait for on the other one', async () => {
    let remoteOf = (): Promise<void> => Promise.resolve();
    const { client, second, remote } = await twin({ write: () => remoteOf().then(() => 4) });
    remoteOf = () => remote.read(IOVA, new Uint8Array(4));
    await client.send(message(1, 10, REGION_WRITE));
    await second[0]!.send(give(await second[0]!.receive(), new Uint8Array(4)));
    expect(await client.receive()).toMatchObject({ id: 1, flags: 1 });
  });

  test('is not given where it is not offered, or not wanted by the server', async () => {
    const { second, capabilities } = await twin({}, { twinSocket: false });
    expect([second.length, capabilities.twin_socket]).toEqual([0, undefined]);
    const { attached } = await serve(new FakeDevice());
    expect(await (await attached({})).isSilent()).toBe(true);
  });

  test.each<[string, (end: RawClient) => unknown, RegExp]>([
    ['is closed', (end) => end.close(), /second socket/],
    ['gets a reply to nothing', (end) => end.send(message(7, READ, u64(0, 0), 1)), /reply 0x7 to nothing/],
    ['gets an impossible size', (end) => end.send(bytes(u16(1, READ), u32(3, 1, 0))), /impossible size/],
  ])('that %s ends the connection', async (_name, act, reason) => {
    const { client, second, detached } = await twin();
    await act(second[0]!);
    await client.untilClosed();
    expect(detached[0]).toMatch(reason);
  });

  test('refuses commands, which belong on the main one', async () => {
    const { second, client } = await twin();
    await second[0]!.send(message(3, 4, u32(16, 0, 0, 0)));
    expect(await second[0]!.receive()).toMatchObject({ id: 3, flags: 0x21, errno: 22 });
    await second[0]!.send(message(4, 10, REGION_WRITE, 0x10));
    await client.ok(4, u32(16, 0, 0, 0));
  });

  test('goes with its client, and leaves nothing', async () => {
    const { idle, client, second, remote } = await twin();
    const gate = deferred();
    const failed = remote.read(IOVA, new Uint8Array(1)).catch(() => gate.resolve());
    const before = openFds();
    client.close();
    await idle();
    await failed;
    await gate.promise;
    second[0]!.close();
    // Both ends of both.
    expect(openFds()).toBe(before - 4);
    await turn();
  });
});
