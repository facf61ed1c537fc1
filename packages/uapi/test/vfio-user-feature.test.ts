/** DEVICE_FEATURE over a socket: everything inline, nothing larger than the peer has room for. */
import { describe, expect, test } from 'vitest';
import * as u from '../src/index.js';
import { bytesOf, caught, hexOf } from './support/hex.js';

const GET = u.VFIO_DEVICE_FEATURE_GET;
const SET = u.VFIO_DEVICE_FEATURE_SET;
const PROBE = u.VFIO_DEVICE_FEATURE_PROBE;
const limits: u.VfioUserFeatureLimits = { maxReplySize: 1 << 20 };

/** Sends a call through both ends of the codec; the device is `answer`. */
function roundTrip(flags: number, value: unknown, answer: (value: unknown) => unknown, littleEndian: boolean) {
  const command = u.encodeVfioUserFeatureCommand(flags, value, littleEndian);
  const feature = u.decodeVfioUserFeature(command, littleEndian);
  const decoded = u.decodeVfioUserFeatureValue(feature, limits, littleEndian);
  const reply = u.encodeVfioUserFeatureReply(
    feature,
    decoded,
    decoded.isProbe ? undefined : answer(decoded.value),
    littleEndian,
  );
  return {
    command: hexOf(command),
    decoded,
    reply: hexOf(reply),
    fits: reply.length <= feature.argsz,
    result: u.decodeVfioUserFeatureReply(flags, value, reply, littleEndian),
  };
}

interface Row {
  readonly name: string;
  readonly flags: number;
  readonly value?: unknown;
  readonly answer?: unknown;
  readonly result?: unknown;
  readonly command: readonly [little: string, big: string];
  readonly reply: readonly [little: string, big: string];
}

const token = Uint8Array.from({ length: 16 }, (_, at) => at);
const start = { pageSize: 4096n, ranges: [{ iova: 0x1000n, length: 0x2000n }] };

const ROWS: readonly Row[] = [
  {
    name: 'PROBE',
    flags: PROBE | GET | SET | 2,
    command: ['08000000 02000700', '00000008 00070002'],
    reply: ['08000000 02000700', '00000008 00070002'],
  },
  {
    name: 'PCI_VF_TOKEN',
    flags: SET | 0,
    value: token,
    command: [`18000000 00000200 ${hexOf(token)}`, `00000018 00020000 ${hexOf(token)}`],
    reply: [`18000000 00000200 ${hexOf(token)}`, `00000018 00020000 ${hexOf(token)}`],
  },
  {
    name: 'MIGRATION',
    flags: GET | 1,
    answer: { flags: 5 },
    result: { flags: 5 },
    command: ['10000000 01000100', '00000010 00010001'],
    reply: ['10000000 01000100 0500000000000000', '00000010 00010001 0000000000000005'],
  },
  {
    name: 'MIG_DEVICE_STATE, asked',
    flags: GET | 2,
    answer: { state: 6 },
    result: { state: 6 },
    command: ['10000000 02000100', '00000010 00010002'],
    reply: ['10000000 02000100 06000000 00000000', '00000010 00010002 00000006 00000000'],
  },
  {
    name: 'MIG_DEVICE_STATE, set',
    flags: SET | 2,
    value: { state: 3 },
    answer: { state: 3 },
    result: { state: 3 },
    command: ['10000000 02000200 03000000 00000000', '00000010 00020002 00000003 00000000'],
    reply: ['10000000 02000200 03000000 00000000', '00000010 00020002 00000003 00000000'],
  },
  {
    name: 'DMA_LOGGING_START',
    flags: SET | 6,
    value: start,
    answer: { pageSize: 0x2000n },
    result: { pageSize: 0x2000n },
    command: [
      '28000000 06000200 0010000000000000 01000000 00000000 0010000000000000 0020000000000000',
      '00000028 00020006 0000000000001000 00000001 00000000 0000000000001000 0000000000002000',
    ],
    reply: [
      '28000000 06000200 0020000000000000 01000000 00000000 0010000000000000 0020000000000000',
      '00000028 00020006 0000000000002000 00000001 00000000 0000000000001000 0000000000002000',
    ],
  },
  {
    name: 'DMA_LOGGING_STOP',
    flags: SET | 7,
    command: ['08000000 07000200', '00000008 00020007'],
    reply: ['08000000 07000200', '00000008 00020007'],
  },
  {
    name: 'MIG_DATA_SIZE',
    flags: GET | 9,
    answer: { stopCopyLength: 0x123456789n },
    result: { stopCopyLength: 0x123456789n },
    command: ['10000000 09000100', '00000010 00010009'],
    reply: ['10000000 09000100 8967452301000000', '00000010 00010009 0000000123456789'],
  },
  {
    name: 'an unknown one',
    flags: SET | 0x99,
    value: bytesOf('0102'),
    answer: bytesOf('03'),
    result: bytesOf('03'),
    command: ['0a000000 99000200 0102', '0000000a 00020099 0102'],
    reply: ['09000000 99000200 03', '00000009 00020099 03'],
  },
];

