import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { restoreConfigState, saveConfigState } from '../../src/device/config/saved-state.js';
import { type CapSpec, Hardware, layOut, u16, u32 } from './support.js';

interface Options {
  readonly size?: number;
  readonly caps?: readonly CapSpec[];
  readonly ecaps?: readonly CapSpec[];
}

function hardware({ size = 4096, caps = [], ecaps = [] }: Options = {}): Hardware {
  const hw = new Hardware(size);
  layOut(hw, caps, ecaps);
  return hw;
}

/** Changes registers behind the back of software, restores, and gives the offsets written, in order. */
function afterReset(hw: Hardware, change: () => void, withInterrupts = false): number[] {
  const state = saveConfigState(hw);
  change();
  hw.accesses.length = 0;
  restoreConfigState(hw, state, withInterrupts);
  return hw.writes.map(({ offset }) => offset);
}

/** Whether a register comes back. */
function survives(hw: Hardware, at: number, width: 1 | 2 | 4, withInterrupts = false): boolean {
  const value = width === 4 ? 0x8765_4321 : 0x4321;
  hw.poke(at, width, value);
  afterReset(hw, () => hw.poke(at, width, 0), withInterrupts);
  return hw.peek(at, width) === value;
}

describe('what a reset loses comes back', () => {
  test.for([0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34, 0x38, 0x3c])(
    'of the header: %d',
    (at) => {
      expect(survives(hardware(), at, 4)).toBe(true);
    },
  );

  test('COMMAND, and it last, so that nothing is decoded before the addresses are there', () => {
    const hw = hardware();
    hw.poke(0x04, 2, 0x0007);
    for (let at = 0x10; at < 0x28; at += 4) hw.poke(at, 4, 0xf000_0000 + at);
    const written = afterReset(hw, () => hw.bytes.fill(0, 4, 0x40));
    expect(written).toEqual([0x24, 0x20, 0x1c, 0x18, 0x14, 0x10, 0x04]);
    expect(hw.peek(0x04, 2)).toBe(0x0007);
  });

  test('STATUS is not written: its bits clear by 1', () => {
    const hw = hardware();
    hw.poke(0x06, 2, 0xf900);
    hw.poke(0x04, 2, 0x0006);
    afterReset(hw, () => hw.poke(0x04, 2, 0));
    expect(hw.writes.map(({ offset, width }) => [offset, width])).toEqual([[0x04, 2]]);
  });

  test('ids and class are not written', () => {
    const hw = hardware();
    expect(afterReset(hw, () => hw.bytes.fill(0xff, 0, 4))).toEqual([]);
    expect(afterReset(hw, () => hw.bytes.fill(0xff, 8, 12))).toEqual([]);
  });

  test.for<[string, number[], number, boolean]>([
    ['DEVCTL', [0x02], 0x08, true],
    ['LNKCTL', [0x02], 0x10, true],
    ['LNKCTL of an integrated endpoint, which has no link', [0x92], 0x10, false],
    ['SLTCTL', u16(0x0102), 0x18, true],
    ['SLTCTL without a slot', [0x02], 0x18, false],
    ['DEVCTL2', [0x02], 0x28, true],
    ['DEVCTL2 of version 1', [0x01], 0x28, false],
    ['LNKCTL2', [0x02], 0x30, true],
    ['LNKCTL2 of an integrated endpoint', [0x92], 0x30, false],
    ['SLTCTL2', u16(0x0102), 0x38, true],
    ['SLTCTL2 without a slot', [0x02], 0x38, false],
  ])('of PCI Express: %s', ([, body, offset, expected]) => {
    expect(survives(hardware({ caps: [{ at: 0x80, id: 0x10, body }] }), 0x80 + offset, 2)).toBe(expected);
  });

  test('of PCI-X', () => {
    expect(survives(hardware({ caps: [{ at: 0x80, id: 0x07 }] }), 0x82, 2)).toBe(true);
  });

  test.for<[string, number, number[], number, 2 | 4]>([
    ['LTR latencies', 0x18, [], 0x04, 4],
    ['ATS control', 0x0f, [], 0x06, 2],
    ['AER uncorrectable mask', 0x01, [], 0x08, 4],
    ['AER uncorrectable severity', 0x01, [], 0x0c, 4],
    ['AER correctable mask', 0x01, [], 0x14, 4],
    ['AER control', 0x01, [], 0x18, 4],
    ['SR-IOV control', 0x10, [], 0x08, 2],
    ['SR-IOV number of VFs', 0x10, [], 0x10, 2],
    ['SR-IOV page size', 0x10, [], 0x20, 4],
    ['SR-IOV first BAR', 0x10, [], 0x24, 4],
    ['SR-IOV last BAR', 0x10, [], 0x38, 4],
  ])('of extended space: %s', ([, id, body, offset, width]) => {
    expect(survives(hardware({ ecaps: [{ at: 0x100, id, body }] }), 0x100 + offset, width)).toBe(true);
  });

  test('the sizes of BARs, each of them and no more, before the BARs', () => {
    const hw = hardware({ ecaps: [{ at: 0x100, id: 0x15 }] });
    hw.poke(0x108, 4, 0x0000_0540);
    hw.poke(0x110, 4, 0x0000_0601);
    hw.poke(0x118, 4, 0x0000_0702);
    hw.poke(0x10, 4, 0xf000_0000);
    const written = afterReset(hw, () => {
      hw.poke(0x108, 4, 0x40);
      hw.poke(0x110, 4, 0x01);
      hw.poke(0x118, 4, 0x02);
      hw.poke(0x10, 4, 0);
    });
    expect(written).toEqual([0x108, 0x110, 0x10]);
    expect(hw.peek(0x110, 4)).toBe(0x601);
  });

  test('SR-IOV is enabled last', () => {
    const hw = hardware({ ecaps: [{ at: 0x100, id: 0x10 }] });
    hw.poke(0x108, 2, 0x0009);
    hw.poke(0x110, 2, 4);
    hw.poke(0x124, 4, 0xe000_0000);
    hw.poke(0x04, 2, 0x0006);
    expect(
      afterReset(hw, () => {
        for (const at of [0x108, 0x110, 0x124, 0x04]) hw.poke(at, 2, 0);
        hw.poke(0x124, 4, 0);
      }),
    ).toEqual([0x04, 0x124, 0x110, 0x108]);
  });
});

