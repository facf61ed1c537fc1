/** MIG_DATA_READ, MIG_DATA_WRITE and what a migration's state forbids. */
import type { FeatureRequest, MigrationData } from '@vfio/core';
import { ERRNO, errnoError } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { deferred, FakeDevice, type FakeOps } from './helpers/fake-device.js';
import { bytes, message, u32, u64 } from './helpers/raw-client.js';
import { serve } from './helpers/serve.js';

const GET = 1 << 16;
const SET = 1 << 17;
const STOP = 1;
const RUNNING = 2;
const STOP_COPY = 3;
const RESUMING = 4;

/** A device with a state machine, and streams that a test gives it. */
function migrating(stream: Partial<MigrationData> = {}, ops: FakeOps = {}) {
  const log: string[] = [];
  let state = RUNNING;
  const data: MigrationData = {
    read: () => 0,
    write: (from) => from.length,
    precopyInfo: () => ({ flags: 0, initialBytes: 0n, dirtyBytes: 0n }),
    close: () => log.push('close'),
    ...stream,
  };
  const device = new FakeDevice({
    deviceFeature: (request: FeatureRequest) => {
      if ((request.flags & 0xffff) !== 2) return { flags: 1 };
      if ((request.flags & SET) === 0) return { state };
      state = (request.value as { state: number }).state;
      return { state, data: state === STOP_COPY || state === RESUMING ? data : undefined };
    },
    ...ops,
    reset: () => {
      state = RUNNING;
    },
  });
  return { device, log };
}

const setState = (state: number) => bytes(u32(16, SET | 2), u32(state, 0));
const read = (size: number, argsz = 8 + size) => u32(argsz, size);
const write = (data: Uint8Array | number[], size = data.length, argsz = 8 + data.length) =>
  bytes(u32(argsz, size), data);
const regionWrite = (region: number, data: number) => bytes(u64(0), u32(region, 1), [data]);

