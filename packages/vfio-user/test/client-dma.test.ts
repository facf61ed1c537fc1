import type { DmaMapRequest } from '@vfio/core';
import { EDU, Edu } from '@vfio/emulated';
import { ERRNO } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { makeEdu } from './helpers/devices.js';
import { dma, enable } from './helpers/edu-program.js';
import { FakeDevice } from './helpers/fake-device.js';
import { generic } from './helpers/generic.js';
import { errorTo, played, replyTo } from './helpers/played-server.js';
import { bytes, message, type RawClient, u32, u64 } from './helpers/raw-client.js';
import { eventfd, guestMemory, openFds, serve } from './helpers/serve.js';

const PAGE = 4096;

/** A request over memory of this process, and what becomes of it. */
function mapping(iova: bigint, size: number, extra: Partial<DmaMapRequest> = {}) {
  const data = new Uint8Array(size);
  const released: string[] = [];
  const request: DmaMapRequest = {
    iova,
    size: BigInt(size),
    readable: true,
    writable: true,
    memory: { bytes: data, fd: undefined, fdOffset: 0 },
    release: () => void released.push('released'),
    ...extra,
  };
  return { request, data, released };
}

describe('a map', () => {
  test('carries flags, offset, address and size, and its descriptor', async () => {
    const { client, server } = await played();
    const { fd, bytes: memory } = guestMemory(4 * PAGE);
    const { request } = mapping(1n << 62n, 2 * PAGE, {
      writable: false,
      memory: { bytes: memory.subarray(PAGE), fd, fdOffset: PAGE },
    });
    const call = client.dmaMap(request);
    const received = await server.receive();
    expect(received.payload).toEqual(bytes(u32(32, 1), u64(PAGE, 1n << 62n, 2 * PAGE)));
    expect(received.fds).toHaveLength(1);
    await server.send(replyTo(received));
    await call;
  });

  test('goes without its descriptor to a server that takes none', async () => {
    const { client, server } = await played({ max_msg_fds: 0 });
    const { fd, bytes: memory } = guestMemory(PAGE);
    const call = client.dmaMap(mapping(0n, PAGE, { memory: { bytes: memory, fd, fdOffset: 0 } }).request);
    const received = await server.receive();
    expect(received.fds).toEqual([]);
    await server.send(replyTo(received));
    await call;
  });

  test('of more than its memory holds is refused here, and released', async () => {
    const { client, server } = await played();
    const { request, released } = mapping(0n, PAGE, { size: BigInt(2 * PAGE) });
    await expect(client.dmaMap(request)).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(released).toHaveLength(1);
    expect(await server.isSilent()).toBe(true);
  });

  test('that is refused at the address of another leaves that one where it is', async () => {
    const { client, server } = await played();
    const first = mapping(0x10000n, PAGE);
    first.data.fill(7);
    const standing = client.dmaMap(first.request);
    await server.send(replyTo(await server.receive()));
    await standing;
    const second = mapping(0x10000n, 2 * PAGE);
    const refused = client.dmaMap(second.request);
    await server.send(errorTo(await server.receive(), ERRNO.EEXIST));
    await expect(refused).rejects.toMatchObject({ errno: 'EEXIST' });
    expect([first.released.length, second.released.length]).toEqual([0, 1]);
    await server.send(message(1, 11, u64(0x10000, 4)));
    expect((await server.receive()).payload.subarray(16)).toEqual(Buffer.alloc(4, 7));
  });

  test('that is the same again takes the place of the first, which is released', async () => {
    const { connect } = await serve(new FakeDevice());
    const client = await connect();
    const first = mapping(0x10000n, PAGE);
    const second = mapping(0x10000n, PAGE);
    await client.dmaMap(first.request);
    await client.dmaMap(second.request);
    expect([first.released.length, second.released.length]).toEqual([1, 0]);
    await client.dmaUnmap(0x10000n, BigInt(PAGE));
    expect(second.released).toHaveLength(1);
  });

  test('may follow the unmap of its addresses without waiting: each is released in its turn', async () => {
    const { connect } = await serve(new FakeDevice());
    const client = await connect();
    const maps = Array.from({ length: 5 }, () => mapping(0x10000n, PAGE));
    const calls: Promise<void>[] = [];
    for (const { request } of maps) calls.push(client.dmaMap(request), client.dmaUnmap(0x10000n, BigInt(PAGE)));
    await Promise.all(calls);
    expect(maps.map(({ released }) => released.length)).toEqual([1, 1, 1, 1, 1]);
  });

  test('is released once, when the server goes while it waits or after it stands', async () => {
    const { client, server } = await played();
    const stands = mapping(0n, PAGE);
    const waits = mapping(0x10000n, PAGE);
    const first = client.dmaMap(stands.request);
    await server.send(replyTo(await server.receive()));
    await first;
    const second = client.dmaMap(waits.request);
    await server.receive();
    server.close();
    await expect(second).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
    await client.close();
    const late = mapping(0n, PAGE);
    await expect(client.dmaMap(late.request)).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
    expect([stands, waits, late].map(({ released }) => released.length)).toEqual([1, 1, 1]);
  });

  test('of memory that was made is given back once, whatever happens to it', async () => {
    const { connect, server, idle } = await serve((await makeEdu()).device);
    const warm = await connect();
    await warm.close();
    await idle();
    const before = openFds();
    const client = await connect();
    const memory = await client.dmaAlloc({ iova: 0n, size: PAGE });
    await expect(client.dmaAlloc({ iova: 0n, size: 2 * PAGE })).rejects.toMatchObject({ errno: 'EEXIST' });
    const pending = client.dmaAlloc({ iova: 0x10000n, size: PAGE });
    await client.close();
    await expect(pending).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
    await expect(memory.free()).rejects.toMatchObject({ code: 'ERR_VFIO_DISCONNECTED' });
    expect(memory.bytes).toHaveLength(0);
    await idle();
    expect(openFds()).toBe(before);
    await server.close();
  });
});

