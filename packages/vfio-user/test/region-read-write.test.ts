/** REGION_READ and REGION_WRITE. */
import { ERRNO, errnoError } from '@vfio/uapi';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { makeEdu } from './helpers/devices.js';
import { deferred, FakeDevice } from './helpers/fake-device.js';
import { bytes, message, type RawClient, u32, u64, until } from './helpers/raw-client.js';
import { serve } from './helpers/serve.js';

const read = (region: number, offset: number | bigint, count: number) => bytes(u64(offset), u32(region, count));
const write = (region: number, offset: number | bigint, data: Uint8Array | number[], count = data.length) =>
  bytes(u64(offset), u32(region, count), data);

test('a read answers offset, region and count of the request, and the bytes', async () => {
  const device = new FakeDevice();
  device.memory.set([1, 2, 3, 4], 0x20);
  const { attached } = await serve(device);
  expect(await (await attached()).ok(9, read(0, 0x20, 4))).toEqual(bytes(read(0, 0x20, 4), [1, 2, 3, 4]));
});

test('a write answers 16 bytes: offset, region, and how many bytes were taken', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  expect(await (await attached()).ok(10, write(0, 0x20, [5, 6, 7]))).toEqual(bytes(u64(0x20), u32(0, 3)));
  expect([...device.memory.subarray(0x1f, 0x24)]).toEqual([0, 5, 6, 7, 0]);
});

test('[vfio-user 7.14] any size at any offset reads what was written, bytes beside it untouched', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const model = new Uint8Array(4096);
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 0, max: 4095 }),
      fc.oneof(fc.integer({ min: 1, max: 17 }), fc.integer({ min: 1, max: 4096 })),
      fc.integer({ min: 0, max: 255 }),
      async (offset, wanted, seed) => {
        const count = Math.min(wanted, 4096 - offset);
        const data = Uint8Array.from({ length: count }, (_, index) => seed + index * 7);
        expect((await client.ok(10, write(0, offset, data))).readUInt32LE(12)).toBe(count);
        model.set(data, offset);
        expect((await client.ok(9, read(0, offset, count))).subarray(16)).toEqual(Buffer.from(data));
      },
    ),
    { numRuns: 150 },
  );
  expect((await client.ok(9, read(0, 0, 4096))).subarray(16)).toEqual(Buffer.from(model));
});

test('[vfio-user 7.14] config space is read whole in one message, and written across registers byte by byte under its masks', async () => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  const whole = (await client.ok(9, read(7, 0, 256))).subarray(16);
  expect(whole).toHaveLength(256);
  // One byte of COMMAND, read-only STATUS, revision and class, the cache line size: one write over all of them.
  await client.ok(10, write(7, 5, [0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x08, 0x40]));
  const after = (await client.ok(9, read(7, 0, 256))).subarray(16);
  expect(after[5]).toBe(0x01);
  expect(after.subarray(8, 12)).toEqual(whole.subarray(8, 12));
  expect([after[0x0c], after[0x0d]]).toEqual([0x08, whole[0x0d]]);
  expect(after.subarray(0x0e)).toEqual(whole.subarray(0x0e));
  for (const [offset, count] of [
    [1, 3],
    [3, 8],
    [0xff, 1],
  ] as const) {
    expect((await client.ok(9, read(7, offset, count))).subarray(16)).toEqual(after.subarray(offset, offset + count));
  }
});

test('[vfio-user 7.15] a BAR answers the sizing probe with its mask and flag bits, and takes an address', async () => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  const bar = async () => (await client.ok(9, read(7, 0x10, 4))).readUInt32LE(16);
  await client.ok(10, write(7, 0x10, u32(0xffffffff)));
  expect(await bar()).toBe(0xfff00000);
  await client.ok(10, write(7, 0x10, u32(0xfebf1234)));
  expect(await bar()).toBe(0xfeb00000);
});

