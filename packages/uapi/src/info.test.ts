import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesOf, caught, hexOf } from '../test/support/hex.js';
import {
  type DeviceInfo,
  decodeDeviceInfo,
  decodeHotResetInfo,
  decodeIrqInfo,
  decodeRegionCap,
  decodeRegionInfo,
  encodeDeviceInfo,
  encodeHotResetInfo,
  encodeIrqInfo,
  encodeRegionCap,
  encodeRegionInfo,
  type HotResetInfo,
  hotResetInfoCount,
  hotResetInfoSize,
  type RegionCap,
  type RegionInfo,
} from './info.js';

const device: DeviceInfo = {
  flags: 3,
  numRegions: 9,
  numIrqs: 5,
  caps: [{ id: 5, version: 1, data: bytesOf('0700000000000000') }],
};
const region: RegionInfo = {
  index: 2,
  flags: 7,
  size: 0x8000,
  offset: 2 ** 41,
  caps: [
    {
      id: 1,
      version: 1,
      areas: [
        { offset: 0, size: 0x1000 },
        { offset: 0x3000, size: 0x5000 },
      ],
    },
    { id: 2, version: 1, type: 0x80008086, subtype: 1 },
    { id: 3, version: 1 },
  ],
};

/** The region's struct and chain: argsz, flags, index, cap_offset, size, offset; sparse list, type, mappable. */
const REGION_LITTLE = `
  68000000 0f000000 02000000 20000000 0080000000000000 0000000000020000
  01000100 50000000 02000000 00000000 0000000000000000 0010000000000000 0030000000000000 0050000000000000
  02000100 60000000 86800080 01000000
  03000100 00000000`;
const REGION_BIG = `
  00000068 0000000f 00000002 00000020 0000000000008000 0000020000000000
  00010001 00000050 00000002 00000000 0000000000000000 0000000000001000 0000000000003000 0000000000005000
  00020001 00000060 80008086 00000001
  00030001 00000000`;

