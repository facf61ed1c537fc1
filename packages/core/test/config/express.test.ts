import { errnoError } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { masks } from './probe.js';
import { TestSpace } from './support.js';

const at = 0x40;
const DEVCTL = at + 8;
const FLR_CAPABLE = 0x1000_0000;

interface Options {
  readonly flags?: number;
  readonly devcap?: number;
  readonly devctl?: number;
}

function express({ flags = 2, devcap = FLR_CAPABLE, devctl = 0 }: Options = {}): TestSpace {
  return new TestSpace({
    caps: [{ at, id: 0x10 }],
    setup: (hw) => {
      hw.poke(0x04, 2, 0x0002);
      hw.poke(at + 2, 2, flags);
      hw.poke(at + 4, 4, devcap);
      hw.poke(DEVCTL, 2, devctl);
    },
  });
}

/** MPS and MRRS fields of DEVCTL. */
const mps = (bytes: number) => (Math.log2(bytes) - 7) << 5;
const mrrs = (bytes: number) => (Math.log2(bytes) - 7) << 12;

describe('the registers: virtual bits, bits that reach hardware, bits that the view takes', () => {
  test.for<[string, number, 1 | 2 | 4, string]>([
    ['next', 0x01, 1, 'ff 00 00'],
    ['flags', 0x02, 2, '0000 0000 0000'],
    ['DEVCAP', 0x04, 4, '00000000 00000000 00000000'],
    ['DEVSTA', 0x0a, 2, '0000 0000 0000'],
    ['LNKCAP', 0x0c, 4, '00000000 00000000 00000000'],
    ['LNKCTL', 0x10, 2, '0000 0000 0000'],
    ['SLTCTL', 0x18, 2, '0000 0000 0000'],
    ['RTCTL', 0x1c, 2, '0000 0000 0000'],
    ['DEVCAP2', 0x24, 4, '00000000 00000000 00000000'],
    ['DEVCTL2: not ARI', 0x28, 2, '0000 ffdf ffdf'],
    ['LNKCTL2', 0x30, 2, '0000 0000 0000'],
    ['slot registers of version 2: unassigned', 0x34, 4, '00000000 ffffffff ffffffff'],
  ])('%s', ([, offset, width, expected]) => {
    expect(masks(express(), at + offset, width)).toBe(expected);
  });

  test('DEVCTL: FLR, MPS and MRRS are virtual; phantom functions stay off; the rest is hardware', () => {
    const space = express({ devcap: 0 });
    space.write(DEVCTL, 2, 0xffff);
    expect(space.hw.peek(DEVCTL, 2) & ~0x7000).toBe(0x0d1f);
    expect(space.read(DEVCTL, 2)).toBe(0x7dff);
    space.write(DEVCTL, 2, 0x0000);
    expect(space.hw.peek(DEVCTL, 2) & ~0x7000).toBe(0x0000);
    expect(space.read(DEVCTL, 2)).toBe(0x0000);
  });

  test('DEVCTL shows MPS and MRRS as they were at open', () => {
    expect(express({ devctl: mps(256) | mrrs(512) }).read(DEVCTL, 2)).toBe(mps(256) | mrrs(512));
  });
});

describe('function level reset', () => {
  test('is carried out with mappings killed, and its bit reads 0', () => {
    const space = express();
    space.write(DEVCTL, 2, 0x8000);
    expect(space.host.events).toEqual(['lock+zap', 'reset', 'unlock']);
    expect(space.read(DEVCTL, 2)).toBe(0);
  });

  test('is carried out by a write of the high byte alone, or of the dword', () => {
    const space = express();
    space.write(DEVCTL + 1, 1, 0x80);
    expect(space.host.events).toContain('reset');
    space.host.events.length = 0;
    space.write(DEVCTL, 4, 0x8000);
    expect(space.host.events).toContain('reset');
  });

  test('never touches the bit of hardware', () => {
    const space = express();
    const seen: number[] = [];
    space.hw.onWrite = () => seen.push(space.hw.peek(DEVCTL, 2) & 0x8000);
    space.write(DEVCTL, 2, 0x8010);
    expect(seen).toEqual([0]);
  });

  test('is not carried out where DEVCAP has none, and the bit reads 0 all the same', () => {
    const space = express({ devcap: ~FLR_CAPABLE >>> 0 });
    space.write(DEVCTL, 2, 0x8000);
    expect(space.host.events).toEqual([]);
    expect(space.read(DEVCTL, 2)).toBe(0);
  });

  test('goes by what DEVCAP of hardware says now', () => {
    const space = express({ devcap: 0 });
    space.hw.poke(at + 4, 4, FLR_CAPABLE);
    space.write(DEVCTL, 2, 0x8000);
    expect(space.host.events).toContain('reset');
  });

  test('is not repeated by the next write', () => {
    const space = express();
    space.write(DEVCTL, 2, 0x8000);
    space.write(DEVCTL, 2, 0x0010);
    space.write(at + 0x28, 2, 0x0001);
    expect(space.host.events.filter((event) => event === 'reset')).toHaveLength(1);
  });

  test('that fails is not the failure of the write', () => {
    const space = express();
    space.host.onReset = () => {
      throw errnoError('EAGAIN', 'the lock is held');
    };
    expect(space.write(DEVCTL, 2, 0x8000)).toBe(2);
    expect(space.host.events).toEqual(['lock+zap', 'reset', 'unlock']);
    expect(space.host.warnings).toEqual(['the lock is held']);
    expect(space.read(DEVCTL, 2)).toBe(0);
  });

  test('that takes time makes the write a promise; a changed MRRS follows when it is done', async () => {
    const space = express();
    let arrive = () => {};
    space.host.onReset = () =>
      new Promise<void>((resolve) => {
        arrive = () => {
          space.hw.poke(DEVCTL, 2, 0x2810);
          resolve();
        };
      });
    const result = space.write(DEVCTL, 2, 0x8000 | mrrs(1024));
    expect(result).toBeInstanceOf(Promise);
    expect(space.read(DEVCTL, 2) & 0x8000).toBe(0);
    arrive();
    expect(await result).toBe(2);
    expect(space.host.events).toEqual(['lock+zap', 'reset', 'unlock']);
    expect(space.hw.peek(DEVCTL, 2) & 0x7000).toBe(mrrs(1024));
  });

  test('that takes no time leaves the write a number', () => {
    expect(express().write(DEVCTL, 2, 0x8000)).toBe(2);
  });
});

