/** The payload of each vfio-user command, in both directions and both byte orders, and what is refused. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as u from '../src/index.js';
import { bytesOf, caught, hexOf } from './support/hex.js';

/** A value, how it is written and read, and its bytes in both orders. */
interface Vector {
  readonly name: string;
  readonly encode?: (littleEndian: boolean) => Uint8Array;
  readonly decode?: (payload: Uint8Array, littleEndian: boolean) => unknown;
  readonly value?: unknown;
  readonly little: string;
  readonly big: string;
}

const data = bytesOf('a1a2a3a4a5');
const dmaMap = { flags: 3, offset: 0x1000n, iova: 0x100000000n, size: 0x200000n };
const unmap = { argsz: 24, flags: 0, iova: 0x100000000n, size: 0x200000n };
const unmapDirty = { ...unmap, argsz: 48, flags: 1, bitmap: { pgsize: 4096n, size: 8 } };
const device = { flags: 3, numRegions: 9, numIrqs: 5, caps: [] };
const region: u.RegionInfo = {
  index: 2,
  flags: 7,
  size: 0x4000,
  offset: 0,
  caps: [{ id: 1, version: 1, areas: [{ offset: 0x1000, size: 0x3000 }] }],
};
const ioFd = { offset: 0x10, size: 4, fdIndex: 1, type: 0, flags: 2, data: 0x1122334455667788n };
const ioFdShadow = { ...ioFd, type: 2, shadow: { fdIndex: 0, offset: 0x40n } };

