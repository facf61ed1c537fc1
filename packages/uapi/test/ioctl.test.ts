/** The arguments of each ioctl as literal bytes, and the client against the dispatcher. */
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import * as uapi from '../src/index.js';
import {
  type DeviceInfo,
  dispatchIoctl,
  dispatchMigrationIoctl,
  errnoError,
  type FeatureRequest,
  featureCodec,
  type IoctlOptions,
  type IoctlTarget,
  ioctlDevice,
  ioctlPrecopyInfo,
  isVfioError,
  type PointerFixup,
  type RawIoctl,
  type RegionInfo,
  viewOf,
} from '../src/index.js';
import { bytesOf, caught, hexOf } from './support/hex.js';
import { fakeTarget, userMemory, words } from './support/target.js';

const GET = uapi.VFIO_DEVICE_FEATURE_GET;
const SET = uapi.VFIO_DEVICE_FEATURE_SET;
const PROBE = uapi.VFIO_DEVICE_FEATURE_PROBE;

/** Carries ioctls to a target in this process, pointers included; keeps the arguments as they were sent. */
function loopback(target: IoctlTarget, options: Omit<IoctlOptions, 'memory'>, sent: string[] = []): RawIoctl {
  return (request, arg, pointers) => {
    const pieces: Record<string, Uint8Array> = {};
    sent.push(`${request.toString(16)}:${hexOf(arg)}`);
    for (const [index, { at, bytes }] of pointers.entries()) {
      const address = 0x10000 * (index + 1);
      pieces[address] = bytes;
      viewOf(arg).setBigUint64(at, BigInt(address), options.littleEndian);
    }
    const result = dispatchIoctl(target, request, arg, { ...options, memory: userMemory(pieces) });
    if (typeof result !== 'number') throw new Error('a promise from a target that has none');
    return result;
  };
}

