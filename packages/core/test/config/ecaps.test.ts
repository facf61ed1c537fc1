import { describe, expect, test } from 'vitest';
import { masks } from './probe.js';
import { type CapSpec, runLength, TestSpace, u16, u32 } from './support.js';

/** What makes extended capabilities visible: a function of PCI Express. */
const express: CapSpec[] = [{ at: 0x40, id: 0x10, body: [2] }];

function extended(ecaps: readonly CapSpec[], setup?: (hw: TestSpace['hw']) => void): TestSpace {
  return new TestSpace({ size: 4096, caps: express, ecaps, ...(setup && { setup }) });
}

/** Length that an extended capability behind another one is given; 0 where it is hidden. */
function lengthOf(id: number, body: readonly number[] = []): number {
  const space = extended([
    { at: 0x100, id: 0x0e },
    { at: 0x200, id, body },
  ]);
  const visible = space.walkExtended().length === 2;
  expect(space.space.map[0x200] === 0xff).toBe(!visible);
  return visible ? runLength(space, 0x200) : 0;
}

/** Virtual channels: number of extra ones, arbitration bits. */
function channels(extra: number, phases: number): number[] {
  return [...u32(extra), ...u32(phases)];
}

describe('length of an extended capability', () => {
  test.for<[string, number, number[], number]>([
    ['AER, without the root registers', 0x01, [], 44],
    ['VC, one channel', 0x02, channels(0, 0), 28],
    ['VC, eight channels', 0x02, channels(7, 0), 112],
    ['VC, other bits do not count', 0x02, channels(0xffff_fff8, 0x01), 28],
    ['VC, 32 phases', 0x02, channels(0, 0x02), 32 + 16],
    ['VC, 64 phases', 0x02, channels(0, 0x04), 32 + 32],
    ['VC, 128 phases', 0x02, channels(0, 0x08), 32 + 64],
    ['VC, the most phases count', 0x02, channels(0, 0x0e), 32 + 64],
    ['VC, 64 before 32', 0x02, channels(0, 0x06), 32 + 32],
    ['VC, table at the next 16', 0x02, channels(2, 0x02), 64 + 16],
    ['VC, table right behind', 0x02, channels(3, 0x02), 64 + 16],
    ['MFVC', 0x08, channels(1, 0x02), 48 + 16],
    ['VC9', 0x09, channels(1, 0), 40],
    ['DSN', 0x03, [], 12],
    ['power budgeting', 0x04, [], 16],
    ['vendor, as it says itself', 0x0b, u32(0x0241_1234), 0x24],
    ['ACS', 0x0d, [0x1f, 0xff], 8],
    ['ACS with egress control, 1 port', 0x0d, [0x20, 1], 12],
    ['ACS with egress control, 32 ports', 0x0d, [0x20, 32], 12],
    ['ACS with egress control, 33 ports', 0x0d, [0x20, 33], 16],
    ['ACS with egress control, 255 ports', 0x0d, [0x20, 255], 40],
    ['ACS with egress control, 0 stands for 256', 0x0d, [0x20, 0], 40],
    ['ARI', 0x0e, [], 8],
    ['ATS', 0x0f, [], 8],
    ['SR-IOV', 0x10, [], 64],
    ['multicast', 0x12, [], 40],
    ['PRI', 0x13, [], 16],
    ['resizable BAR, 1', 0x15, [...u32(0), 0x20], 12],
    ['resizable BAR, 6', 0x15, [...u32(0), 0xdf], 52],
    ['resizable BAR, none', 0x15, [...u32(0), 0x1f], 4],
    ['DPA, 1 substate', 0x16, [0xe0], 17],
    ['DPA, 32 substates', 0x16, [0xff], 48],
    ['TPH without a table', 0x17, u32(0x07ff_0001), 12],
    ['TPH with its table in MSI-X', 0x17, u32(0x0010_0401), 12],
    ['TPH with a table of 1', 0x17, u32(0x0000_0201), 14],
    ['TPH with a table of 17', 0x17, u32(0x0010_0201), 46],
    ['LTR', 0x18, [], 8],
    ['DVSEC, as it says itself', 0x23, u32(0x0381_1e98), 0x38],
  ])('%s', ([, id, body, expected]) => {
    expect(lengthOf(id, body)).toBe(expected);
  });

  test('TPH counts the table by 11 bits', () => {
    // 0x300 entries and garbage around the field: too long for what is behind, so cut at the end of config space.
    expect(lengthOf(0x17, u32(0xf8ff_0200))).toBe(12 + 2 * 0x100);
    expect(lengthOf(0x17, u32(0x07ff_0200))).toBe(0xe00);
  });

  test.for([
    0x00, 0x05, 0x06, 0x07, 0x0a, 0x0c, 0x11, 0x14, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x24,
    0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f, 0x30, 0x31, 0x32, 0x101, 0xfffe, 0xffff,
  ])('id %d is hidden', (id) => {
    expect(lengthOf(id, u32(0x0ff0_0000))).toBe(0);
  });

  test.for([0x0b, 0x23])('id %d of no length is hidden', (id) => {
    expect(lengthOf(id, u32(0x000f_ffff))).toBe(0);
  });
});