const VECTORS: readonly Vector[] = [
  {
    name: 'DMA_MAP',
    encode: (le) => u.encodeVfioUserDmaMap(dmaMap, le),
    decode: (payload, le) => u.decodeVfioUserDmaMap(payload, 1, le),
    value: dmaMap,
    little: '20000000 03000000 0010000000000000 0000000001000000 0000200000000000',
    big: '00000020 00000003 0000000000001000 0000000100000000 0000000000200000',
  },
  {
    name: 'DMA_UNMAP and its reply',
    encode: (le) => u.encodeVfioUserDmaUnmap(unmap, le),
    decode: u.decodeVfioUserDmaUnmap,
    value: unmap,
    little: '18000000 00000000 0000000001000000 0000200000000000',
    big: '00000018 00000000 0000000100000000 0000000000200000',
  },
  {
    name: 'DMA_UNMAP with a bitmap',
    encode: (le) => u.encodeVfioUserDmaUnmap(unmapDirty, le),
    decode: u.decodeVfioUserDmaUnmap,
    value: unmapDirty,
    little: '30000000 01000000 0000000001000000 0000200000000000 0010000000000000 0800000000000000',
    big: '00000030 00000001 0000000100000000 0000000000200000 0000000000001000 0000000000000008',
  },
  {
    name: 'reply to DMA_UNMAP with a bitmap',
    encode: (le) => u.encodeVfioUserDmaUnmapReply(unmapDirty, bytesOf('0102030405060708'), le),
    decode: u.decodeVfioUserDmaUnmapReply,
    value: { ...unmapDirty, bits: bytesOf('0102030405060708') },
    little: '30000000 01000000 0000000001000000 0000200000000000 0010000000000000 0800000000000000 0102030405060708',
    big: '00000030 00000001 0000000100000000 0000000000200000 0000000000001000 0000000000000008 0102030405060708',
  },
  {
    name: 'DEVICE_GET_INFO',
    encode: u.encodeVfioUserGetInfo,
    decode: u.decodeVfioUserGetInfo,
    value: 16,
    little: '10000000 00000000 00000000 00000000',
    big: '00000010 00000000 00000000 00000000',
  },
  {
    name: 'reply to DEVICE_GET_INFO',
    encode: (le) => u.encodeVfioUserDeviceInfo(device, le),
    decode: u.decodeVfioUserDeviceInfo,
    value: device,
    little: '10000000 03000000 09000000 05000000',
    big: '00000010 00000003 00000009 00000005',
  },
  {
    name: 'DEVICE_GET_REGION_INFO',
    encode: (le) => u.encodeVfioUserGetRegionInfo({ argsz: 64, index: 2 }, le),
    decode: u.decodeVfioUserGetRegionInfo,
    value: { argsz: 64, index: 2 },
    little: `40000000 00000000 02000000 ${'00'.repeat(20)}`,
    big: `00000040 00000000 00000002 ${'00'.repeat(20)}`,
  },
  {
    name: 'short reply to DEVICE_GET_REGION_INFO',
    encode: (le) => u.encodeVfioUserRegionInfo(region, 32, le),
    decode: (payload, le) => u.decodeVfioUserRegionInfo(payload, le).argsz,
    value: 64,
    little: '40000000 07000000 02000000 00000000 0040000000000000 0000000000000000',
    big: '00000040 00000007 00000002 00000000 0000000000004000 0000000000000000',
  },
  {
    name: 'reply to DEVICE_GET_REGION_INFO with a sparse list',
    encode: (le) => u.encodeVfioUserRegionInfo(region, 64, le),
    decode: (payload, le) => u.decodeVfioUserRegionInfo(payload, le).info,
    value: region,
    little:
      '40000000 0f000000 02000000 20000000 0040000000000000 0000000000000000 0100010000000000 01000000 00000000 0010000000000000 0030000000000000',
    big: '00000040 0000000f 00000002 00000020 0000000000004000 0000000000000000 0001000100000000 00000001 00000000 0000000000001000 0000000000003000',
  },
  {
    name: 'DEVICE_GET_REGION_IO_FDS',
    encode: (le) => u.encodeVfioUserGetIoFds(2, 96, le),
    decode: u.decodeVfioUserGetIoFds,
    value: { argsz: 96, index: 2 },
    little: '60000000 00000000 02000000 00000000',
    big: '00000060 00000000 00000002 00000000',
  },
  {
    name: 'reply to DEVICE_GET_REGION_IO_FDS with entries of 40 bytes',
    encode: (le) => u.encodeVfioUserIoFds(2, [ioFd], 56, le),
    decode: (payload, le) => u.decodeVfioUserIoFds(payload, 2, le),
    value: { index: 2, argsz: 56, count: 1, entries: [ioFd] },
    little:
      '38000000 00000000 02000000 01000000 1000000000000000 0400000000000000 01000000 00000000 02000000 00000000 8877665544332211',
    big: '00000038 00000000 00000002 00000001 0000000000000010 0000000000000004 00000001 00000000 00000002 00000000 1122334455667788',
  },
  {
    name: 'reply to DEVICE_GET_REGION_IO_FDS with entries of 48 bytes',
    encode: (le) => u.encodeVfioUserIoFds(2, [ioFdShadow, ioFd], 112, le),
    decode: (payload, le) => u.decodeVfioUserIoFds(payload, 2, le),
    value: { index: 2, argsz: 112, count: 2, entries: [ioFdShadow, ioFd] },
    little: `70000000 00000000 02000000 02000000
      1000000000000000 0400000000000000 01000000 02000000 02000000 00000000 4000000000000000 8877665544332211
      1000000000000000 0400000000000000 01000000 00000000 02000000 00000000 0000000000000000 8877665544332211`,
    big: `00000070 00000000 00000002 00000002
      0000000000000010 0000000000000004 00000001 00000002 00000002 00000000 0000000000000040 1122334455667788
      0000000000000010 0000000000000004 00000001 00000000 00000002 00000000 0000000000000000 1122334455667788`,
  },
  {
    name: 'DEVICE_GET_IRQ_INFO',
    encode: (le) => u.encodeVfioUserGetIrqInfo(2, le),
    decode: u.decodeVfioUserGetIrqInfo,
    value: { argsz: 16, index: 2 },
    little: '10000000 00000000 02000000 00000000',
    big: '00000010 00000000 00000002 00000000',
  },
  {
    name: 'reply to DEVICE_GET_IRQ_INFO',
    encode: (le) => u.encodeVfioUserIrqInfo({ index: 2, flags: 1, count: 2048 }, le),
    decode: u.decodeVfioUserIrqInfo,
    value: { index: 2, flags: 1, count: 2048 },
    little: '10000000 01000000 02000000 00080000',
    big: '00000010 00000001 00000002 00000800',
  },
  {
    name: 'DEVICE_SET_IRQS with eventfds',
    encode: (le) => u.encodeVfioUserIrqSet({ flags: 0x24, index: 2, start: 4, count: 3 }, le),
    decode: (payload, le) => u.decodeVfioUserIrqSet(payload, 3, le),
    value: { flags: 0x24, index: 2, start: 4, count: 3 },
    little: '14000000 24000000 02000000 04000000 03000000',
    big: '00000014 00000024 00000002 00000004 00000003',
  },
  {
    name: 'DEVICE_SET_IRQS with bools',
    encode: (le) => u.encodeVfioUserIrqSet({ flags: 0x22, index: 1, start: 0, count: 5, bools: data }, le),
    decode: (payload, le) => u.decodeVfioUserIrqSet(payload, 0, le),
    value: { flags: 0x22, index: 1, start: 0, count: 5, bools: data },
    little: '19000000 22000000 01000000 00000000 05000000 a1a2a3a4a5',
    big: '00000019 00000022 00000001 00000000 00000005 a1a2a3a4a5',
  },
  {
    name: 'REGION_READ, and the reply to REGION_WRITE',
    encode: (le) => u.encodeVfioUserRegionAccess({ offset: 0x100000004, region: 7, count: 4 }, le),
    decode: u.decodeVfioUserRegionAccess,
    value: { offset: 0x100000004, region: 7, count: 4 },
    little: '0400000001000000 07000000 04000000',
    big: '0000000100000004 00000007 00000004',
  },
  {
    name: 'REGION_WRITE, and the reply to REGION_READ',
    encode: (le) => u.encodeVfioUserRegionData(7, 0x100000004, data, le),
    decode: u.decodeVfioUserRegionData,
    value: { offset: 0x100000004, region: 7, count: 5, data },
    little: '0400000001000000 07000000 05000000 a1a2a3a4a5',
    big: '0000000100000004 00000007 00000005 a1a2a3a4a5',
  },
  {
    name: 'DMA_READ, and the reply to DMA_WRITE',
    encode: (le) => u.encodeVfioUserDmaAccess({ iova: 0x123456789n, count: 0x100000 }, le),
    decode: u.decodeVfioUserDmaAccess,
    value: { iova: 0x123456789n, count: 0x100000 },
    little: '8967452301000000 0000100000000000',
    big: '0000000123456789 0000000000100000',
  },
  {
    name: 'DMA_WRITE, and the reply to DMA_READ',
    encode: (le) => u.encodeVfioUserDmaData(0x123456789n, data, le),
    decode: u.decodeVfioUserDmaData,
    value: { iova: 0x123456789n, count: 5, data },
    little: '8967452301000000 0500000000000000 a1a2a3a4a5',
    big: '0000000123456789 0000000000000005 a1a2a3a4a5',
  },
  {
    name: 'REGION_WRITE_MULTI',
    encode: (le) =>
      u.encodeVfioUserWriteMulti(
        [
          { offset: 0x10, region: 0, data },
          { offset: 0x20, region: 1, data: bytesOf('b1b2b3b4b5b6b7b8') },
        ],
        le,
      ),
    decode: u.decodeVfioUserWriteMulti,
    value: [
      { offset: 0x10, region: 0, count: 5, data },
      { offset: 0x20, region: 1, count: 8, data: bytesOf('b1b2b3b4b5b6b7b8') },
    ],
    little:
      '0200000000000000 1000000000000000 00000000 05000000 a1a2a3a4a5000000 2000000000000000 01000000 08000000 b1b2b3b4b5b6b7b8',
    big: '0000000000000002 0000000000000010 00000000 00000005 a1a2a3a4a5000000 0000000000000020 00000001 00000008 b1b2b3b4b5b6b7b8',
  },
  {
    name: 'reply to REGION_WRITE_MULTI',
    encode: (le) => u.encodeVfioUserWriteMultiReply(200, le),
    decode: u.decodeVfioUserWriteMultiReply,
    value: 200,
    little: 'c800000000000000',
    big: '00000000000000c8',
  },
  {
    name: 'MIG_DATA_READ',
    encode: (le) => u.encodeVfioUserMigDataRead(0x1000, le),
    decode: u.decodeVfioUserMigDataRead,
    value: 0x1000,
    little: '08100000 00100000',
    big: '00001008 00001000',
  },
  {
    name: 'MIG_DATA_WRITE, and the reply to MIG_DATA_READ',
    encode: (le) => u.encodeVfioUserMigData(data, le),
    decode: u.decodeVfioUserMigData,
    value: data,
    little: '0d000000 05000000 a1a2a3a4a5',
    big: '0000000d 00000005 a1a2a3a4a5',
  },
];

