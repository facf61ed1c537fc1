/** DEVICE_GET_REGION_INFO: the argsz protocol, sparse areas and the descriptor. */
import type { RegionCap, RegionInfo } from '@vfio/core';
import { closeFd, isSameFile, memfdCreate, mmap } from '@vfio/native';
import { errnoError } from '@vfio/uapi';
import { expect, test } from 'vitest';
import { FakeDevice } from './helpers/fake-device.js';
import { bytes, u16, u32, u64 } from './helpers/raw-client.js';
import { cleanup, serve } from './helpers/serve.js';

const ask = (argsz: number, index: number) => bytes(u32(argsz, 0, index, 0), u64(0, 0));

/** A region with areas, each in the file that the test gives it. */
function sparse(
  areas: readonly { offset: number; size: number; fd: number | undefined; fdOffset: number }[],
  caps: readonly RegionCap[] = [{ id: 1, version: 1, areas }],
) {
  const region: Partial<RegionInfo> = { flags: 7, size: 0x8000, caps };
  return new FakeDevice({
    regions: [region],
    mmapArea(_region, offset, size) {
      const area = areas.find((candidate) => candidate.offset === offset && candidate.size === size);
      if (area === undefined) throw errnoError('EINVAL', 'no such area');
      const { fd, fdOffset } = area;
      return { offset, size, memory: { bytes: new Uint8Array(size), fd, fdOffset } };
    },
  });
}

function memfd(size = 0x8000): number {
  const fd = memfdCreate('bar', { size });
  cleanup(() => closeFd(fd));
  return fd;
}

test.each([
  ['a short payload', u32(32, 0, 0, 0)],
  ['argsz below 32', ask(31, 0)],
  ['a region that is not there', ask(32, 9)],
  ['a region far out', ask(32, 0xffffffff)],
])('%s is EINVAL', async (_name, payload) => {
  const { attached } = await serve(new FakeDevice());
  expect(await (await attached()).fails(5, payload)).toBe(22);
});

test('a region that is not mapped: 32 bytes, offset 0 in place of the kernel’s', async () => {
  const { attached } = await serve(new FakeDevice({ regions: [{ offset: 0x10000000000 }] }));
  const client = await attached();
  for (const argsz of [32, 33, 4096]) {
    expect(await client.ok(5, ask(argsz, 0))).toEqual(bytes(u32(32, 3, 0, 0), u64(4096, 0)));
  }
});

test('a request that brings its whole buffer along is fine', async () => {
  const { attached } = await serve(new FakeDevice());
  const client = await attached();
  expect(await client.ok(5, bytes(ask(4064, 0), new Uint8Array(4064 - 32)))).toHaveLength(32);
});

test('[vfio-user 7.7] a short buffer gets MMAP and the size it needs, no capabilities and no descriptor', async () => {
  const fd = memfd();
  const { attached } = await serve(sparse([{ offset: 0x1000, size: 0x2000, fd, fdOffset: 0x1000 }]));
  const client = await attached();
  const needed = 32 + 16 + 16;
  for (const argsz of [32, needed - 1]) {
    const reply = await client.call(5, ask(argsz, 0));
    expect(reply.payload).toEqual(bytes(u32(needed, 7, 0, 0), u64(0x8000, 0)));
    expect(reply.fds).toEqual([]);
  }
});

test('with room come the areas, and the descriptor in the same message', async () => {
  const fd = memfd();
  const { attached } = await serve(
    sparse([
      { offset: 0x1000, size: 0x2000, fd, fdOffset: 0x1000 },
      { offset: 0x5000, size: 0x1000, fd, fdOffset: 0x5000 },
    ]),
  );
  const client = await attached();
  const reply = await client.call(5, ask(4096, 0));
  expect(reply.payload).toEqual(
    bytes(
      u32(32 + 16 + 32, 7 | 8, 0, 32),
      u64(0x8000, 0),
      u16(1, 1),
      u32(0, 2, 0),
      u64(0x1000, 0x2000, 0x5000, 0x1000),
    ),
  );
  expect(reply.fds).toHaveLength(1);
  expect(isSameFile(reply.fds[0]!, fd)).toBe(true);
  closeFd(reply.fds[0]!);
});

