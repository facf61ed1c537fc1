import { closeFd, mappingCount, socketpair } from '@vfio/native';
import { VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP } from '@vfio/uapi';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { acquireSharedLoop, releaseSharedLoop } from '../src/service-loop.js';
import { MemfdMemory, makeDevice } from './helpers/devices.js';
import { enable, le } from './helpers/edu-program.js';
import { FakeDevice } from './helpers/fake-device.js';
import { played, regionPayload, replyTo } from './helpers/played-server.js';
import { bytes, u32, u64 } from './helpers/raw-client.js';
import { cleanup, guestMemory, openFds, serve } from './helpers/serve.js';

// The loop stays, so that descriptors can be counted.
beforeAll(acquireSharedLoop);
afterAll(releaseSharedLoop);

const PAGE = 4096;
const READ_WRITE_MMAP = 7;

/** A device whose region 0 has memory in two of its four pages. */
function sparse() {
  const { fd, bytes: memory } = guestMemory(4 * PAGE);
  const areas = [
    { offset: PAGE, size: PAGE },
    { offset: 3 * PAGE, size: PAGE },
  ];
  const device = new FakeDevice({
    regions: [
      {
        size: 4 * PAGE,
        flags: READ_WRITE_MMAP,
        caps: [{ id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, version: 1, areas }],
      },
    ],
    mmapArea: (_region, offset, size) => ({
      offset,
      size,
      memory: { bytes: memory.subarray(offset, offset + size), fd, fdOffset: offset },
    }),
    read: (_region, offset, data) => {
      data.set(memory.subarray(offset, offset + data.length));
      return data.length;
    },
    write: (_region, offset, data) => {
      memory.set(data, offset);
      return data.length;
    },
  });
  return { device, areas, memory };
}

describe('a region with sparse areas', () => {
  test('[vfio-user 7.7] is asked for again with the room that it needs, and shows its areas', async () => {
    const { device, areas } = sparse();
    const { connect } = await serve(device);
    const lines: string[] = [];
    const client = await connect({ trace: (line) => lines.push(line) });
    const info = await client.getRegionInfo(0);
    expect(info).toMatchObject({ index: 0, size: 4 * PAGE, flags: READ_WRITE_MMAP });
    expect(info.flags & VFIO_REGION_INFO_FLAG_CAPS).toBe(0);
    expect(info.caps).toEqual([{ id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, version: 1, areas }]);
    expect(lines.filter((line) => line.includes('> ') && line.includes('GET_REGION_INFO'))).toHaveLength(2);
    // What is known is not asked for again.
    await client.getRegionInfo(0);
    await client.mmapArea(0, PAGE, PAGE);
    expect(lines.filter((line) => line.includes('> ') && line.includes('GET_REGION_INFO'))).toHaveLength(2);
  });

  test('[vfio-user 7.26] is mapped area by area, and messages reach the same memory', async () => {
    const { device, memory } = sparse();
    const { connect } = await serve(device);
    const client = await connect();
    for (const at of [PAGE, 3 * PAGE]) {
      const area = await client.mmapArea(0, at, PAGE);
      expect(area).toMatchObject({ offset: at, size: PAGE });
      area.memory.bytes.set([at >> 12, 1, 2], 8);
      const data = new Uint8Array(3);
      await client.read(0, at + 8, data);
      expect([...data]).toEqual([at >> 12, 1, 2]);
      await client.write(0, at + 16, Uint8Array.of(9));
      expect(area.memory.bytes[16]).toBe(9);
      expect(memory[at + 16]).toBe(9);
    }
  });

  test('cannot be mapped outside its areas, off a page, or empty', async () => {
    const { connect } = await serve(sparse().device);
    const client = await connect();
    const before = mappingCount();
    for (const [offset, length] of [
      [0, PAGE],
      [PAGE, 2 * PAGE],
      [PAGE + 16, 16],
      [PAGE, 0],
      [PAGE, -1],
      [3 * PAGE, 2 * PAGE],
      [8 * PAGE, PAGE],
    ] as const) {
      await expect(client.mmapArea(0, offset, length)).rejects.toMatchObject({ errno: 'EINVAL', op: 'mmapArea' });
    }
    await expect(client.mmapArea(1, 0, PAGE)).rejects.toMatchObject({ errno: 'EINVAL' });
    await expect(client.mmapArea(99, 0, PAGE)).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(mappingCount()).toBe(before);
  });

  test('[vfio-user 7.11] is unmapped when the client leaves: views have no bytes left', async () => {
    const { connect, idle } = await serve(sparse().device);
    const before = mappingCount();
    const client = await connect();
    const area = await client.mmapArea(0, PAGE, PAGE);
    const view = new Uint8Array(area.memory.bytes.buffer, 0, 16);
    expect(mappingCount()).toBe(before + 1);
    await client.close();
    await idle();
    expect(view.length).toBe(0);
    expect(area.memory.bytes.length).toBe(0);
    expect(mappingCount()).toBe(before);
  });
});

