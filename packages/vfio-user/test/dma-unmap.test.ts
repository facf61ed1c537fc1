/** DMA_UNMAP. */
import { ERRNO, errnoError } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { makeEdu } from './helpers/devices.js';
import { deferred, FakeDevice } from './helpers/fake-device.js';
import { bytes, message, u32, u64, until } from './helpers/raw-client.js';
import { guestMemory, serve } from './helpers/serve.js';

const BITMAP = 1;
const ALL = 2;

const map = (iova: number | bigint, size: number | bigint = 0x1000, flags = 3) =>
  bytes(u32(32, flags), u64(0, iova, size));
const unmap = (iova: number | bigint, size: number | bigint = 0x1000, flags = 0, argsz = 24) =>
  bytes(u32(argsz, flags), u64(iova, size));

test('[vfio-user 7.10] the reply carries the 24 bytes of the request', async () => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  await client.ok(2, map(0x10000, 0x2000));
  expect(await client.ok(3, unmap(0x10000, 0x2000))).toEqual(unmap(0x10000, 0x2000));
  expect(await client.fails(3, unmap(0x10000, 0x2000))).toBe(ERRNO.ENOENT);
});

test.each([
  ['a short payload', bytes(u32(24, 0), u64(0x10000))],
  ['argsz below 24', unmap(0x10000, 0x1000, 0, 23)],
  ['an unknown flag', unmap(0x10000, 0x1000, 4)],
  ['ALL with an address', unmap(0x10000, 0, ALL)],
  ['ALL with a size', unmap(0, 0x1000, ALL)],
  ['ALL with a bitmap', bytes(unmap(0, 0, ALL | BITMAP, 4096), u64(4096, 8))],
  ['a bitmap that is not described', unmap(0x10000, 0x1000, BITMAP)],
])('%s is EINVAL, and the map stands', async (_name, payload) => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  await client.ok(2, map(0x10000));
  expect(await client.fails(3, payload)).toBe(ERRNO.EINVAL);
  await client.ok(3, unmap(0x10000));
});

test.each([
  ['another address', unmap(0x11000)],
  ['a part', unmap(0x10000, 0x1000)],
  ['the end', unmap(0x11000, 0x1000)],
  ['more', unmap(0x10000, 0x3000)],
  ['nothing', unmap(0x10000, 0)],
])('what is not exactly one map is ENOENT: %s', async (_name, payload) => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  await client.ok(2, map(0x10000, 0x2000));
  expect(await client.fails(3, payload)).toBe(ERRNO.ENOENT);
  await client.ok(3, unmap(0x10000, 0x2000));
});

test('two maps side by side are two: one unmap does not take both', async () => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  await client.ok(2, map(0x10000));
  await client.ok(2, map(0x11000));
  expect(await client.fails(3, unmap(0x10000, 0x2000))).toBe(ERRNO.ENOENT);
  await client.ok(3, unmap(0x11000));
  await client.ok(3, unmap(0x10000));
});

test('ALL takes everything, also where there is nothing', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const { fd } = guestMemory(0x1000);
  expect(await client.ok(3, unmap(0, 0, ALL))).toEqual(unmap(0, 0, ALL));
  await client.ok(2, map(0x10000));
  await client.ok(2, map(0x20000), [fd]);
  await client.ok(3, unmap(0, 0, ALL));
  expect(device.maps.size).toBe(0);
});

test('[vfio-user 7.11] the memory is gone before the reply: a buffer over it is empty', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const { fd } = guestMemory(0x1000);
  await client.ok(2, map(0x10000), [fd]);
  const { bytes: seen } = device.maps.get(0x10000n)!.memory!;
  expect(seen).toHaveLength(0x1000);
  await client.ok(3, unmap(0x10000));
  expect(seen).toHaveLength(0);
});

test('[vfio-user 7.11] while the device uses the memory the reply waits, and what comes after it too', async () => {
  const inUse = deferred();
  const device = new FakeDevice({ dmaUnmap: () => inUse.promise });
  const { attached } = await serve(device);
  const client = await attached();
  const { fd } = guestMemory(0x1000);
  await client.ok(2, map(0x10000), [fd]);
  await client.send(message(1, 3, unmap(0x10000)));
  await client.send(message(2, 4, u32(16, 0, 0, 0)));
  expect(await client.isSilent()).toBe(true);
  expect(device.maps.get(0x10000n)?.memory?.bytes).toHaveLength(0x1000);
  inUse.resolve();
  expect(await client.receive()).toMatchObject({ id: 1, flags: 1, size: 40 });
  expect(await client.receive()).toMatchObject({ id: 2 });
});

test('a view that a driver holds too long: EBUSY, the map can be taken away again later, not mapped over', async () => {
  const { device } = await makeEdu();
  const { attached } = await serve(device);
  const client = await attached();
  const { fd } = guestMemory(0x1000);
  await client.ok(2, map(0x10000), [fd]);
  const view = device.dmaSpace.pin(0x10000, 16, true);
  expect(await client.fails(3, unmap(0x10000))).toBe(ERRNO.EBUSY);
  expect(view.bytes).toHaveLength(16);
  view.release();
  await client.ok(3, unmap(0x10000));
  expect(await client.fails(3, unmap(0x10000))).toBe(ERRNO.ENOENT);
});

