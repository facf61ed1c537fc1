/** REGION_WRITE_MULTI: many small writes in one message. */
import { ERRNO, errnoError } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { deferred, FakeDevice } from './helpers/fake-device.js';
import { bytes, message, u32, u64 } from './helpers/raw-client.js';
import { serve } from './helpers/serve.js';

const one = (region: number, offset: number | bigint, data: readonly number[], count = data.length) =>
  bytes(u64(offset), u32(region, count), [...data, ...new Array<number>(8 - data.length).fill(0xcc)]);
const multi = (writes: readonly Uint8Array[], count = writes.length) => bytes(u64(count), ...writes);

test('the writes arrive in order, each as long as its count says; the reply is their number', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const reply = await (await attached()).ok(
    15,
    multi([one(0, 0, [1]), one(0, 8, [1, 2, 3, 4, 5, 6, 7, 8]), one(0, 0, [2, 3])]),
  );
  expect(reply).toEqual(u64(3));
  expect(device.calls).toEqual(['write 0 0 01', 'write 0 8 0102030405060708', 'write 0 0 0203']);
});

test('200 posted writes, as QEMU sends them, are done before what follows', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const writes = Array.from({ length: 200 }, (_, index) => one(0, 16, [index]));
  await client.send(message(1, 15, multi(writes), 0x10));
  expect((await client.ok(9, bytes(u64(16), u32(0, 1))))[16]).toBe(199);
  expect(device.calls).toHaveLength(200);
});

test('no writes at all is a success of none', async () => {
  const { attached } = await serve(new FakeDevice());
  expect(await (await attached()).ok(15, multi([]))).toEqual(u64(0));
});

test('a client may send it although it was not agreed on: QEMU 10.2 does', async () => {
  const { attached } = await serve(new FakeDevice(), { writeMultiple: false });
  expect(await (await attached({})).ok(15, multi([one(0, 0, [1])]))).toEqual(u64(1));
});

test.each([
  ['a short payload', u32(1)],
  ['more writes than came', multi([one(0, 0, [1])], 2)],
  ['fewer writes than came', multi([one(0, 0, [1])], 0)],
  ['a number that no message holds', multi([one(0, 0, [1])], 2 ** 52)],
  ['a number above 2^63', bytes(u64((1n << 64n) - 1n), one(0, 0, [1]))],
  ['half a write', multi([one(0, 0, [1]).subarray(0, 12)], 1)],
  ['a first write of more than 8 bytes', multi([one(0, 0, [1], 9)])],
  ['a first write of the largest count', multi([one(0, 0, [1], 0xffffffff)])],
  ['an offset above 2^53', multi([one(0, 1n << 60n, [1])])],
  ['a region that is not there', multi([one(12, 0, [1])])],
])('%s is EINVAL, and nothing is written', async (_name, payload) => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  expect(await (await attached()).fails(15, payload)).toBe(ERRNO.EINVAL);
  expect(device.memory.every((byte) => byte === 0)).toBe(true);
});

test('awaited, it stops at the first write that fails and answers how many were done', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  expect(await client.ok(15, multi([one(0, 0, [1]), one(0, 4096, [2]), one(0, 1, [3])]))).toEqual(u64(1));
  expect([device.memory[0], device.memory[1]]).toEqual([1, 0]);
});

test('posted, each write is tried, as if they had come one by one', async () => {
  const device = new FakeDevice();
  const { attached, warnings } = await serve(device);
  const client = await attached();
  await client.send(message(1, 15, multi([one(0, 0, [1]), one(0, 4096, [2]), one(0, 1, [3])]), 0x10));
  await client.ok(4, u32(16, 0, 0, 0));
  expect([device.memory[0], device.memory[1]]).toEqual([1, 3]);
  expect(warnings).toHaveLength(1);
});

test('thousands of posted writes that fail do not fill the log', async () => {
  const { attached, warnings } = await serve(
    new FakeDevice({
      write: () => {
        throw errnoError('EIO', 'no');
      },
    }),
  );
  const client = await attached();
  await client.send(message(1, 15, multi(new Array(5000).fill(one(0, 0, [1]))), 0x10));
  await client.ok(4, u32(16, 0, 0, 0));
  expect(warnings.length).toBeLessThan(24);
});

test('a write that the device goes on with holds the next one back', async () => {
  const first = deferred<number>();
  const device = new FakeDevice({ write: (_region, offset) => (offset === 0 ? first.promise : 1) });
  const { attached } = await serve(device);
  const client = await attached();
  await client.send(message(1, 15, multi([one(0, 0, [1]), one(0, 1, [2])])));
  expect(await client.isSilent()).toBe(true);
  expect(device.calls).toEqual(['write 0 0 01']);
  first.resolve(1);
  expect(await client.receive()).toMatchObject({ payload: u64(2) });
});