test('the memory of a BAR behind core is mapped, and a write to one shows in the other', async () => {
  const memory = new MemfdMemory();
  cleanup(() => memory.close());
  const { device } = await makeDevice(
    (ctx) => {
      ctx.identity({ vendor: 1, device: 2, subvendor: 0, subdevice: 0, class: 0, revision: 0 });
      ctx.bar(2, { size: 0x4000, memory: true, is64Bit: true });
      return {};
    },
    {},
    { memory },
  );
  const { connect } = await serve(device);
  const one = await connect();
  await enable(one);
  const area = await one.mmapArea(2, 0x2000, 0x2000);
  area.memory.bytes[5] = 77;
  const data = new Uint8Array(1);
  expect(await one.read(2, 0x2005, data)).toBe(1);
  expect(data[0]).toBe(77);
});

test('a descriptor without the MMAP flag is not mapped, and a file that cannot be mapped is a system call’s error', async () => {
  const { client, server } = await played();
  const { fd } = guestMemory(PAGE);
  const before = openFds();
  const plain = client.mmapArea(0, 0, PAGE);
  await server.send(replyTo(await server.receive(), regionPayload(0, PAGE, 32, 3)), [fd]);
  await expect(plain).rejects.toMatchObject({ errno: 'EINVAL' });
  const [a, b] = socketpair();
  const odd = client.mmapArea(1, 0, PAGE);
  await server.send(replyTo(await server.receive(), regionPayload(1, PAGE, 32, READ_WRITE_MMAP)), [a]);
  closeFd(a);
  closeFd(b);
  await expect(odd).rejects.toMatchObject({ code: 'ERR_VFIO_SYSCALL', errno: 'ENODEV' });
  await client.close();
  expect(openFds()).toBe(before - 1);
});

test('a region whose file was cut reads as zeroes in this process, which lives on', async () => {
  const { client, server } = await played();
  const { fd } = guestMemory(PAGE, 0);
  const mapped = client.mmapArea(0, 0, 2 * PAGE);
  await server.send(replyTo(await server.receive(), regionPayload(0, 2 * PAGE, 32, READ_WRITE_MMAP)), [fd]);
  const { memory } = await mapped;
  memory.bytes[0] = 1;
  // The file has one page: the second is what a truncated one looks like.
  expect(memory.bytes[PAGE]).toBe(0);
  expect(memory.bytes[0]).toBe(1);
});

describe('accesses', () => {
  test('a server’s short answer is what was done: the rest is not asked for', async () => {
    const { connect } = await serve(new FakeDevice(), { maxDataXferSize: 4096 });
    const client = await connect({ maxDataXferSize: 1000 });
    const data = new Uint8Array(5000);
    expect(await client.read(0, 100, data)).toBe(3996);
    expect(await client.write(0, 100, data)).toBe(3996);
    await expect(client.read(0, 4096, data)).rejects.toMatchObject({ errno: 'EINVAL' });
  });

  test('megabytes go both ways in pieces, whole', async () => {
    const memory = new Uint8Array(3 << 20);
    const device = new FakeDevice({
      regions: [{ size: memory.length, flags: 3 }],
      read: (_region, offset, data) => {
        data.set(memory.subarray(offset, offset + data.length));
        return data.length;
      },
      write: (_region, offset, data) => {
        memory.set(data, offset);
        return data.length;
      },
    });
    const { connect } = await serve(device);
    const client = await connect();
    const sent = Uint8Array.from({ length: memory.length }, (_, at) => (at * 7 + (at >> 12)) & 0xff);
    expect(await client.write(0, 0, sent)).toBe(sent.length);
    const got = new Uint8Array(sent.length);
    expect(await client.read(0, 0, got)).toBe(got.length);
    expect(Buffer.compare(got, sent)).toBe(0);
  });

  test('more writes than a socket holds can be on their way at once', async () => {
    const device = new FakeDevice({
      regions: [{ size: 1 << 20, flags: 3 }],
      write: (_region, _offset, data) => data.length,
    });
    const { connect } = await serve(device);
    const client = await connect();
    const data = new Uint8Array(1 << 20);
    const done = await Promise.all(Array.from({ length: 16 }, () => client.write(0, 0, data)));
    expect(done).toEqual(new Array(16).fill(1 << 20));
  });

  test('an offset that is no place in a region is refused here', async () => {
    const { connect } = await serve(new FakeDevice());
    const client = await connect();
    for (const offset of [-1, 0.5, Number.NaN, 2 ** 53]) {
      await expect(client.read(0, offset, new Uint8Array(4))).rejects.toMatchObject({ errno: 'EINVAL' });
      await expect(client.write(0, offset, new Uint8Array(4))).rejects.toMatchObject({ errno: 'EINVAL' });
    }
    expect(await client.read(0, 0, new Uint8Array(4))).toBe(4);
  });
});