describe.each(VECTORS)('$name', ({ encode, decode, value, little, big }) => {
  test.each([
    ['little-endian', true, little],
    ['big-endian', false, big],
  ])('is written and read in %s bytes', (_order, littleEndian, hex) => {
    expect(hexOf(encode!(littleEndian))).toBe(hexOf(bytesOf(hex)));
    expect(decode!(bytesOf(hex), littleEndian)).toEqual(value);
  });

  test('is refused at every length below its own, as a struct that is too short or data that are', () => {
    const whole = bytesOf(little);
    for (let length = 0; length < whole.length; length++) {
      let short: unknown;
      try {
        short = decode!(whole.subarray(0, length), true);
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_VFIO_INVALID_STRUCT', errno: 'EINVAL' });
        continue;
      }
      // Only an info reply whose capabilities did not fit may end early.
      expect(short).toMatchObject({ entries: [] });
      expect(length).toBe(16);
    }
  });
});

test('DEVICE_RESET and its reply have no payload: every other command has a vector', () => {
  const commands = Object.keys(u).filter((name) =>
    /^VFIO_USER_(VERSION|DMA_(MAP|UNMAP|READ|WRITE)|DEVICE_\w+|REGION_\w+|MIG_DATA_\w+)$/.test(name),
  );
  const without = commands.filter((name) => {
    const short = name.replace('VFIO_USER_', '');
    return (
      !VECTORS.some((vector) => vector.name.includes(short)) &&
      !['VERSION', 'DEVICE_FEATURE', 'DEVICE_RESET'].includes(short)
    );
  });
  expect(commands.length).toBe(17);
  expect(without).toEqual([]);
});

