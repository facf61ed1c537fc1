import { isVfioError } from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { masks } from './probe.js';
import { type CapSpec, runLength, TestSpace, u16 } from './support.js';

const at = 0x80;

/** Length that a lone capability is given; 0 where it is hidden. */
function lengthOf(cap: Omit<CapSpec, 'at'>, size: 256 | 4096 = 256): number {
  const space = new TestSpace({ size, caps: [{ at, ...cap }] });
  const visible = space.walk().length === 1;
  expect(space.space.map[at] === 0xff).toBe(!visible);
  return visible ? runLength(space, at) : 0;
}

describe('length of a standard capability', () => {
  test.for<[string, number, number[], number]>([
    ['PM', 0x01, [], 8],
    ['AGP', 0x02, [], 12],
    ['VPD', 0x03, [], 8],
    ['MSI, 32-bit', 0x05, u16(0x0000), 10],
    ['MSI, 64-bit', 0x05, u16(0x0080), 14],
    ['MSI, 32-bit, maskable', 0x05, u16(0x0100), 20],
    ['MSI, 64-bit, maskable', 0x05, u16(0x0180), 24],
    ['PCI-X version 0', 0x07, u16(0x0000), 8],
    ['PCI-X version 1', 0x07, u16(0x1000), 24],
    ['PCI-X version 2', 0x07, u16(0x2000), 24],
    ['HyperTransport, type bits clear', 0x08, [0, 0x1f], 28],
    ['HyperTransport, lowest type bit', 0x08, [0, 0x20], 24],
    ['HyperTransport, highest type bit', 0x08, [0, 0x80], 24],
    ['vendor, as it says itself', 0x09, [0x13], 19],
    ['EXP version 1', 0x10, u16(0x0001), 20],
    ['EXP version 1, integrated', 0x10, u16(0x0091), 12],
    ['EXP version 2', 0x10, u16(0x0002), 52],
    ['EXP version 2, integrated', 0x10, u16(0x0092), 44],
    ['EXP version 0', 0x10, u16(0x0000), 52],
    ['EXP version 3', 0x10, u16(0x0003), 52],
    ['MSI-X', 0x11, [], 12],
    ['SATA', 0x12, [0, 0, 0x0e], 8],
    ['SATA with registers inline', 0x12, [0, 0, 0x0f], 16],
    ['SATA with registers inline and other bits', 0x12, [0, 0, 0xff], 16],
    ['AF', 0x13, [], 6],
  ])('%s', ([, id, body, expected]) => {
    expect(lengthOf({ id, body })).toBe(expected);
  });

  test.for([0x00, 0x04, 0x06, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x14, 0x15, 0x7f, 0xfe, 0xff])(
    'id %d is hidden',
    (id) => {
      expect(lengthOf({ id, body: [0x20, 0x20] })).toBe(0);
    },
  );

  test('a vendor capability of no length is hidden', () => {
    expect(lengthOf({ id: 0x09, body: [0] })).toBe(0);
  });
});

describe('hiding', () => {
  const three = (ids: [number, number, number]) =>
    new TestSpace({ caps: ids.map((id, i) => ({ at: 0x40 + 0x20 * i, id })) });

  test('leads the list past the first, a middle and the last capability', () => {
    expect(three([0x0d, 0x01, 0x11]).walk()).toEqual([
      [0x60, 0x01],
      [0x80, 0x11],
    ]);
    expect(three([0x01, 0x0d, 0x11]).walk()).toEqual([
      [0x40, 0x01],
      [0x80, 0x11],
    ]);
    expect(three([0x01, 0x11, 0x0d]).walk()).toEqual([
      [0x40, 0x01],
      [0x60, 0x11],
    ]);
  });

  test('leads past several in a row', () => {
    expect(three([0x0d, 0x14, 0x01]).walk()).toEqual([[0x80, 0x01]]);
    expect(three([0x01, 0x14, 0x0d]).walk()).toEqual([[0x40, 0x01]]);
  });

  test('shows the new link in reads of every width, hardware keeps the old one', () => {
    // A capability with a table, one without, a vendor one.
    for (const [id, body] of [
      [0x01, []],
      [0x11, []],
      [0x09, [0x10]],
    ] as const) {
      const space = new TestSpace({
        caps: [
          { at: 0x40, id, body: [...body] },
          { at: 0x60, id: 0x0d },
          { at: 0x80, id: 0x13 },
        ],
        setup: (hw) => {
          if (id === 0x11) hw.poke(0x42, 2, 0x8007);
        },
      });
      expect(space.read(0x41, 1)).toBe(0x80);
      expect(space.read(0x40, 2)).toBe(0x8000 | id);
      expect(space.read(0x40, 4) & 0xffff).toBe(0x8000 | id);
      expect(space.read(0x42, 2)).toBe(space.hw.peek(0x42, 2) & (id === 0x01 ? 0x07ff : 0xffff));
      expect(space.hw.bytes[0x41]).toBe(0x60);
    }
  });

  test('of all clears the list bit in STATUS and nothing else there', () => {
    const space = new TestSpace({ caps: [{ at, id: 0x0d }], setup: (hw) => hw.poke(0x06, 2, 0x02b8) });
    expect(space.read(0x06, 2)).toBe(0x02a8);
    expect(space.read(0x34, 1)).toBe(0);
    expect(space.hw.peek(0x06, 2)).toBe(0x02b8);
  });

  test('of some keeps it', () => {
    expect(three([0x01, 0x0d, 0x0d]).read(0x06, 2)).toBe(0x0010);
  });

  test('removes only the link: the bytes stay hardware, readable and writable', () => {
    const space = new TestSpace({ caps: [{ at, id: 0x0d, body: [0, 0, 0x34, 0x12] }] });
    expect(space.read(at, 1)).toBe(0x0d);
    expect(space.read(at + 4, 2)).toBe(0x1234);
    space.write(at + 4, 4, 0xcafe_f00d);
    expect(space.hw.peek(at + 4, 4)).toBe(0xcafe_f00d);
  });

  test('of no list at all looks at nothing', () => {
    const space = new TestSpace({
      caps: [{ at, id: 0x01 }],
      setup: (hw) => hw.poke(0x06, 2, 0),
    });
    expect(space.space.map[at]).toBe(0xff);
    expect(space.read(0x34, 1)).toBe(at);
  });
});