test('an unmap that does not match a map exactly is refused, and the map stands', async () => {
  const { connect } = await serve((await makeEdu()).device);
  const client = await connect();
  await enable(client);
  const memory = await client.dmaAlloc({ iova: 0x10000n, size: 2 * PAGE, messagesOnly: true });
  for (const [iova, size] of [
    [0x10000n, BigInt(PAGE)],
    [0x11000n, BigInt(PAGE)],
    [0x20000n, BigInt(PAGE)],
  ] as const) {
    await expect(client.dmaUnmap(iova, size)).rejects.toMatchObject({ errno: 'ENOENT' });
  }
  memory.bytes[0] = 1;
  await dma(client, 0x10000n, BigInt(EDU.BUFFER), 4, 0);
});

test('DMA of a device goes across neighbouring maps of both kinds', async () => {
  const { device } = await generic((ctx) => new Edu(ctx));
  const { connect } = await serve(device);
  const client = await connect();
  await enable(client);
  const low = await client.dmaAlloc({ iova: 0x10000n, size: PAGE });
  const high = await client.dmaAlloc({ iova: 0x11000n, size: PAGE, messagesOnly: true });
  low.bytes.fill(1, PAGE - 8);
  high.bytes.fill(2, 0, 8);
  await dma(client, 0x10ff8n, BigInt(EDU.BUFFER), 16, 0);
  low.bytes.fill(0);
  high.bytes.fill(0);
  await dma(client, BigInt(EDU.BUFFER), 0x10ff8n, 16, EDU.DMA_TO_MEMORY);
  expect([...low.bytes.subarray(PAGE - 8), ...high.bytes.subarray(0, 8)]).toEqual([
    ...new Array<number>(8).fill(1),
    ...new Array<number>(8).fill(2),
  ]);
});