describe('header', () => {
  const header: u.VfioUserHeader = { msgId: 0x1234, cmd: 9, msgSize: 32, flags: 0, errorNo: 0 };

  test('of a command, a posted one, a reply and an error', () => {
    expect(u.vfioUserCommandHeader(0x1234, 9, 16)).toEqual(header);
    expect(u.vfioUserCommandHeader(0x1234, 10, 20, true)).toEqual({ ...header, cmd: 10, msgSize: 36, flags: 0x10 });
    expect(u.vfioUserReplyHeader(header, 20)).toEqual({ ...header, msgSize: 36, flags: 1 });
    expect(u.vfioUserErrorHeader(header, 22)).toEqual({ ...header, msgSize: 16, flags: 0x21, errorNo: 22 });
  });

  test.each([
    [0x00, false, false],
    [0x10, false, true],
    [0x01, true, false],
    [0x11, true, false],
    [0x21, true, false],
  ])('with flags %s is a reply: %s, must not be answered: %s', (flags, isReply, isNoReply) => {
    expect(u.isVfioUserReply(flags)).toBe(isReply);
    expect(u.isVfioUserNoReply(flags)).toBe(isNoReply);
  });

  test.each([
    ['success', 0x01, 0, 0],
    ['success with a number that means nothing', 0x01, 5, 0],
    ['an error', 0x21, 5, 5],
    ['an error without a number', 0x21, 0, 22],
    ['the largest errno', 0x21, 4096, 4096],
    ['a number that is none', 0x21, 4097, 22],
  ])('of %s has the errno', (_name, flags, errorNo, errno) => {
    expect(u.vfioUserReplyErrno({ ...header, flags, errorNo })).toBe(errno);
  });

  test.each([
    ['less than itself', { msgSize: 15 }],
    ['no size', { msgSize: 0 }],
    ['more than the receiver takes', { msgSize: 1025 }],
    ['a type that is neither', { flags: 2 }],
    ['another one', { flags: 0xf }],
  ])('with %s is refused', (_name, wrong) => {
    expect(caught(() => u.checkVfioUserHeader({ ...header, ...wrong }, 1024))).toMatchObject({
      code: 'ERR_VFIO_PROTOCOL',
      errno: 'EINVAL',
    });
  });

  test('at the limits, and with flags that are not known, is taken', () => {
    for (const fine of [{ msgSize: 16 }, { msgSize: 1024 }, { flags: 0xffffffc1 }]) {
      expect(() => u.checkVfioUserHeader({ ...header, ...fine }, 1024)).not.toThrow();
    }
  });
});