describe.each(ROWS)('$name', ({ flags, value, answer, result, command, reply }) => {
  test.each([
    ['little-endian', true, 0],
    ['big-endian', false, 1],
  ] as const)('goes and comes back in %s bytes', (_order, littleEndian, at) => {
    const seen: unknown[] = [];
    const device = (given: unknown): unknown => {
      seen.push(given);
      return answer;
    };
    const done = roundTrip(flags, value, device, littleEndian);
    expect(done.command).toBe(hexOf(bytesOf(command[at])));
    expect(done.reply).toBe(hexOf(bytesOf(reply[at])));
    expect(done.result).toEqual(result);
    expect(done.fits).toBe(true);
    expect(done.decoded.isProbe).toBe((flags & PROBE) !== 0);
    if (!done.decoded.isProbe) expect(seen).toEqual([value]);
  });
});

describe('DMA_LOGGING_REPORT', () => {
  const report = () => ({ iova: 0x1000n, length: 65n << 12n, pageSize: 4096n, bitmap: new Uint8Array(16) });

  test.each([
    [true, '30000000 08000100 0010000000000000 0010040000000000 0010000000000000'],
    [false, '00000030 00010008 0000000000001000 0000000000041000 0000000000001000'],
  ])('sends the range and gets the bitmap after it (little-endian: %s)', (littleEndian, hex) => {
    const value = report();
    value.bitmap[1] = 0x80;
    const done = roundTrip(
      GET | 8,
      value,
      (given) => {
        const { bitmap, ...range } = given as ReturnType<typeof report>;
        expect(range).toEqual({ iova: 0x1000n, length: 65n << 12n, pageSize: 4096n });
        expect(bitmap).toEqual(new Uint8Array(16));
        bitmap[0] = 1;
        bitmap[8] = 1;
        return undefined;
      },
      littleEndian,
    );
    expect(done.command).toBe(hexOf(bytesOf(hex)));
    expect(done.reply).toBe(`${hexOf(bytesOf(hex))}01000000000000000100000000000000`);
    // Bits that the caller had stay.
    expect(hexOf(value.bitmap)).toBe('01800000000000000100000000000000');
  });

  test('of more than the reply has room for is refused before a bitmap is made', () => {
    const command = u.encodeVfioUserFeatureCommand(
      GET | 8,
      { ...report(), length: 2n ** 63n, bitmap: new Uint8Array(0) },
      true,
    );
    const feature = { ...u.decodeVfioUserFeature(command, true), argsz: 0xffffffff };
    expect(caught(() => u.decodeVfioUserFeatureValue(feature, limits, true))).toMatchObject({ errno: 'EINVAL' });
  });

  test('is bounded by argsz and by the connection, whichever is less, to the byte', () => {
    const feature = u.decodeVfioUserFeature(u.encodeVfioUserFeatureCommand(GET | 8, report(), true), true);
    expect(feature.argsz).toBe(48);
    expect(() => u.decodeVfioUserFeatureValue(feature, { maxReplySize: 48 }, true)).not.toThrow();
    expect(caught(() => u.decodeVfioUserFeatureValue(feature, { maxReplySize: 47 }, true))).toMatchObject({
      errno: 'EINVAL',
    });
    const small = { ...feature, argsz: 47 };
    expect(caught(() => u.decodeVfioUserFeatureValue(small, limits, true))).toMatchObject({ errno: 'EINVAL' });
  });

  test('whose reply has too few bits is refused', () => {
    const payload = bytesOf('28000000 08000100 0010000000000000 0010040000000000 0010000000000000 0000000000000000');
    expect(caught(() => u.decodeVfioUserFeatureReply(GET | 8, report(), payload, true))).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
    });
  });
});