describe('region info', () => {
  test.each([
    ['little-endian', true, REGION_LITTLE],
    ['big-endian', false, REGION_BIG],
  ])('is written and read in %s bytes', (_order, littleEndian, hex) => {
    expect(hexOf(encodeRegionInfo(region, 104, { littleEndian }))).toBe(hexOf(bytesOf(hex)));
    const decoded = decodeRegionInfo(bytesOf(hex), littleEndian);
    expect(decoded.info).toEqual(region);
    expect(decoded.argsz).toBe(104);
    expect(decoded.chain.map(({ id, offset }) => [id, offset])).toEqual([
      [1, 32],
      [2, 80],
      [3, 96],
    ]);
  });

  test('to a kernel caller with too little room says CAPS, no offset and the room it takes', () => {
    const reply = encodeRegionInfo(region, 103, { littleEndian: true });
    expect(hexOf(reply)).toBe(hexOf(bytesOf('68000000 0f000000 02000000 00000000 0080000000000000 0000000000020000')));
    expect(decodeRegionInfo(reply, true)).toMatchObject({ argsz: 104, info: { flags: 7, caps: [] }, chain: [] });
  });

  test('to a kernel caller with more room than needed gives argsz back as it was', () => {
    expect(hexOf(encodeRegionInfo(region, 200, { littleEndian: true }).subarray(0, 4))).toBe('c8000000');
  });

  test('to a vfio-user caller always says the room it takes, and CAPS only with the capabilities', () => {
    const short = encodeRegionInfo(region, 32, { littleEndian: true, dialect: 'vfio-user' });
    expect(hexOf(short)).toBe(hexOf(bytesOf('68000000 07000000 02000000 00000000 0080000000000000 0000000000020000')));
    const long = encodeRegionInfo(region, 200, { littleEndian: true, dialect: 'vfio-user' });
    expect(hexOf(long)).toBe(hexOf(bytesOf(REGION_LITTLE)));
  });

  test('without capabilities has no CAPS flag, even where the caller of the codec sets it', () => {
    const plain = encodeRegionInfo({ ...region, flags: 0xf, caps: [] }, 32, { littleEndian: true });
    expect(hexOf(plain)).toBe(hexOf(bytesOf('20000000 07000000 02000000 00000000 0080000000000000 0000000000020000')));
  });

  test('reads packed capabilities by their next', () => {
    const packed = encodeRegionInfo(region, 104, { littleEndian: true, capStyle: 'packed' });
    expect(decodeRegionInfo(packed, true).info).toEqual(region);
  });

  test('ignores bytes beyond what the reply says it filled', () => {
    const reply = bytesOf(`${REGION_LITTLE} ffffffffffffffff`);
    expect(decodeRegionInfo(reply, true).info).toEqual(region);
    // A chain that goes on there is broken.
    const bytes = bytesOf(`28000000 08000000 00000000 20000000 00${'00'.repeat(15)} 0300010028000000 0300010000000000`);
    expect(caught(() => decodeRegionInfo(bytes, true))).toMatchObject({ errno: 'EINVAL' });
  });

  test('keeps capabilities that are not known apart from the typed ones', () => {
    const bytes = encodeRegionInfo({ ...region, caps: [] }, 32, { littleEndian: true });
    const reply = Uint8Array.of(...bytes, ...bytesOf('4d000200 00000000 0102'));
    reply[0] = reply.length;
    reply[4] = 0xf;
    reply[12] = 32;
    const decoded = decodeRegionInfo(reply, true);
    expect(decoded.info.caps).toEqual([]);
    expect(decoded.chain).toEqual([{ id: 0x4d, version: 2, offset: 32, data: bytesOf('0102') }]);
  });

  test.each([
    ['31 bytes', bytesOf(REGION_LITTLE).subarray(0, 31), 'EINVAL'],
    [
      'a size above 2^53-1',
      bytesOf(`20000000 03000000 00000000 00000000 0000000000002000 ${'00'.repeat(8)}`),
      'EOVERFLOW',
    ],
    [
      'an offset above 2^53-1',
      bytesOf(`20000000 03000000 00000000 00000000 ${'00'.repeat(8)} ffffffffffffffff`),
      'EOVERFLOW',
    ],
    ['a cap_offset inside the struct', bytesOf(`28000000 08000000 00000000 18000000 ${'00'.repeat(24)}`), 'EINVAL'],
  ])('refuses %s', (_name, bytes, errno) => {
    expect(caught(() => decodeRegionInfo(bytes, true))).toMatchObject({ code: 'ERR_VFIO_INVALID_STRUCT', errno });
  });

  test('refuses values that do not fit', () => {
    expect(caught(() => encodeRegionInfo({ ...region, size: -1 }, 104, { littleEndian: true }))).toMatchObject({
      errno: 'EINVAL',
    });
    const caps: RegionCap[] = [{ id: 1, version: 1, areas: [{ offset: 0, size: 2 ** 53 }] }];
    expect(caught(() => encodeRegionInfo({ ...region, caps }, 104, { littleEndian: true }))).toMatchObject({
      errno: 'EINVAL',
    });
  });

  const anyCap: fc.Arbitrary<RegionCap> = fc.oneof(
    fc.record({
      id: fc.constant(1 as const),
      version: fc.constant(1 as const),
      areas: fc.array(fc.record({ offset: fc.maxSafeNat(), size: fc.maxSafeNat() }), { maxLength: 5 }),
    }),
    fc.record({
      id: fc.constant(2 as const),
      version: fc.constant(1 as const),
      type: fc.nat(0xffffffff),
      subtype: fc.nat(0xffffffff),
    }),
    fc.record({ id: fc.constant(3 as const), version: fc.constant(1 as const) }),
  );

  test('comes back as it was, in either byte order, style and dialect', () => {
    fc.assert(
      fc.property(
        fc.record({
          index: fc.nat(0xffffffff),
          flags: fc.nat(0xffffffff).map((flags) => (flags & ~8) >>> 0),
          size: fc.maxSafeNat(),
          offset: fc.maxSafeNat(),
          caps: fc.array(anyCap, { maxLength: 4 }),
        }),
        fc.record({
          littleEndian: fc.boolean(),
          dialect: fc.constantFrom('kernel' as const, 'vfio-user' as const),
          capStyle: fc.constantFrom('aligned' as const, 'packed' as const),
        }),
        (info, encoding) => {
          const short = encodeRegionInfo(info, 32, encoding);
          const { argsz } = decodeRegionInfo(short, encoding.littleEndian);
          const whole = encodeRegionInfo(info, argsz, encoding);
          expect(whole.length).toBe(argsz);
          expect(decodeRegionInfo(whole, encoding.littleEndian).info).toEqual(info);
          // One byte less is too little, unless there is nothing to place.
          if (info.caps.length > 0) expect(encodeRegionInfo(info, argsz - 1, encoding)).toHaveLength(32);
        },
      ),
    );
  });
});

describe('region capabilities', () => {
  test('a sparse list of an unknown version allows nothing to be mapped', () => {
    const cap = encodeRegionCap({ id: 1, version: 1, areas: [{ offset: 0, size: 0x1000 }] }, true);
    expect(decodeRegionCap({ ...cap, version: 2 }, true)).toEqual({ id: 1, version: 1, areas: [] });
  });

  test.each([
    ['type', 2],
    ['msix mappable', 3],
  ])('a %s capability of an unknown version is not typed', (_name, id) => {
    expect(decodeRegionCap({ id, version: 2, data: new Uint8Array(8) }, true)).toBeUndefined();
  });

  test.each([
    ['a sparse list without its head', 1, '00000000'],
    ['a sparse list with fewer areas than it says', 1, `02000000 00000000 ${'00'.repeat(31)}`],
    ['a sparse list with more areas than there can be', 1, 'ffffffff 00000000'],
    ['a type that is too short', 2, '00000000'],
  ])('refuses %s', (_name, id, hex) => {
    expect(caught(() => decodeRegionCap({ id, version: 1, data: bytesOf(hex) }, true))).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
      errno: 'EINVAL',
    });
  });

  test('refuses an area above 2^53-1', () => {
    const data = bytesOf(`01000000 00000000 ffffffffffffffff ${'00'.repeat(8)}`);
    expect(caught(() => decodeRegionCap({ id: 1, version: 1, data }, true))).toMatchObject({ errno: 'EOVERFLOW' });
  });
});

