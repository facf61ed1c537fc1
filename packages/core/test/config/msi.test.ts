import { describe, expect, test } from 'vitest';
import { masks } from './probe.js';
import { TestSpace, u16 } from './support.js';

const at = 0x50;
const FLAGS = at + 2;

function msi(flags: number, host: object = {}): TestSpace {
  return new TestSpace({ caps: [{ at, id: 0x05, body: u16(flags) }], host });
}

describe('the registers: virtual bits, bits that reach hardware, bits that the view takes', () => {
  const layouts: [string, number, [number, 1 | 2 | 4, string][]][] = [
    [
      '32-bit',
      0x0000,
      [
        [0x04, 4, 'ffffffff 00000000 ffffffff'],
        [0x08, 2, 'ffff 0000 ffff'],
        [0x0a, 2, '0000 ffff ffff'],
      ],
    ],
    [
      '64-bit',
      0x0080,
      [
        [0x04, 4, 'ffffffff 00000000 ffffffff'],
        [0x08, 4, 'ffffffff 00000000 ffffffff'],
        [0x0c, 2, 'ffff 0000 ffff'],
        [0x0e, 2, '0000 ffff ffff'],
      ],
    ],
    [
      '32-bit, maskable',
      0x0100,
      [
        [0x08, 2, 'ffff 0000 ffff'],
        [0x0a, 2, '0000 0000 0000'],
        [0x0c, 4, '00000000 ffffffff ffffffff'],
        [0x10, 4, '00000000 ffffffff ffffffff'],
      ],
    ],
    [
      '64-bit, maskable',
      0x0180,
      [
        [0x08, 4, 'ffffffff 00000000 ffffffff'],
        [0x0c, 2, 'ffff 0000 ffff'],
        [0x0e, 2, '0000 0000 0000'],
        [0x10, 4, '00000000 ffffffff ffffffff'],
        [0x14, 4, '00000000 ffffffff ffffffff'],
      ],
    ],
  ];
  test.for(layouts.flatMap(([name, flags, rows]) => rows.map((row) => [name, flags, ...row] as const)))(
    '%s, at %d',
    ([, flags, offset, width, expected]) => {
      expect(masks(msi(flags), at + offset, width)).toBe(expected);
    },
  );

  test('id is read-only, the link virtual', () => {
    const space = msi(0);
    expect(space.read(at, 2)).toBe(0x0005);
    space.write(at, 2, 0xffff);
    expect(space.read(at, 2)).toBe(0x0005);
    expect(space.hw.peek(at, 2)).toBe(0x0005);
  });
});

describe('enabling MSI', () => {
  test('is not done by the register', () => {
    const space = msi(0);
    space.write(FLAGS, 2, 0x0001);
    expect(space.read(FLAGS, 2)).toBe(0);
    expect(space.hw.peek(FLAGS, 2)).toBe(0);
  });

  test('stands where the interrupt type agrees', () => {
    const space = msi(0, { msiActive: true });
    space.write(FLAGS, 2, 0x0001);
    expect(space.read(FLAGS, 2)).toBe(1);
    expect(space.hw.peek(FLAGS, 2)).toBe(1);
    space.write(FLAGS, 2, 0x0000);
    expect(space.hw.peek(FLAGS, 2)).toBe(0);
  });
});

describe('the number of messages', () => {
  test.for<[qmax: number, written: number, kept: number]>([
    [0, 0, 0],
    [0, 1, 0],
    [0, 7, 0],
    [3, 2, 2],
    [3, 3, 3],
    [3, 4, 3],
    [5, 7, 5],
  ])('with 2^%d enabled, %d is kept as %d', ([msiQmax, written, kept]) => {
    const space = msi(0x000a, { msiQmax });
    space.write(FLAGS, 1, written << 4);
    expect((space.read(FLAGS, 2) >> 4) & 7).toBe(kept);
    expect((space.hw.peek(FLAGS, 2) >> 4) & 7).toBe(kept);
  });

  test('that the function is capable of reads as hardware has it, before and after enabling', () => {
    const space = msi(0x000a, { msiQmax: 2 });
    expect(space.read(FLAGS, 2) & 0x000e).toBe(0x000a);
    space.host.msiActive = true;
    space.write(FLAGS, 2, 0x000b);
    expect(space.read(FLAGS, 2)).toBe(0x000b);
    expect(space.read(at, 4) >>> 16).toBe(0x000b);
  });
});

describe('the flags are put right', () => {
  /** Lets the virtual flags be wrong, as they are when the interrupt type has changed, and sees what puts them right. */
  const corrected = (offset: number, width: 1 | 2 | 4): boolean => {
    const space = msi(0, { msiActive: true, msiQmax: 5 });
    space.write(FLAGS, 1, 0x51);
    space.host.msiActive = false;
    space.host.msiQmax = 0;
    space.write(offset, width, 0x51 * 2 ** (8 * Math.max(0, FLAGS - offset)));
    return space.hw.peek(FLAGS, 1) === 0;
  };

  test.for<[number, 1 | 2 | 4, boolean]>([
    [at, 1, false],
    [at + 1, 1, true],
    [at, 2, true],
    [at, 4, true],
    [FLAGS, 1, true],
    [FLAGS, 2, true],
    [FLAGS + 1, 1, false],
    [at + 4, 4, false],
  ])('by a write at %d of %d bytes: %s', ([offset, width, expected]) => {
    expect(corrected(offset, width)).toBe(expected);
  });

  test('in hardware with both bytes, the upper as it was at open', () => {
    const space = msi(0x0180);
    space.hw.poke(FLAGS, 2, 0x0000);
    space.write(FLAGS, 1, 0x00);
    expect(space.hw.peek(FLAGS, 2)).toBe(0x0100);
    expect(space.hw.writes.map(({ offset, width }) => [offset, width])).toEqual([[FLAGS, 2]]);
  });

  test('and the upper byte does not take what is written to it', () => {
    const space = msi(0x0100);
    space.write(FLAGS, 2, 0xff00);
    expect(space.read(FLAGS, 2)).toBe(0x0100);
    expect(space.hw.peek(FLAGS, 2)).toBe(0x0100);
  });
});

describe('what is left of an overlapped capability', () => {
  test('writes no flags where it has none', () => {
    const space = new TestSpace({
      caps: [
        { at: 0x40, id: 0x05, body: u16(0x0180) },
        { at: 0x44, id: 0x09, body: [18] },
      ],
    });
    // The tail is 0x56..0x57: its flags would be at 0x58, which nobody has.
    expect(space.space.map[0x56]).toBe(0x05);
    expect(space.space.map[0x58]).toBe(0xff);
    space.write(0x56, 2, 0xffff);
    expect(space.hw.peek(0x58, 2)).toBe(0);
  });

  test('writes no flags to an odd place, where hardware has no register of 16 bits', () => {
    const space = new TestSpace({
      caps: [
        { at: 0x40, id: 0x05, body: u16(0x0180) },
        { at: 0x45, id: 0x09, body: [4] },
      ],
    });
    // The tail is 0x49..0x57, so its flags would be at 0x4b.
    expect([0x49, 0x4b, 0x4c].map((at) => space.space.map[at])).toEqual([0x05, 0x05, 0x05]);
    expect(space.write(0x4b, 1, 0x71)).toBe(1);
    expect(space.hw.writes).toEqual([]);
  });
});
