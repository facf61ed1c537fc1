/** DMA_READ and DMA_WRITE: the server's own commands, by their bytes. */
import { EDU } from '@vfio/emulated';
import { ERRNO } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { makeEdu } from './helpers/devices.js';
import { deferred, FakeDevice } from './helpers/fake-device.js';
import { bytes, message, type RawClient, type RawMessage, u16, u32, u64 } from './helpers/raw-client.js';
import { eventfd, openFds, serve } from './helpers/serve.js';

const map = (iova: number | bigint, size: number, flags = 3) => bytes(u32(32, flags), u64(0, iova, size));
const regionWrite = (id: number, offset: number, data: Uint8Array, flags = 0) =>
  message(id, 10, bytes(u64(offset), u32(0, data.length), data), flags);

/** Plays the client's part of DMA over a memory of its own. */
async function answer(client: RawClient, request: RawMessage, memory: Uint8Array, base: number): Promise<void> {
  const iova = Number(request.payload.readBigUInt64LE(0));
  const count = Number(request.payload.readBigUInt64LE(8));
  const range = memory.subarray(iova - base, iova - base + count);
  if (request.command === 11) {
    await client.send(message(request.id, 11, bytes(u64(iova, count), range), 1));
  } else {
    range.set(request.payload.subarray(16));
    await client.send(message(request.id, 12, u64(iova, count), 1));
  }
}

/** A device with memory that is reached by messages. */
async function mapped(options: Parameters<typeof serve>[1] = {}, capabilities: object = {}) {
  const device = new FakeDevice();
  const served = await serve(device, options);
  const client = await served.attached(capabilities);
  await client.ok(2, map(0x10000, 0x100000));
  return { ...served, device, client, remote: device.maps.get(0x10000n)!.remote! };
}

test('DMA_READ is u64 address, u64 count; its reply carries the bytes behind 16', async () => {
  const { client, remote } = await mapped();
  const into = new Uint8Array(5);
  const reading = remote.read(0x10010, into);
  const request = await client.receive();
  expect(request).toMatchObject({ command: 11, flags: 0, errno: 0, payload: u64(0x10010, 5) });
  await client.send(message(request.id, 11, bytes(u64(0x10010, 5), [1, 2, 3, 4, 5]), 1));
  await reading;
  expect([...into]).toEqual([1, 2, 3, 4, 5]);
});

test('DMA_WRITE has its bytes behind 16; its reply is 16', async () => {
  const { client, remote } = await mapped();
  const writing = remote.write(0x10010, Uint8Array.of(9, 8, 7));
  const request = await client.receive();
  expect(request).toMatchObject({ command: 12, flags: 0, payload: bytes(u64(0x10010, 3), [9, 8, 7]) });
  await client.send(message(request.id, 12, u64(0x10010, 3), 1));
  await writing;
});

test('a transfer above what the client takes goes in several messages', async () => {
  const { client, remote } = await mapped({}, { max_data_xfer_size: 4096 });
  const memory = Uint8Array.from({ length: 0x10000 }, (_, at) => at * 3);
  const into = new Uint8Array(10_000);
  const reading = remote.read(0x10000, into);
  for (const [offset, count] of [
    [0, 4096],
    [4096, 4096],
    [8192, 1808],
  ] as const) {
    const request = await client.receive();
    expect(request.payload).toEqual(u64(0x10000 + offset, count));
    await answer(client, request, memory, 0x10000);
  }
  await reading;
  expect(Buffer.compare(into, memory.subarray(0, 10_000))).toBe(0);
});

test('no reply that is asked for is longer than QEMU sends in one piece: it loses the rest of one that is cut', async () => {
  const { client, remote } = await mapped();
  const memory = Uint8Array.from({ length: 0x20000 }, (_, at) => at * 7);
  const into = new Uint8Array(0x18001);
  const reading = remote.read(0x10000, into);
  for (const [offset, count] of [
    [0, 0x8000],
    [0x8000, 0x8000],
    [0x10000, 0x8000],
    [0x18000, 1],
  ] as const) {
    const request = await client.receive();
    expect(request.payload).toEqual(u64(0x10000 + offset, count));
    await answer(client, request, memory, 0x10000);
  }
  await reading;
  expect(Buffer.compare(into, memory.subarray(0, into.length))).toBe(0);
});

