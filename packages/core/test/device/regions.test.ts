import {
  VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_CAP_TYPE,
} from '@vfio/uapi';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { romLength } from '../../src/device/rom.js';
import { type DevRegionOps, loadBytes, storeBytes, vfioPciCoreAllocDevice } from '../../src/index.js';
import { FakeFunction, FakeHost, FakeRegisters, ioBar, memoryBar, memoryOf, PM_AT } from './fake-function.js';
import { enableMemory, errnoOf, errnoOfAsync, leastGarbage, opened, readBytes, rig } from './helpers.js';

const RW = 3;
const MMAP = 4;

/** A ROM of images; lengths in units of 512 bytes. */
function romOf(
  lengths: readonly number[],
  options: { size?: number; lastMark?: boolean; pointer?: number } = {},
): Uint8Array {
  const total = lengths.reduce((sum, length) => sum + length * 512, 0);
  const rom = new Uint8Array(options.size ?? Math.max(2048, total)).fill(0xee);
  const view = new DataView(rom.buffer);
  let at = 0;
  for (const [i, length] of lengths.entries()) {
    rom.fill(i + 1, at, at + length * 512);
    const pointer = options.pointer ?? 0x1c;
    view.setUint16(at, 0xaa55, true);
    view.setUint16(at + 0x18, pointer, true);
    view.setUint32(at + pointer, 0x52494350, true);
    view.setUint16(at + pointer + 0x10, length, true);
    view.setUint8(at + pointer + 0x15, options.lastMark !== false && i === lengths.length - 1 ? 0x80 : 0);
    at += length * 512;
  }
  return rom;
}

