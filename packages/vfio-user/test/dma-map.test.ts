/** DMA_MAP. */

import { openSync } from 'node:fs';
import { closeFd, dupFd } from '@vfio/native';
import { ERRNO } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { ClientMemory } from '../src/dma.js';
import { MAX_DMA_MAP_SIZE, MAX_FILE_MAPS, MAX_KEPT_FILES } from '../src/limits.js';
import { makeEdu } from './helpers/devices.js';
import { FakeDevice } from './helpers/fake-device.js';
import { bytes, u32, u64 } from './helpers/raw-client.js';
import { cleanup, eventfd, guestMemory, openFds, serve } from './helpers/serve.js';

const READ = 1;
const WRITE = 2;
const MMAP = 4;
const FILE_IO = 8;
const RW = READ | WRITE;

interface Map {
  flags?: number;
  argsz?: number;
  offset?: number | bigint;
  iova?: number | bigint;
  size?: number | bigint;
}
const map = ({ flags = RW, argsz = 32, offset = 0, iova = 0x10000, size = 0x1000 }: Map = {}) =>
  bytes(u32(argsz, flags), u64(offset, iova, size));
const unmap = (iova: number | bigint, size: number | bigint) => bytes(u32(24, 0), u64(iova, size));

test('with a descriptor the device has its memory; the reply is the header alone', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const { fd, bytes: memory } = guestMemory(0x4000);
  memory[0x2005] = 77;
  expect(await client.ok(2, map({ offset: 0x2000, size: 0x2000 }), [fd])).toHaveLength(0);
  const mapped = device.maps.get(0x10000n);
  expect(mapped).toMatchObject({ iova: 0x10000n, size: 0x2000n, readable: true, writable: true });
  expect(mapped?.memory?.bytes).toHaveLength(0x2000);
  expect(mapped?.memory?.bytes[5]).toBe(77);
  mapped!.memory!.bytes[6] = 78;
  expect(memory[0x2006]).toBe(78);
});

test('one descriptor of a file is kept, however many maps lie in it, and the last unmap gives it back', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const { fd } = guestMemory(0x2000);
  const before = openFds();
  for (const iova of [0x10000, 0x20000, 0x30000]) await client.ok(2, map({ iova }), [fd]);
  expect(openFds()).toBe(before + 1);
  expect(device.maps.get(0x10000n)?.memory?.bytes[0]).toBe(0);
  await client.ok(3, unmap(0x10000, 0x1000));
  await client.ok(3, unmap(0x30000, 0x1000));
  expect(openFds()).toBe(before + 1);
  await client.ok(3, unmap(0x20000, 0x1000));
  expect(openFds()).toBe(before);
});

test('[vfio-user 7.30] of more files than are kept no descriptor is, and the maps work all the same', async () => {
  const device = new FakeDevice();
  const { attached, idle } = await serve(device);
  const client = await attached();
  const files = Array.from({ length: MAX_KEPT_FILES + 2 }, () => guestMemory(0x1000).fd);
  const before = openFds();
  for (const [at, fd] of files.entries()) await client.ok(2, map({ iova: 0x10000 + at * 0x1000 }), [fd]);
  expect([device.maps.size, openFds()]).toEqual([files.length, before + MAX_KEPT_FILES]);
  client.close();
  await idle();
  // What was the client's socket here is closed, too.
  expect(openFds()).toBe(before - 2);
});

test('[vfio-user 7.9] without a descriptor the memory is reached by messages', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  expect(await client.ok(2, map({ flags: READ }))).toHaveLength(0);
  const mapped = device.maps.get(0x10000n);
  expect(mapped).toMatchObject({ readable: true, writable: false, memory: undefined });
  expect(mapped?.remote).toBeDefined();
});

test('without a descriptor any size up to the largest is taken: nothing is reserved for it', async () => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  await client.ok(2, map({ iova: 1n << 50n, size: MAX_DMA_MAP_SIZE }));
  expect(await client.fails(2, map({ iova: 0, size: MAX_DMA_MAP_SIZE + 4096n }))).toBe(ERRNO.ENOSPC);
});

