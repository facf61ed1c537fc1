import { isVfioError } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { TestSpace } from './support.js';

function errnoOf(call: () => unknown): string | undefined {
  try {
    call();
  } catch (error) {
    if (isVfioError(error)) return error.errno;
    throw error;
  }
  return undefined;
}

describe('an access is cut into pieces', () => {
  const widths = (space: TestSpace, offset: number, length: number): [number, number][] => {
    space.hw.accesses.length = 0;
    space.bytes(offset, length);
    return space.hw.accesses.map(({ offset: at, width }) => [at, width]);
  };

  test('that are dwords where they are aligned and long enough', () => {
    expect(widths(new TestSpace(), 0x80, 8)).toEqual([
      [0x80, 4],
      [0x84, 4],
    ]);
  });

  test('that never cross a dword', () => {
    const space = new TestSpace();
    expect(widths(space, 0x81, 4)).toEqual([
      [0x81, 1],
      [0x82, 2],
      [0x84, 1],
    ]);
    expect(widths(space, 0x82, 4)).toEqual([
      [0x82, 2],
      [0x84, 2],
    ]);
    expect(widths(space, 0x83, 2)).toEqual([
      [0x83, 1],
      [0x84, 1],
    ]);
  });

  test('of 2 and 1 bytes where 3 are left', () => {
    expect(widths(new TestSpace(), 0x80, 3)).toEqual([
      [0x80, 2],
      [0x82, 1],
    ]);
  });

  test('that never cross from one owner to another', () => {
    // AF has 6 bytes: its last dword is shared with unassigned bytes.
    const space = new TestSpace({ caps: [{ at: 0x80, id: 0x13, body: [6, 3] }] });
    expect(widths(space, 0x84, 4)).toEqual([
      [0x84, 2],
      [0x86, 2],
    ]);
    // A vendor capability of 7 bytes: 2, then the odd one, then the stranger.
    const odd = new TestSpace({ caps: [{ at: 0x80, id: 0x09, body: [7] }] });
    expect(widths(odd, 0x84, 4)).toEqual([
      [0x84, 2],
      [0x86, 1],
      [0x87, 1],
    ]);
    // 5 bytes: an owner alone in its word.
    const single = new TestSpace({ caps: [{ at: 0x80, id: 0x09, body: [5] }] });
    expect(widths(single, 0x84, 4)).toEqual([
      [0x84, 1],
      [0x85, 1],
      [0x86, 2],
    ]);
  });

  test('whatever the length: the whole of config space in one read equals its dwords', () => {
    const space = new TestSpace({
      size: 4096,
      caps: [
        { at: 0x40, id: 0x01, body: [0x03, 0xff, 0x08, 0x81] },
        { at: 0x50, id: 0x10, body: [2] },
      ],
      ecaps: [{ at: 0x100, id: 0x03 }],
      setup: (hw) => {
        for (let i = 0x200; i < 0x1000; i++) hw.bytes[i] = i * 7;
      },
    });
    const whole = space.bytes(0, 4096);
    for (let at = 0; at < 4096; at += 4) expect(whole.subarray(at, at + 4)).toEqual(space.bytes(at, 4));
    expect(whole.subarray(0x200)).toEqual(space.hw.bytes.subarray(0x200));
  });

  test('and a write of the whole returns its length, dropped bytes counted', () => {
    const space = new TestSpace({ size: 4096 });
    expect(space.space.write(0, new Uint8Array(4096))).toBe(4096);
  });
});

describe('the range is checked for the whole access', () => {
  test.for<[number, number]>([
    [-1, 1],
    [-4, 4],
    [256, 1],
    [253, 4],
    [255, 2],
    [0, 257],
    [1000, 1],
    [Number.NaN, 1],
    [0.5, 1],
    [2 ** 40, 4],
  ])('%d, %d bytes of 256: EFAULT, and nothing is done', ([offset, length]) => {
    const space = new TestSpace();
    const before = space.hw.bytes.slice();
    expect(errnoOf(() => space.space.read(offset, new Uint8Array(length)))).toBe('EFAULT');
    expect(errnoOf(() => space.space.write(offset, new Uint8Array(length).fill(0xff)))).toBe('EFAULT');
    expect(space.hw.accesses).toEqual([]);
    expect(space.hw.bytes).toEqual(before);
  });

  test('the last byte is in range', () => {
    const space = new TestSpace({ size: 4096 });
    expect(space.space.write(4095, Uint8Array.of(0x5a))).toBe(1);
    expect(space.read(4095, 1)).toBe(0x5a);
  });

  test('no bytes are no access', () => {
    const space = new TestSpace();
    expect(space.space.read(0, new Uint8Array(0))).toBe(0);
    expect(space.space.write(256, new Uint8Array(0))).toBe(0);
    expect(space.hw.accesses).toEqual([]);
  });
});

describe('bytes of no visible capability', () => {
  test('are hardware, both ways, in standard and extended space', () => {
    const space = new TestSpace({ size: 4096 });
    for (const at of [0x40, 0xfc, 0x100, 0xffc]) {
      space.write(at, 4, 0xdead_beef);
      expect(space.hw.peek(at, 4)).toBe(0xdead_beef);
      space.hw.poke(at, 4, 0x1234_5678);
      expect(space.read(at, 4)).toBe(0x1234_5678);
    }
  });
});

describe('bytes marked virtual', () => {
  test('hold what the user writes, and hardware never sees it', () => {
    const space = new TestSpace({ setup: (hw) => hw.poke(0xfc, 4, 0xa000_0000) });
    space.space.markVirtual(0xfc, 4);
    expect(space.read(0xfc, 4)).toBe(0);
    space.hw.accesses.length = 0;
    space.write(0xfc, 4, 0x8765_4321);
    space.write(0xfd, 1, 0xaa);
    expect(space.read(0xfc, 4)).toBe(0x8765_aa21);
    expect(space.hw.accesses).toEqual([]);
    expect(space.hw.peek(0xfc, 4)).toBe(0xa000_0000);
  });

  test('show what a driver puts there', () => {
    const space = new TestSpace();
    space.space.markVirtual(0xfc, 4);
    space.space.vconfig.set([1, 2, 3, 4], 0xfc);
    expect(space.read(0xfc, 4)).toBe(0x0403_0201);
  });

  test('have to be in range', () => {
    const space = new TestSpace();
    expect(errnoOf(() => space.space.markVirtual(0xfd, 4))).toBe('EFAULT');
    expect(errnoOf(() => space.space.markVirtual(-4, 4))).toBe('EFAULT');
  });
});

test('bytes outside the header and the visible capabilities have no virtual value', () => {
  const space = new TestSpace({ size: 4096, caps: [{ at: 0x40, id: 0x01 }], ecaps: [{ at: 0x100, id: 0x03 }] });
  space.space.vconfig.fill(0xaa);
  space.space.init();
  expect(space.space.vconfig.findIndex((byte, i) => byte !== 0 && i >= 0x48)).toBe(-1);
});

test('opening again starts from hardware', () => {
  const space = new TestSpace({ caps: [{ at: 0x40, id: 0x05, body: [0x00, 0x00] }] });
  space.write(0x3c, 1, 0x55);
  space.write(0x44, 4, 0xfee0_0000);
  space.space.markVirtual(0xfc, 4);
  space.hw.bytes[0x34] = 0;
  space.hw.poke(0x06, 2, 0);
  space.space.init();
  expect(space.read(0x3c, 1)).toBe(0);
  expect(space.walk()).toEqual([]);
  space.write(0xfc, 4, 7);
  expect(space.hw.peek(0xfc, 4)).toBe(7);
});