describe('[vfio-user 7.24] a server’s command is served', () => {
  const READ = 11;
  const WRITE = 12;

  async function mapped(...requests: readonly DmaMapRequest[]) {
    const all = await played({ max_msg_fds: 16, max_data_xfer_size: 8192 });
    for (const request of requests) {
      const call = all.client.dmaMap(request);
      await all.server.send(replyTo(await all.server.receive()));
      await call;
    }
    return all;
  }

  async function asks(server: RawClient, command: number, payload: Uint8Array, fds: number[] = []) {
    await server.send(message(0x77, command, payload), fds);
    return server.receive();
  }

  test('with the bytes of the memory, and the address and count', async () => {
    const { request, data } = mapping(0x10000n, PAGE);
    data.set([1, 2, 3, 4], 8);
    const { server } = await mapped(request);
    const read = await asks(server, READ, u64(0x10008, 4));
    expect([read.id, read.command, read.flags, read.errno]).toEqual([0x77, READ, 1, 0]);
    expect(read.payload).toEqual(bytes(u64(0x10008, 4), [1, 2, 3, 4]));
    const written = await asks(server, WRITE, bytes(u64(0x10010, 3), [7, 8, 9]));
    expect(written.payload).toEqual(u64(0x10010, 3));
    expect([...data.subarray(0x10, 0x13)]).toEqual([7, 8, 9]);
  });

  test('across neighbouring maps, and above 2^53', async () => {
    const base = 1n << 63n;
    const low = mapping(base, PAGE);
    const high = mapping(base + BigInt(PAGE), PAGE);
    const { server } = await mapped(high.request, low.request);
    await asks(server, WRITE, bytes(u64(base + BigInt(PAGE) - 2n, 4), [1, 2, 3, 4]));
    expect([...low.data.subarray(-2), ...high.data.subarray(0, 2)]).toEqual([1, 2, 3, 4]);
    const { payload } = await asks(server, READ, u64(base + BigInt(PAGE) - 1n, 2));
    expect([...payload.subarray(16)]).toEqual([2, 3]);
  });

  test.each<[string, number, Uint8Array, keyof typeof ERRNO]>([
    ['nothing is mapped', READ, u64(0x20000, 4), 'ENODEV'],
    ['the map ends before the data', READ, u64(0x10ffe, 4), 'ENODEV'],
    ['the addresses wrap around', READ, u64(2n ** 64n - 2n, 4), 'ENODEV'],
    ['the map is not for writing', WRITE, bytes(u64(0x30000, 1), [1]), 'EPERM'],
    ['the map is not for reading', READ, u64(0x40000, 1), 'EPERM'],
    ['more is asked for than goes in a message', READ, u64(0x10000, 8193), 'E2BIG'],
    ['the count is absurd', READ, u64(0x10000, 2n ** 60n), 'EOVERFLOW'],
    ['the data is not as long as the count', WRITE, bytes(u64(0x10000, 4), [1]), 'EINVAL'],
    ['it is cut short', READ, u32(1), 'EINVAL'],
    ['it is no command for a client', 9, bytes(u64(0), u32(0, 4)), 'ENOSYS'],
    ['it is unknown', 99, u64(0), 'ENOSYS'],
  ])('with an errno where %s, and both go on', async (_name, command, payload, errno) => {
    const open = mapping(0x10000n, PAGE);
    open.data.fill(5);
    const { server, client } = await mapped(
      open.request,
      mapping(0x30000n, PAGE, { writable: false }).request,
      mapping(0x40000n, PAGE, { readable: false }).request,
    );
    const reply = await asks(server, command, payload);
    expect([reply.size, reply.flags, reply.errno]).toEqual([16, 0x21, ERRNO[errno]]);
    expect(open.data.every((byte) => byte === 5)).toBe(true);
    const call = client.reset();
    await server.send(replyTo(await server.receive()));
    await call;
  });

  test('with EINVAL where it brings descriptors, which are closed', async () => {
    const { server } = await mapped(mapping(0x10000n, PAGE).request);
    const fd = eventfd();
    const before = openFds();
    expect((await asks(server, READ, u64(0x10000, 4), [fd, fd])).errno).toBe(ERRNO.EINVAL);
    expect(openFds()).toBe(before);
  });

  test('with EFAULT where the memory is gone from under its map', async () => {
    const memory = { bytes: new Uint8Array(0), fd: undefined, fdOffset: 0 };
    const request = { ...mapping(0x10000n, PAGE).request, memory: { ...memory, bytes: new Uint8Array(PAGE) } };
    const { server } = await mapped(request);
    Object.assign(request.memory, memory);
    expect((await asks(server, READ, u64(0x10000, 4))).errno).toBe(ERRNO.EFAULT);
    expect((await asks(server, WRITE, bytes(u64(0x10000, 1), [1]))).errno).toBe(ERRNO.EFAULT);
  });

  test('without an answer where it is posted', async () => {
    const { request, data } = mapping(0x10000n, PAGE);
    const { server } = await mapped(request);
    await server.send(message(1, WRITE, bytes(u64(0x10000, 1), [9]), 0x10));
    await server.send(message(2, WRITE, bytes(u64(0x90000, 1), [9]), 0x10));
    expect((await asks(server, READ, u64(0x10000, 1))).payload[16]).toBe(9);
    expect(data[0]).toBe(9);
  });

  test('by asking on, where the memory is itself far away; its errors go back', async () => {
    const calls: string[] = [];
    const remote = {
      read: async (iova: number, into: Uint8Array) => {
        calls.push(`read ${iova.toString(16)}+${into.length}`);
        if (iova === 0x10800) throw Object.assign(new Error('no'), { errno: 'EIO' });
        into.fill(3);
      },
      write: async (iova: number, from: Uint8Array) => {
        calls.push(`write ${iova.toString(16)} ${[...from]}`);
      },
      readBig: async (iova: bigint, into: Uint8Array) => {
        calls.push(`readBig ${iova.toString(16)}`);
        into.fill(4);
      },
    };
    const big = 1n << 60n;
    const { server } = await mapped(
      mapping(0x10000n, PAGE, { memory: undefined, remote }).request,
      mapping(big, PAGE, { memory: undefined, remote }).request,
    );
    expect([...(await asks(server, READ, u64(0x10000, 2))).payload.subarray(16)]).toEqual([3, 3]);
    expect((await asks(server, WRITE, bytes(u64(0x10001, 2), [6, 7]))).payload).toEqual(u64(0x10001, 2));
    expect((await asks(server, READ, u64(0x10800, 2))).errno).toBe(ERRNO.EIO);
    expect([...(await asks(server, READ, u64(big, 1))).payload.subarray(16)]).toEqual([4]);
    // There is no writeBig.
    expect((await asks(server, WRITE, bytes(u64(big, 1), [1]))).errno).toBe(ERRNO.EFAULT);
    expect(calls).toEqual(['read 10000+2', 'write 10001 6,7', 'read 10800+2', 'readBig 1000000000000000']);
  });

  test('from the map that follows, while the unmap of its addresses is on its way', async () => {
    const first = mapping(0x10000n, PAGE);
    const second = mapping(0x10000n, 2 * PAGE);
    first.data.fill(1);
    second.data.fill(2);
    const { server, client } = await mapped(first.request);
    const calls = [client.dmaUnmap(0x10000n, BigInt(PAGE)), client.dmaMap(second.request)];
    const requests = [await server.receive(), await server.receive()];
    expect((await asks(server, READ, u64(0x10000, 1))).payload[16]).toBe(2);
    for (const request of requests) await server.send(replyTo(request, request.payload.subarray(0, 24)));
    await Promise.all(calls);
    expect([first.released.length, second.released.length]).toEqual([1, 0]);
  });

  test('while calls of the client wait, and before their replies', async () => {
    const { request, data } = mapping(0x10000n, PAGE);
    data.fill(1);
    const { server, client } = await mapped(request);
    const call = client.reset();
    const reset = await server.receive();
    expect((await asks(server, READ, u64(0x10000, 1))).payload[16]).toBe(1);
    await server.send(replyTo(reset));
    await call;
  });
});
