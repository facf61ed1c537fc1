import * as uapi from '@vfio/uapi';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CAP_NAMES, EXT_CAP_NAMES } from './cap-names.js';
import { decodeConfigSpace } from './config-space.js';

/** 256 bytes with values at offsets. */
function space(size: number, ...parts: readonly (readonly [number, readonly number[]])[]): Uint8Array {
  const bytes = new Uint8Array(size);
  for (const [at, values] of parts) bytes.set(values, at);
  return bytes;
}

const HEADER = [0x86, 0x80, 0x45, 0x58, 0x06, 0x04, 0x10, 0x00, 0x02, 0x02, 0x08, 0x01] as const;

describe('decodeConfigSpace', () => {
  test('reads ids, class, command and status of an endpoint', () => {
    const decoded = decodeConfigSpace(space(256, [0, HEADER], [0x2c, [0xf4, 0x1a, 0x00, 0x11]], [0x3c, [11, 1]]));
    expect(decoded).toMatchObject({
      vendor: 0x8086,
      device: 0x5845,
      class: 0x010802,
      revision: 2,
      subvendor: 0x1af4,
      subdevice: 0x1100,
      command: 0x0406,
      interruptLine: 11,
      interruptPin: 1,
    });
    expect(decoded.commandFlags.filter((f) => f.value === '+').map((f) => f.name)).toEqual([
      'Mem',
      'BusMaster',
      'DisINTx',
    ]);
  });

  test('joins a 64-bit BAR and skips its upper register', () => {
    const { bars } = decodeConfigSpace(space(256, [0x10, [0x0c, 0, 0, 0xe0, 1, 0, 0, 0, 0x01, 0xc0, 0, 0]]));
    expect(bars).toEqual([
      { index: 0, kind: 'memory', address: 0x1_e000_0000n, is64Bit: true, prefetchable: true },
      { index: 2, kind: 'io', address: 0xc000n, is64Bit: false, prefetchable: false },
    ]);
  });

  test('follows the chain only while STATUS says that there is one', () => {
    const chain = [
      [0x34, [0x40]],
      [0x40, [0x11, 0x60, 0x07, 0x80, 0x02, 0x20, 0, 0, 0x02, 0x30, 0, 0]],
      [0x60, [0x01, 0, 0x03, 0, 0x08, 0]],
    ] as const;
    expect(decodeConfigSpace(space(256, ...chain)).capabilities).toEqual([]);
    const { capabilities } = decodeConfigSpace(space(256, [6, [0x10]], ...chain));
    expect(capabilities.map((c) => [c.offset, c.name])).toEqual([
      [0x40, 'MSI-X'],
      [0x60, 'Power Management'],
    ]);
    expect(Object.fromEntries(capabilities[0]!.fields.map((f) => [f.name, f.value]))).toMatchObject({
      Enable: '+',
      Vectors: '8',
      Table: 'BAR 2',
      'Table offset': '0x2000',
      'PBA offset': '0x3000',
    });
  });

  test('reads each type of header by its own layout', () => {
    const chain = [
      [6, [0x10]],
      [0x14, [0x80]],
      [0x34, [0x90]],
      [0x80, [0x01, 0]],
      [0x90, [0x11, 0]],
    ] as const;
    const offsets = (type: number) =>
      decodeConfigSpace(space(256, [0x0e, [type]], ...chain)).capabilities.map(({ offset }) => offset);
    expect([0, 1, 2, 0x7f].map(offsets)).toEqual([[0x90], [0x90], [0x80], [0x90]]);

    const rom = [0x01, 0, 0x10, 0xfe] as const;
    const bridge = decodeConfigSpace(space(64, [0x0e, [0x81]], [0x18, [1, 1, 1]], [0x38, rom]));
    expect(bridge).toMatchObject({ headerType: 1, multifunction: true, subvendor: 0, subdevice: 0, bars: [] });
    expect(bridge.rom).toEqual({ address: 0xfe100000, enabled: true });
    const cardbus = decodeConfigSpace(space(68, [0x0e, [2]], [0x40, [0x25, 0x10, 1, 0]]));
    expect(cardbus).toMatchObject({ headerType: 2, subvendor: 0x1025, subdevice: 1, rom: undefined });
    expect(decodeConfigSpace(space(64, [0x0e, [2]])).subvendor).toBe(0);
  });

  test('has a name for every capability that has an id', () => {
    const ids = (prefix: string) =>
      Object.entries<unknown>({ ...uapi }).flatMap(([name, id]) =>
        name.startsWith(prefix) && !/_(MAX|MASK)$/.test(name) ? [id] : [],
      );
    expect(ids('PCI_CAP_ID_').filter((id) => !((id as number) in CAP_NAMES))).toEqual([]);
    expect(ids('PCI_EXT_CAP_ID_').filter((id) => !((id as number) in EXT_CAP_NAMES))).toEqual([]);
  });

  test('shows extended capabilities with version, and passes over a placeholder of id 0', () => {
    const { capabilities } = decodeConfigSpace(
      space(4096, [0x100, [0, 0, 0x00, 0x14]], [0x140, [0x03, 0, 0x01, 0, 0x78, 0x56, 0x34, 0x12]]),
    );
    expect(capabilities).toEqual([
      {
        offset: 0x140,
        id: 3,
        name: 'Device Serial Number',
        extended: true,
        version: 1,
        fields: [
          { name: 'Serial, lower', value: '0x12345678' },
          { name: 'Serial, upper', value: '0x0' },
        ],
      },
    ]);
  });

  test.each([
    [
      'a loop',
      space(256, [6, [0x10]], [0x34, [0x40]], [0x40, [9, 0x50]], [0x50, [9, 0x40]]),
      'capability chain returns to 0x40',
    ],
    [
      'a pointer into the header',
      space(256, [6, [0x10]], [0x34, [0x20]]),
      'capability pointer 0x20 lies in the header',
    ],
    ['a cut copy', space(64, [6, [0x10]], [0x34, [0x40]]), 'capability at 0x40 lies outside of the 0x40 bytes given'],
    ['all ones', space(256, [6, [0x10]], [0x34, [0x40]], [0x40, [0xff, 0xff]]), 'capability at 0x40 reads all ones'],
    ['an extended loop', space(4096, [0x100, [3, 0, 0x01, 0x10]]), 'extended capability chain returns to 0x100'],
  ])('reports %s and goes on', (_, bytes, problem) => {
    expect(decodeConfigSpace(bytes).problems).toEqual([problem]);
  });

  test('refuses fewer bytes than a header', () => {
    expect(() => decodeConfigSpace(new Uint8Array(63))).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
  });

  test('takes any bytes, of any length: finds each capability once, in what was given, and ends', () => {
    const sizes = fc.oneof(fc.constantFrom(64, 256, 4096), fc.integer({ min: 64, max: 4200 }));
    const types = fc.constantFrom(0, 1, 2, 0x7f, 0x80);
    fc.assert(
      fc.property(sizes, types, fc.infiniteStream(fc.nat(255)), (size, type, stream) => {
        const bytes = Uint8Array.from({ length: size }, () => stream.next().value as number);
        bytes[6]! |= 0x10;
        bytes[0x0e] = type;
        const offsets = decodeConfigSpace(bytes).capabilities.map(({ offset }) => offset);
        expect(new Set(offsets).size).toBe(offsets.length);
        expect(Math.max(0, ...offsets)).toBeLessThan(size);
      }),
      { numRuns: 200 },
    );
  });
});