describe('is refused:', () => {
  const words = (...values: number[]): Uint8Array => {
    const out = new Uint8Array(4 * values.length);
    for (const [at, value] of values.entries()) new DataView(out.buffer).setUint32(4 * at, value, true);
    return out;
  };
  const map = (flags: number, argsz = 32) => words(argsz, flags, 0, 0, 0, 0, 0x1000, 0);

  test.each<[string, () => unknown]>([
    ['DMA_MAP with argsz below 32', () => u.decodeVfioUserDmaMap(map(3, 31), 0, true)],
    ['DMA_MAP with an unknown flag', () => u.decodeVfioUserDmaMap(map(0x13), 0, true)],
    ['DMA_MAP with two descriptors', () => u.decodeVfioUserDmaMap(map(3), 2, true)],
    ['DMA_MAP with MMAP and no descriptor', () => u.decodeVfioUserDmaMap(map(7), 0, true)],
    ['DMA_MAP with FILE_IO and no descriptor', () => u.decodeVfioUserDmaMap(map(0xb), 0, true)],
    ['DMA_UNMAP with argsz below 24', () => u.decodeVfioUserDmaUnmap(words(23, 0, 0, 0, 0, 0), true)],
    ['DMA_UNMAP with an unknown flag', () => u.decodeVfioUserDmaUnmap(words(24, 4, 0, 0, 0, 0), true)],
    [
      'DMA_UNMAP reply whose bitmap has another length',
      () => u.decodeVfioUserDmaUnmapReply(words(48, 1, 0, 0, 0, 0, 0, 0, 16, 0, 1, 2), true),
    ],
    ['GET_INFO without room', () => u.decodeVfioUserGetInfo(words(15, 0, 0, 0), true)],
    ['GET_REGION_INFO without room', () => u.decodeVfioUserGetRegionInfo(words(31, 0, 0, 0, 0, 0, 0, 0), true)],
    ['GET_IRQ_INFO without room', () => u.decodeVfioUserGetIrqInfo(words(15, 0, 0, 0), true)],
    ['GET_REGION_IO_FDS without room', () => u.decodeVfioUserGetIoFds(words(15, 0, 0, 0), true)],
    ['GET_REGION_IO_FDS with flags', () => u.decodeVfioUserGetIoFds(words(16, 1, 0, 0), true)],
    ['GET_REGION_IO_FDS with a count', () => u.decodeVfioUserGetIoFds(words(16, 0, 0, 1), true)],
    ['SET_IRQS with argsz below 20', () => u.decodeVfioUserIrqSet(words(19, 0x21, 0, 0, 0), 0, true)],
    ['SET_IRQS with fewer descriptors than its count', () => u.decodeVfioUserIrqSet(words(20, 0x24, 0, 0, 2), 1, true)],
    ['SET_IRQS with more descriptors than its count', () => u.decodeVfioUserIrqSet(words(20, 0x24, 0, 0, 2), 3, true)],
    ['SET_IRQS with descriptors and no data type', () => u.decodeVfioUserIrqSet(words(20, 0x21, 0, 0, 1), 1, true)],
    ['SET_IRQS with descriptors and bools', () => u.decodeVfioUserIrqSet(words(24, 0x22, 0, 0, 4, 0), 4, true)],
    ['SET_IRQS with fewer bools than its count', () => u.decodeVfioUserIrqSet(words(24, 0x22, 0, 0, 5, 0), 0, true)],
    ['SET_IRQS with more bools than its count', () => u.decodeVfioUserIrqSet(words(24, 0x22, 0, 0, 3, 0), 0, true)],
    ['REGION_WRITE with less data than its count', () => u.decodeVfioUserRegionData(words(0, 0, 0, 8, 1), true)],
    ['REGION_WRITE with more data than its count', () => u.decodeVfioUserRegionData(words(0, 0, 0, 1, 1), true)],
    ['DMA_WRITE with less data than its count', () => u.decodeVfioUserDmaData(words(0, 0, 8, 0, 1), true)],
    [
      'WRITE_MULTI with fewer writes than it says',
      () => u.decodeVfioUserWriteMulti(words(2, 0, 0, 0, 0, 4, 0, 0), true),
    ],
    [
      'WRITE_MULTI with more writes than it says',
      () => u.decodeVfioUserWriteMulti(words(0, 0, 0, 0, 0, 4, 0, 0), true),
    ],
    [
      'WRITE_MULTI with more writes than there can be',
      () => u.decodeVfioUserWriteMulti(words(0xffffffff, 0xffff), true),
    ],
    ['WRITE_MULTI with a write of 9 bytes', () => u.decodeVfioUserWriteMulti(words(1, 0, 0, 0, 0, 9, 0, 0), true)],
    [
      'WRITE_MULTI of a write of 9 bytes',
      () => u.encodeVfioUserWriteMulti([{ offset: 0, region: 0, data: new Uint8Array(9) }], true),
    ],
    ['MIG_DATA_READ with argsz below 8', () => u.decodeVfioUserMigDataRead(words(7, 0), true)],
    ['MIG_DATA_READ of more than its room', () => u.decodeVfioUserMigDataRead(words(16, 9), true)],
    ['MIG_DATA_WRITE with less data than its size', () => u.decodeVfioUserMigData(words(16, 8, 0), true)],
    ['MIG_DATA_WRITE with more data than its size', () => u.decodeVfioUserMigData(words(16, 3, 0), true)],
    [
      'SET_IRQS of bools that are not as many as the count',
      () => u.encodeVfioUserIrqSet({ flags: 0x22, index: 0, start: 0, count: 2, bools: new Uint8Array(1) }, true),
    ],
  ])('%s', (_name, run) => {
    expect(caught(run)).toMatchObject({ code: 'ERR_VFIO_INVALID_STRUCT', errno: 'EINVAL' });
  });

  test.each<[string, () => unknown]>([
    ['a region offset', () => u.decodeVfioUserRegionAccess(words(0, 0x200000, 0, 4), true)],
    ['a DMA count', () => u.decodeVfioUserDmaAccess(words(0, 0, 0, 0xffffffff), true)],
  ])('%s above 2^53-1', (_name, run) => {
    expect(caught(run)).toMatchObject({ code: 'ERR_VFIO_INVALID_STRUCT', errno: 'EOVERFLOW' });
  });
});