describe('arguments', () => {
  /** A call, and the request with the argument that it sends. */
  const CALLS: readonly [
    name: string,
    call: (device: Required<IoctlTarget>) => unknown,
    little: string,
    big: string,
    access?: 'cdev' | 'cdev-unbound',
  ][] = [
    ['GET_INFO', (device) => device.getInfo(), `3b6b:18000000${'00'.repeat(20)}`, `3b6b:00000018${'00'.repeat(20)}`],
    [
      'GET_REGION_INFO',
      (device) => device.getRegionInfo(7),
      `3b6c:200000000000000007000000${'00'.repeat(20)}`,
      `3b6c:000000200000000000000007${'00'.repeat(20)}`,
    ],
    [
      'GET_IRQ_INFO',
      (device) => device.getIrqInfo(2),
      '3b6d:10000000000000000200000000000000',
      '3b6d:00000010000000000000000200000000',
    ],
    [
      'SET_IRQS with no data',
      (device) => device.setIrqs({ flags: 0x21, index: 2, start: 0, count: 0 }),
      '3b6e:1400000021000000020000000000000000000000',
      '3b6e:0000001400000021000000020000000000000000',
    ],
    [
      'SET_IRQS with bools',
      (device) => device.setIrqs({ flags: 0x22, index: 2, start: 1, count: 3, bools: Uint8Array.of(1, 0, 1) }),
      '3b6e:1700000022000000020000000100000003000000010001',
      '3b6e:0000001700000022000000020000000100000003010001',
    ],
    [
      'SET_IRQS with eventfds',
      (device) => device.setIrqs({ flags: 0x24, index: 1, start: 2, count: 2, fds: [10, -1] }),
      '3b6e:1c000000240000000100000002000000020000000a000000ffffffff',
      '3b6e:0000001c000000240000000100000002000000020000000affffffff',
    ],
    ['RESET', (device) => device.reset(), '3b6f:', '3b6f:'],
    [
      'GET_PCI_HOT_RESET_INFO',
      (device) => device.getHotResetInfo(),
      '3b70:0c0000000000000000000000',
      '3b70:0000000c0000000000000000',
    ],
    [
      'PCI_HOT_RESET',
      (device) => device.hotReset([5, 6]),
      '3b71:14000000000000000200000005000000 06000000',
      '3b71:00000014000000000000000200000005 00000006',
    ],
    [
      'BIND_IOMMUFD',
      (device) => device.bindIommufd({ iommufd: 3, token: undefined }),
      `3b76:180000000000000003000000${'00'.repeat(12)}`,
      `3b76:000000180000000000000003${'00'.repeat(12)}`,
      'cdev-unbound',
    ],
    [
      'BIND_IOMMUFD with a token',
      (device) => device.bindIommufd({ iommufd: 3, token: new Uint8Array(16) }),
      `3b76:180000000100000003000000${'00'.repeat(12)}`,
      `3b76:000000180000000100000003${'00'.repeat(12)}`,
      'cdev-unbound',
    ],
    [
      'ATTACH_IOMMUFD_PT',
      (device) => device.attachIommufdPt({ ptId: 9, pasid: undefined }),
      '3b77:0c0000000000000009000000',
      '3b77:0000000c0000000000000009',
      'cdev',
    ],
    [
      'ATTACH_IOMMUFD_PT with a PASID',
      (device) => device.attachIommufdPt({ ptId: 9, pasid: 0x55 }),
      '3b77:10000000010000000900000055000000',
      '3b77:00000010000000010000000900000055',
      'cdev',
    ],
    [
      'DETACH_IOMMUFD_PT',
      (device) => device.detachIommufdPt({ pasid: undefined }),
      '3b78:0800000000000000',
      '3b78:0000000800000000',
      'cdev',
    ],
    [
      'DETACH_IOMMUFD_PT with a PASID',
      (device) => device.detachIommufdPt({ pasid: 0x55 }),
      '3b78:0c0000000100000055000000',
      '3b78:0000000c0000000100000055',
      'cdev',
    ],
    [
      'FEATURE PROBE',
      (device) => device.deviceFeature({ flags: PROBE | GET | 1 }),
      '3b75:0800000001000500',
      '3b75:0000000800050001',
    ],
    [
      'FEATURE PCI_VF_TOKEN',
      (device) => device.deviceFeature({ flags: SET | 0, value: Uint8Array.from({ length: 16 }, (_, at) => at) }),
      '3b75:1800000000000200000102030405060708090a0b0c0d0e0f',
      '3b75:0000001800020000000102030405060708090a0b0c0d0e0f',
    ],
    [
      'FEATURE MIG_DEVICE_STATE',
      (device) => device.deviceFeature({ flags: SET | 2, value: { state: 3 } }),
      '3b75:100000000200020003000000ffffffff',
      '3b75:000000100002000200000003ffffffff',
    ],
    [
      'FEATURE LOW_POWER_ENTRY',
      (device) => device.deviceFeature({ flags: SET | 3 }),
      '3b75:0800000003000200',
      '3b75:0000000800020003',
    ],
    [
      'FEATURE LOW_POWER_ENTRY_WITH_WAKEUP',
      (device) => device.deviceFeature({ flags: SET | 4, value: { wakeupEventfd: 12 } }),
      '3b75:10000000040002000c00000000000000',
      '3b75:00000010000200040000000c00000000',
    ],
    [
      'FEATURE DMA_LOGGING_START',
      (device) =>
        device.deviceFeature({ flags: SET | 6, value: { pageSize: 4096n, ranges: [{ iova: 0n, length: 4096n }] } }),
      '3b75:200000000600020000100000000000000100000000000000 0000000000000000',
      '3b75:000000200002000600000000000010000000000100000000 0000000000000000',
    ],
    [
      'FEATURE DMA_LOGGING_REPORT',
      (device) =>
        device.deviceFeature({
          flags: GET | 8,
          value: { iova: 0x1000n, length: 0x2000n, pageSize: 4096n, bitmap: new Uint8Array(8) },
        }),
      '3b75:2800000008000100 0010000000000000 0020000000000000 0010000000000000 0000000000000000',
      '3b75:0000002800010008 0000000000001000 0000000000002000 0000000000001000 0000000000000000',
    ],
    [
      'FEATURE BUS_MASTER',
      (device) => device.deviceFeature({ flags: SET | 10, value: { op: 1 } }),
      '3b75:0c0000000a00020001000000',
      '3b75:0000000c0002000a00000001',
    ],
    [
      'FEATURE of an unknown index',
      (device) => device.deviceFeature({ flags: SET | 0x77, value: bytesOf('0102') }),
      '3b75:0a000000770002000102',
      '3b75:0000000a000200770102',
    ],
  ];

  test.each(CALLS)('of %s', (_name, call, little, big, access = undefined) => {
    for (const [littleEndian, hex] of [
      [true, little],
      [false, big],
    ] as const) {
      const sent: string[] = [];
      const target = fakeTarget({
        deviceFeature: ({ flags }: FeatureRequest) =>
          (flags & PROBE) !== 0 || (flags & 0xffff) !== 6 ? { state: 3, dataFd: -1 } : { pageSize: 4096n },
      });
      call(
        ioctlDevice(
          loopback(target, { littleEndian, ...(access === undefined ? {} : { access }) }, sent),
          littleEndian,
        ),
      );
      expect(sent[0]).toBe(hex.replaceAll(' ', ''));
    }
  });

  test('of IOEVENTFD counts the offset from the start of the device file', () => {
    const sent: string[] = [];
    const device = ioctlDevice(loopback(fakeTarget(), { littleEndian: true }, sent), true);
    device.ioeventfd({ region: 2, offset: 0x10, width: 8, data: 0x1122334455667788n, fd: 12 });
    expect(sent.at(-1)).toBe(
      '3b74:2000000008000000 1000000000020000 8877665544332211 0c000000 00000000'.replaceAll(' ', ''),
    );
    const big: string[] = [];
    ioctlDevice(loopback(fakeTarget(), { littleEndian: false }, big), false).ioeventfd({
      region: 0,
      offset: 4,
      width: 1,
      data: 1n,
      fd: -1,
    });
    expect(big.at(-1)).toBe(
      '3b74:0000002000000001 0000000000000004 0000000000000001 ffffffff 00000000'.replaceAll(' ', ''),
    );
  });

  test('of FEATURE DMA_BUF', () => {
    const codec = featureCodec(11)!;
    const value = { region: 2, openFlags: 0x80002, ranges: [{ offset: 0x1000, length: 0x2000 }] };
    expect(hexOf(codec.make(value, true, true).data)).toBe(
      '02000000020008000000000001000000 00100000000000000020000000000000'.replaceAll(' ', ''),
    );
    expect(hexOf(codec.make(value, true, false).data)).toBe(
      '00000002000800020000000000000001 00000000000010000000000000002000'.replaceAll(' ', ''),
    );
  });
});

