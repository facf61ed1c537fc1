import { describe, expect, test } from 'vitest';
import { masks } from './probe.js';
import { resource, TestSpace } from './support.js';

/** Sized so that every address bit of a register can be seen: 1 byte does not exist, 16 is the least for memory. */
const resources = [
  resource({ size: 16 }),
  resource({ size: 4, io: true }),
  undefined,
  resource({ size: 0x1000 }),
  undefined,
  resource({ size: 0x8000_0000 }),
  resource({ size: 0x1_0000 }),
];

describe('the header: virtual bits, bits that reach hardware, bits that the view takes', () => {
  test.for<[string, number, 1 | 2 | 4, string]>([
    ['vendor', 0x00, 2, 'ffff 0000 0000'],
    ['device', 0x02, 2, 'ffff 0000 0000'],
    // DisINTx only virtually; every other bit in hardware.
    ['command', 0x04, 2, '0400 fbff ffff'],
    ['status: only the list bit is ours', 0x06, 2, '0010 0000 0000'],
    ['revision and class', 0x08, 4, '00000000 00000000 00000000'],
    ['cache line', 0x0c, 1, '00 ff ff'],
    ['latency timer', 0x0d, 1, '00 ff ff'],
    ['header type', 0x0e, 1, '00 00 00'],
    ['BIST', 0x0f, 1, '00 ff ff'],
    ['BAR 0, 16 bytes', 0x10, 4, 'ffffffff 00000000 fffffff0'],
    ['BAR 1, 4 ports', 0x14, 4, 'ffffffff 00000000 fffffffc'],
    ['BAR 2, none', 0x18, 4, 'ffffffff 00000000 00000000'],
    ['BAR 3, 4 KiB', 0x1c, 4, 'ffffffff 00000000 fffff000'],
    ['BAR 4, none', 0x20, 4, 'ffffffff 00000000 00000000'],
    ['BAR 5, 2 GiB', 0x24, 4, 'ffffffff 00000000 80000000'],
    ['CIS', 0x28, 4, '00000000 00000000 00000000'],
    ['subsystem', 0x2c, 4, '00000000 00000000 00000000'],
    ['ROM, 64 KiB and its enable bit', 0x30, 4, 'ffffffff 00000000 ffff0001'],
    ['list pointer', 0x34, 1, 'ff 00 00'],
    ['reserved', 0x35, 1, '00 00 00'],
    ['reserved', 0x36, 2, '0000 0000 0000'],
    ['reserved', 0x38, 4, '00000000 00000000 00000000'],
    ['line', 0x3c, 1, 'ff 00 ff'],
    ['pin', 0x3d, 1, 'ff 00 00'],
    ['Min_Gnt', 0x3e, 1, '00 00 00'],
    ['Max_Lat', 0x3f, 1, '00 00 00'],
  ])('%s', ([, offset, width, expected]) => {
    expect(masks(new TestSpace({ resources }), offset, width)).toBe(expected);
  });

  test('a write to read-only bytes succeeds and does nothing', () => {
    const space = new TestSpace();
    const before = space.hw.bytes.slice();
    expect(space.write(0x08, 4, 0xffff_ffff)).toBe(4);
    expect(space.hw.writes).toEqual([]);
    expect(space.hw.bytes).toEqual(before);
  });

  test('hardware is not asked for what is wholly virtual', () => {
    const space = new TestSpace();
    space.read(0x00, 4);
    space.read(0x3c, 2);
    expect(space.hw.accesses).toEqual([]);
  });

  test('a dword that is partly writable changes only that part in hardware', () => {
    // Cache line, latency, header type, BIST.
    const space = new TestSpace({ setup: (hw) => hw.poke(0x0c, 4, 0x1122_3344) });
    space.write(0x0c, 4, 0xaabb_ccdd);
    expect(space.hw.peek(0x0c, 4)).toBe(0xaa22_ccdd);
  });
});

describe('a function as it is at open', () => {
  test('shows its ids and pin', () => {
    const space = new TestSpace({ host: { vendor: 0xaaaa, device: 0xbbbb } });
    expect(space.read(0x00, 4)).toBe(0x5678_1234);
    expect(space.read(0x3d, 1)).toBe(1);
    expect(space.space.interruptPin).toBe(1);
  });

  test.for<[string, object]>([
    ['has no INTx that can be used', { intxUsable: false }],
    ['has a broken INTx', { nointx: true }],
  ])('shows no pin where it %s', ([, host]) => {
    const space = new TestSpace({ host });
    expect(space.read(0x3d, 1)).toBe(0);
    expect(space.space.interruptPin).toBe(0);
    expect(space.hw.peek(0x3d, 1)).toBe(1);
  });

  test('shows the command register as hardware has it', () => {
    const space = new TestSpace({ setup: (hw) => hw.poke(0x04, 2, 0x0103) });
    expect(space.read(0x04, 2)).toBe(0x0103);
    expect(space.space.memoryEnabled).toBe(true);
  });
});

describe('a virtual function', () => {
  const vf = (setup?: (hw: { poke(at: number, width: 1 | 2 | 4, value: number): void }) => void, host: object = {}) =>
    new TestSpace({
      setup: (hw) => {
        hw.poke(0x00, 4, 0xffff_ffff);
        hw.poke(0x3d, 1, 0);
        setup?.(hw);
      },
      host: { isVf: true, noCommandMemory: true, vendor: 0x15b3, device: 0x101e, ...host },
    });

  test('shows the ids that its host knows', () => {
    expect(vf().read(0x00, 4)).toBe(0x101e_15b3);
  });

  test('has no pin, and a bogus one is told of', () => {
    const space = vf((hw) => hw.poke(0x3d, 1, 2));
    expect(space.read(0x3d, 1)).toBe(0);
    expect(space.host.warnings).toHaveLength(1);
    expect(space.host.warnings[0]).toMatch(/bogus interrupt pin 0x2/);
  });

  test('that is known to show a bogus pin is not told of', () => {
    const space = vf((hw) => hw.poke(0x3d, 1, 1), { vendor: 0x8086, device: 0x270c });
    expect(space.read(0x3d, 1)).toBe(0);
    expect(space.host.warnings).toEqual([]);
  });

  test('whose pin is right is not told of', () => {
    expect(vf().host.warnings).toEqual([]);
  });

  test('has memory enabled from the start, though hardware has no such bit', () => {
    const space = vf();
    expect(space.hw.peek(0x04, 2)).toBe(0);
    expect(space.read(0x04, 2)).toBe(0x0002);
    expect(space.read(0x04, 4)).toBe(0x0002);
    expect(space.read(0x04, 1)).toBe(0x02);
    expect(space.space.memoryEnabled).toBe(true);
  });

  test('keeps its memory enable bit virtually, and memory works whatever it says', () => {
    const space = vf((hw) => (hw as TestSpace['hw']).mask.fill(0, 4, 6));
    space.write(0x04, 2, 0x0000);
    expect(space.read(0x04, 2)).toBe(0x0000);
    expect(space.space.memoryEnabled).toBe(true);
    space.write(0x04, 2, 0x0006);
    expect(space.read(0x04, 2)).toBe(0x0002);
    expect(space.host.warnings).toEqual([]);
  });
});

describe('a physical function without the memory enable bit of its own', () => {
  test('keeps ids and pin as hardware has them', () => {
    const space = new TestSpace({ host: { noCommandMemory: true, vendor: 1, device: 2 } });
    expect(space.read(0x00, 4)).toBe(0x5678_1234);
    expect(space.read(0x3d, 1)).toBe(1);
    expect(space.read(0x04, 2)).toBe(2);
  });
});