describe('a visible capability without rules of its own', () => {
  test.for<[string, number, number[], number]>([
    ['MSI-X', 0x11, [], 12],
    ['HyperTransport', 0x08, [0, 0x80], 24],
    ['SATA', 0x12, [0, 0, 0x02], 8],
    ['AGP', 0x02, [], 12],
  ])('%s is read-only hardware but for its link', ([, id, body, length]) => {
    const space = new TestSpace({ caps: [{ at, id, body }] });
    expect(masks(space, at, 1)).toBe('00 00 00');
    expect(masks(space, at + 1, 1)).toBe('ff 00 00');
    for (let i = 2; i < length; i++) expect(masks(space, at + i, 1)).toBe('00 00 00');
    space.hw.accesses.length = 0;
    expect(space.space.write(at, new Uint8Array(length).fill(0xff))).toBe(length);
    expect(space.hw.accesses).toEqual([]);
  });
});

describe('a vendor capability', () => {
  test('is hardware both ways, its link in reads excepted', () => {
    const space = new TestSpace({ caps: [{ at, id: 0x09, body: [0x10, 1, 2, 3] }] });
    expect(masks(space, at + 1, 1)).toBe('ff ff 00');
    for (const i of [0, 2, 3, 8, 15]) expect(masks(space, at + i, 1)).toBe('00 ff ff');
  });
});

describe('the registers of capabilities with a table: virtual bits, bits that reach hardware, bits that the view takes', () => {
  test.for<[string, number, 1 | 2 | 4, string]>([
    ['PM id', 0x00, 1, '00 00 00'],
    ['PM next', 0x01, 1, 'ff 00 00'],
    ['PM_PMC', 0x02, 2, 'f800 0000 0000'],
    ['PM_CTRL and bridge extensions', 0x04, 4, '00008100 ffff7efc ffff7efc'],
  ])('%s', ([, offset, width, expected]) => {
    expect(masks(new TestSpace({ caps: [{ at, id: 0x01 }] }), at + offset, width)).toBe(expected);
  });

  test.for<[string, number, 1 | 2 | 4, string]>([
    ['PCI-X next', 0x01, 1, 'ff 00 00'],
    ['PCI-X command', 0x02, 2, '0000 ffff ffff'],
    ['PCI-X status', 0x04, 4, '00000000 00000000 00000000'],
    ['PCI-X ECC control', 0x08, 4, '00000000 ffffffff ffffffff'],
    ['PCI-X ECC addresses', 0x0c, 4, '00000000 00000000 00000000'],
    ['PCI-X ECC attribute', 0x14, 4, '00000000 00000000 00000000'],
  ])('%s', ([, offset, width, expected]) => {
    const space = new TestSpace({ caps: [{ at, id: 0x07, body: u16(0x1000) }] });
    expect(masks(space, at + offset, width)).toBe(expected);
  });

  test('a short PCI-X capability ends before ECC: what follows is unassigned', () => {
    const space = new TestSpace({ caps: [{ at, id: 0x07, body: u16(0x0000) }] });
    expect(masks(space, at + 2, 2)).toBe('0000 ffff ffff');
    expect(masks(space, at + 8, 4)).toBe('00000000 ffffffff ffffffff');
    expect(space.space.map[at + 8]).toBe(0xff);
  });
});

