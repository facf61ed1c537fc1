import { describe, expect, test } from 'vitest';
import { resource, type SpaceOptions, TestSpace } from './support.js';

const resources = [resource({ size: 0x1000, start: 0xf000_0000 }), undefined];

/** A function whose BAR 0 was placed by the host. */
function placed(options: SpaceOptions = {}): TestSpace {
  return new TestSpace({
    resources,
    ...options,
    setup: (hw) => {
      hw.poke(0x04, 2, 0x0003);
      hw.poke(0x10, 4, 0xf000_0000);
      hw.poke(0x14, 4, 0x0000_c001);
      hw.poke(0x30, 4, 0xfe00_0001);
      options.setup?.(hw);
    },
  });
}

/** What a reset that nobody told us of leaves. */
function resetBehind(space: TestSpace): void {
  space.hw.poke(0x04, 2, 0);
  for (let at = 0x10; at < 0x28; at += 4) space.hw.poke(at, 4, 0);
  space.hw.poke(0x30, 4, 0);
}

function barsOf({ hw }: TestSpace): number[] {
  return [hw.peek(0x10, 4), hw.peek(0x14, 4), hw.peek(0x30, 4)];
}

const PLACED = [0xf000_0000, 0xc001, 0xfe00_0001];

describe('COMMAND', () => {
  test('bus mastering and the others reach hardware, DisINTx does not', () => {
    const space = placed();
    space.write(0x04, 2, 0x0547);
    expect(space.hw.peek(0x04, 2)).toBe(0x0147);
    expect(space.read(0x04, 2)).toBe(0x0547);
  });

  test("hardware's own DisINTx stays as interrupts left it, and is not shown", () => {
    const space = placed();
    space.hw.poke(0x04, 2, 0x0403);
    expect(space.read(0x04, 2)).toBe(0x0003);
    space.write(0x04, 2, 0x0007);
    expect(space.hw.peek(0x04, 2)).toBe(0x0407);
  });

  test('memory decode going off kills the mappings before hardware hears of it', () => {
    const space = placed();
    space.hw.onWrite = (offset) => space.host.events.push(`write ${offset}`);
    space.write(0x04, 2, 0x0001);
    expect(space.host.events).toEqual(['lock+zap', 'write 4', 'unlock']);
    expect(space.space.memoryEnabled).toBe(false);
  });

  test('memory decode staying on leaves them, and takes memory all the same', () => {
    const space = placed();
    space.write(0x04, 1, 0x03);
    expect(space.host.events).toEqual(['lock', 'unlock']);
    expect(space.space.memoryEnabled).toBe(true);
  });

  test('memory is enabled as the user last wrote, at the latest when it is given back', () => {
    const space = placed();
    let enabled: boolean | undefined;
    space.host.unlockMemory = () => {
      enabled = space.space.memoryEnabled;
    };
    space.write(0x04, 2, 0x0000);
    expect(enabled).toBe(false);
    space.write(0x04, 2, 0x0002);
    expect(enabled).toBe(true);
  });

  test('the high byte alone touches no decode', () => {
    const space = placed();
    space.write(0x05, 1, 0x01);
    expect(space.host.events).toEqual([]);
    expect(space.hw.peek(0x04, 2)).toBe(0x0103);
    expect(space.space.memoryEnabled).toBe(true);
  });

  test('memory needs power above D3hot', () => {
    const space = placed();
    space.host.powerState = 2;
    expect(space.space.memoryEnabled).toBe(true);
    space.host.powerState = 3;
    expect(space.space.memoryEnabled).toBe(false);
  });

  test('memory of a VF needs it too', () => {
    const space = placed({ host: { noCommandMemory: true } });
    space.host.powerState = 3;
    expect(space.space.memoryEnabled).toBe(false);
  });
});

describe('virtual DisINTx', () => {
  test('masks once when it is set, unmasks once when it is cleared', () => {
    const space = placed();
    space.write(0x04, 2, 0x0407);
    expect(space.host.virqDisabled).toBe(true);
    space.write(0x04, 2, 0x0403);
    space.write(0x04, 2, 0x0003);
    expect(space.host.virqDisabled).toBe(false);
    space.write(0x04, 2, 0x0007);
    expect(space.host.events.filter((event) => event.endsWith('mask'))).toEqual(['mask', 'unmask']);
  });

  test('is told of after the state it stands for', () => {
    const space = placed();
    const seen: boolean[] = [];
    space.host.maskIntx = () => seen.push(space.host.virqDisabled);
    space.host.unmaskIntx = () => seen.push(space.host.virqDisabled);
    space.write(0x05, 1, 0x04);
    space.write(0x05, 1, 0x00);
    expect(seen).toEqual([true, false]);
  });

  test('follows writes to either byte, and to a dword from 4', () => {
    const space = placed();
    space.write(0x05, 1, 0x04);
    expect(space.host.virqDisabled).toBe(true);
    space.write(0x04, 4, 0x0003);
    expect(space.host.virqDisabled).toBe(false);
    space.write(0x03, 4, 0x0004_0300);
    expect(space.host.virqDisabled).toBe(true);
  });

  test('is given to interrupts after memory was given back', () => {
    const space = placed();
    space.write(0x04, 2, 0x0400);
    expect(space.host.events).toEqual(['lock+zap', 'unlock', 'mask']);
  });
});