describe('extended capabilities are looked for', () => {
  const visible = (options: ConstructorParameters<typeof TestSpace>[0]) =>
    new TestSpace({ ecaps: [{ at: 0x100, id: 0x03 }], size: 4096, ...options }).space.map[0x100] === 0x03;

  test('on a function of PCI Express', () => {
    expect(visible({ caps: express })).toBe(true);
  });

  test('on a function of PCI-X 2', () => {
    expect(visible({ caps: [{ at: 0x40, id: 0x07, body: u16(0x2000) }] })).toBe(true);
    expect(visible({ caps: [{ at: 0x40, id: 0x07, body: u16(0x1000) }] })).toBe(true);
  });

  test('on no other: it is raw then', () => {
    expect(visible({ caps: [] })).toBe(false);
    expect(visible({ caps: [{ at: 0x40, id: 0x07, body: u16(0x0000) }] })).toBe(false);
    expect(visible({ caps: [{ at: 0x40, id: 0x01 }] })).toBe(false);
  });

  test('not where the first dword is 0', () => {
    const space = extended([], (hw) => hw.poke(0x104, 4, 5));
    expect(space.space.map[0x100]).toBe(0xff);
    space.write(0x100, 4, 0x1234);
    expect(space.hw.peek(0x100, 4)).toBe(0x1234);
  });

  test('not in a config space of 256 bytes', () => {
    const space = new TestSpace({ caps: express });
    expect(space.space.size).toBe(256);
    expect(space.read(0xfc, 4)).toBe(0);
  });
});

describe('hiding', () => {
  test('leads the list past a middle and the last one', () => {
    const space = extended([
      { at: 0x100, id: 0x01, version: 2 },
      { at: 0x200, id: 0x1e },
      { at: 0x300, id: 0x1d },
      { at: 0x400, id: 0x03 },
      { at: 0x500, id: 0x2e },
    ]);
    expect(space.walkExtended()).toEqual([
      [0x100, 0x4002_0001],
      [0x400, 0x0001_0003],
    ]);
    expect(space.hw.peek(0x100, 4)).toBe(0x2002_0001);
  });

  test('keeps id and version of the one whose link is changed, whatever serves it', () => {
    for (const [id, body] of [
      [0x01, []],
      [0x03, []],
      [0x04, []],
      [0x0b, u32(0x0100_0001)],
      [0x23, u32(0x0100_0001)],
    ] as const) {
      const space = extended([
        { at: 0x100, id, version: 7, body },
        { at: 0x200, id: 0x1e },
        { at: 0x300, id: 0x0e },
      ]);
      expect(space.read(0x100, 4)).toBe(0x3007_0000 + id);
      expect([space.read(0x100, 2), space.read(0x102, 2)]).toEqual([id, 0x3007]);
      expect([0, 1, 2, 3].map((i) => space.read(0x100 + i, 1))).toEqual([id, 0, 0x07, 0x30]);
    }
  });

  test('of the first leaves a header of id 0 and version 0 that carries the link', () => {
    const space = extended([
      { at: 0x100, id: 0x1e, version: 3, body: u32(0xdead_beef) },
      { at: 0x200, id: 0x03 },
    ]);
    expect(space.walkExtended()).toEqual([
      [0x100, 0x2000_0000],
      [0x200, 0x0001_0003],
    ]);
    expect([0, 1, 2, 3].map((i) => space.read(0x100 + i, 1))).toEqual([0, 0, 0, 0x20]);
    expect(masks(space, 0x100, 4)).toBe('ffffffff 00000000 00000000');
    // Past the placeholder the hidden one is raw.
    expect(runLength(space, 0x100)).toBe(4);
    expect(masks(space, 0x104, 4)).toBe('00000000 ffffffff ffffffff');
  });

  test('of the first and those behind it leads on from the placeholder', () => {
    const space = extended([
      { at: 0x100, id: 0x1e },
      { at: 0x200, id: 0x1f },
      { at: 0x300, id: 0x2e },
      { at: 0x400, id: 0x0e },
    ]);
    expect(space.walkExtended()).toEqual([
      [0x100, 0x4000_0000],
      [0x400, 0x0001_000e],
    ]);
  });

  test('of all makes the first dword 0', () => {
    const space = extended([
      { at: 0x100, id: 0x1e },
      { at: 0x200, id: 0x1f },
    ]);
    expect(space.read(0x100, 4)).toBe(0);
    expect(masks(space, 0x100, 4)).toBe('ffffffff 00000000 00000000');
  });

  test('removes only the link: the bytes stay hardware', () => {
    const space = extended([
      { at: 0x100, id: 0x03 },
      { at: 0x200, id: 0x1e },
    ]);
    expect(masks(space, 0x200, 4)).toBe('00000000 ffffffff ffffffff');
    expect(masks(space, 0x208, 4)).toBe('00000000 ffffffff ffffffff');
  });

  test('of a first id that no byte can hold is served by its low byte', () => {
    const first = (id: number, next = 0x200) =>
      extended([
        { at: 0x100, id, version: 1, next },
        { at: 0x200, id: 0x0e },
      ]);
    // Beyond what is known: read-only, from the placeholder, whatever the alignment.
    expect(masks(first(0x0132), 0x100, 4)).toBe('ffffffff 00000000 00000000');
    expect(first(0x0132).read(0x103, 1)).toBe(0x20);
    // Looks like AER, whose header is virtual too.
    expect(masks(first(0x0101), 0x100, 4)).toBe('ffffffff 00000000 00000000');
    expect(first(0x0101).read(0x100, 4)).toBe(0x2000_0000);
    // Looks unassigned, looks virtual.
    expect(masks(first(0x01ff), 0x100, 4)).toBe('00000000 ffffffff ffffffff');
    expect(masks(first(0x01fe), 0x100, 4)).toBe('ffffffff 00000000 ffffffff');
    // Has no start of its own: hardware's header, read-only.
    expect(first(0x0000).read(0x100, 4)).toBe(0x2001_0000);
    expect(masks(first(0x0000), 0x100, 4)).toBe('00000000 00000000 00000000');
  });
});