describe('access widths', () => {
  test.each([
    [0, 8, 'r8@0'],
    [0, 16, 'r8@0 r8@8'],
    [4, 8, 'r4@4 r4@8'],
    [1, 8, 'r1@1 r2@2 r4@4 r1@8'],
    [6, 4, 'r2@6 r2@8'],
    [3, 1, 'r1@3'],
    [4, 13, 'r4@4 r8@8 r1@10'],
  ])('a read at %i of %i bytes is %s', (offset, length, log) => {
    const space = new FakeRegisters(64).withQwords();
    loadBytes(space, offset, new Uint8Array(length), length, 0, 0, 8);
    expect(space.log.join(' ')).toBe(log);
  });

  test('without 8-byte accesses two of 4 take their place, low half first', () => {
    const space = new FakeRegisters(64);
    loadBytes(space, 8, new Uint8Array(8), 8, 0, 0, 8);
    storeBytes(space, 8, new Uint8Array(8), 8, 0, 0, 8);
    expect(space.log.join(' ')).toBe('r4@8 r4@c w4@8 w4@c');
  });

  test('a narrower limit is kept to', () => {
    const space = new FakeRegisters(64).withQwords();
    loadBytes(space, 0, new Uint8Array(8), 8, 0, 0, 4);
    storeBytes(space, 0, new Uint8Array(8), 8, 0, 0, 4);
    expect(space.log.join(' ')).toBe('r4@0 r4@4 w4@0 w4@4');
  });

  test('any access moves the same bytes as a copy, except in the hole', () => {
    const access = fc.record({
      offset: fc.nat(60),
      length: fc.nat(60),
      holeStart: fc.nat(64),
      holeLength: fc.nat(40),
      qwords: fc.boolean(),
      wide: fc.boolean(),
    });
    fc.assert(
      fc.property(access, ({ offset, length, holeStart, holeLength, qwords, wide }) => {
        const space = new FakeRegisters(128);
        if (qwords) space.withQwords();
        for (let i = 0; i < 128; i++) space.bytes[i] = i ^ 0x5a;
        const holeEnd = holeStart + holeLength;
        const inHole = (at: number) => at >= holeStart && at < holeEnd;
        const data = new Uint8Array(length);
        loadBytes(space, offset, data, length, holeStart, holeEnd, wide ? 8 : 4);
        for (let i = 0; i < length; i++) expect(data[i]).toBe(inHole(offset + i) ? 0xff : (offset + i) ^ 0x5a);
        data.fill(0x77);
        storeBytes(space, offset, data, length, holeStart, holeEnd, wide ? 8 : 4);
        for (let at = 0; at < 128; at++) {
          const written = at >= offset && at < offset + length && !inHole(at);
          expect(space.bytes[at]).toBe(written ? 0x77 : at ^ 0x5a);
        }
        for (const entry of space.log) {
          const [, width, at] = /^[rw](\d)@([0-9a-f]+)$/.exec(entry)!;
          expect(Number.parseInt(at!, 16) % Number(width), 'natural alignment').toBe(0);
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe('BAR access', () => {
  test('is clipped at the end of the BAR', async () => {
    const { device, fn } = await opened({ bars: { 0: memoryBar(0x1000) } });
    await enableMemory(device);
    fn.bars[0]!.space.bytes.fill(3);
    const data = new Uint8Array(8).fill(9);
    expect(device.read(0, 0xffc, data)).toBe(4);
    expect([...data]).toEqual([3, 3, 3, 3, 9, 9, 9, 9]);
    expect(device.write(0, 0xffe, Uint8Array.of(1, 2, 3, 4))).toBe(2);
    expect([...fn.bars[0]!.space.bytes.subarray(0xffe)]).toEqual([1, 2]);
  });

  test.each([
    ['at the end', 0, 0x1000, 'EINVAL'],
    ['past the end', 0, 0x5000, 'EINVAL'],
    ['of a BAR that is not there', 1, 0, 'EINVAL'],
    ['of the upper half of a 64-bit BAR', 3, 0, 'EINVAL'],
    ['of region 9 of a device without more', 9, 0, 'EINVAL'],
    ['of a region far out', 1000, 0, 'EINVAL'],
    ['of VGA on a function without', 8, 0xa0000, 'EINVAL'],
    ['of a ROM that is not there', 6, 0, 'EINVAL'],
    ['of a BAR that could not be reserved', 4, 0, 'EBUSY'],
    ['of a BAR that could not be mapped', 5, 0, 'ENOMEM'],
    ['at a negative offset', 0, -1, 'EINVAL'],
    ['at half an offset', 0, 0.5, 'EINVAL'],
    ['of half a region', 0.5, 0, 'EINVAL'],
  ])('%s is refused', async (_name, region, offset, errno) => {
    const bars = {
      0: memoryBar(0x1000),
      2: memoryBar(0x1000, { is64Bit: true }),
      4: memoryBar(0x1000, { error: 'EBUSY' }),
      5: memoryBar(0x1000, { error: 'ENOMEM' }),
    };
    const { device } = await opened({ bars });
    await enableMemory(device);
    expect(errnoOf(() => device.read(region, offset, new Uint8Array(4)))).toBe(errno);
    expect(await errnoOfAsync(() => device.write(region, offset, new Uint8Array(4)))).toBe(errno);
  });

  test('of no bytes is 0 in every region there is, and EINVAL beyond', async () => {
    const { device } = await opened();
    for (const region of [0, 1, 5, 6, 7, 8]) {
      expect(device.read(region, 0x12345, new Uint8Array(0))).toBe(0);
      expect(device.write(region, 0x12345, new Uint8Array(0))).toBe(0);
    }
    expect(errnoOf(() => device.read(9, 0, new Uint8Array(0)))).toBe('EINVAL');
  });

  test('is EIO while memory decode is off, for memory BARs and not for I/O BARs', async () => {
    const { device } = await opened({ bars: { 0: memoryBar(0x1000), 1: ioBar(0x40) } });
    await device.write(7, 4, Uint8Array.of(0, 0));
    expect(errnoOf(() => device.read(0, 0, new Uint8Array(4)))).toBe('EIO');
    expect(errnoOf(() => device.write(0, 0, new Uint8Array(4)))).toBe('EIO');
    expect(device.read(1, 0, new Uint8Array(4))).toBe(4);
    expect(device.write(1, 0, new Uint8Array(4))).toBe(4);
  });

  test('is EIO in D3hot and works again in D0', async () => {
    const { device, fn } = await opened({ pm: true });
    await enableMemory(device);
    await device.write(7, PM_AT + 4, Uint8Array.of(3, 0));
    expect(fn.power.at(-1)).toBe(3);
    expect(errnoOf(() => device.read(0, 0, new Uint8Array(4)))).toBe('EIO');
    await device.write(7, PM_AT + 4, Uint8Array.of(0, 0));
    expect(device.read(0, 0, new Uint8Array(4))).toBe(4);
  });

  test('is EAGAIN while a reset that takes time has the function', async () => {
    const { device, fn } = await opened();
    await enableMemory(device);
    let go = () => {};
    fn.slowReset = new Promise((resolve) => {
      go = resolve;
    });
    const reset = device.reset();
    expect(errnoOf(() => device.read(0, 0, new Uint8Array(4)))).toBe('EAGAIN');
    const write = device.write(0, 0, Uint8Array.of(1));
    expect(write, 'a write waits its turn').toBeInstanceOf(Promise);
    go();
    await reset;
    expect(await write).toBe(1);
  });

  test('of BARs that may not be mapped at all is ENODEV', async () => {
    const { device } = await opened({ nonMappableBars: true });
    await enableMemory(device);
    expect(device.getRegionInfo(0)).toMatchObject({ flags: RW, size: 0x4000 });
    expect(errnoOf(() => device.read(0, 0, new Uint8Array(4)))).toBe('ENODEV');
  });

  test('of the MSI-X table reads ones and drops writes, and the bytes around it are not touched', async () => {
    const { device, fn } = await opened({ msixVectors: 4, msixOffset: 0x2000 });
    await enableMemory(device);
    const { space } = fn.bars[0]!;
    space.bytes.fill(0x11);
    const data = new Uint8Array(0x50);
    expect(device.read(0, 0x1ff8, data)).toBe(0x50);
    expect([...data.subarray(0, 8)]).toEqual(new Array(8).fill(0x11));
    expect(data.subarray(8, 0x48).every((byte) => byte === 0xff)).toBe(true);
    expect([...data.subarray(0x48)]).toEqual(new Array(8).fill(0x11));
    expect(device.write(0, 0x1ff8, new Uint8Array(0x50).fill(0x22))).toBe(0x50);
    expect(space.bytes.subarray(0x2000, 0x2040).every((byte) => byte === 0x11)).toBe(true);
    expect([space.bytes[0x1fff], space.bytes[0x2040]]).toEqual([0x22, 0x22]);
    expect(space.log.some((entry) => /@20[0-3]/.test(entry))).toBe(false);
  });
});

describe('a BAR to which the host gave no address', () => {
  test('has its size in the info and EINVAL for every access', async () => {
    const { device } = await opened({ bars: { 0: memoryBar(0x4000, { start: 0 }) } });
    await enableMemory(device);
    expect(device.getRegionInfo(0)).toMatchObject({ size: 0x4000, flags: RW });
    expect(errnoOf(() => device.read(0, 0, new Uint8Array(4)))).toBe('EINVAL');
    expect(errnoOf(() => device.write(0, 0, new Uint8Array(4)))).toBe('EINVAL');
    expect(errnoOf(() => device.mmapArea(0, 0, 4096))).toBe('EINVAL');
  });
});

describe('config space', () => {
  test('beyond its end is EFAULT before anything is done', async () => {
    const { device, fn } = await opened();
    fn.config.writes = 0;
    expect(errnoOf(() => device.read(7, 254, new Uint8Array(4)))).toBe('EFAULT');
    expect(errnoOf(() => device.write(7, 254, new Uint8Array(4)))).toBe('EFAULT');
    expect(errnoOf(() => device.read(7, 256, new Uint8Array(1)))).toBe('EFAULT');
    expect(fn.config.writes).toBe(0);
  });
});

describe('VGA', () => {
  const VGA = { vga: true, class: 0x030000 };

  test('reaches the legacy ranges at identity offsets, clipped at their ends, also without memory decode', async () => {
    const { device, fn } = await opened(VGA);
    expect(device.getRegionInfo(8)).toMatchObject({ size: 0xc0000, flags: RW });
    const space = (fn.vga as FakeRegisters).withQwords();
    space.bytes[0xbffff] = 5;
    await device.write(7, 4, Uint8Array.of(0, 0));
    expect(readBytes(device, 8, 0xbffff, 8)).toEqual([5]);
    expect(device.read(8, 0x3b8, new Uint8Array(8))).toBe(4);
    expect(device.write(8, 0x3df, new Uint8Array(2))).toBe(1);
    expect(device.read(8, 0xa0000, new Uint8Array(8))).toBe(8);
    expect(device.write(8, 0xa0000, new Uint8Array(8))).toBe(8);
    expect(space.log).toContain('r4@a0000');
    expect(space.log).toContain('w4@a0004');
  });

  test.each([0x0, 0x3af, 0x3bc, 0x3bf, 0x3e0, 0x9ffff, 0xc0000])('at 0x%s is EINVAL', async (offset) => {
    const { device } = await opened(VGA);
    expect(errnoOf(() => device.read(8, offset, new Uint8Array(1)))).toBe('EINVAL');
    expect(errnoOf(() => device.write(8, offset, new Uint8Array(1)))).toBe('EINVAL');
  });

  test('is not there on another class, and not with disableVga', async () => {
    const other = await opened({ vga: true });
    expect(errnoOf(() => other.device.getRegionInfo(8))).toBe('EINVAL');
    const off = await opened(VGA, undefined, { params: { disableVga: true } });
    expect(errnoOf(() => off.device.getRegionInfo(8))).toBe('EINVAL');
  });
});

describe('ROM', () => {
  test('shows its images and ones behind them, and cannot be written', async () => {
    const rom = romOf([1, 2], { size: 4096 });
    const { device, fn } = await opened({ rom });
    fn.romSpace!.withQwords();
    expect(device.getRegionInfo(6)).toMatchObject({ size: 4096, flags: 1, caps: [] });
    await enableMemory(device);
    const data = new Uint8Array(4096);
    expect(device.read(6, 0, data)).toBe(4096);
    expect(data.subarray(0, 1536)).toEqual(rom.subarray(0, 1536));
    expect(data.subarray(1536).every((byte) => byte === 0xff)).toBe(true);
    expect(fn.romSpace?.log.some((entry) => entry.startsWith('r8'))).toBe(false);
    expect(errnoOf(() => device.write(6, 0, new Uint8Array(1)))).toBe('EINVAL');
    expect(errnoOf(() => device.read(6, 4096, data))).toBe('EINVAL');
  });

  test('is decoded only while it is read', async () => {
    const { device, fn } = await opened({ rom: romOf([1]) });
    fn.config.writable.fill(0xff, 0x30, 0x34);
    await enableMemory(device);
    const enables: number[] = [];
    const read = fn.romSpace!.read.bind(fn.romSpace);
    fn.romSpace!.read = (offset, width) => {
      enables.push(fn.config.read(0x30, 4) & 1);
      return read(offset, width);
    };
    device.read(6, 0, new Uint8Array(4));
    expect(enables.length).toBeGreaterThan(0);
    expect(enables.every((bit) => bit === 1)).toBe(true);
    expect(fn.config.read(0x30, 4) & 1).toBe(0);
  });

  test('without a valid image has size 0, and reading it is ENOMEM', async () => {
    const { device } = await opened({ rom: new Uint8Array(2048) });
    expect(device.getRegionInfo(6)).toMatchObject({ size: 0, flags: 0 });
    await enableMemory(device);
    expect(errnoOf(() => device.read(6, 0, new Uint8Array(4)))).toBe('ENOMEM');
  });

  test('is EIO while memory decode is off, but its info tells whether it is valid', async () => {
    const { device, fn } = await opened({ rom: romOf([1]) });
    const read = fn.romSpace!.read.bind(fn.romSpace);
    fn.romSpace!.read = (at, width) => ((fn.config.read(4, 2) & 2) === 0 ? -1 : read(at, width));
    await device.write(7, 4, Uint8Array.of(0, 0));
    expect(errnoOf(() => device.read(6, 0, new Uint8Array(4)))).toBe('EIO');
    expect(device.getRegionInfo(6).size).toBe(2048);
  });

  test("of firmware's copy has its length rounded up to a power of two", async () => {
    const rom = romOf([3], { size: 1536 });
    const { device } = await opened({ rom, romShadow: true });
    expect(device.getRegionInfo(6)).toMatchObject({ size: 2048, flags: 1 });
    await enableMemory(device);
    const data = new Uint8Array(2048);
    expect(device.read(6, 0, data)).toBe(2048);
    expect(data[1535]).toBe(1);
    expect(data[1536]).toBe(0xff);
  });

  test("of firmware's copy is shown as it is, and only where there is no BAR", async () => {
    const { device } = await opened({ rom: new Uint8Array(512), romShadow: true });
    expect(device.getRegionInfo(6)).toMatchObject({ size: 512, flags: 1 });
    const withBoth = await rig({ rom: romOf([1]) });
    withBoth.fn.resources[6] = { ...withBoth.fn.resources[6]!, shadowLength: 1536 };
    expect((await withBoth.dev.open()).getRegionInfo(6).size).toBe(2048);
  });

  test('to which the host gave no address is none', async () => {
    const made = await rig({ rom: romOf([1]) });
    made.fn.resources[6] = { ...made.fn.resources[6]!, start: 0 };
    const device = await made.dev.open();
    await enableMemory(device);
    expect(device.getRegionInfo(6)).toMatchObject({ size: 0, flags: 0 });
    expect(errnoOf(() => device.read(6, 0, new Uint8Array(4)))).toBe('EINVAL');
  });

  test.each([
    ['one image', romOf([2]), 1024],
    ['two images', romOf([1, 3]), 2048],
    ['no last mark: ends with the ROM', romOf([1, 1], { size: 1024, lastMark: false }), 1024],
    ['no last mark: ends where no image follows', romOf([1], { size: 2048, lastMark: false }), 512],
    ['an image that claims more than there is', romOf([9], { size: 4608 }).slice(0, 2048), 2048],
    ['no signature', new Uint8Array(2048), 0],
    ['a misaligned PCIR pointer', romOf([1], { pointer: 0x1e }), 0],
    ['a PCIR pointer out of the ROM', romOf([1]).fill(0xfc, 0x18, 0x1a), 0],
    ['a length of 0', romOf([1]).fill(0, 0x2c, 0x2e), 0],
    ['nothing', new Uint8Array(0), 0],
  ])('length of %s', (_name, rom, length) => {
    const space = new FakeRegisters(rom.length);
    space.bytes.set(rom);
    expect(romLength(space, rom.length)).toBe(length);
  });
});

describe('region info', () => {
  test('of BARs, config space and what is not there', async () => {
    const bars = { 0: memoryBar(0x4000), 1: ioBar(0x40), 2: memoryBar(0x2000, { mmap: false }) };
    const { device } = await opened({ bars });
    expect(device.getRegionInfo(0)).toEqual({ index: 0, flags: RW | MMAP, size: 0x4000, offset: 0, caps: [] });
    expect(device.getRegionInfo(1)).toEqual({ index: 1, flags: RW, size: 0x40, offset: 2 ** 40, caps: [] });
    expect(device.getRegionInfo(2)).toMatchObject({ flags: RW, size: 0x2000 });
    expect(device.getRegionInfo(3)).toEqual({ index: 3, flags: 0, size: 0, offset: 3 * 2 ** 40, caps: [] });
    expect(device.getRegionInfo(6)).toMatchObject({ flags: 0, size: 0 });
    expect(device.getRegionInfo(7)).toMatchObject({ flags: RW, size: 256 });
    for (const index of [8, 9, 2 ** 31]) expect(errnoOf(() => device.getRegionInfo(index))).toBe('EINVAL');
    expect(errnoOf(() => device.getRegionInfo(-1))).toBe('EINVAL');
    expect((await opened({ exp: true })).device.getRegionInfo(7).size).toBe(4096);
  });

  test('of the MSI-X BAR says that it may be mapped as a whole, if it may be mapped', async () => {
    const mapped = await opened({ msixVectors: 4 });
    expect(mapped.device.getRegionInfo(0).caps).toEqual([{ id: VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, version: 1 }]);
    const trapped = await opened({ msixVectors: 4, bars: { 0: memoryBar(0x4000, { mmap: false }) } });
    expect(trapped.device.getRegionInfo(0).caps).toEqual([]);
  });

  test('of a BAR that is memory in parts lists them', async () => {
    const bar = memoryBar(0x4000);
    bar.space.mmapAreas = [
      { offset: 0x1000, size: 0x1000, memory: memoryOf(new Uint8Array(0x1000)) },
      { offset: 0x3000, size: 0x1000, memory: memoryOf(new Uint8Array(0x1000)) },
    ];
    const { device } = await opened({ bars: { 0: bar } });
    expect(device.getRegionInfo(0)).toMatchObject({
      flags: RW | MMAP,
      caps: [
        {
          id: VFIO_REGION_INFO_CAP_SPARSE_MMAP,
          version: 1,
          areas: [
            { offset: 0x1000, size: 0x1000 },
            { offset: 0x3000, size: 0x1000 },
          ],
        },
      ],
    });
  });

  test.each([
    ['a page-aligned small BAR may be mapped', 0xfe00_0000, true],
    ['a small BAR inside of a page may not', 0xfe00_0100, false],
  ])('%s', async (_name, start, mapped) => {
    const bar = memoryBar(0x100, { start });
    bar.space.mmapAreas = [{ offset: 0, size: 0x100, memory: memoryOf(new Uint8Array(4096)) }];
    const { device } = await opened({ bars: { 0: bar } });
    expect((device.getRegionInfo(0).flags & MMAP) !== 0).toBe(mapped);
    expect(errnoOf(() => device.mmapArea(0, 0, 4096))).toBe(mapped ? 'none' : 'EINVAL');
  });

  test('of a BAR whose reservation failed still says MMAP, and mapping it gives the kept error', async () => {
    const { device } = await opened({ bars: { 0: memoryBar(0x1000, { error: 'EBUSY' }) } });
    expect(device.getRegionInfo(0).flags).toBe(RW | MMAP);
    expect(errnoOf(() => device.mmapArea(0, 0, 0x1000))).toBe('EBUSY');
  });
});

describe('device info', () => {
  test('counts regions and interrupts, says whether a reset works, and has the capabilities that were attached', async () => {
    const cap = { id: 1, version: 2, data: Uint8Array.of(1) };
    let late: typeof cap | undefined;
    const { device } = await opened({}, (core) => ({
      ...core,
      name: 'caps',
      init(dev) {
        core.init(dev);
        dev.addInfoCap(cap);
        dev.addInfoCap(() => late);
      },
    }));
    expect(device.getInfo()).toEqual({ flags: 3, numRegions: 9, numIrqs: 5, caps: [cap] });
    late = { id: 2, version: 1, data: Uint8Array.of(2) };
    expect(device.getInfo().caps).toEqual([cap, late]);
    const fixed = await opened({ resetMethods: [] });
    expect(fixed.device.getInfo().flags).toBe(2);
  });

  test('fails where a capability fails', async () => {
    const { device, dev } = await opened({}, (core) => ({
      ...core,
      name: 'caps',
      init: (made) =>
        made.addInfoCap(() => {
          throw made.error('EIO', 'getInfo', 'the platform does not answer');
        }),
    }));
    expect(errnoOf(() => device.getInfo())).toBe('EIO');
    expect(dev.openCount).toBe(1);
  });

  test('of an interrupt index beyond 4 is EINVAL', async () => {
    const { device } = await opened();
    expect(device.getIrqInfo(0)).toEqual({ index: 0, flags: 7, count: 1 });
    for (const index of [5, -1, 1.5]) expect(errnoOf(() => device.getIrqInfo(index))).toBe('EINVAL');
  });
});

describe('mmap', () => {
  test('gives the memory of exactly the range', async () => {
    const { device, fn } = await opened();
    await enableMemory(device);
    const area = device.mmapArea(0, 0x1000, 0x2000);
    expect(area).toMatchObject({ offset: 0x1000, size: 0x2000 });
    expect([area.memory.fd, area.memory.fdOffset]).toEqual([77, 0x1000]);
    area.memory.bytes[0] = 9;
    expect(fn.bars[0]!.space.bytes[0x1000]).toBe(9);
    expect(area.memory.bytes).toHaveLength(0x2000);
    expect(area.memory.bytes).toBe(area.memory.bytes);
  });

  test.each([
    ['the ROM', 6, 0, 0x1000],
    ['config space', 7, 0, 0x1000],
    ['VGA', 8, 0, 0x1000],
    ['a BAR without memory', 1, 0, 0x1000],
    ['a BAR that is not there', 3, 0, 0x1000],
    ['beyond the end', 0, 0x3000, 0x2000],
    ['past the end', 0, 0x4000, 0x1000],
    ['no bytes', 0, 0, 0],
    ['not from a page', 0, 0x800, 0x1000],
    ['a region that is not there', 9, 0, 0x1000],
    ['a negative length', 0, 0, -4096],
  ])('of %s is EINVAL', async (_name, region, offset, length) => {
    const { device } = await opened({
      bars: { 0: memoryBar(0x4000), 1: memoryBar(0x1000, { mmap: false }) },
      rom: romOf([1]),
    });
    expect(errnoOf(() => device.mmapArea(region, offset, length))).toBe('EINVAL');
  });

  test('across the parts of a sparse BAR is EINVAL', async () => {
    const bar = memoryBar(0x4000);
    bar.space.mmapAreas = [{ offset: 0x1000, size: 0x1000, memory: memoryOf(new Uint8Array(0x1000).fill(4)) }];
    const { device } = await opened({ bars: { 0: bar } });
    await enableMemory(device);
    expect(errnoOf(() => device.mmapArea(0, 0, 0x2000))).toBe('EINVAL');
    expect(device.mmapArea(0, 0x1000, 0x1000).memory.bytes[0]).toBe(4);
  });

  test('dies with memory decode, D3hot and a running reset, lives again with them, and never after the close', async () => {
    const { device, dev, fn } = await opened({ pm: true });
    await enableMemory(device);
    const { memory } = device.mmapArea(0, 0, 0x1000);
    expect(memory.bytes).toHaveLength(0x1000);
    await device.write(7, 4, Uint8Array.of(0, 0));
    expect(memory.bytes).toHaveLength(0);
    await enableMemory(device);
    expect(memory.bytes).toHaveLength(0x1000);
    await device.write(7, PM_AT + 4, Uint8Array.of(3, 0));
    expect(memory.bytes).toHaveLength(0);
    await device.write(7, PM_AT + 4, Uint8Array.of(0, 0));
    expect(memory.bytes).toHaveLength(0x1000);
    let during = -1;
    fn.onReset = () => {
      during = memory.bytes.length;
    };
    await device.reset();
    expect([during, memory.bytes.length]).toEqual([0, 0x1000]);
    await device.close();
    expect(memory.bytes).toHaveLength(0);
    const again = await dev.open();
    await enableMemory(again);
    expect(memory.bytes).toHaveLength(0);
    await again.close();
  });
});

describe('device regions', () => {
  function counter(): DevRegionOps & { released: number } {
    return {
      released: 0,
      read(_dev, region, offset, data) {
        data.fill(region.subtype);
        return Math.min(data.length, region.size - offset);
      },
      write: (_dev, _region, _offset, data) => data.length,
      release() {
        this.released++;
      },
      mmap: (_dev, _region, offset, size) => ({ offset, size, memory: memoryOf(new Uint8Array(size)) }),
      addCapability: () => [{ id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, version: 1, areas: [{ offset: 0, size: 4096 }] }],
    };
  }

  test('follow the standard ones, with their type, their own capabilities and ops', async () => {
    const ops = counter();
    const { device, dev } = await opened({}, (core) => ({
      ...core,
      name: 'regions',
      async openDevice(made) {
        await core.openDevice(made);
        made.registerDevRegion({ type: 0x80008086, subtype: 5, size: 0x2000, flags: 1, ops });
        made.registerDevRegion({ type: 1, subtype: 6, size: 0x1000, flags: RW | MMAP, ops });
      },
    }));
    expect(device.getInfo().numRegions).toBe(11);
    expect(device.getRegionInfo(9)).toEqual({
      index: 9,
      flags: 1,
      size: 0x2000,
      offset: 9 * 2 ** 40,
      caps: [
        { id: VFIO_REGION_INFO_CAP_TYPE, version: 1, type: 0x80008086, subtype: 5 },
        { id: VFIO_REGION_INFO_CAP_SPARSE_MMAP, version: 1, areas: [{ offset: 0, size: 4096 }] },
      ],
    });
    expect(dev.regionIndex(dev.regions[1]!)).toBe(10);
    expect(readBytes(device, 10, 0, 2)).toEqual([6, 6]);
    expect(device.write(10, 0, new Uint8Array(3))).toBe(3);
    expect(device.mmapArea(10, 0, 4096).size).toBe(4096);
    expect(
      errnoOf(() => device.mmapArea(9, 0, 4096)),
      'no MMAP flag',
    ).toBe('EINVAL');
    expect(errnoOf(() => device.getRegionInfo(11))).toBe('EINVAL');
    await device.close();
    expect(ops.released).toBe(2);
    const again = await dev.open();
    expect(again.getInfo().numRegions, 'registered anew').toBe(11);
    await again.close();
    expect(ops.released).toBe(4);
  });

  test('registered in init last until the device is put; a failed open takes back its own', async () => {
    const lasting = counter();
    const passing = counter();
    let fail = true;
    const host = new FakeHost();
    const fn = new FakeFunction(host);
    const { vfioPciCoreRegisterDevice, vfioPciCoreUnregisterDevice, vfioPciCorePutDevice } = await import(
      '../../src/index.js'
    );
    const dev = vfioPciCoreAllocDevice(fn, (core) => ({
      ...core,
      name: 'regions',
      init(made) {
        made.registerDevRegion({ type: 1, subtype: 1, size: 1, flags: 1, ops: lasting });
      },
      async openDevice(made) {
        await core.openDevice(made);
        made.registerDevRegion({ type: 1, subtype: 2, size: 1, flags: 1, ops: passing });
        if (!fail) return;
        await core.closeDevice(made);
        throw made.error('EIO', 'openDevice', 'not today');
      },
    }));
    await vfioPciCoreRegisterDevice(dev);
    expect(await errnoOfAsync(() => dev.open())).toBe('EIO');
    expect([dev.regions.length, lasting.released, passing.released]).toEqual([1, 0, 1]);
    fail = false;
    const device = await dev.open();
    expect(device.getInfo().numRegions).toBe(11);
    await device.close();
    expect([dev.regions.length, lasting.released, passing.released]).toEqual([1, 0, 2]);
    await vfioPciCoreUnregisterDevice(dev);
    vfioPciCorePutDevice(dev);
    expect(lasting.released).toBe(1);
  });

  test('of a driver whose base cannot be opened are taken back', async () => {
    const passing = counter();
    const { dev, fn } = await rig({}, (core) => ({
      ...core,
      name: 'early',
      async openDevice(made) {
        made.registerDevRegion({ type: 1, subtype: 1, size: 1, flags: 1, ops: passing });
        await core.openDevice(made);
      },
    }));
    fn.resetError = 'EAGAIN';
    expect(await errnoOfAsync(() => dev.open())).toBe('EAGAIN');
    expect([dev.regions.length, passing.released]).toEqual([0, 1]);
  });

  test('of another device have no index here', async () => {
    const one = await opened();
    const two = await opened();
    const region = one.dev.registerDevRegion({ type: 1, subtype: 1, size: 1, flags: 1, ops: counter() });
    expect(errnoOf(() => two.dev.regionIndex(region))).toBe('EINVAL');
  });
});

test('register accesses of a BAR make no garbage', async () => {
  const { device, fn } = await opened({ bars: { 0: memoryBar(0x1000) } });
  await enableMemory(device);
  const { space } = fn.bars[0]!;
  space.read = (offset) => offset;
  space.write = () => {};
  const data = new Uint8Array(4);
  const garbage = leastGarbage(() => {
    for (let i = 0; i < 100_000; i++) {
      device.read(0, (i * 4) & 0xffc, data);
      device.write(0, (i * 4) & 0xffc, data);
    }
  });
  // One object for each access would be some 3 MB.
  expect(garbage).toBeLessThan(200_000);
});