describe('MPS', () => {
  test('never reaches hardware', () => {
    const space = express({ devctl: mps(256) });
    space.write(DEVCTL, 2, mps(4096));
    expect(space.hw.peek(DEVCTL, 2) & 0x00e0).toBe(mps(256));
    expect(space.read(DEVCTL, 2) & 0x00e0).toBe(mps(4096));
  });
});

describe('MRRS', () => {
  test.for([128, 256, 512, 1024, 2048, 4096])('of %d reaches hardware', (bytes) => {
    const space = express({ devctl: mrrs(bytes === 128 ? 256 : 128) });
    space.write(DEVCTL, 2, mrrs(bytes));
    expect(space.hw.peek(DEVCTL, 2)).toBe(mrrs(bytes));
    expect(space.read(DEVCTL, 2)).toBe(mrrs(bytes));
  });

  test('is not below the real MPS in hardware, and shows what was written', () => {
    const space = express({ devctl: mps(512) | mrrs(1024) });
    space.write(DEVCTL, 2, mps(128) | mrrs(128));
    expect(space.hw.peek(DEVCTL, 2)).toBe(mps(512) | mrrs(512));
    expect(space.read(DEVCTL, 2)).toBe(mps(128) | mrrs(128));
  });

  test("goes by the real MPS, not by the user's", () => {
    const space = express({ devctl: mps(128) | mrrs(1024) });
    space.write(DEVCTL, 2, mps(4096) | mrrs(256));
    expect(space.hw.peek(DEVCTL, 2)).toBe(mps(128) | mrrs(256));
  });

  test.for([6, 7])('of the reserved encoding %d leaves hardware as it is, and shows', (value) => {
    const space = express({ devctl: mrrs(512) });
    space.write(DEVCTL, 2, value << 12);
    expect(space.hw.peek(DEVCTL, 2)).toBe(mrrs(512));
    expect(space.read(DEVCTL, 2)).toBe(value << 12);
  });

  test('under an MPS of a reserved encoding leaves hardware as it is', () => {
    const space = express({ devctl: (6 << 5) | mrrs(512) });
    space.write(DEVCTL, 2, mrrs(1024));
    expect(space.hw.peek(DEVCTL, 2)).toBe((6 << 5) | mrrs(512));
  });

  test('that does not change virtually is not written, though hardware differs', () => {
    const space = express({ devctl: mrrs(512) });
    space.hw.poke(DEVCTL, 2, mrrs(2048));
    space.write(DEVCTL, 2, mrrs(512) | 0x0010);
    expect(space.hw.peek(DEVCTL, 2)).toBe(mrrs(2048) | 0x0010);
  });

  test('is changed by its own byte, and not by the other', () => {
    const space = express({ devctl: mrrs(512) });
    space.write(DEVCTL, 1, 0x1f);
    expect(space.hw.peek(DEVCTL, 2)).toBe(mrrs(512) | 0x1f);
    space.write(DEVCTL + 1, 1, mrrs(256) >> 8);
    expect(space.hw.peek(DEVCTL, 2)).toBe(mrrs(256) | 0x1f);
  });

  test('keeps the bits around it in hardware', () => {
    const space = express({ devctl: 0x0200 | mrrs(512) });
    space.write(DEVCTL, 2, mrrs(256) | 0x0815);
    expect(space.hw.peek(DEVCTL, 2)).toBe(0x0200 | mrrs(256) | 0x0815);
  });
});

describe('what is left of an overlapped capability', () => {
  test('acts on no register that is not its own', () => {
    // The tail of EXP begins at 0x4c and has 4 bytes before an unassigned stretch; its "DEVCTL" would be at 0x54.
    const space = new TestSpace({
      caps: [
        { at, id: 0x10, body: [0x91] },
        { at: 0x42, id: 0x13 },
      ],
      setup: (hw) => hw.poke(0x4c, 4, 0xffff_ffff),
    });
    expect(space.space.map[0x48]).toBe(0x10);
    space.write(0x48, 4, 0xffff_ffff);
    expect(space.host.events).toEqual([]);
  });

  test('at a place that is no dword cannot ask hardware, and resets nothing', () => {
    const space = new TestSpace({ caps: [{ at: 0x42, id: 0x10, body: [0x02, 0x00, 0xff, 0xff, 0xff, 0xff] }] });
    space.write(0x4a, 2, 0xf000);
    expect(space.host.events).toEqual([]);
    expect(space.read(0x4a, 2)).toBe(0x7000);
  });
});