describe('is taken:', () => {
  test('DMA_MAP without a descriptor: memory that messages reach', () => {
    const payload = u.encodeVfioUserDmaMap({ ...dmaMap, flags: 1 }, true);
    expect(u.decodeVfioUserDmaMap(payload, 0, true)).toEqual({ ...dmaMap, flags: 1 });
  });

  test.each([4, 8, 0xc])('DMA_MAP with flag %s and a descriptor', (flag) => {
    const given = { ...dmaMap, flags: 3 | flag };
    expect(u.decodeVfioUserDmaMap(u.encodeVfioUserDmaMap(given, true), 1, true)).toEqual(given);
  });

  test('GET_INFO from a client that counts the header into argsz', () => {
    expect(u.decodeVfioUserGetInfo(bytesOf('20000000 00000000 00000000 00000000'), true)).toBe(32);
  });

  test('GET_REGION_INFO with anything in the fields of the reply', () => {
    const payload = bytesOf(`20000000 ffffffff 03000000 ffffffff ${'ff'.repeat(16)}`);
    expect(u.decodeVfioUserGetRegionInfo(payload, true)).toEqual({ argsz: 32, index: 3 });
  });

  test('SET_IRQS with DATA_EVENTFD and no descriptors, which takes some away', () => {
    const set = { flags: 0x24, index: 2, start: 0, count: 4 };
    expect(u.decodeVfioUserIrqSet(u.encodeVfioUserIrqSet(set, true), 0, true)).toEqual(set);
  });

  test('a DMA_UNMAP reply without a bitmap that was not asked for', () => {
    const reply = u.encodeVfioUserDmaUnmapReply({ ...unmap, argsz: 100 }, undefined, true);
    expect(u.decodeVfioUserDmaUnmapReply(reply, true)).toEqual({ ...unmap, bits: undefined });
    expect(hexOf(u.encodeVfioUserDmaUnmapReply(unmap, new Uint8Array(8), true))).toBe(hexOf(reply));
  });

  test('a write of no bytes among many', () => {
    const writes = [{ offset: 1, region: 2, data: new Uint8Array(0) }];
    expect(u.decodeVfioUserWriteMulti(u.encodeVfioUserWriteMulti(writes, true), true)).toEqual([
      { ...writes[0], count: 0 },
    ]);
    expect(u.decodeVfioUserWriteMulti(u.encodeVfioUserWriteMulti([], true), true)).toEqual([]);
  });
});