test('ids of the two directions are apart: a command of the client may have that of a DMA under way', async () => {
  const { client, remote } = await mapped();
  const reading = remote.read(0x10000, new Uint8Array(4));
  const request = await client.receive();
  await client.send(message(request.id, 4, u32(16, 0, 0, 0)));
  expect(await client.receive()).toMatchObject({ id: request.id, command: 4, flags: 1 });
  await client.send(message(request.id, 11, bytes(u64(0x10000, 4), u32(1)), 1));
  await reading;
});

test.each([
  ['ENODEV, for what QEMU has nothing at or no bus mastering for', ERRNO.ENODEV, 'EFAULT'],
  ['E2BIG', ERRNO.E2BIG, 'E2BIG'],
  ['an errno of 0', 0, 'EINVAL'],
  ['an errno that is none', 5000, 'EINVAL'],
] as const)('%s fails that DMA, and the connection lives', async (_name, errno, expected) => {
  const { client, remote } = await mapped();
  const reading = remote.read(0x10000, new Uint8Array(4));
  const request = await client.receive();
  await client.send(bytes(u16(request.id, 11), u32(16, 0x21, errno)));
  await expect(reading).rejects.toMatchObject({ errno: expected });
  await client.ok(4, u32(16, 0, 0, 0));
});

test('descriptors in a reply are closed', async () => {
  const { client, remote } = await mapped();
  const fd = eventfd();
  const before = openFds();
  const reading = remote.read(0x10000, new Uint8Array(4));
  const request = await client.receive();
  await client.send(message(request.id, 11, bytes(u64(0x10000, 4), u32(1)), 1), [fd, fd]);
  await reading.catch(() => {});
  expect(openFds()).toBe(before);
});

test('[vfio-user 7.24] while the client awaits a command no DMA is asked for: it would be served only after the reply', async () => {
  const over = deferred();
  const { client, remote, device } = await mapped();
  const into = new Uint8Array(4);
  let reading: Promise<void> | undefined;
  device.ops.reset = () => {
    reading = remote.read(0x10000, into);
    return over.promise;
  };
  await client.send(message(1, 13));
  expect(await client.isSilent()).toBe(true);
  over.resolve();
  // The reply first, then the DMA.
  expect(await client.receive()).toMatchObject({ id: 1, command: 13 });
  const request = await client.receive();
  expect(request).toMatchObject({ command: 11, flags: 0 });
  await client.send(message(request.id, 11, bytes(u64(0x10000, 4), u32(5)), 1));
  await reading;
  expect(into[0]).toBe(5);
});

test('[vfio-user 7.24] DMA that an access asks for comes after the reply of that access', async () => {
  const { client, remote, device } = await mapped();
  let reading: Promise<void> | undefined;
  device.ops.write = (_region, _offset, data) => {
    reading = remote.read(0x10000, new Uint8Array(4));
    return data.length;
  };
  await client.send(regionWrite(1, 0, u32(1)));
  expect(await client.receive()).toMatchObject({ id: 1, command: 10 });
  const request = await client.receive();
  expect(request.command).toBe(11);
  await client.send(message(request.id, 11, bytes(u64(0x10000, 4), u32(5)), 1));
  await reading;
});

test('[vfio-user 7.24] inside a posted write DMA goes out at once', async () => {
  const { client, remote, device } = await mapped();
  const done = deferred<number>();
  device.ops.write = (_region, _offset, data) => {
    void remote.read(0x10000, new Uint8Array(4)).then(() => done.resolve(data.length));
    return done.promise;
  };
  await client.send(regionWrite(1, 0, u32(1), 0x10));
  const request = await client.receive();
  expect(request.command).toBe(11);
  await client.send(message(request.id, 11, bytes(u64(0x10000, 4), u32(5)), 1));
  expect(await done.promise).toBe(4);
});