test.each([
  ['a short payload', bytes(u32(32, RW), u64(0, 0x10000))],
  ['argsz below 32', map({ argsz: 31 })],
  ['an unknown flag', map({ flags: RW | 0x10 })],
  ['the highest flag', map({ flags: 0x80000000 | RW })],
  ['MMAP without a descriptor', map({ flags: RW | MMAP })],
  ['FILE_IO without a descriptor', map({ flags: RW | FILE_IO })],
  ['neither READ nor WRITE', map({ flags: 0 })],
  ['a size of 0', map({ size: 0 })],
  ['a range that wraps around', map({ iova: (1n << 64n) - 4096n, size: 8192 })],
  ['the largest size', map({ size: (1n << 64n) - 4096n })],
  ['an address inside a page', map({ iova: 0x10800 })],
  ['a size that is not whole pages', map({ size: 0x1800 })],
])('%s is EINVAL', async (_name, payload) => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  expect(await client.fails(2, payload)).toBe(ERRNO.EINVAL);
  await client.ok(2, map());
});

test.each([
  ['a file that is too short', map({ size: 0x3000 })],
  ['an offset behind the end of the file', map({ offset: 0x2000 })],
  ['an offset that wraps around with the size', map({ offset: (1n << 64n) - 4096n })],
  ['an offset inside a page', map({ offset: 0x800 })],
  ['neither READ nor WRITE', map({ flags: 0 })],
  ['an unknown flag', map({ flags: RW | 0x20 })],
])('[vfio-user 7.12] with a descriptor: %s is EINVAL, and it is closed', async (_name, payload) => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  const { fd } = guestMemory(0x2000);
  const before = openFds();
  expect(await client.fails(2, payload, [fd])).toBe(ERRNO.EINVAL);
  expect(openFds()).toBe(before);
  await client.ok(2, map(), [fd]);
});

test('[vfio-user 7.13] a region that ends with the address space is one', async () => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  await client.ok(2, map({ iova: (1n << 64n) - 4096n }));
  await client.ok(3, unmap((1n << 64n) - 4096n, 4096));
});

test('more than one descriptor is EINVAL, and all are closed', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const { fd } = guestMemory(0x1000);
  const before = openFds();
  expect(await client.fails(2, map(), [fd, fd])).toBe(ERRNO.EINVAL);
  expect(openFds()).toBe(before);
  expect(device.maps.size).toBe(0);
});

test.each([
  ['its first page', 0x0f000, 0x2000],
  ['its last page', 0x12000, 0x2000],
  ['a part of it', 0x11000, 0x1000],
  ['all of it and more', 0x0f000, 0x10000],
])('an overlap with %s is EEXIST, with and without a descriptor, and the map stands', async (_name, iova, size) => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  const { fd } = guestMemory(0x10000);
  await client.ok(2, map({ iova: 0x10000, size: 0x3000 }), [fd]);
  const before = openFds();
  expect(await client.fails(2, map({ iova, size }))).toBe(ERRNO.EEXIST);
  expect(await client.fails(2, map({ iova, size }), [fd])).toBe(ERRNO.EEXIST);
  expect(openFds()).toBe(before);
  await client.ok(3, unmap(0x10000, 0x3000));
});

test('the same again is a success, and one unmap takes it away', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const { fd } = guestMemory(0x2000);
  const second = dupFd(fd);
  cleanup(() => closeFd(second));
  await client.ok(2, map(), [fd]);
  const first = device.maps.get(0x10000n);
  // Another descriptor of the same file.
  await client.ok(2, map(), [second]);
  expect(device.maps.get(0x10000n)).toBe(first);
  await client.ok(3, unmap(0x10000, 0x1000));
  expect(await client.fails(3, unmap(0x10000, 0x1000))).toBe(ERRNO.ENOENT);
});

test.each([
  ['another size', { size: 0x2000 }, 'same'],
  ['other flags', { flags: READ }, 'same'],
  ['another offset', { offset: 0x1000 }, 'same'],
  ['another file', {}, 'other'],
  ['no descriptor', {}, 'none'],
] as const)('the same address with %s is EEXIST', async (_name, change, which) => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  const { fd } = guestMemory(0x4000);
  const { fd: other } = guestMemory(0x4000);
  await client.ok(2, map(), [fd]);
  const fds = { same: [fd], other: [other], none: [] }[which];
  expect(await client.fails(2, map(change), fds)).toBe(ERRNO.EEXIST);
});