describe('region IO fds', () => {
  const head = (argsz: number, count: number): number[] => [argsz, 0, 2, count];
  const bytes = (words: number[], rest = 0): Uint8Array => {
    const out = new Uint8Array(4 * words.length + rest);
    for (const [at, value] of words.entries()) new DataView(out.buffer).setUint32(4 * at, value, true);
    return out;
  };

  test('that do not fit are counted', () => {
    const reply = u.encodeVfioUserIoFds(2, [ioFd, ioFd], 95, true);
    expect(reply).toHaveLength(16);
    expect(u.decodeVfioUserIoFds(reply, 0, true)).toEqual({ index: 2, argsz: 96, count: 2, entries: [] });
  });

  test('of none are none', () => {
    const reply = u.encodeVfioUserIoFds(2, [], 16, true);
    expect(u.decodeVfioUserIoFds(reply, 0, true)).toEqual({ index: 2, argsz: 16, count: 0, entries: [] });
  });

  test('longer than any that are known are read by their stride', () => {
    const reply = bytes(head(16 + 2 * 64, 2), 128);
    reply[16] = 1;
    reply[16 + 64] = 2;
    const { entries } = u.decodeVfioUserIoFds(reply, 1, true);
    expect(entries.map(({ offset }) => offset)).toEqual([1, 2]);
  });

  test('have shadow memory only in entries of that type', () => {
    const { entries } = u.decodeVfioUserIoFds(u.encodeVfioUserIoFds(2, [ioFdShadow, ioFd], 200, true), 2, true);
    expect(entries.map((entry) => entry.shadow)).toEqual([{ fdIndex: 0, offset: 0x40n }, undefined]);
  });

  test.each<[string, Uint8Array, number]>([
    ['argsz below the struct', bytes(head(15, 0)), 0],
    ['entries of no whole size', bytes(head(16 + 81, 2), 81), 2],
    ['entries that are too small', bytes(head(16 + 32, 1), 32), 1],
    ['entries that are not aligned', bytes(head(16 + 44, 1), 44), 1],
    ['more entries than bytes', bytes(head(16 + 80, 2), 40), 2],
    ['as many entries as 32 bits can say', bytes(head(16, 0xffffffff)), 0],
    ['a descriptor that did not come', u.encodeVfioUserIoFds(2, [ioFd], 56, true), 1],
    [
      'a shadow descriptor that did not come',
      u.encodeVfioUserIoFds(2, [{ ...ioFdShadow, fdIndex: 0, shadow: { fdIndex: 1, offset: 0n } }], 64, true),
      1,
    ],
  ])('with %s are refused', (_name, payload, fdCount) => {
    expect(caught(() => u.decodeVfioUserIoFds(payload, fdCount, true))).toMatchObject({
      code: 'ERR_VFIO_INVALID_STRUCT',
      errno: 'EINVAL',
    });
  });
});