describe('the registers of extended capabilities', () => {
  test.for<[string, number, 1 | 2 | 4, string]>([
    ['header', 0x00, 4, 'ffffffff 00000000 00000000'],
    ['uncorrectable status', 0x04, 4, '00000000 03fff031 03fff031'],
    ['uncorrectable mask', 0x08, 4, '00000000 03fff031 03fff031'],
    ['uncorrectable severity', 0x0c, 4, '00000000 03fff031 03fff031'],
    ['correctable status', 0x10, 4, '00000000 0000f1c1 0000f1c1'],
    ['correctable mask', 0x14, 4, '00000000 0000f1c1 0000f1c1'],
    ['capabilities and control', 0x18, 4, '00000000 00000140 00000140'],
    ['header log', 0x1c, 4, '00000000 00000000 00000000'],
    ['header log, last dword', 0x28, 4, '00000000 00000000 00000000'],
    ['root error command: not ours', 0x2c, 4, '00000000 ffffffff ffffffff'],
  ])('AER %s', ([, offset, width, expected]) => {
    expect(masks(extended([{ at: 0x100, id: 0x01 }]), 0x100 + offset, width)).toBe(expected);
  });

  test.for<[string, number, 1 | 2 | 4, string]>([
    ['header', 0x00, 4, 'ffffffff 00000000 00000000'],
    ['selector', 0x04, 4, '00000000 000000ff 000000ff'],
    ['data', 0x08, 4, '00000000 000000ff 000000ff'],
    ['capability', 0x0c, 4, '00000000 00000000 00000000'],
  ])('power budgeting %s', ([, offset, width, expected]) => {
    expect(masks(extended([{ at: 0x100, id: 0x04 }]), 0x100 + offset, width)).toBe(expected);
  });

  test.for<[string, number]>([
    ['vendor', 0x0b],
    ['DVSEC', 0x23],
  ])('%s: hardware both ways, its header in reads excepted', ([, id]) => {
    const space = extended([{ at: 0x100, id, body: u32(0x0100_0001) }]);
    expect(masks(space, 0x100, 4)).toBe('ffffffff ffffffff 00000000');
    expect(masks(space, 0x104, 4)).toBe('00000000 ffffffff ffffffff');
    expect(masks(space, 0x10c, 4)).toBe('00000000 ffffffff ffffffff');
    expect(runLength(space, 0x100)).toBe(16);
  });

  test.for([0x02, 0x03, 0x08, 0x09, 0x0d, 0x0e, 0x0f, 0x10, 0x12, 0x13, 0x15, 0x16, 0x17, 0x18])(
    'id %d: read-only hardware but for the header',
    (id) => {
      const space = extended([{ at: 0x100, id }]);
      const length = runLength(space, 0x100);
      expect(masks(space, 0x100, 4)).toBe('ffffffff 00000000 00000000');
      for (let i = 4; i < length; i++) expect(masks(space, 0x100 + i, 1)).toBe('00 00 00');
      expect(space.space.write(0x100, new Uint8Array(length).fill(0xff))).toBe(length);
    },
  );
});