test('a read answers argsz, size and the bytes', async () => {
  const { device } = migrating({
    read: (into) => {
      into.set([1, 2, 3]);
      return 3;
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  await client.ok(16, setState(STOP_COPY));
  expect(await client.ok(17, read(3))).toEqual(bytes(u32(11, 3), [1, 2, 3]));
});

test('[vfio-user 7.27] a short answer means the end: small pieces of a device are put together', async () => {
  const pieces = [1, 5, 2, 100, 7];
  let at = 0;
  const { device } = migrating({
    read: async (into) => {
      await Promise.resolve();
      const count = Math.min(pieces.shift() ?? 0, into.length);
      for (let index = 0; index < count; index++) into[index] = at++;
      return count;
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  await client.ok(16, setState(STOP_COPY));
  const first = await client.ok(17, read(10));
  expect([...first.subarray(8)]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  const rest = await client.ok(17, read(200));
  expect(rest.readUInt32LE(4)).toBe(rest.length - 8);
  expect(rest.length - 8).toBeLessThan(200);
  expect(await client.ok(17, read(200))).toEqual(u32(8, 0));
});

test('a write is taken whole, in as many pieces as the device wants', async () => {
  const taken: number[] = [];
  const { device } = migrating({
    write: (from) => {
      taken.push(...from.subarray(0, 3));
      return Math.min(3, from.length);
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  await client.ok(16, setState(RESUMING));
  expect(await client.ok(18, write([1, 2, 3, 4, 5, 6, 7]))).toHaveLength(0);
  expect(taken).toEqual([1, 2, 3, 4, 5, 6, 7]);
});

test.each([
  ['a read without a payload of 8 bytes', 17, u32(8)],
  ['a read of more than argsz has room for', 17, read(100, 50)],
  ['a read with argsz below 8', 17, read(0, 7)],
  ['a read above max_data_xfer_size', 17, read((1 << 20) + 1)],
  ['a read of the largest size', 17, u32(0xffffffff, 0xfffffff0)],
  ['a write of fewer bytes than its size', 18, write([1, 2], 3)],
  ['a write of more bytes than its size', 18, write([1, 2], 1)],
  ['a write of the largest size', 18, write([1], 0xffffffff)],
])('%s is EINVAL', async (_name, command, payload) => {
  const { device } = migrating();
  const { attached } = await serve(device);
  const client = await attached();
  await client.ok(16, setState(command === 17 ? STOP_COPY : RESUMING));
  expect(await client.fails(command, payload)).toBe(ERRNO.EINVAL);
});

test('without a migration there is nothing to read or write', async () => {
  const { device, log } = migrating();
  const { attached } = await serve(device);
  const client = await attached();
  expect(await client.fails(17, read(10))).toBe(ERRNO.EINVAL);
  await client.ok(16, setState(STOP_COPY));
  await client.ok(16, setState(STOP));
  expect(log).toEqual(['close']);
  expect(await client.fails(17, read(10))).toBe(ERRNO.EINVAL);
  expect(await client.fails(18, write([1]))).toBe(ERRNO.EINVAL);
});

test('a device that takes nothing, and one that fails, are told', async () => {
  let isBroken = false;
  const { device } = migrating({
    write: () => {
      if (isBroken) throw errnoError('ENODEV', 'ended');
      return 0;
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  await client.ok(16, setState(RESUMING));
  expect(await client.fails(18, write([1]))).toBe(ERRNO.EINVAL);
  isBroken = true;
  expect(await client.fails(18, write([1]))).toBe(ERRNO.ENODEV);
});

test('[vfio-user 7.27] a state is answered when it is reached, not before', async () => {
  const reached = deferred<{ state: number }>();
  const { device } = migrating(
    {},
    { deviceFeature: ({ flags }) => ((flags & SET) === 0 ? { flags: 1 } : reached.promise) },
  );
  const { attached } = await serve(device);
  const client = await attached();
  await client.send(message(1, 16, setState(STOP)));
  expect(await client.isSilent()).toBe(true);
  reached.resolve({ state: STOP });
  expect(await client.receive()).toMatchObject({ id: 1, flags: 1 });
});

test('[vfio-user 7.27] while the state is copied, writes to BARs are refused; config space and reads are not', async () => {
  const { device } = migrating({}, { regions: [{}, {}, {}, {}, {}, {}, {}, { size: 256, flags: 3 }] });
  const { attached } = await serve(device);
  const client = await attached();
  await client.ok(10, regionWrite(0, 1));
  await client.ok(16, setState(STOP_COPY));
  expect(await client.fails(10, regionWrite(0, 2))).toBe(ERRNO.EINVAL);
  const multi = (region: number, offset: number) =>
    bytes(u64(1), u64(offset), u32(region, 1), [2, 0, 0, 0, 0, 0, 0, 0]);
  // Also where the offset looks like the number of config space.
  for (const offset of [0, 7]) expect(await client.fails(15, multi(0, offset))).toBe(ERRNO.EINVAL);
  expect(device.memory[0]).toBe(1);
  await client.ok(10, regionWrite(7, 3));
  await client.ok(9, bytes(u64(0), u32(0, 4)));
  await client.ok(16, setState(STOP));
  await client.ok(10, regionWrite(0, 2));
});

test('a reset ends a migration: the stream is closed, writes are taken', async () => {
  const { device, log } = migrating();
  const { attached } = await serve(device);
  const client = await attached();
  await client.ok(16, setState(STOP_COPY));
  await client.ok(13);
  expect(log).toEqual(['close']);
  await client.ok(10, regionWrite(0, 2));
  expect(await client.fails(17, read(10))).toBe(ERRNO.EINVAL);
});

test('a client that goes in the middle of a migration leaves no stream', async () => {
  const { device, log } = migrating();
  const { attached, idle } = await serve(device);
  const client = await attached();
  await client.ok(16, setState(STOP_COPY));
  client.close();
  await idle();
  expect(log).toEqual(['close']);
});

test('reads and writes of the stream keep their order with everything else', async () => {
  const slow = deferred<number>();
  const { device } = migrating({ read: () => slow.promise });
  const { attached } = await serve(device);
  const client = await attached();
  await client.ok(16, setState(STOP_COPY));
  await client.send(bytes(message(1, 17, read(4)), message(2, 4, u32(16, 0, 0, 0))));
  expect(await client.isSilent()).toBe(true);
  slow.resolve(0);
  expect((await client.receive()).id).toBe(1);
  expect((await client.receive()).id).toBe(2);
});

test('GET of the state is answered while nothing is under way', async () => {
  const { device } = migrating();
  const { attached } = await serve(device);
  const client = await attached();
  expect((await client.ok(16, bytes(u32(16, GET | 2), u32(0, 0)))).readUInt32LE(8)).toBe(RUNNING);
});