test('[vfio-user 7.24] an operation that waits for DMA inside an awaited command is told why it hangs', async () => {
  const { client, remote, device, warnings } = await mapped({ deadlineMs: 40 });
  device.ops.reset = () => remote.read(0x10000, new Uint8Array(4));
  await client.send(message(1, 13));
  expect(await client.receive()).toMatchObject({ id: 1, errno: ERRNO.EBUSY });
  expect(warnings[0]).toMatch(/1 DMA requests wait for that reply \(do message DMA after it, not inside\)/);
  // The client is free again: now it is served.
  const request = await client.receive();
  expect(request.command).toBe(11);
  await client.send(message(request.id, 11, bytes(u64(0x10000, 4), u32(5)), 1));
  await client.ok(4, u32(16, 0, 0, 0));
});

test('[vfio-user 7.24] commands that come before the answer to a DMA are carried out, also an access to our own BAR', async () => {
  const { device } = await makeEdu();
  const { attached } = await serve(device);
  const client = await attached({});
  await client.ok(10, bytes(u64(4), u32(7, 2), u16(6)));
  await client.ok(2, map(0x10000, 0x1000));
  await client.send(
    bytes(
      regionWrite(1, EDU.DMA_SOURCE, u64(0x10000), 0x10),
      regionWrite(2, EDU.DMA_DESTINATION, u64(EDU.BUFFER), 0x10),
      regionWrite(3, EDU.DMA_COUNT, u64(4), 0x10),
      regionWrite(4, EDU.DMA_COMMAND, u64(EDU.DMA_START)),
    ),
  );
  expect((await client.receive()).id).toBe(4);
  const request = await client.receive();
  expect(request).toMatchObject({ command: 11, payload: u64(0x10000, 4) });
  // The memory that it reads turns out to be a register of the device itself.
  const nested = await client.ok(9, bytes(u64(EDU.IDENTIFICATION), u32(0, 4)));
  await client.ok(10, bytes(u64(EDU.LIVENESS), u32(0, 4), u32(1)));
  await client.send(message(request.id, 11, bytes(u64(0x10000, 4), nested.subarray(16)), 1));
  while (((await client.ok(9, bytes(u64(EDU.DMA_COMMAND), u32(0, 4)))).readUInt32LE(16) & 1) !== 0);
  expect((await client.ok(9, bytes(u64(EDU.LIVENESS), u32(0, 4)))).readUInt32LE(16)).toBe(~1 >>> 0);
});

test('no more requests are under way than QEMU can use; the others follow one by one', async () => {
  const { client, remote } = await mapped();
  const reads = Array.from({ length: 100 }, (_, at) => remote.read(0x10000 + at, new Uint8Array(1)));
  const first: RawMessage[] = [];
  for (let at = 0; at < 32; at++) first.push(await client.receive());
  expect(await client.isSilent(30)).toBe(true);
  for (const request of first) await client.send(message(request.id, 11, bytes(request.payload, [1]), 1));
  for (let at = 32; at < 100; at++) {
    const request = await client.receive();
    await client.send(message(request.id, 11, bytes(request.payload, [1]), 1));
  }
  await Promise.all(reads);
});

test('when the client goes, DMA under way and DMA that waits fail', async () => {
  const { client, remote, idle } = await mapped();
  const reads = Array.from({ length: 40 }, (_, at) => remote.read(0x10000 + at, new Uint8Array(1)));
  const settled = Promise.allSettled(reads);
  await client.receive();
  client.close();
  await idle();
  for (const result of await settled) {
    expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_VFIO_DISCONNECTED' } });
  }
  await expect(remote.read(0x10000, new Uint8Array(1))).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
});

test('[vfio-user 7.13] DMA above 2^53 keeps all bits of its address', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached({});
  const top = (1n << 64n) - 4096n;
  await client.ok(2, map(top, 4096));
  const writing = device.maps.get(top)!.remote!.writeBig!(top + 0xff8n, Uint8Array.of(1));
  const request = await client.receive();
  expect(request.payload).toEqual(bytes(u64(top + 0xff8n, 1), [1]));
  await client.send(message(request.id, 12, u64(top + 0xff8n, 1), 1));
  await writing;
});
