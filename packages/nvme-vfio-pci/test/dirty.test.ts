import { VFIO_DEVICE_STATE_RUNNING as RUNNING, VFIO_DEVICE_STATE_STOP as STOP } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { Guest } from './helpers/guest.js';
import { machine } from './helpers/machine.js';

const PAGE = 4096n;
const IOVA = 0x100000n;
/** Pages of the guest's memory that the controller writes: completions, and data. */
const IO_CQ = 3;
const DATA = 4;

async function logging() {
  const made = await machine();
  const vf = await made.open(0);
  const guest = new Guest(vf.device);
  await guest.start();
  return { ...made, vf, guest };
}

test('the pages that the controller writes are dirty, completions too, once', async () => {
  const { vf, guest } = await logging();
  expect(await vf.startLog()).toBe(PAGE);
  expect(await vf.dirtyPages()).toEqual([]);
  await guest.run({ kind: 'read', lba: 0, blocks: 8 });
  expect(await vf.dirtyPages()).toEqual([IO_CQ, DATA]);
  expect(await vf.dirtyPages()).toEqual([]);
  await vf.stopLog();
});

test('what was not asked for stays dirty: the controller tells of all memory at once', async () => {
  const { vf, guest } = await logging();
  await vf.startLog();
  await guest.run({ kind: 'read', lba: 0, blocks: 8 });
  const range = (page: number, pages: number) => ({ iova: IOVA + BigInt(page) * PAGE, length: BigInt(pages) * PAGE });
  expect(await vf.dirtyPages(range(DATA, 8))).toEqual([DATA]);
  expect(await vf.dirtyPages(range(0, 4))).toEqual([IO_CQ]);
  expect(await vf.dirtyPages()).toEqual([]);
});

test('more than one report has room for is told in several', async () => {
  const { vf, guest, pf } = await logging();
  let reports = 0;
  pf.model.adminFault = (opcode) => {
    if (opcode === 0x3e) reports++;
    return undefined;
  };
  await vf.startLog();
  // Every other page of a memory of 64 MiB, more than fit into 64 KiB of descriptors.
  const size = 0x4000000;
  const space = { bytes: new Uint8Array(size), fd: undefined, fdOffset: 0 };
  vf.device.dmaMap({ iova: 0x10000000n, size: BigInt(size), readable: true, writable: true, memory: space });
  await vf.stopLog();
  const range = { iova: 0x10000000n, length: BigInt(size) };
  await vf.startLog(PAGE, [range]);
  const dma = pf.model.manager!.controllers.get(1)!.dma;
  for (let page = 0; page < size / 4096; page += 2) dma.write(0x10000000 + page * 4096, new Uint8Array(1));
  const dirty = await vf.dirtyPages(range);
  expect(dirty.length).toBe(size / 8192);
  expect(reports).toBeGreaterThan(1);
  await guest.run({ kind: 'flush' });
});

test.each([
  ['4 KiB', PAGE, PAGE],
  ['64 KiB', 0x10000n, 0x10000n],
  ['1 GiB, as large as there is', 1n << 30n, 0x200000n],
])('pages of %s are asked for: the answer is what is tracked', async (_what, wanted, tracked) => {
  const { vf } = await logging();
  expect(await vf.startLog(wanted, [{ iova: 0n, length: 1n << 30n }])).toBe(tracked);
});

test('memory beyond what 32 bits count in pages of 4 KiB is tracked in larger ones; beyond the largest not at all', async () => {
  const { vf } = await logging();
  expect(await vf.startLog(PAGE, [{ iova: 1n << 44n, length: 1n << 40n }])).toBe(0x2000n);
  await vf.stopLog();
  await expect(vf.startLog(PAGE, [{ iova: 1n << 62n, length: PAGE }])).rejects.toMatchObject({ errno: 'EOPNOTSUPP' });
});

test('more ranges than the controller has descriptors for are merged; those of another function count', async () => {
  const { vf, open } = await logging();
  const ranges = (base: bigint) =>
    Array.from({ length: 40 }, (_, n) => ({ iova: base + BigInt(n) * 0x10000n, length: PAGE }));
  await vf.startLog(PAGE, ranges(0x1000000n));
  const other = await open(1);
  // One descriptor at least is asked for, and refused where there is none.
  await expect(other.startLog(PAGE, ranges(0x1000000n))).rejects.toMatchObject({ errno: 'EINVAL' });
  await vf.stopLog();
  await other.startLog(PAGE, ranges(0x1000000n));
});

describe('a suspended controller', () => {
  test('tells its last pages', async () => {
    const { vf, guest } = await logging();
    await vf.startLog();
    await guest.submit({ kind: 'read', lba: 0, blocks: 8 });
    await guest.until(() => guest.hasCompletion);
    await vf.set(STOP);
    expect(await vf.dirtyPages()).toEqual([IO_CQ, DATA]);
    expect(await vf.dirtyPages()).toEqual([]);
  });

  test('cannot begin to be tracked: EBUSY; tracking that has ended is ended when it runs', async () => {
    const { vf, pf } = await logging();
    await vf.set(STOP);
    await expect(vf.startLog()).rejects.toMatchObject({ errno: 'EBUSY' });
    await vf.set(RUNNING);
    await vf.startLog();
    await vf.set(STOP);
    await vf.stopLog();
    await expect(vf.dirtyPages()).rejects.toMatchObject({ errno: 'EINVAL' });
    let stops = 0;
    pf.model.adminFault = (opcode) => {
      if (opcode === 0x3d) stops++;
      return undefined;
    };
    await vf.set(RUNNING);
    expect(stops).toBe(1);
    await vf.startLog();
    await vf.stopLog();
  });
});

describe('a report that is none fails, and those after it: all is dirty', () => {
  const view = (data: Uint8Array) => new DataView(data.buffer, data.byteOffset, data.byteLength);
  test.each<[string, (data: Uint8Array) => void, RegExp]>([
    ['of another version', (data) => view(data).setUint8(0, 1), /version 1/],
    ['of another controller', (data) => view(data).setUint16(2, 9, true), /controller 9/],
    ['with more changes than have room', (data) => view(data).setUint32(4, 0xffff, true), /65535 changes/],
    ['with grains that nobody has', (data) => view(data).setUint16(8, 0xffff, true), /a change of/],
    ['with a change of nothing', (data) => view(data).setUint32(24, 0, true), /a change of 0 bytes/],
    ['with a change between pages', (data) => view(data).setUint8(16, 1), /a change of/],
    ['with a change of memory that is not tracked', (data) => view(data).setUint8(20, 1), /not tracked/],
    [
      'with a change beyond all memory',
      (data) => view(data).setBigUint64(16, 0xfffffffffffff000n, true),
      /a change|tracked/,
    ],
    [
      'with nothing, and more of it',
      (data) => {
        view(data).setUint32(4, 0, true);
        view(data).setUint8(1, 1);
      },
      /more of them/,
    ],
  ])('%s', async (_what, output, message) => {
    const { vf, guest, pf } = await logging();
    await vf.startLog();
    await guest.run({ kind: 'read', lba: 0, blocks: 8 });
    pf.model.adminFault = (opcode) => (opcode === 0x3e ? { output } : undefined);
    await expect(vf.dirtyPages()).rejects.toMatchObject({ errno: 'EIO', message: expect.stringMatching(message) });
    pf.model.adminFault = undefined;
    await expect(vf.dirtyPages()).rejects.toMatchObject({ errno: 'EIO' });
    await vf.stopLog();
    await vf.startLog();
    expect(await vf.dirtyPages()).toEqual([]);
  });
});