test('the region’s offset is where it starts in the file, so that area + region offset finds the memory', async () => {
  const fd = memfd();
  const { attached } = await serve(sparse([{ offset: 0x1000, size: 0x1000, fd, fdOffset: 0x3000 }]));
  const client = await attached();
  const reply = await client.call(5, ask(4096, 0));
  const offset = Number(reply.payload.readBigUInt64LE(24));
  expect(offset).toBe(0x2000);
  const mine = mmap(fd, 0, 0x8000);
  cleanup(() => mine.unmap());
  const theirs = mmap(reply.fds[0]!, offset + 0x1000, 0x1000);
  cleanup(() => theirs.unmap());
  closeFd(reply.fds[0]!);
  mine.bytes[0x3005] = 99;
  expect(theirs.bytes[5]).toBe(99);
});

test('a region that may be mapped whole has one area, its own', async () => {
  const fd = memfd();
  const { attached } = await serve(sparse([{ offset: 0, size: 0x8000, fd, fdOffset: 0 }], []));
  const reply = await (await attached()).call(5, ask(4096, 0));
  expect(reply.payload.subarray(32)).toEqual(bytes(u16(1, 1), u32(0, 1, 0), u64(0, 0x8000)));
  for (const got of reply.fds) closeFd(got);
});

test.each([
  ['is private memory', [{ offset: 0, size: 0x1000, fd: undefined, fdOffset: 0 }]],
  ['lies further into the region than into its file', [{ offset: 0x1000, size: 0x1000, fd: 0, fdOffset: 0 }]],
])('an area that %s is not offered: no MMAP, and messages reach it', async (_name, areas) => {
  const { attached, warnings } = await serve(sparse(areas));
  const client = await attached();
  expect(await client.ok(5, ask(4096, 0))).toEqual(bytes(u32(32, 3, 0, 0), u64(0x8000, 0)));
  expect(warnings[0]).toMatch(/not offered for mmap/);
  expect(await client.ok(9, bytes(u64(0x10), u32(0, 4)))).toHaveLength(20);
});

test('an area in a second file is left out: one message carries one descriptor', async () => {
  const [one, two] = [memfd(), memfd()];
  const { attached, warnings } = await serve(
    sparse([
      { offset: 0, size: 0x1000, fd: one, fdOffset: 0 },
      { offset: 0x2000, size: 0x1000, fd: two, fdOffset: 0x2000 },
      { offset: 0x4000, size: 0x1000, fd: one, fdOffset: 0x5000 },
      { offset: 0x6000, size: 0x1000, fd: one, fdOffset: 0x6000 },
    ]),
  );
  const reply = await (await attached()).call(5, ask(4096, 0));
  expect(reply.payload.subarray(48)).toEqual(u64(0, 0x1000, 0x6000, 0x1000));
  expect(isSameFile(reply.fds[0]!, one)).toBe(true);
  for (const got of reply.fds) closeFd(got);
  expect(warnings).toHaveLength(2);
});

test('other capabilities come without a descriptor where nothing can be mapped', async () => {
  const device = new FakeDevice({
    regions: [{ flags: 1, caps: [{ id: 2, version: 1, type: 0x80008086, subtype: 1 }] }],
  });
  const { attached } = await serve(device);
  const reply = await (await attached()).call(5, ask(4096, 0));
  expect(reply.payload).toEqual(bytes(u32(48, 1 | 8, 0, 32), u64(4096, 0), u16(2, 1), u32(0, 0x80008086, 1)));
  expect(reply.fds).toEqual([]);
});

test('memory that cannot be had now is asked for again the next time', async () => {
  const fd = memfd();
  let isBusy = true;
  const device = new FakeDevice({
    regions: [{ flags: 7, size: 0x1000 }],
    mmapArea(_region, offset, size) {
      if (isBusy) throw errnoError('EBUSY', 'reserved');
      return { offset, size, memory: { bytes: new Uint8Array(size), fd, fdOffset: 0 } };
    },
  });
  const { attached } = await serve(device);
  const client = await attached();
  expect((await client.ok(5, ask(4096, 0))).readUInt32LE(4)).toBe(3);
  isBusy = false;
  const reply = await client.call(5, ask(4096, 0));
  expect(reply.payload.readUInt32LE(4)).toBe(15);
  for (const got of reply.fds) closeFd(got);
});