test('after such an EBUSY the same map is made anew, not taken for one that stands', async () => {
  const { device } = await makeEdu();
  const { attached } = await serve(device);
  const client = await attached();
  const { fd, bytes: memory } = guestMemory(0x1000);
  await client.ok(2, map(0x10000), [fd]);
  const view = device.dmaSpace.pin(0x10000, 16, true);
  expect(await client.fails(3, unmap(0x10000))).toBe(ERRNO.EBUSY);
  await client.ok(2, map(0x10000), [fd]);
  memory[3] = 9;
  const read = new Uint8Array(4);
  await device.dmaSpace.read(0x10000, read);
  expect(read[3]).toBe(9);
  view.release();
  await client.ok(3, unmap(0x10000));
});

test('an error of the device is the reply, and other maps stand', async () => {
  const device = new FakeDevice({
    dmaUnmap: (iova) => {
      if (iova === 0x10000n) throw errnoError('EIO', 'broken');
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  await client.ok(2, map(0x10000));
  await client.ok(2, map(0x20000));
  expect(await client.fails(3, unmap(0x10000))).toBe(ERRNO.EIO);
  expect(await client.fails(3, unmap(0, 0, ALL))).toBe(ERRNO.EIO);
  expect([...device.maps.keys()]).toEqual([0x10000n]);
});

test('[vfio-user 7.11] a DMA in the middle of which the map goes fails, and the process lives', async () => {
  const { device } = await makeEdu();
  const { attached } = await serve(device);
  const client = await attached({ max_msg_fds: 8 });
  await client.ok(2, map(0x10000, 0x2000));
  const reading = Promise.resolve(device.dmaSpace.read(0x10ff0, new Uint8Array(32)));
  // One DMA_READ is on its way when the memory is taken back.
  const request = await client.receive();
  expect(request).toMatchObject({ command: 11, flags: 0 });
  await client.ok(3, unmap(0x10000, 0x2000));
  await client.send(message(request.id, 11, bytes(u64(0x10ff0, 32), new Uint8Array(32)), 1));
  await reading.catch(() => {});
  await expect((async () => device.dmaSpace.read(0x10000, new Uint8Array(4)))()).rejects.toMatchObject({
    errno: 'EFAULT',
  });
  await client.ok(4, u32(16, 0, 0, 0));
});

test('GET_DIRTY_BITMAP answers the bits behind the 40 bytes of the request', async () => {
  const asked: unknown[] = [];
  const device = new FakeDevice({
    deviceFeature: (request) => {
      if ((request.flags & 0xffff) !== 8) throw errnoError('ENOTTY', 'no such feature');
      const { bitmap, ...range } = request.value as { bitmap: Uint8Array };
      asked.push(range);
      bitmap[0] = 0b101;
      return undefined;
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  await client.ok(2, map(0x10000, 0x4000));
  const request = bytes(unmap(0x10000, 0x4000, BITMAP, 24 + 16 + 8), u64(0x1000, 8));
  const reply = await client.ok(3, request);
  expect(reply).toEqual(bytes(request, u64(0b101)));
  expect(asked).toEqual([{ iova: 0x10000n, length: 0x4000n, pageSize: 0x1000n }]);
  expect(device.maps.size).toBe(0);
});

test.each([
  ['a bitmap that is too small', 0x100000, u64(0x1000, 8), 24 + 16 + 8, ERRNO.EINVAL],
  ['argsz without room for it', 0x4000, u64(0x1000, 8), 24 + 16 + 7, ERRNO.EINVAL],
  ['a bitmap above what goes into a message', 0x4000, u64(0x1000, 1 << 30), 0xffffffff, ERRNO.EINVAL],
  ['a page size of 0', 0x4000, u64(0, 8), 48, ERRNO.EINVAL],
  ['another range', 0x5000, u64(0x1000, 8), 48, ERRNO.ENOENT],
])(
  'GET_DIRTY_BITMAP with %s is refused before anything is made for it, and the map stands',
  async (_name, size, bitmap, argsz, errno) => {
    const device = new FakeDevice({ deviceFeature: () => undefined });
    const { attached } = await serve(device);
    const client = await attached();
    const mapped = errno === ERRNO.ENOENT ? 0x4000 : size;
    await client.ok(2, map(0x10000, mapped));
    expect(await client.fails(3, bytes(unmap(0x10000, size, BITMAP, argsz), bitmap))).toBe(errno);
    expect(device.maps.size).toBe(1);
  },
);

test('a client that goes leaves no map', async () => {
  const device = new FakeDevice();
  const { attached, idle } = await serve(device);
  const client = await attached();
  const { fd } = guestMemory(0x1000);
  await client.ok(2, map(0x10000), [fd]);
  const { bytes: seen } = device.maps.get(0x10000n)!.memory!;
  client.close();
  await idle();
  await until(() => device.closes === 1);
  expect(seen).toHaveLength(0);
});
