import { describe, expect, test } from 'vitest';
import { resource, TestSpace } from './support.js';

/** Sizes a BAR as firmware does. */
function sized(space: TestSpace, at: number): number {
  space.write(at, 4, 0xffff_ffff);
  return space.read(at, 4);
}

describe('sizing a BAR', () => {
  test.for<[string, Parameters<typeof resource>[0], number]>([
    ['memory', { size: 0x1000 }, 0xffff_f000],
    ['prefetchable memory', { size: 0x10_0000, prefetchable: true }, 0xfff0_0008],
    ['ports', { size: 0x20, io: true }, 0xffff_ffe1],
    ['64-bit memory', { size: 0x4000, is64Bit: true }, 0xffff_c004],
    ['64-bit prefetchable memory', { size: 0x4000, is64Bit: true, prefetchable: true }, 0xffff_c00c],
  ])('gives size and type of %s', ([, init, expected]) => {
    expect(sized(new TestSpace({ resources: [resource(init)] }), 0x10)).toBe(expected);
  });

  test('gives 0 where there is no resource, or the host gave it no address', () => {
    const space = new TestSpace({ resources: [undefined, resource({ size: 0x1000, start: 0 })] });
    expect(sized(space, 0x10)).toBe(0);
    expect(sized(space, 0x14)).toBe(0);
    expect(sized(space, 0x24)).toBe(0);
  });

  test('of 64 bits takes two registers, above 4 GiB too', () => {
    const small = new TestSpace({ resources: [resource({ size: 0x4000, is64Bit: true })] });
    expect([sized(small, 0x10), sized(small, 0x14)]).toEqual([0xffff_c004, 0xffff_ffff]);
    const large = new TestSpace({ resources: [resource({ size: 2 ** 36, is64Bit: true, prefetchable: true })] });
    expect([sized(large, 0x10), sized(large, 0x14)]).toEqual([0x0000_000c, 0xffff_fff0]);
    const exactly4G = new TestSpace({ resources: [resource({ size: 2 ** 32, is64Bit: true })] });
    expect([sized(exactly4G, 0x10), sized(exactly4G, 0x14)]).toEqual([0x0000_0004, 0xffff_ffff]);
  });

  test('goes on behind a 64-bit one with the BAR after it', () => {
    const resources = [resource({ size: 0x1000, is64Bit: true }), undefined, resource({ size: 0x2000 })];
    const space = new TestSpace({ resources });
    expect(sized(space, 0x18)).toBe(0xffff_e000);
  });

  test('of a 64-bit one in the last register leaves what is behind it alone', () => {
    const resources = [
      undefined,
      undefined,
      undefined,
      undefined,
      undefined,
      resource({ size: 2 ** 33, is64Bit: true }),
    ];
    const space = new TestSpace({ resources, setup: (hw) => hw.poke(0x28, 4, 0x1122_3344) });
    expect(sized(space, 0x24)).toBe(0x0000_0004);
    expect(space.read(0x28, 4)).toBe(0x1122_3344);
    expect(space.space.vconfig.slice(0x28, 0x2c)).toEqual(Uint8Array.of(0x44, 0x33, 0x22, 0x11));
  });

  test('of 4 ports takes bit 2, an address bit there, for the 64-bit type: the neighbour keeps what is written', () => {
    const resources = [resource({ size: 4, io: true }), resource({ size: 0x1000 })];
    const space = new TestSpace({ resources });
    space.write(0x10, 4, 0x0000_c004);
    space.write(0x14, 4, 0xffff_ffff);
    expect(space.read(0x10, 4)).toBe(0x0000_c005);
    expect(space.read(0x14, 4)).toBe(0xffff_ffff);
    space.write(0x10, 4, 0x0000_c000);
    expect(space.read(0x14, 4)).toBe(0xffff_f000);
  });

  test('of all together is done by the first read, and not by a write', () => {
    const resources = [resource({ size: 0x1000 }), resource({ size: 0x2000 })];
    const space = new TestSpace({ resources });
    space.read(0x10, 4);
    space.write(0x14, 4, 0xffff_ffff);
    expect(space.space.vconfig.slice(0x14, 0x18)).toEqual(Uint8Array.of(0xff, 0xff, 0xff, 0xff));
    space.read(0x10, 1);
    expect(space.space.vconfig.slice(0x14, 0x18)).toEqual(Uint8Array.of(0x00, 0xe0, 0xff, 0xff));
  });

  test('is due from the start, since the host may have placed a BAR that it does not give', () => {
    const space = new TestSpace({ setup: (hw) => hw.poke(0x10, 4, 0xf000_0000) });
    expect(space.read(0x10, 4)).toBe(0);
  });

  test('is due after a write of any byte of it, by any width', () => {
    const space = new TestSpace({ resources: [resource({ size: 0x1_0000 })] });
    space.read(0x10, 4);
    space.write(0x13, 1, 0xaa);
    space.write(0x11, 1, 0xff);
    expect(space.read(0x10, 4)).toBe(0xaa00_0000);
    space.write(0x10, 2, 0xffff);
    expect(space.read(0x10, 4)).toBe(0xaa00_0000);
  });

  test('is not done over and over: what a driver puts there afterwards is shown', () => {
    const space = new TestSpace({ resources: [resource({ size: 0x1000 })] });
    space.read(0x10, 4);
    space.space.vconfig.set([0x11, 0x22, 0x33, 0x44], 0x10);
    expect(space.read(0x10, 4)).toBe(0x4433_2211);
  });

  test('is done by reads of BARs and ROM only, to the last byte', () => {
    const due = (at: number): boolean => {
      const space = new TestSpace({ resources: [resource({ size: 0x1000 })] });
      space.write(0x10, 4, 0xffff_ffff);
      space.read(at, 1);
      return space.space.vconfig[0x11] === 0xff;
    };
    const settling = Array.from({ length: 0x40 }, (_, at) => at).filter((at) => !due(at));
    const bars = Array.from({ length: 0x18 }, (_, i) => 0x10 + i);
    expect(settling).toEqual([...bars, 0x30, 0x31, 0x32, 0x33]);
  });

  test('never reaches hardware', () => {
    const space = new TestSpace({ resources: [resource({ size: 0x1000 })] });
    for (let at = 0x10; at < 0x28; at += 4) sized(space, at);
    sized(space, 0x30);
    expect(space.hw.accesses).toEqual([]);
  });
});