describe('any payload', () => {
  const decoders: readonly ((payload: Uint8Array, littleEndian: boolean) => unknown)[] = [
    ...VECTORS.map(({ decode }) => decode!),
    u.decodeVfioUserVersion,
    u.decodeVfioUserFeature,
    (payload, littleEndian) => {
      const feature = u.decodeVfioUserFeature(payload, littleEndian);
      return u.decodeVfioUserFeatureValue(feature, { maxReplySize: 4096 }, littleEndian);
    },
  ];

  test('is read or refused', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...decoders),
        fc.uint8Array({ maxLength: 128 }),
        fc.boolean(),
        (decode, payload, littleEndian) => {
          try {
            decode(payload, littleEndian);
          } catch (error) {
            expect(u.isVfioError(error)).toBe(true);
            expect(error).toHaveProperty('errno', expect.any(String));
          }
        },
      ),
      { numRuns: 3000 },
    );
  });

  test('of a data command comes back as it was', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 64 }),
        fc.maxSafeNat(),
        fc.nat(0xffffffff),
        fc.boolean(),
        (bytes, offset, index, le) => {
          expect(u.decodeVfioUserRegionData(u.encodeVfioUserRegionData(index, offset, bytes, le), le)).toEqual({
            offset,
            region: index,
            count: bytes.length,
            data: bytes,
          });
          expect(u.decodeVfioUserDmaData(u.encodeVfioUserDmaData(BigInt(offset), bytes, le), le)).toEqual({
            iova: BigInt(offset),
            count: bytes.length,
            data: bytes,
          });
          expect(u.decodeVfioUserMigData(u.encodeVfioUserMigData(bytes, le), le)).toEqual(bytes);
        },
      ),
    );
  });

  test('of many writes comes back as it was', () => {
    const write = fc.record({
      offset: fc.maxSafeNat(),
      region: fc.nat(0xffffffff),
      data: fc.uint8Array({ maxLength: 8 }),
    });
    fc.assert(
      fc.property(fc.array(write, { maxLength: 20 }), fc.boolean(), (writes, le) => {
        const read = u.decodeVfioUserWriteMulti(u.encodeVfioUserWriteMulti(writes, le), le);
        expect(read).toEqual(writes.map((one) => ({ ...one, count: one.data.length })));
      }),
    );
  });
});