describe.each([true, false])('a device behind its ioctls (little-endian: %s)', (littleEndian) => {
  const over = (replace: Partial<IoctlTarget>, access: IoctlOptions['access'] = 'group') => {
    const target = fakeTarget(replace);
    return { target, device: ioctlDevice(loopback(target, { littleEndian, access }), littleEndian) };
  };

  test('gives the info of the device, capabilities included', () => {
    const info: DeviceInfo = {
      flags: 3,
      numRegions: 12,
      numIrqs: 5,
      caps: [
        { id: 5, version: 1, data: bytesOf('0700000000000000') },
        { id: 1, version: 3, data: new Uint8Array(32).fill(7) },
      ],
    };
    expect(over({ getInfo: () => info }).device.getInfo()).toEqual(info);
  });

  test('gives the info of a region with capabilities in two calls', () => {
    const info: RegionInfo = {
      index: 3,
      flags: 7,
      size: 0x10000,
      offset: 3 * 2 ** 40,
      caps: [{ id: 1, version: 1, areas: [{ offset: 0x1000, size: 0xf000 }] }],
    };
    const getRegionInfo = vi.fn(() => info);
    expect(over({ getRegionInfo }).device.getRegionInfo(3)).toEqual(info);
    expect(getRegionInfo).toHaveBeenCalledTimes(2);
    expect(getRegionInfo).toHaveBeenCalledWith(3);
  });

  test('gives the info of an interrupt index', () => {
    expect(over({}).device.getIrqInfo(2)).toEqual({ index: 2, flags: 9, count: 16 });
  });

  test('gives the functions of a hot reset in two calls', () => {
    const getHotResetInfo = vi.fn(fakeTarget().getHotResetInfo);
    const { device } = over({ getHotResetInfo });
    expect(device.getHotResetInfo()).toEqual(fakeTarget().getHotResetInfo());
    expect(getHotResetInfo).toHaveBeenCalledTimes(2);
  });

  test('follows a hot reset that grows between two calls', () => {
    let count = 0;
    const functions = () => Array.from({ length: ++count }, (_, devfn) => ({ id: 1, segment: 0, bus: 0, devfn }));
    const found = over({ getHotResetInfo: () => ({ flags: 0, devices: functions() }) });
    // Grows by one each time: never fits, and ends with the last error.
    expect(caught(() => found.device.getHotResetInfo())).toMatchObject({ errno: 'ENOSPC' });
  });

  test('passes on the errors of the device', () => {
    const { device } = over({
      getHotResetInfo: () => {
        throw errnoError('ENODEV', 'no reset');
      },
      reset: () => {
        throw errnoError('EAGAIN', 'locked');
      },
    });
    expect(caught(() => device.getHotResetInfo())).toMatchObject({ errno: 'ENODEV' });
    expect(caught(() => device.reset())).toMatchObject({ errno: 'EAGAIN' });
  });

  test('sets interrupts', () => {
    const { target, device } = over({});
    device.setIrqs({ flags: 0x24, index: 2, start: 1, count: 3, fds: [7, -1, 9] });
    device.setIrqs({ flags: 0x22, index: 2, start: 0, count: 2, bools: Uint8Array.of(0, 1) });
    device.setIrqs({ flags: 0x21, index: 0, start: 0, count: 0 });
    expect(target.seen.map(({ args }) => args[0])).toEqual([
      { flags: 0x24, index: 2, start: 1, count: 3, fds: [7, -1, 9] },
      { flags: 0x22, index: 2, start: 0, count: 2, bools: Uint8Array.of(0, 1) },
      { flags: 0x21, index: 0, start: 0, count: 0 },
    ]);
  });

  test('gives the number of vectors where fewer can be had', () => {
    const { device } = over({ setIrqs: () => 3 });
    expect(device.setIrqs({ flags: 0x24, index: 2, start: 0, count: 4, fds: [1, 2, 3, 4] })).toBe(3);
  });

  test('resets, alone and with others', () => {
    const { target, device } = over({});
    device.reset();
    device.hotReset([5, 6]);
    expect(target.seen).toEqual([
      { method: 'reset', args: [] },
      { method: 'hotReset', args: [[5, 6]] },
    ]);
    const cdev = over({}, 'cdev');
    cdev.device.hotReset([]);
    expect(cdev.target.seen).toEqual([{ method: 'hotReset', args: [[]] }]);
  });

  test.each([1, 2, 4, 8] as const)('sets an ioeventfd of %s bytes', (width) => {
    const { target, device } = over({});
    const call = { region: 5, offset: 0xff8, width, data: 0xffffffffffffffffn, fd: 12 };
    device.ioeventfd(call);
    expect(target.seen).toEqual([{ method: 'ioeventfd', args: [call] }]);
  });

  test('finds the region of an ioeventfd in a file of any layout', () => {
    // ism places its regions 48 bits apart.
    const getRegionInfo = (index: number) => ({ index, flags: 3, size: 0x1000, offset: index * 2 ** 48, caps: [] });
    const { target, device } = over({ getRegionInfo });
    device.ioeventfd({ region: 1, offset: 0x40, width: 4, data: 1n, fd: 3 });
    expect(target.seen[0]?.args).toEqual([{ region: 1, offset: 0x40, width: 4, data: 1n, fd: 3 }]);
  });

  test('binds, attaches and detaches', () => {
    const token = Uint8Array.from({ length: 16 }, (_, at) => at);
    const unbound = over({}, 'cdev-unbound');
    expect(unbound.device.bindIommufd({ iommufd: 3, token })).toBe(5);
    expect(unbound.target.seen[0]?.args).toEqual([{ iommufd: 3, token }]);
    const { target, device } = over({}, 'cdev');
    expect(device.attachIommufdPt({ ptId: 1, pasid: undefined })).toBe(9);
    expect(device.attachIommufdPt({ ptId: 1, pasid: 7 })).toBe(9);
    device.detachIommufdPt({ pasid: 7 });
    device.detachIommufdPt({ pasid: undefined });
    expect(target.seen.map(({ args }) => args[0])).toEqual([
      { ptId: 1, pasid: undefined },
      { ptId: 1, pasid: 7 },
      { pasid: 7 },
      { pasid: undefined },
    ]);
  });

  /** A feature, what goes in, what the device gives, and what the caller gets. */
  const FEATURES: readonly [name: string, flags: number, value: unknown, answer: unknown, result: unknown][] = [
    ['PCI_VF_TOKEN', SET | 0, Uint8Array.from({ length: 16 }, (_, at) => 255 - at), undefined, undefined],
    ['MIGRATION', GET | 1, undefined, { flags: 7 }, { flags: 7 }],
    ['MIG_DEVICE_STATE, asked', GET | 2, undefined, { state: 6 }, { state: 6 }],
    ['MIG_DEVICE_STATE, set', SET | 2, { state: 4 }, { state: 4, dataFd: 33 }, { state: 4, dataFd: 33 }],
    ['LOW_POWER_ENTRY', SET | 3, undefined, undefined, undefined],
    ['LOW_POWER_ENTRY_WITH_WAKEUP', SET | 4, { wakeupEventfd: 0 }, undefined, undefined],
    ['LOW_POWER_EXIT', SET | 5, undefined, undefined, undefined],
    [
      'DMA_LOGGING_START',
      SET | 6,
      {
        pageSize: 4096n,
        ranges: [
          { iova: 0n, length: 0x100000n },
          { iova: 2n ** 63n, length: 0x1000n },
        ],
      },
      { pageSize: 8192n },
      { pageSize: 8192n },
    ],
    ['DMA_LOGGING_STOP', SET | 7, undefined, undefined, undefined],
    ['MIG_DATA_SIZE', GET | 9, undefined, { stopCopyLength: 2n ** 60n }, { stopCopyLength: 2n ** 60n }],
    ['BUS_MASTER', SET | 10, { op: 1 }, undefined, undefined],
    [
      'DMA_BUF',
      GET | 11,
      {
        region: 2,
        openFlags: 0x80002,
        ranges: [
          { offset: 0x1000, length: 0x2000 },
          { offset: 0, length: 0x1000 },
        ],
      },
      { fd: 44 },
      { fd: 44 },
    ],
    ['MIG_PRECOPY_INFOv2', SET | 12, undefined, undefined, undefined],
    ['an unknown one', GET | 0x77, bytesOf('0000'), bytesOf('abcd'), bytesOf('abcd')],
  ];

  test.each(FEATURES)('carries the feature %s both ways', (_name, flags, value, answer, result) => {
    const seen: FeatureRequest[] = [];
    const { device } = over({
      deviceFeature: (request) => {
        seen.push(request);
        return (request.flags & PROBE) !== 0 ? undefined : answer;
      },
    });
    expect(device.deviceFeature({ flags, value })).toEqual(result);
    expect(seen).toEqual([{ flags: flags | PROBE }, { flags, value }]);
  });

  test('a report sets bits in the bitmap of the caller and clears none', () => {
    const bitmap = new Uint8Array(16).fill(0x10);
    const { device } = over({
      deviceFeature: ({ flags, value }) => {
        if ((flags & PROBE) !== 0) return undefined;
        const report = value as { bitmap: Uint8Array };
        report.bitmap[0]! |= 1;
        report.bitmap[15]! |= 0x80;
        return undefined;
      },
    });
    device.deviceFeature({ flags: GET | 8, value: { iova: 0n, length: 65n << 12n, pageSize: 4096n, bitmap } });
    expect(hexOf(bitmap)).toBe(`11${'10'.repeat(14)}90`);
  });

  test('a zPCI error record comes through the buffer of the caller', () => {
    const record = Uint8Array.from({ length: 32 }, (_, at) => at);
    const { device } = over({ deviceFeature: ({ flags }) => ((flags & PROBE) !== 0 ? undefined : record) });
    expect(device.deviceFeature({ flags: GET | 13 })).toEqual(record);
  });

  test('the buffer of a zPCI error record is as long as the device says that a record is', () => {
    const zpciBase = {
      id: uapi.VFIO_DEVICE_INFO_CAP_ZPCI_BASE,
      version: 3,
      startDma: 0n,
      endDma: 0n,
      pchid: 0,
      vfn: 0,
      fmbLength: 0,
      pft: 0,
      gid: 0,
      fh: 0,
      ccdfErrLength: 48,
    } as const;
    const caps = [uapi.encodeDeviceCap(zpciBase, littleEndian)];
    const record = Uint8Array.from({ length: 48 }, (_, at) => at);
    const { device } = over({
      getInfo: () => ({ flags: 3, numRegions: 9, numIrqs: 5, caps }),
      deviceFeature: ({ flags }) => ((flags & PROBE) !== 0 ? undefined : record),
    });
    expect(device.deviceFeature({ flags: GET | 13 })).toEqual(record);
  });

  test('a data descriptor that is not there is -1', () => {
    const { device } = over({ deviceFeature: ({ flags }) => ((flags & PROBE) !== 0 ? undefined : { state: 1 }) });
    expect(device.deviceFeature({ flags: SET | 2, value: { state: 1 } })).toEqual({ state: 1, dataFd: -1 });
  });

  test('gives the sizes of pre-copy', () => {
    const info = { flags: 1, initialBytes: 2n ** 63n, dirtyBytes: 7n };
    const ioctl: RawIoctl = (request, arg) =>
      dispatchMigrationIoctl({ precopyInfo: () => info }, request, arg, littleEndian) as number;
    expect(ioctlPrecopyInfo(ioctl, littleEndian)).toEqual(info);
  });
});