describe('the ROM', () => {
  const rom = (init: Parameters<typeof resource>[0]): TestSpace =>
    new TestSpace({ resources: [...new Array<undefined>(6), resource(init)] });

  test('gives its size and keeps the enable bit', () => {
    const space = rom({ size: 0x8000 });
    expect(sized(space, 0x30)).toBe(0xffff_8001);
    space.write(0x30, 4, 0x1234_8000);
    expect(space.read(0x30, 4)).toBe(0x1234_8000);
  });

  test('without a BAR but with content kept in memory has that length, rounded up to a power of two', () => {
    expect(sized(rom({ size: 0, start: 0, shadowLength: 0xc001 }), 0x30)).toBe(0xffff_0001);
    expect(sized(rom({ size: 0, start: 0, shadowLength: 0x1_0000 }), 0x30)).toBe(0xffff_0001);
  });

  test('with a BAR is as large as the BAR, whatever its content', () => {
    expect(sized(rom({ size: 0x8000, shadowLength: 0x2_0000 }), 0x30)).toBe(0xffff_8001);
  });

  test('without either reads 0', () => {
    expect(sized(rom({ size: 0x8000, start: 0 }), 0x30)).toBe(0);
    expect(sized(rom({ size: 0, start: 0, shadowLength: 0 }), 0x30)).toBe(0);
    expect(sized(new TestSpace(), 0x30)).toBe(0);
  });

  test('has no type bits', () => {
    expect(sized(rom({ size: 0x8000, prefetchable: true }), 0x30)).toBe(0xffff_8001);
  });
});