test('READ alone maps memory that cannot be written through', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const { path, remove } = (await import('./helpers/raw-client.js')).socketPath();
  cleanup(remove);
  const { writeFileSync } = await import('node:fs');
  writeFileSync(path, Buffer.alloc(4096, 9));
  const fd = openSync(path, 'r');
  cleanup(() => closeFd(fd));
  await client.ok(2, map({ flags: READ }), [fd]);
  expect(device.maps.get(0x10000n)).toMatchObject({ readable: true, writable: false });
  expect(device.maps.get(0x10000n)?.memory?.bytes[100]).toBe(9);
  // The descriptor does not allow more.
  expect(await client.fails(2, map({ iova: 0x20000 }), [fd])).toBe(ERRNO.EACCES);
});

test('a descriptor that cannot be mapped comes back as what mmap says', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  const fd = eventfd();
  const before = openFds();
  expect(await client.fails(2, map(), [fd])).toBe(ERRNO.ENODEV);
  expect(openFds()).toBe(before);
});

test('MMAP is what a descriptor means anyway', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const { fd } = guestMemory(0x1000);
  await (await attached()).ok(2, map({ flags: RW | MMAP }), [fd]);
  expect(device.maps.get(0x10000n)?.memory?.bytes).toHaveLength(0x1000);
});

test('FILE_IO is reached by reading and writing the file, at its offset', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const { fd, bytes: memory } = guestMemory(0x4000);
  memory[0x1010] = 5;
  await client.ok(2, map({ flags: RW | FILE_IO, offset: 0x1000, size: 0x3000 }), [fd]);
  const { memory: none, remote } = device.maps.get(0x10000n)!;
  expect(none).toBeUndefined();
  const data = new Uint8Array(2);
  await remote!.read(0x10010, data);
  expect([...data]).toEqual([5, 0]);
  await remote!.write(0x12000, Uint8Array.of(1, 2, 3));
  expect([...memory.subarray(0x3000, 0x3003)]).toEqual([1, 2, 3]);
});

test('FILE_IO behind the end of the file fails that DMA, and nothing else', async () => {
  const device = new FakeDevice();
  const { attached } = await serve(device);
  const client = await attached();
  const { fd } = guestMemory(0x1000);
  await client.ok(2, map({ flags: RW | FILE_IO, size: 0x2000 }), [fd]);
  const { remote } = device.maps.get(0x10000n)!;
  await expect(remote!.read(0x10ff0, new Uint8Array(32))).rejects.toMatchObject({ errno: 'EFAULT' });
  await remote!.read(0x10ff0, new Uint8Array(16));
});

test('[vfio-user 7.30] a limit on the number of maps: ENOSPC, and there is room again after an unmap', async () => {
  const { attached } = await serve((await makeEdu()).device, { maxDmaMaps: 3 });
  const client = await attached();
  for (const iova of [0, 0x1000, 0x2000]) await client.ok(2, map({ iova }));
  expect(await client.fails(2, map({ iova: 0x3000 }))).toBe(ERRNO.ENOSPC);
  // What is mapped already is not one more.
  await client.ok(2, map({ iova: 0x2000 }));
  await client.ok(3, unmap(0x1000, 0x1000));
  await client.ok(2, map({ iova: 0x3000 }));
});

test('the client’s own limit holds where it is lower', async () => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached({ max_dma_maps: 1 });
  await client.ok(2, map());
  expect(await client.fails(2, map({ iova: 0x20000 }))).toBe(ERRNO.ENOSPC);
});