describe('posted writes', () => {
  test('of more than a message holds go in several, in order', async () => {
    const { client, server } = await played({ max_data_xfer_size: 100 });
    client.post({ region: 2, offset: 1000, data: Uint8Array.from({ length: 250 }, (_, at) => at) });
    for (const [offset, count] of [
      [1000, 100],
      [1100, 100],
      [1200, 50],
    ] as const) {
      const { command, flags, payload } = await server.receive();
      expect([command, flags]).toEqual([10, 0x10]);
      expect(payload.subarray(0, 16)).toEqual(bytes(u64(offset), u32(2, count)));
      expect(payload[16]).toBe(offset - 1000);
    }
  });

  test('are gathered in messages of at most 200 where the server takes that', async () => {
    const { client, server } = await played({ write_multiple: true });
    const writes = Array.from({ length: 450 }, (_, at) => ({ region: 0, offset: at, data: le(at, at % 2 ? 2 : 8) }));
    client.postAll(writes);
    let at = 0;
    for (const count of [200, 200, 50]) {
      const { command, flags, payload } = await server.receive();
      expect([command, flags, Number(payload.readBigUInt64LE(0))]).toEqual([15, 0x10, count]);
      expect(payload.length).toBe(8 + 24 * count);
      for (let n = 0; n < count; n++, at++) {
        const write = payload.subarray(8 + 24 * n, 32 + 24 * n);
        expect([Number(write.readBigUInt64LE(0)), write.readUInt32LE(12)]).toEqual([at, at % 2 ? 2 : 8]);
        expect(write.readUInt16LE(16)).toBe(at);
      }
    }
    client.postAll([]);
    expect(await server.isSilent()).toBe(true);
  });

  test.each([
    ['to a server that does not take gathered ones', {}, 4],
    ['that are too long to be gathered', { write_multiple: true }, 9],
  ])('go one by one %s', async (_name, capabilities, length) => {
    const { client, server } = await played(capabilities);
    client.postAll([0, 1, 2].map((offset) => ({ region: 0, offset, data: new Uint8Array(length) })));
    for (let offset = 0; offset < 3; offset++) {
      const { command, payload } = await server.receive();
      expect([command, Number(payload.readBigUInt64LE(0))]).toEqual([10, offset]);
    }
  });

  test('[vfio-user 7.25] are done before the read that follows, however many they are', async () => {
    const device = new FakeDevice();
    const { connect } = await serve(device);
    const client = await connect();
    const writes = Array.from({ length: 1000 }, (_, at) => ({ region: 0, offset: 8, data: le(at, 4) }));
    client.postAll(writes);
    for (const write of writes) client.post(write);
    const data = new Uint8Array(4);
    await client.read(0, 8, data);
    expect([...data]).toEqual([...le(999, 4)]);
    expect(device.calls).toHaveLength(2000);
  });

  test('after the end of the connection are dropped', async () => {
    const { client, server } = await played();
    server.close();
    await client.closed;
    expect(() => client.post({ region: 0, offset: 0, data: new Uint8Array(4) })).not.toThrow();
  });
});

test('[vfio-user 7.13] a region that ends at the top of what a number holds is shown as it is', async () => {
  const { client, server } = await played();
  const call = client.getRegionInfo(0);
  const payload = bytes(u32(32, VFIO_REGION_INFO_FLAG_MMAP | 3, 0, 0), u64(2 ** 53 - 1, 0));
  await server.send(replyTo(await server.receive(), payload));
  expect(await call).toMatchObject({ size: 2 ** 53 - 1 });
});