describe('dispatchIoctl', () => {
  test('gives a promise only where the target gives one', async () => {
    const options = { littleEndian: true };
    expect(dispatchIoctl(fakeTarget(), uapi.VFIO_DEVICE_RESET, new Uint8Array(0), options)).toBe(0);
    const slow = fakeTarget({ reset: async () => {}, hotReset: async () => {} });
    await expect(dispatchIoctl(slow, uapi.VFIO_DEVICE_RESET, new Uint8Array(0), options)).resolves.toBe(0);
    await expect(dispatchIoctl(slow, uapi.VFIO_DEVICE_PCI_HOT_RESET, words(16, 0, 1, 5), options)).resolves.toBe(0);
  });

  test('stores the result of a feature when its promise is kept', async () => {
    const target = fakeTarget({
      deviceFeature: async ({ flags }) => ((flags & PROBE) !== 0 ? undefined : { state: 3, dataFd: 9 }),
    });
    const arg = words(16, SET | 2, 3, 0);
    const result = dispatchIoctl(target, uapi.VFIO_DEVICE_FEATURE, arg, { littleEndian: true });
    expect(hexOf(arg)).toBe(hexOf(words(16, SET | 2, 3, 0)));
    await expect(result).resolves.toBe(0);
    expect(hexOf(arg)).toBe(hexOf(words(16, SET | 2, 3, 9)));
  });

  test('takes a data descriptor back when the promise of a feature is broken', async () => {
    const target = fakeTarget({
      deviceFeature: async ({ flags }) => {
        if ((flags & PROBE) === 0) throw errnoError('EIO', 'gone');
      },
    });
    const arg = words(16, SET | 2, 3, 55);
    await expect(dispatchIoctl(target, uapi.VFIO_DEVICE_FEATURE, arg, { littleEndian: true })).rejects.toMatchObject({
      errno: 'EIO',
    });
    expect(hexOf(arg)).toBe(hexOf(words(16, SET | 2, 3, -1)));
  });

  test('asks for a feature before it looks at the data', () => {
    const target = fakeTarget({
      deviceFeature: () => {
        throw errnoError('ENOTTY', 'no such feature');
      },
    });
    // Wrong operation, too little data, unreadable data: all of it comes after ENOTTY.
    for (const arg of [words(8, SET | 1), words(8, GET | 1), words(8, 1), words(32, SET | 6, 0, 0)]) {
      const error = caught(() => dispatchIoctl(target, uapi.VFIO_DEVICE_FEATURE, arg, { littleEndian: true }));
      expect(error).toMatchObject({ errno: 'ENOTTY' });
    }
  });

  test('gives the flags of pre-copy as the device has them, not those of the caller', () => {
    const arg = words(24, 0xffffffff, 0, 0, 0, 0);
    const target = { precopyInfo: () => ({ flags: 0, initialBytes: 5n, dirtyBytes: 6n }) };
    expect(dispatchMigrationIoctl(target, uapi.VFIO_MIG_GET_PRECOPY_INFO, arg, true)).toBe(0);
    expect(hexOf(arg)).toBe(hexOf(words(24, 0, 5, 0, 6, 0)));
  });

  test('gives a promise of pre-copy where the target gives one', async () => {
    const arg = words(24, 0, 0, 0, 0, 0);
    const target = { precopyInfo: async () => ({ flags: 1, initialBytes: 5n, dirtyBytes: 6n }) };
    await expect(dispatchMigrationIoctl(target, uapi.VFIO_MIG_GET_PRECOPY_INFO, arg, true)).resolves.toBe(0);
    expect(hexOf(arg)).toBe(hexOf(words(24, 1, 5, 0, 6, 0)));
  });

  test('writes the capabilities in the style that is asked for', () => {
    const caps = [3, 5].map((id) => ({ id, version: 1, data: new Uint8Array(4) }));
    const target = fakeTarget({ getInfo: () => ({ flags: 3, numRegions: 9, numIrqs: 5, caps }) });
    const arg = new Uint8Array(64);
    viewOf(arg).setUint32(0, 64, true);
    dispatchIoctl(target, uapi.VFIO_DEVICE_GET_INFO, arg, { littleEndian: true, capStyle: 'packed' });
    expect(viewOf(arg).getUint32(28, true)).toBe(36);
    dispatchIoctl(target, uapi.VFIO_DEVICE_GET_INFO, arg, { littleEndian: true });
    expect(viewOf(arg).getUint32(28, true)).toBe(40);
  });

  test('takes a bind of the oldest size and a longer one that ends in zeros', () => {
    for (const arg of [words(16, 0, 3, 0), words(32, 0, 3, 0, 0, 0, 0, 0)]) {
      const target = fakeTarget();
      const options = { littleEndian: true, access: 'cdev-unbound' } as const;
      expect(dispatchIoctl(target, uapi.VFIO_DEVICE_BIND_IOMMUFD, arg, options)).toBe(0);
      expect(target.seen[0]?.args).toEqual([{ iommufd: 3, token: undefined }]);
      expect(viewOf(arg).getUint32(12, true)).toBe(5);
    }
  });

  test('refuses a bind, an attach and a detach that the target does not have', () => {
    const { bindIommufd: _b, attachIommufdPt: _a, detachIommufdPt: _d, ...without } = fakeTarget();
    const unbound = { littleEndian: true, access: 'cdev-unbound' } as const;
    const cdev = { littleEndian: true, access: 'cdev' } as const;
    const bind = words(24, 0, 3, 0, 0, 0);
    expect(caught(() => dispatchIoctl(without, uapi.VFIO_DEVICE_BIND_IOMMUFD, bind, unbound))).toMatchObject({
      errno: 'EINVAL',
    });
    for (const request of [uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT, uapi.VFIO_DEVICE_DETACH_IOMMUFD_PT]) {
      expect(caught(() => dispatchIoctl(without, request, words(12, 0, 1), cdev))).toMatchObject({ errno: 'ENOTTY' });
    }
  });

  test('ignores pointers of calls that have none', () => {
    const arg = words(24, 0, 3, 0, 0xdead, 0xbeef);
    const options = { littleEndian: true, access: 'cdev-unbound' } as const;
    expect(dispatchIoctl(fakeTarget(), uapi.VFIO_DEVICE_BIND_IOMMUFD, arg, options)).toBe(0);
  });

  test('ends on any bytes with a number or an errno', () => {
    const requests = Array.from({ length: 24 }, (_, index) => 0x3b64 + index);
    fc.assert(
      fc.property(
        fc.constantFrom(...requests),
        fc.uint8Array({ maxLength: 64 }),
        fc.constantFrom('group' as const, 'cdev' as const, 'cdev-unbound' as const),
        fc.boolean(),
        fc.nat(0xff),
        (request, bytes, access, littleEndian, argsz) => {
          const arg = bytes.slice();
          // A size of any value would mostly be refused at once.
          if (arg.length >= 4) viewOf(arg).setUint32(0, argsz, littleEndian);
          try {
            const target = fakeTarget({
              deviceFeature: () => ({ flags: 0, state: 0, pageSize: 1n, fd: 1, stopCopyLength: 0n }),
            });
            expect(dispatchIoctl(target, request, arg, { littleEndian, access })).toBeTypeOf('number');
          } catch (error) {
            expect(isVfioError(error)).toBe(true);
            expect(error).toHaveProperty('errno', expect.any(String));
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe('ioctlDevice', () => {
  const answering =
    (arg: (given: Uint8Array) => void): RawIoctl =>
    (_request, given) => {
      arg(given);
      return 0;
    };

  test('does not follow a reply that asks for ever more room', () => {
    const endless = answering((arg) => viewOf(arg).setUint32(0, arg.length + 0x10000, true));
    expect(caught(() => ioctlDevice(endless, true).getRegionInfo(0))).toMatchObject({ errno: 'E2BIG' });
  });

  test('calls again for a single byte more, with exactly the room that was asked for', () => {
    const rooms: number[] = [];
    const device = ioctlDevice(
      answering((arg) => {
        rooms.push(viewOf(arg).getUint32(0, true));
        viewOf(arg).setUint32(0, 33, true);
      }),
      true,
    );
    device.getRegionInfo(0);
    expect(rooms).toEqual([32, 33]);
  });

  test('refuses interrupts whose data do not go with the flags', () => {
    const device = ioctlDevice(() => 0, true);
    for (const set of [
      { flags: 0x22, index: 0, start: 0, count: 2, bools: Uint8Array.of(1) },
      { flags: 0x24, index: 0, start: 0, count: 2, fds: [1] },
      { flags: 0x24, index: 0, start: 0, count: 2 },
      { flags: 0x21, index: 0, start: 0, count: 1, fds: [1] },
      { flags: 0x21, index: 0, start: 0, count: 1, bools: Uint8Array.of(1) },
    ]) {
      expect(caught(() => device.setIrqs(set))).toMatchObject({ errno: 'EINVAL' });
    }
  });

  test('refuses a value of an unknown feature that is not bytes', () => {
    const device = ioctlDevice(() => 0, true);
    expect(caught(() => device.deviceFeature({ flags: SET | 0x77, value: 3 }))).toMatchObject({ errno: 'EINVAL' });
    expect(device.deviceFeature({ flags: SET | 0x77 })).toEqual(new Uint8Array(0));
  });

  test('says where the address of each pointer goes', () => {
    const seen: PointerFixup[][] = [];
    const device = ioctlDevice((_request, _arg, pointers) => {
      if (pointers.length > 0) seen.push([...pointers]);
      return 0;
    }, true);
    const token = new Uint8Array(16);
    const bitmap = new Uint8Array(8);
    device.bindIommufd({ iommufd: 1, token });
    device.deviceFeature({ flags: GET | 8, value: { iova: 0n, length: 1n, pageSize: 4096n, bitmap } });
    device.deviceFeature({ flags: SET | 6, value: { pageSize: 1n, ranges: [{ iova: 1n, length: 2n }] } });
    device.deviceFeature({ flags: GET | 13 });
    expect(seen.map(([pointer]) => pointer?.at)).toEqual([16, 32, 24, 8]);
    expect(seen[0]?.[0]?.bytes).toBe(token);
    expect(seen[1]?.[0]?.bytes).toBe(bitmap);
    expect(hexOf(seen[2]![0]!.bytes)).toBe('01000000000000000200000000000000');
    expect(seen[3]?.[0]?.bytes).toHaveLength(32);
  });
});