test('[vfio-user 7.30] maps that keep a descriptor are few, and an unmap gives it back', async () => {
  const { attached } = await serve((await makeEdu()).device);
  const client = await attached();
  const { fd } = guestMemory(0x1000);
  const before = openFds();
  const iova = (index: number) => 0x10000 + index * 0x1000;
  for (let index = 0; index < MAX_FILE_MAPS; index++) {
    await client.ok(2, map({ flags: RW | FILE_IO, iova: iova(index) }), [fd]);
  }
  // And one of the file.
  expect(openFds()).toBe(before + MAX_FILE_MAPS + 1);
  expect(await client.fails(2, map({ flags: RW | FILE_IO, iova: iova(MAX_FILE_MAPS) }), [fd])).toBe(ERRNO.ENOSPC);
  await client.ok(3, unmap(iova(7), 0x1000));
  await client.ok(2, map({ flags: RW | FILE_IO, iova: iova(MAX_FILE_MAPS) }), [fd]);
  expect(openFds()).toBe(before + MAX_FILE_MAPS + 1);
});

/** The table itself, for limits that are too large for a test. */
function table(device: FakeDevice, options: { maxPart?: number; maxMappedBytes?: bigint }) {
  const remote = { read: () => Promise.resolve(), write: () => Promise.resolve() };
  return new ClientMemory({ device, maxMaps: 10, remote, ...options });
}

test('[vfio-user 7.30] address space is bounded: ENOSPC for a client with huge files, and there is room again after an unmap', () => {
  const memory = table(new FakeDevice(), { maxMappedBytes: 0x4000n });
  const { fd } = guestMemory(0x10000);
  const add = (iova: bigint, size: bigint) => memory.map({ flags: RW, offset: 0n, iova, size }, dupFd(fd));
  add(0x10000n, 0x3000n);
  const before = openFds();
  expect(() => add(0x20000n, 0x2000n)).toThrow(/mapped already/);
  expect(openFds()).toBe(before);
  // What is reached by messages takes none.
  memory.map({ flags: RW, offset: 0n, iova: 0x30000n, size: 0x100000n }, undefined);
  add(0x20000n, 0x1000n);
  memory.unmap(0x10000n, 0x3000n);
  add(0x10000n, 0x3000n);
  memory.unmapAll();
});

test('memory that is longer than one buffer becomes several pieces, and one unmap takes them all', async () => {
  const device = new FakeDevice();
  const memory = table(device, { maxPart: 0x2000 });
  const { fd, bytes: guest } = guestMemory(0x5000);
  guest[0x4001] = 3;
  memory.map({ flags: RW, offset: 0n, iova: 0x10000n, size: 0x5000n }, dupFd(fd));
  expect([...device.maps.values()].map(({ iova, size }) => [iova, size])).toEqual([
    [0x10000n, 0x2000n],
    [0x12000n, 0x2000n],
    [0x14000n, 0x1000n],
  ]);
  expect(device.maps.get(0x14000n)?.memory?.bytes[1]).toBe(3);
  expect(memory.count).toBe(1);
  memory.unmap(0x10000n, 0x5000n);
  expect(device.maps.size).toBe(0);
});

test('a piece that fails takes the others with it: as if nothing had been mapped', async () => {
  const device = new FakeDevice({
    dmaMap: ({ iova }) => {
      if (iova === 0x14000n) throw new Error('no');
    },
  });
  const memory = table(device, { maxPart: 0x2000 });
  const { fd } = guestMemory(0x5000);
  const before = openFds();
  expect(() => memory.map({ flags: RW, offset: 0n, iova: 0x10000n, size: 0x5000n }, dupFd(fd))).toThrow('no');
  expect([memory.count, device.maps.size, openFds()]).toEqual([0, 0, before]);
});

test('what the device refuses comes back as its errno, and the memory is let go', async () => {
  const { errnoError } = await import('@vfio/uapi');
  let released = 0;
  const device = new FakeDevice({
    dmaMap: (request) => {
      const { release } = request;
      request.release = () => {
        released++;
        release?.();
      };
      throw errnoError('ENOMEM', 'no room');
    },
  });
  const { attached } = await serve(device);
  const { fd } = guestMemory(0x1000);
  const client = await attached();
  const before = openFds();
  expect(await client.fails(2, map(), [fd])).toBe(ERRNO.ENOMEM);
  expect([released, openFds()]).toEqual([1, before]);
});