describe('interrupts', () => {
  const msi = (flags: number) => hardware({ caps: [{ at: 0x80, id: 0x05, body: u16(flags) }] });

  test.for<[string, number, number[]]>([
    ['32-bit', 0x0001, [0x84, 0x88, 0x82]],
    ['64-bit', 0x0081, [0x84, 0x88, 0x8c, 0x82]],
    ['32-bit, maskable', 0x0101, [0x84, 0x88, 0x8c, 0x82]],
    ['64-bit, maskable', 0x0181, [0x84, 0x88, 0x8c, 0x90, 0x82]],
  ])('MSI, %s, comes back with its message, enabled last', ([, flags, expected]) => {
    const hw = msi(flags);
    for (const at of [0x84, 0x88, 0x8c, 0x90]) hw.poke(at, 4, 0x1111_0000 + at);
    const kept = hw.bytes.slice(0x82, 0x94);
    const written = afterReset(hw, () => hw.bytes.fill(0, 0x82, 0x94), true);
    expect(written).toEqual(expected);
    expect(hw.bytes.slice(0x82, 0x84)).toEqual(kept.slice(0, 2));
  });

  test('MSI-X control comes back', () => {
    const hw = hardware({ caps: [{ at: 0x80, id: 0x11, body: u16(0x8003) }] });
    expect(afterReset(hw, () => hw.poke(0x82, 2, 0x0003), true)).toEqual([0x82]);
    expect(hw.peek(0x82, 2)).toBe(0x8003);
  });

  test('do not come back where none is in use', () => {
    expect(afterReset(msi(0x0001), () => {}, false)).toEqual([]);
    const hw = msi(0x0001);
    expect(afterReset(hw, () => hw.poke(0x82, 2, 0), false)).toEqual([]);
  });
});

describe('a state', () => {
  test('that has not changed is not written', () => {
    const hw = hardware({
      caps: [
        { at: 0x40, id: 0x10, body: [2] },
        { at: 0x80, id: 0x05, body: u16(0x0181) },
      ],
      ecaps: [
        { at: 0x100, id: 0x01 },
        { at: 0x140, id: 0x10 },
      ],
    });
    expect(afterReset(hw, () => {}, true)).toEqual([]);
  });

  test('is not changed by being saved, and can be written back again and again', () => {
    const hw = hardware();
    hw.poke(0x10, 4, 0xf000_0000);
    const state = saveConfigState(hw);
    expect(hw.writes).toEqual([]);
    for (let i = 0; i < 3; i++) {
      hw.poke(0x10, 4, i);
      restoreConfigState(hw, state, false);
      expect(hw.peek(0x10, 4)).toBe(0xf000_0000);
    }
  });

  test('of capabilities without room for their registers stays in its part of config space', () => {
    fc.assert(
      fc.property(
        fc.constantFrom<256 | 4096>(256, 4096),
        fc.integer({ min: 0x3d, max: 0x3f }).map((dword) => dword * 4),
        fc.constantFrom(0x05, 0x07, 0x10, 0x11),
        fc.integer({ min: 0x3fd, max: 0x3ff }).map((dword) => dword * 4),
        fc.constantFrom(0x01, 0x0f, 0x10, 0x15, 0x18),
        (size, at, id, extAt, extId) => {
          const hw = hardware({
            size,
            caps: [{ at, id, body: u16(0x01ff).slice(0, 254 - at) }],
            ...(size === 4096 && {
              ecaps: [
                { at: 0x100, id: 0x03 },
                { at: extAt, id: extId, body: extAt < 0xff8 ? u32(0xffff_ffff) : [] },
              ],
            }),
          });
          const state = saveConfigState(hw);
          hw.bytes.fill(0, 0, 0x40);
          restoreConfigState(hw, state, true);
          // Standard capabilities have no register in extended space.
          const { registers, interrupts } = state;
          for (const { offset, width } of interrupts) expect(offset + width).toBeLessThanOrEqual(0x100);
          for (const { offset, width } of registers) expect(offset + width).toBeLessThanOrEqual(size);
        },
      ),
    );
  });
});