describe('a reset behind the back of the driver', () => {
  test('is noticed when memory is enabled that was believed to be on: BARs and ROM come back, before decode', () => {
    const space = placed();
    resetBehind(space);
    const order: number[] = [];
    space.hw.onWrite = (offset) => order.push(offset);
    space.write(0x04, 2, 0x0002);
    expect(barsOf(space)).toEqual(PLACED);
    expect(order).toEqual([0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x04]);
    expect(space.hw.peek(0x04, 2)).toBe(0x0002);
    expect(space.host.warnings).toHaveLength(1);
  });

  test('is noticed by the memory enable bit alone', () => {
    const space = placed();
    space.hw.poke(0x04, 2, 0x0001);
    space.hw.poke(0x30, 4, 0);
    space.write(0x04, 2, 0x0003);
    expect(barsOf(space)).toEqual(PLACED);
  });

  test('is noticed by the I/O enable bit alone', () => {
    const space = placed();
    space.hw.poke(0x04, 2, 0x0002);
    space.hw.poke(0x30, 4, 0);
    space.write(0x04, 2, 0x0003);
    expect(barsOf(space)).toEqual(PLACED);
  });

  test.for([0x10, 0x14])('is noticed by the BAR at %d alone, whatever is written to COMMAND', (at) => {
    const space = placed();
    space.hw.poke(at, 4, 0);
    space.hw.poke(0x30, 4, 0);
    space.write(0x04, 1, 0x00);
    expect(barsOf(space)).toEqual(PLACED);
  });

  test('is not seen in the ROM, which the host switches on and off', () => {
    const space = placed();
    space.hw.poke(0x30, 4, 0xfe00_0000);
    space.write(0x04, 2, 0x0003);
    expect(space.hw.peek(0x30, 4)).toBe(0xfe00_0000);
  });

  test('is not seen in a BAR that was empty at open', () => {
    const space = placed();
    space.hw.poke(0x18, 4, 0x1234_0000);
    space.write(0x04, 2, 0x0003);
    expect(space.hw.peek(0x18, 4)).toBe(0x1234_0000);
    expect(space.host.warnings).toEqual([]);
  });

  test('is not assumed when memory was off for the user too', () => {
    const space = placed();
    space.write(0x04, 2, 0x0000);
    space.hw.poke(0x30, 4, 0);
    space.write(0x04, 2, 0x0003);
    expect(space.hw.peek(0x30, 4)).toBe(0);
    expect(space.host.warnings).toEqual([]);
  });

  test('is not looked for by a write of the high byte', () => {
    const space = placed();
    resetBehind(space);
    space.write(0x05, 1, 0x01);
    expect(barsOf(space)).toEqual([0, 0, 0]);
  });

  test("leaves the user's virtual BARs alone", () => {
    const space = placed();
    space.write(0x10, 4, 0x1234_5000);
    resetBehind(space);
    space.write(0x04, 2, 0x0002);
    expect(space.read(0x10, 4)).toBe(0x1234_5000);
  });

  test('sets DisINTx again where INTx is broken', () => {
    const space = placed({ host: { nointx: true } });
    resetBehind(space);
    space.write(0x04, 2, 0x0002);
    expect(space.hw.peek(0x04, 2)).toBe(0x0402);
  });

  test('does not set DisINTx where INTx works', () => {
    const space = placed();
    resetBehind(space);
    space.write(0x04, 2, 0x0002);
    expect(space.hw.peek(0x04, 2)).toBe(0x0002);
  });

  test('of a VF rewrites nothing', () => {
    const space = placed({
      host: { isVf: true, noCommandMemory: true, nointx: true },
      setup: (hw) => hw.poke(0x3d, 1, 0),
    });
    resetBehind(space);
    space.write(0x04, 2, 0x0006);
    expect(barsOf(space)).toEqual([0, 0, 0]);
    expect(space.hw.peek(0x04, 2)).toBe(0x0006);
    expect(space.host.warnings).toEqual([]);
  });

  test('is not told by the memory bit of a function that has none', () => {
    const space = placed({ host: { noCommandMemory: true } });
    space.hw.poke(0x04, 2, 0x0000);
    space.hw.poke(0x30, 4, 0);
    space.write(0x04, 2, 0x0002);
    expect(space.hw.peek(0x30, 4)).toBe(0);
  });

  test('is told by its BARs all the same', () => {
    const space = placed({ host: { noCommandMemory: true } });
    resetBehind(space);
    space.write(0x04, 2, 0x0002);
    expect(barsOf(space)).toEqual(PLACED);
  });
});