describe('a hostile list', () => {
  test('that loops ends', () => {
    const space = extended([
      { at: 0x100, id: 0x03 },
      { at: 0x200, id: 0x0e, next: 0x100 },
    ]);
    expect(space.read(0x200, 4)).toBe(0x1001_000e);
  });

  test('that loops on a hidden capability ends', () => {
    const space = extended([
      { at: 0x100, id: 0x03 },
      { at: 0x200, id: 0x1e, next: 0x200 },
    ]);
    expect(space.read(0x100, 4)).toBe(0x2001_0003);
  });

  test('that leads out of extended space ends there', () => {
    const space = extended([{ at: 0x100, id: 0x03, next: 0x040 }]);
    expect(space.read(0x100, 4)).toBe(0x0401_0003);
    expect(space.space.map[0x40]).toBe(0x10);
  });

  test('has its links rounded down to dwords', () => {
    const space = extended([
      { at: 0x100, id: 0x03, next: 0x203 },
      { at: 0x200, id: 0x0e },
    ]);
    expect(runLength(space, 0x200)).toBe(8);
  });

  test.for<[number, number, number[], number]>([
    [0xffc, 0x03, [], 4],
    [0xff0, 0x10, [], 16],
    [0xff8, 0x02, [], 8],
    [0xffc, 0x02, [], 4],
    [0xffc, 0x0d, [], 4],
    [0xff8, 0x15, [], 4],
    [0xffc, 0x15, [], 4],
    [0xffc, 0x16, [], 4],
    [0xffc, 0x17, [], 4],
    [0xff8, 0x0b, u32(0xfff0_0001), 8],
  ])('with a capability at %d of id %d is cut at the end of config space', ([at, id, body, expected]) => {
    const space = extended([
      { at: 0x100, id: 0x0e },
      { at, id, body },
    ]);
    expect(runLength(space, at)).toBe(expected);
    expect(space.space.write(at, new Uint8Array(4096 - at).fill(0xff))).toBe(4096 - at);
  });

  test.for([0x0b, 0x23])('whose last, of id %d, has no room to say its length hides it', (id) => {
    const space = extended([
      { at: 0x100, id: 0x0e },
      { at: 0xffc, id },
    ]);
    expect(space.walkExtended()).toEqual([[0x100, 0x0001_000e]]);
  });

  test('with overlapping capabilities gives the bytes to the newest, with a warning', () => {
    const space = extended([
      { at: 0x100, id: 0x01 },
      { at: 0x110, id: 0x03 },
    ]);
    expect(space.host.warnings[0]).toMatch(/0x3 at 0x110 overlaps 12 bytes/);
    expect(space.space.map[0x10c]).toBe(0x01);
    expect(space.space.map[0x110]).toBe(0x03);
    expect(space.space.map[0x11c]).toBe(0x01);
    // The tail counts from its own start: its first dword is a header again.
    expect(masks(space, 0x11c, 4)).toBe('ffffffff 00000000 00000000');
    expect(masks(space, 0x120, 4)).toBe('00000000 03fff031 03fff031');
  });

  test('with two of a type that touch makes one run of them: past the table is read-only', () => {
    const space = extended([
      { at: 0x100, id: 0x04 },
      { at: 0x110, id: 0x04 },
    ]);
    expect(masks(space, 0x104, 1)).toBe('00 ff ff');
    expect(masks(space, 0x114, 1)).toBe('00 00 00');
  });

  test('is followed for 960 steps and no more', () => {
    // The longest list without a loop has 960 members; whatever follows repeats.
    const ecaps = Array.from({ length: 960 }, (_, i) => ({
      at: 0x100 + 4 * i,
      id: i === 0 || i === 959 ? 0x0e : 0x1e,
    }));
    expect(extended(ecaps).space.map[0xffc]).toBe(0x0e);
  });
});
