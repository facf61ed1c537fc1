/** DEVICE_FEATURE. */
import type { FeatureRequest } from '@vfio/core';
import { ERRNO, errnoError } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { FakeDevice } from './helpers/fake-device.js';
import { bytes, u32, u64 } from './helpers/raw-client.js';
import { serve } from './helpers/serve.js';

const GET = 1 << 16;
const SET = 1 << 17;
const PROBE = 1 << 18;
const MIGRATION = 1;
const MIG_DEVICE_STATE = 2;
const LOW_POWER_ENTRY = 3;
const LOGGING_START = 6;
const LOGGING_STOP = 7;
const LOGGING_REPORT = 8;

const feature = (flags: number, data: Uint8Array = new Uint8Array(0), argsz = 8 + data.length) =>
  bytes(u32(argsz, flags), data);

/** A device that answers features, without the question that every attach asks. */
function featured(answer: (request: FeatureRequest) => unknown) {
  const asked: FeatureRequest[] = [];
  const device = new FakeDevice({
    deviceFeature: (request) => {
      if (request.flags !== (PROBE | GET | MIGRATION)) asked.push(request);
      return answer(request);
    },
  });
  return { device, asked };
}

test('MIGRATION answers its flags behind the 8 bytes of the request', async () => {
  const { device } = featured(() => ({ flags: 3 }));
  const { attached } = await serve(device);
  const reply = await (await attached()).ok(16, feature(GET | MIGRATION, u64(0)));
  expect(reply).toEqual(bytes(u32(16, GET | MIGRATION), u64(3)));
});

test('MIG_DEVICE_STATE: the state that was reached comes back, no descriptor goes along', async () => {
  const { device, asked } = featured((request) => ({ state: (request.value as { state: number })?.state ?? 1 }));
  const { attached } = await serve(device);
  const client = await attached();
  const set = await client.call(16, feature(SET | MIG_DEVICE_STATE, u32(2, 0xffffffff)));
  expect(set).toMatchObject({ flags: 1, fds: [] });
  expect(set.payload.subarray(0, 12)).toEqual(bytes(u32(16, SET | MIG_DEVICE_STATE, 2)));
  expect(asked).toEqual([{ flags: SET | MIG_DEVICE_STATE, value: { state: 2 } }]);
  const get = await client.ok(16, feature(GET | MIG_DEVICE_STATE, u32(0, 0)));
  expect(get.readUInt32LE(8)).toBe(1);
});

test('LOGGING_START carries its ranges, STOP nothing, REPORT a bitmap back', async () => {
  const { device, asked } = featured((request) => {
    if ((request.flags & 0xffff) === LOGGING_START) return { pageSize: 4096n };
    const value = request.value as { bitmap?: Uint8Array } | undefined;
    if (value?.bitmap !== undefined) value.bitmap[1] = 0x80;
    return undefined;
  });
  const { attached } = await serve(device);
  const client = await attached();
  const start = bytes(u64(4096), u32(2, 0), u64(0x10000, 0x2000, 0x100000, 0x1000));
  expect(await client.ok(16, feature(SET | LOGGING_START, start))).toHaveLength(8 + start.length);
  expect(asked[0]?.value).toEqual({
    pageSize: 4096n,
    ranges: [
      { iova: 0x10000n, length: 0x2000n },
      { iova: 0x100000n, length: 0x1000n },
    ],
  });
  const report = u64(0x10000, 0x10000, 4096);
  const reply = await client.ok(16, feature(GET | LOGGING_REPORT, report, 8 + 24 + 8));
  expect(reply.subarray(8)).toEqual(bytes(report, u64(0x8000)));
  expect(await client.ok(16, feature(SET | LOGGING_STOP))).toEqual(feature(SET | LOGGING_STOP));
});

test('a PROBE is answered with its own bytes, whatever bits go with it', async () => {
  const { device } = featured(() => undefined);
  const { attached } = await serve(device);
  const client = await attached();
  for (const bits of [PROBE, PROBE | GET, PROBE | SET, PROBE | GET | SET]) {
    const probe = feature(bits | MIG_DEVICE_STATE);
    expect(await client.ok(16, probe)).toEqual(probe);
  }
});

test.each([
  ['a short payload', u32(8), ERRNO.EINVAL],
  ['argsz below 8', feature(GET | MIGRATION, u64(0), 7), ERRNO.EINVAL],
  ['GET and SET without PROBE', feature(GET | SET | MIG_DEVICE_STATE, u64(0)), ERRNO.EINVAL],
  ['an unknown flag', feature(GET | MIGRATION | (1 << 19), u64(0)), ERRNO.EINVAL],
  ['no operation', feature(MIGRATION, u64(0)), ERRNO.EINVAL],
  ['no room for the answer', feature(GET | MIGRATION), ERRNO.EINVAL],
  ['an operation that it does not have', feature(SET | MIGRATION, u64(0)), ERRNO.EINVAL],
  ['data that are too short', feature(SET | MIG_DEVICE_STATE, u32(1)), ERRNO.EINVAL],
  ['ranges that did not come', feature(SET | LOGGING_START, bytes(u64(4096), u32(3, 0), u64(0, 4096))), ERRNO.EINVAL],
  ['more ranges than there are', feature(SET | LOGGING_START, bytes(u64(4096), u32(0xffffffff, 0))), ERRNO.E2BIG],
  ['a bitmap larger than a message', feature(GET | LOGGING_REPORT, u64(0, 1n << 40n, 4096), 0xffffffff), ERRNO.EINVAL],
  ['a bitmap of all addresses', feature(GET | LOGGING_REPORT, u64(0, (1n << 64n) - 4096n, 4096), 64), ERRNO.EINVAL],
  ['a feature that is not known', feature(GET | 99), ERRNO.ENOTTY],
  ['a feature that takes a descriptor', feature(SET | 4, u64(0)), ERRNO.ENOTTY],
])('%s is refused, and the device does not hear of it', async (_name, payload, errno) => {
  const { device, asked } = featured(() => ({ flags: 1, state: 1 }));
  const { attached } = await serve(device);
  expect(await (await attached()).fails(16, payload)).toBe(errno);
  expect(asked).toEqual([]);
});

test('a feature that the device does not have is ENOTTY', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  expect(await client.fails(16, feature(GET | MIGRATION, u64(0)))).toBe(ERRNO.ENOTTY);
  expect(await client.fails(16, feature(PROBE | SET | LOW_POWER_ENTRY))).toBe(ERRNO.ENOTTY);
});

test('what the device says is the reply', async () => {
  const { device } = featured((request) => {
    if ((request.flags & PROBE) !== 0) return undefined;
    throw errnoError('EBUSY', 'not now');
  });
  const { attached } = await serve(device);
  expect(await (await attached()).fails(16, feature(SET | LOW_POWER_ENTRY))).toBe(ERRNO.EBUSY);
});