describe('a hostile list', () => {
  test('that loops ends, with every capability mapped', () => {
    const space = new TestSpace({
      caps: [
        { at: 0x40, id: 0x01 },
        { at: 0x50, id: 0x11, next: 0x40 },
      ],
    });
    expect(space.space.map[0x40]).toBe(0x01);
    expect(space.space.map[0x50]).toBe(0x11);
    expect(space.read(0x51, 1)).toBe(0x40);
  });

  test('that loops on a hidden capability ends, and leads nowhere', () => {
    const space = new TestSpace({ caps: [{ at: 0x40, id: 0x0d, next: 0x40 }] });
    expect(space.read(0x06, 2) & 0x10).toBe(0);
    expect(space.space.map[0x40]).toBe(0xff);
  });

  test('is followed for 48 steps and no more', () => {
    // One capability of 1 byte and link each 4 bytes fills the space exactly; hidden ones count as steps too.
    const chain = (hidden: number) =>
      new TestSpace({
        caps: [...Array.from({ length: hidden }, (_, i) => ({ at: 0x50 + 2 * i, id: 0x0d })), { at: 0x40, id: 0x01 }],
      });
    expect(chain(47).space.map[0x40]).toBe(0x01);
    expect(chain(48).space.map[0x40]).toBe(0xff);
  });

  test('is followed to positions that are not dwords, and shown as it is', () => {
    const space = new TestSpace({
      caps: [
        { at: 0x42, id: 0x01 },
        { at: 0x55, id: 0x13 },
      ],
    });
    expect(space.walk()).toEqual([
      [0x42, 0x01],
      [0x55, 0x13],
    ]);
    expect(runLength(space, 0x42)).toBe(8);
    expect(runLength(space, 0x55)).toBe(6);
    // PMC of the first is one word at 0x44; its table counts from 0x42.
    expect(masks(space, 0x44, 2)).toBe('f800 0000 0000');
  });

  test.for<[string, number]>([
    ['MSI', 0x05],
    ['PCI-X', 0x07],
  ])('with %s at an odd position fails the open with EFAULT', ([, id]) => {
    const open = () => new TestSpace({ caps: [{ at: 0x41, id }] });
    expect(open).toThrow(/0x43/);
    try {
      open();
    } catch (error) {
      expect(isVfioError(error) && error.errno).toBe('EFAULT');
    }
  });

  test('into the header ends there: the header is no capability', () => {
    const space = new TestSpace({ caps: [{ at: 0x40, id: 0x01, next: 0x10 }], setup: (hw) => hw.poke(0x10, 4, 0x11) });
    expect(space.walk()).toEqual([[0x40, 0x01]]);
    expect([...space.space.map.subarray(0, 0x40)]).toEqual(new Array(0x40).fill(0));
  });

  test('that is only a link into the header is no list', () => {
    const space = new TestSpace({ caps: [{ at: 0x40, id: 0x01 }], setup: (hw) => hw.poke(0x34, 1, 0x3c) });
    expect(space.read(0x34, 1)).toBe(0);
    expect(space.read(0x06, 2) & 0x10).toBe(0);
    expect(space.space.map[0x40]).toBe(0xff);
  });

  test.for<[number, number, number[], number]>([
    [0xfc, 0x01, [0x03, 0xf8], 4],
    [0xfe, 0x05, [], 2],
    [0xfc, 0x05, [], 4],
    [0xff, 0x01, [], 1],
    [0xfd, 0x08, [], 3],
    [0xfe, 0x12, [], 2],
    [0xf0, 0x09, [0xff], 16],
    [0xd8, 0x10, [2], 40],
    [0xf8, 0x10, [2], 8],
    [0xfe, 0x10, [2], 2],
    [0xfc, 0x03, [], 4],
    [0xfc, 0x13, [], 4],
  ])('with a capability at %d of id %d is cut at the end of standard space', ([position, id, body, expected]) => {
    for (const size of [256, 4096] as const) {
      const space = new TestSpace({ size, caps: [{ at: position, id, body: body.slice(0, 256 - position - 2) }] });
      expect(space.space.map[position]).toBe(id);
      expect(runLength(space, position)).toBe(expected);
      if (size === 4096) expect(space.space.map[0x100]).toBe(0xff);
      // Whatever the traps make of it, they stay in their capability.
      for (let i = position; i < 256; i++) {
        space.write(i, 1, 0xff);
        space.read(i, 1);
      }
      expect(space.host.events).toEqual([]);
      expect(space.space.vconfig.subarray(0x100).some((byte) => byte !== 0)).toBe(false);
    }
  });

  test('with overlapping capabilities gives the bytes to the newest, with a warning', () => {
    const space = new TestSpace({
      caps: [
        { at: 0x40, id: 0x10, body: [2] },
        { at: 0x50, id: 0x11 },
      ],
    });
    expect(space.host.warnings).toHaveLength(1);
    expect(space.host.warnings[0]).toMatch(/0x11 at 0x50 overlaps 12 bytes/);
    expect([...space.space.map.subarray(0x40, 0x78)]).toEqual([
      ...new Array(16).fill(0x10),
      ...new Array(12).fill(0x11),
      ...new Array(24).fill(0x10),
      ...new Array(4).fill(0xff),
    ]);
  });

  test('with overlapping capabilities leaves the tail of the older one to count from its own start', () => {
    const space = new TestSpace({
      caps: [
        { at: 0x40, id: 0x10, body: [2] },
        { at: 0x50, id: 0x11 },
      ],
    });
    // DEVCTL2 of the whole at 0x68; of the tail, which begins at 0x5c, DEVCTL is at 0x64.
    expect(masks(space, 0x68, 2)).toBe('0000 0000 0000');
    expect(masks(space, 0x5d, 1)).toBe('ff 00 00');
    expect(masks(space, 0x64, 2).split(' ')[0]).toBe('f0e0');
    // The head is as it was.
    expect(masks(space, 0x48, 2).split(' ')[0]).toBe('f0e0');
  });

  test('with capabilities that do not overlap gives no warning', () => {
    const space = new TestSpace({
      caps: [
        { at: 0x40, id: 0x01 },
        { at: 0x48, id: 0x11 },
      ],
    });
    expect(space.host.warnings).toEqual([]);
  });

  test('with two of a type that touch makes one run of them: past the table is read-only hardware', () => {
    const space = new TestSpace({
      caps: [
        { at: 0x40, id: 0x01 },
        { at: 0x48, id: 0x01 },
      ],
    });
    expect(runLength(space, 0x40)).toBe(16);
    expect(masks(space, 0x44, 2)).toBe('8100 7efc 7efc');
    expect(masks(space, 0x4c, 2)).toBe('0000 0000 0000');
    space.host.events.length = 0;
    space.write(0x4c, 2, 0x0003);
    expect(space.host.events).toEqual([]);
    space.write(0x44, 2, 0x0003);
    expect(space.host.events).toEqual(['lock+zap', 'power 3', 'unlock']);
  });

  test('with two of a type apart serves each', () => {
    const space = new TestSpace({
      caps: [
        { at: 0x40, id: 0x01 },
        { at: 0x4c, id: 0x01 },
      ],
    });
    expect(masks(space, 0x50, 2)).toBe('8100 7efc 7efc');
    space.host.events.length = 0;
    space.write(0x50, 2, 0x0003);
    expect(space.host.events).toEqual(['lock+zap', 'power 3', 'unlock']);
  });

  test('with a second MSI capability serves it by the table of the first', () => {
    const space = new TestSpace({
      caps: [
        { at: 0x40, id: 0x05, body: u16(0x0000) },
        { at: 0x60, id: 0x05, body: u16(0x0180) },
      ],
    });
    expect(runLength(space, 0x60)).toBe(24);
    expect(masks(space, 0x68, 4)).toBe('0000ffff 00000000 0000ffff');
    expect(masks(space, 0x70, 4)).toBe('00000000 00000000 00000000');
  });
});