describe('is refused:', () => {
  const decode = (hex: string) => {
    const feature = u.decodeVfioUserFeature(bytesOf(hex), true);
    return u.decodeVfioUserFeatureValue(feature, limits, true);
  };
  const startHead = (count: string) => `ffff0000 06000200 0010000000000000 ${count} 00000000`;

  test.each([
    ['a payload of 7 bytes', '08000000 010001', 'EINVAL'],
    ['argsz below 8', '07000000 01000100', 'EINVAL'],
    ['an unknown flag', '10000000 01000900', 'EINVAL'],
    ['GET and SET without PROBE', '10000000 02000300 0000000000000000', 'EINVAL'],
    ['neither GET, SET nor PROBE', '10000000 01000000', 'EINVAL'],
    ['SET of the migration flags', '10000000 01000200 0000000000000000', 'EINVAL'],
    ['GET of a logging stop', '10000000 07000100', 'EINVAL'],
    ['a GET without room for its reply', '0f000000 01000100', 'EINVAL'],
    ['a SET without its data', '10000000 02000200 030000', 'EINVAL'],
    ['a report without its range', '50000000 08000100 00000000', 'EINVAL'],
    ['a start without ranges', startHead('00000000'), 'EINVAL'],
    ['a start with 257 ranges', startHead('01010000'), 'E2BIG'],
    ['a start with fewer ranges than it says', `${startHead('02000000')} ${'00'.repeat(31)}`, 'EINVAL'],
    [
      'a start with a range that is not aligned',
      `${startHead('01000000')} 0100000000000000 0010000000000000`,
      'EINVAL',
    ],
    ['a start with a range beyond the top', `${startHead('01000000')} 00f0ffffffffffff 0010000000000000`, 'EOVERFLOW'],
    [
      'a report with a page size of 2048',
      `ffff0000 08000100 ${'00'.repeat(8)} 0010000000000000 0008000000000000`,
      'EINVAL',
    ],
  ])('%s', (_name, hex, errno) => {
    expect(caught(() => decode(hex))).toMatchObject({ name: 'VfioError', errno });
  });

  test('a start with more ranges than the host allows', () => {
    const ranges = Array.from({ length: 257 }, (_, at) => ({ iova: BigInt(at) << 12n, length: 4096n }));
    const feature = u.decodeVfioUserFeature(
      u.encodeVfioUserFeatureCommand(SET | 6, { pageSize: 4096n, ranges }, true),
      true,
    );
    expect(caught(() => u.decodeVfioUserFeatureValue(feature, limits, true))).toMatchObject({ errno: 'E2BIG' });
    expect(u.decodeVfioUserFeatureValue(feature, { ...limits, hostPageSize: 65536 }, true).value).toEqual({
      pageSize: 4096n,
      ranges,
    });
  });

  test('a reply about another feature', () => {
    expect(
      caught(() =>
        u.decodeVfioUserFeatureReply(GET | 1, undefined, bytesOf('10000000 02000100 0000000000000000'), true),
      ),
    ).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
    });
  });

  test('a reply that is too short', () => {
    for (const hex of ['10000000', '10000000 01000100 00000000']) {
      expect(caught(() => u.decodeVfioUserFeatureReply(GET | 1, undefined, bytesOf(hex), true))).toMatchObject({
        code: 'ERR_VFIO_INVALID_STRUCT',
      });
    }
  });
});

describe('a command is not made of', () => {
  test.each([
    ['a SET of what can only be asked for', SET | 1, { flags: 1 }],
    ['a GET of what can only be set', GET | 0, undefined],
    ['a token that is missing', SET | 0, undefined],
    ['a state that is missing', SET | 2, undefined],
    ['ranges that are missing', SET | 6, null],
    ['a report without a range', GET | 8, undefined],
  ])('%s: EINVAL', (_what, flags, value) => {
    expect(caught(() => u.encodeVfioUserFeatureCommand(flags, value, true))).toMatchObject({ errno: 'EINVAL' });
  });
});

test('features that take or give descriptors do not go over a socket', () => {
  for (const index of [4, 10, 11, 13]) expect(u.vfioUserFeatureCodec(index)).toBeUndefined();
  for (const index of [0, 1, 2, 3, 5, 6, 7, 8, 9, 12]) expect(u.vfioUserFeatureCodec(index)).toBeDefined();
});