test('nothing is read and nothing written: count 0 is a success within a region, up to its end', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  for (const offset of [0, 77, 4096]) {
    expect(await client.ok(9, read(0, offset, 0))).toEqual(read(0, offset, 0));
    expect(await client.ok(10, write(0, offset, []))).toEqual(read(0, offset, 0));
  }
  expect(await client.fails(9, read(0, 4097, 0))).toBe(ERRNO.EINVAL);
  expect(await client.fails(10, write(0, 4097, []))).toBe(ERRNO.EINVAL);
  expect(await client.fails(9, read(9, 0, 0))).toBe(ERRNO.EINVAL);
  expect(device.calls).toEqual([]);
});

test.each([
  ['a short payload', bytes(u64(0), u32(0))],
  ['a region that is not there', read(9, 0, 4)],
  ['a region far out', read(0xffffffff, 0, 4)],
  ['an offset at the end', read(0, 4096, 1)],
  ['an offset above 2^53', read(0, (1n << 64n) - 4n, 4)],
  ['an offset that is no safe number', read(0, 1n << 53n, 4)],
  ['a count above max_data_xfer_size', read(0, 0, (1 << 20) + 1)],
  ['the largest count', read(0, 0, 0xffffffff)],
])('a read of %s is EINVAL', async (_name, payload) => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  expect(await client.fails(9, payload)).toBe(ERRNO.EINVAL);
  await client.ok(4, u32(16, 0, 0, 0));
});

test.each([
  ['a short payload', bytes(u64(0), u32(0))],
  ['fewer bytes than its count', write(0, 0, [1, 2, 3], 4)],
  ['more bytes than its count', write(0, 0, [1, 2, 3, 4, 5], 4)],
  ['the largest count', write(0, 0, [1, 2, 3, 4], 0xffffffff)],
  ['no bytes and a count', write(0, 0, [], 4)],
  ['a region that is not there', write(9, 0, [1])],
  ['an offset at the end', write(0, 4096, [1])],
  ['an offset above 2^53', write(0, 1n << 63n, [1])],
])('a write of %s is EINVAL', async (_name, payload) => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  expect(await client.fails(10, payload)).toBe(ERRNO.EINVAL);
  expect(device.memory.every((byte) => byte === 0)).toBe(true);
});

test('an access over the end of a region is short: its count says how much', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  expect(await client.ok(9, read(0, 4094, 8))).toEqual(bytes(read(0, 4094, 2), [0, 0]));
  expect((await client.ok(10, write(0, 4094, [1, 2, 3]))).readUInt32LE(12)).toBe(2);
});

test('as much as was agreed on goes in one message, both ways', async () => {
  const device = new FakeDevice({
    regions: [{ size: 1 << 20 }],
    read: (_region, _offset, data) => {
      for (let at = 0; at < data.length; at += 4096) data[at] = at >> 12;
      return data.length;
    },
    write: (_region, _offset, data) => data.length,
  });
  const { attached } = await serve(device);
  const client = await attached();
  const reply = await client.ok(9, read(0, 0, 1 << 20));
  expect(reply).toHaveLength(16 + (1 << 20));
  expect(reply[16 + 0x55 * 4096]).toBe(0x55);
  expect((await client.ok(10, write(0, 0, new Uint8Array(1 << 20)))).readUInt32LE(12)).toBe(1 << 20);
  expect(device.calls[0]).toHaveLength('write 0 0 '.length + 2 * (1 << 20));
});

test('a smaller limit of the server is held', async () => {
  const { attached } = await serve(new FakeDevice(), { maxDataXferSize: 4096 });
  const client = await attached();
  await client.ok(9, read(0, 0, 4096));
  expect(await client.fails(9, read(0, 0, 4097))).toBe(ERRNO.EINVAL);
  expect(await client.fails(10, write(0, 0, new Uint8Array(4097)))).toBe(ERRNO.EINVAL);
});

test.each(['EIO', 'EFAULT', 'EPERM', 'ENODEV', 'EBUSY'] as const)('%s of the device is the reply', async (name) => {
  const fail = () => {
    throw errnoError(name, 'no');
  };
  const { attached } = await serve(new FakeDevice({ read: fail, write: fail }));
  const client = await attached();
  expect(await client.fails(9, read(0, 0, 4))).toBe(ERRNO[name]);
  expect(await client.fails(10, write(0, 0, [1]))).toBe(ERRNO[name]);
});

