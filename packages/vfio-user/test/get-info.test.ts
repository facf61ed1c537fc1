/** DEVICE_GET_INFO, DEVICE_GET_IRQ_INFO and DEVICE_GET_REGION_IO_FDS. */
import { expect, test } from 'vitest';
import { FakeDevice } from './helpers/fake-device.js';
import { u32 } from './helpers/raw-client.js';
import { serve } from './helpers/serve.js';

test('GET_INFO answers 16 bytes: argsz, flags, regions, interrupts', async () => {
  const { attached } = await serve(new FakeDevice());
  expect(await (await attached()).ok(4, u32(16, 0, 0, 0))).toEqual(u32(16, 3, 9, 5));
});

test('GET_INFO says nothing of capabilities: its answer has no place for them', async () => {
  const { attached } = await serve(new FakeDevice({ flags: 0x82 }));
  expect(await (await attached()).ok(4, u32(16, 0, 0, 0))).toEqual(u32(16, 2, 9, 5));
});

test.each([
  ['a short payload', u32(16, 0, 0)],
  ['argsz below 16', u32(15, 0, 0, 0)],
])('GET_INFO with %s is EINVAL', async (_name, payload) => {
  const { attached } = await serve(new FakeDevice());
  expect(await (await attached()).fails(4, payload)).toBe(22);
});

test('GET_INFO with a larger argsz is answered the same 16 bytes', async () => {
  const { attached } = await serve(new FakeDevice());
  expect(await (await attached()).ok(4, u32(32, 0, 0, 0))).toHaveLength(16);
});

test.each([
  [0, 7, 1],
  [1, 1, 1],
  [2, 1, 8],
  [3, 1, 1],
  [4, 1, 1],
])('GET_IRQ_INFO of index %i answers the device’s flags %i and count %i', async (index, flags, count) => {
  const { attached } = await serve(new FakeDevice());
  expect(await (await attached()).ok(7, u32(16, 0, index, 0))).toEqual(u32(16, flags, index, count));
});

test.each([
  ['a short payload', u32(16, 0, 0)],
  ['argsz below 16', u32(15, 0, 0, 0)],
  ['an index that is not there', u32(16, 0, 5, 0)],
  ['an index far out', u32(16, 0, 0xffffffff, 0)],
])('GET_IRQ_INFO with %s is EINVAL', async (_name, payload) => {
  const { attached } = await serve(new FakeDevice());
  expect(await (await attached()).fails(7, payload)).toBe(22);
});

test('[vfio-user 7.28] GET_REGION_IO_FDS answers that there are none', async () => {
  const { attached } = await serve(new FakeDevice());
  const reply = await (await attached()).call(6, u32(16 + 48, 0, 2, 0));
  expect(reply.payload).toEqual(u32(16, 0, 2, 0));
  expect(reply.fds).toEqual([]);
});

test.each([
  ['a short payload', u32(16, 0, 0)],
  ['argsz below 16', u32(15, 0, 0, 0)],
  ['flags', u32(16, 1, 0, 0)],
  ['a count', u32(16, 0, 0, 1)],
  ['a region that is not there', u32(16, 0, 99, 0)],
])('GET_REGION_IO_FDS with %s is EINVAL', async (_name, payload) => {
  const { attached } = await serve(new FakeDevice());
  expect(await (await attached()).fails(6, payload)).toBe(22);
});