describe('device info', () => {
  test.each([
    ['little-endian', true, '28000000 83000000 09000000 05000000 18000000 00000000 0500010000000000 0700000000000000'],
    ['big-endian', false, '00000028 00000083 00000009 00000005 00000018 00000000 0005000100000000 0700000000000000'],
  ])('is written and read in %s bytes', (_order, littleEndian, hex) => {
    expect(hexOf(encodeDeviceInfo(device, 40, { littleEndian }))).toBe(hexOf(bytesOf(hex)));
    const decoded = decodeDeviceInfo(bytesOf(hex), littleEndian);
    expect(decoded.info).toEqual(device);
    expect(decoded.argsz).toBe(40);
  });

  test('with too little room says CAPS, no offset and the room it takes', () => {
    expect(hexOf(encodeDeviceInfo(device, 39, { littleEndian: true }))).toBe(
      hexOf(bytesOf('28000000 83000000 09000000 05000000 00000000 00000000')),
    );
  });

  test('reads the 16 bytes of the oldest kernels', () => {
    expect(decodeDeviceInfo(bytesOf('10000000 03000000 09000000 05000000'), true)).toEqual({
      info: { flags: 3, numRegions: 9, numIrqs: 5, caps: [] },
      argsz: 16,
      chain: [],
    });
  });

  test('reads capabilities that follow 20 bytes, as kernels without padding in the struct place them', () => {
    const bytes = bytesOf('24000000 83000000 09000000 05000000 14000000 0500010000000000 0700000000000000');
    expect(decodeDeviceInfo(bytes, true).info.caps).toEqual(device.caps);
  });

  test.each([
    ['15 bytes', new Uint8Array(15)],
    [
      'a cap_offset inside the struct',
      bytesOf('28000000 83000000 09000000 05000000 10000000 00000000 0500010000000000'),
    ],
    ['a cap_offset beyond argsz', bytesOf('18000000 83000000 09000000 05000000 18000000 00000000 0500010000000000')],
  ])('refuses %s', (_name, bytes) => {
    expect(caught(() => decodeDeviceInfo(bytes, true))).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
      errno: 'EINVAL',
    });
  });
});

describe('irq info', () => {
  test.each([
    ['little-endian', true, '10000000 09000000 02000000 40000000'],
    ['big-endian', false, '00000010 00000009 00000002 00000040'],
  ])('is written and read in %s bytes', (_order, littleEndian, hex) => {
    const info = { index: 2, flags: 9, count: 64 };
    expect(hexOf(encodeIrqInfo(info, 16, littleEndian))).toBe(hexOf(bytesOf(hex)));
    expect(decodeIrqInfo(bytesOf(hex), littleEndian)).toEqual(info);
  });

  test('refuses 15 bytes', () => {
    expect(caught(() => decodeIrqInfo(new Uint8Array(15), true))).toMatchObject({ code: 'ERR_VFIO_INVALID_STRUCT' });
  });
});

describe('hot-reset info', () => {
  const info: HotResetInfo = {
    flags: 3,
    devices: [
      { id: 7, segment: 0x1234, bus: 0x3b, devfn: 0x08 },
      { id: 0xffffffff, segment: 0, bus: 0x3b, devfn: 0x09 },
    ],
  };

  test.each([
    ['little-endian', true, '1c000000 03000000 02000000 07000000 3412 3b 08 ffffffff 0000 3b 09'],
    ['big-endian', false, '0000001c 00000003 00000002 00000007 1234 3b 08 ffffffff 0000 3b 09'],
  ])('is written and read in %s bytes', (_order, littleEndian, hex) => {
    expect(hotResetInfoSize(2)).toBe(28);
    expect(hexOf(encodeHotResetInfo(info, 28, littleEndian))).toBe(hexOf(bytesOf(hex)));
    expect(decodeHotResetInfo(bytesOf(hex), littleEndian)).toEqual(info);
  });

  test('with too little room has the count and no function', () => {
    const short = encodeHotResetInfo(info, 27, true);
    expect(hexOf(short)).toBe(hexOf(bytesOf('1b000000 03000000 02000000')));
    expect(hotResetInfoCount(short, true)).toBe(2);
  });

  test('refuses a reply that is shorter than its count', () => {
    expect(
      caught(() => decodeHotResetInfo(bytesOf('1c000000 03000000 02000000 07000000 3412 3b 08'), true)),
    ).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
    });
  });
});