test('a mistake in the device is EIO and a warning that names it, and the connection lives', async () => {
  const device = new FakeDevice({
    read: () => {
      throw new TypeError('model is broken');
    },
  });
  const { attached, warnings } = await serve(device);
  const client = await attached();
  expect(await client.fails(9, read(0, 0, 4))).toBe(ERRNO.EIO);
  expect(warnings[0]).toMatch(/model is broken/);
  await client.ok(4, u32(16, 0, 0, 0));
});

test('posted writes are carried out in order and not answered', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const posts = Array.from({ length: 100 }, (_, index) => message(index, 10, write(0, 8, u32(index)), 0x10));
  await client.send(bytes(...posts, message(500, 9, read(0, 8, 4))));
  expect(await client.receive()).toMatchObject({ id: 500, payload: bytes(read(0, 8, 4), u32(99)) });
  expect(device.calls).toHaveLength(100);
});

test('[vfio-user 7.25] a read behind a posted write that the device has not ended waits for it', async () => {
  const done = deferred<number>();
  const device = new FakeDevice({
    write: (_region, offset, data) =>
      done.promise.then((count) => {
        device.memory.set(data, offset);
        return count;
      }),
  });
  const { attached } = await serve(device);
  const client = await attached();
  await client.send(message(1, 10, write(0, 0, u32(0x11223344)), 0x10));
  await client.send(bytes(message(2, 9, read(0, 0, 4)), message(3, 7, u32(16, 0, 0, 0))));
  expect(await client.isSilent()).toBe(true);
  done.resolve(4);
  expect(await client.receive()).toMatchObject({ id: 2, payload: bytes(read(0, 0, 4), u32(0x11223344)) });
  expect(await client.receive()).toMatchObject({ id: 3 });
});

test.each([4, 64])('the device may look at the %i bytes of a write as long as the write goes on', async (count) => {
  const done = deferred();
  let seen: Uint8Array = new Uint8Array(0);
  const device = new FakeDevice({
    write: (_region, _offset, data) => {
      seen = data;
      return done.promise.then(() => data.length);
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  const data = Uint8Array.from({ length: count }, (_, index) => index);
  await client.send(message(1, 10, write(0, 0, data)));
  await client.send(message(2, 10, write(0, 0, new Uint8Array(count).fill(0xee))));
  await until(() => seen.length > 0);
  await client.isSilent(20);
  expect([...seen]).toEqual([...data]);
  done.resolve();
  await client.receive();
  await client.receive();
});

async function pingPong(client: RawClient, count: number): Promise<void> {
  for (let at = 0; at < count; at++) await client.ok(9, read(0, at & 0xffc, 4));
}

test('[vfio-user 7.26] memory that a client may map is the same when it is reached by messages', async () => {
  const { closeFd, memfdCreate, mmap } = await import('@vfio/native');
  const fd = memfdCreate('bar', { size: 0x2000 });
  const mine = mmap(fd, 0, 0x2000);
  const device = new FakeDevice({
    regions: [{ flags: 7, size: 0x2000, caps: [{ id: 1, version: 1, areas: [{ offset: 0x1000, size: 0x1000 }] }] }],
    mmapArea: (_region, offset, size) => ({ offset, size, memory: { bytes: mine.bytes, fd, fdOffset: offset } }),
    read: (_region, offset, data) => {
      data.set(mine.bytes.subarray(offset, offset + data.length));
      return data.length;
    },
    write: (_region, offset, data) => {
      mine.bytes.set(data, offset);
      return data.length;
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  const info = await client.call(5, bytes(u32(4096, 0, 0, 0), u64(0, 0)));
  const theirs = mmap(info.fds[0]!, 0x1000, 0x1000);
  closeFd(info.fds[0]!);
  await client.ok(10, write(0, 0x1004, u32(0xcafe)));
  expect(Buffer.from(theirs.bytes.subarray(4, 8))).toEqual(u32(0xcafe));
  theirs.bytes[8] = 42;
  expect((await client.ok(9, read(0, 0x1008, 1)))[16]).toBe(42);
  theirs.unmap();
  mine.unmap();
  closeFd(fd);
});

test('the reply of an access is never mixed up with another’s, message after message', async () => {
  const { attached } = await serve(new FakeDevice());
  await pingPong(await attached(), 500);
});