describe('the capabilities that interrupts ask for', () => {
  test('are undefined where there are none', () => {
    const { space } = new TestSpace();
    expect(space.msi).toBeUndefined();
    expect(space.msix).toBeUndefined();
  });

  test('MSI: vectors, width, mask', () => {
    const { space } = new TestSpace({ caps: [{ at: 0x50, id: 0x05, body: u16(0x018a) }] });
    expect(space.msi).toEqual({ position: 0x50, vectors: 32, is64Bit: true, maskable: true });
    const plain = new TestSpace({ caps: [{ at: 0x50, id: 0x05, body: u16(0x0000) }] });
    expect(plain.space.msi).toEqual({ position: 0x50, vectors: 1, is64Bit: false, maskable: false });
  });

  test('MSI-X: vectors, table, pending bits', () => {
    const { space } = new TestSpace({
      caps: [{ at: 0x60, id: 0x11, body: [0xff, 0x07, 0x04, 0x20, 0x00, 0xf0, 0x05, 0x30, 0x00, 0x00] }],
    });
    expect(space.msix).toEqual({
      position: 0x60,
      vectors: 2048,
      tableBar: 4,
      tableOffset: 0xf000_2000,
      pbaBar: 5,
      pbaOffset: 0x3000,
    });
  });

  test('MSI-X that has no room for its registers is none', () => {
    const { space } = new TestSpace({ caps: [{ at: 0xf8, id: 0x11 }] });
    expect(space.msix).toBeUndefined();
  });
});
