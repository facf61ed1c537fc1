/** Each row of the errno table that the ioctl layer decides, by its number. */
import { describe, expect, test } from 'vitest';
import * as uapi from '../src/index.js';
import {
  dispatchIoctl,
  dispatchMigrationIoctl,
  ERRNO_TABLE,
  errnoError,
  errnoRow,
  errnoRows,
  type IoctlOptions,
  type IoctlTarget,
} from '../src/index.js';
import { bytesOf, caught, hexOf } from './support/hex.js';
import { type FakeTarget, fakeTarget, joined, userMemory, wide, words } from './support/target.js';

const U32_MAX = 0xffffffff;
const { VFIO_DEVICE_FEATURE_GET: GET, VFIO_DEVICE_FEATURE_SET: SET, VFIO_DEVICE_FEATURE_PROBE: PROBE } = uapi;

interface Case {
  /** Which ways of making the mistake; each must give the row's errno. */
  readonly variants: Record<string, { request?: number; arg: Uint8Array; options?: Partial<IoctlOptions> }>;
  readonly request?: number;
  readonly options?: Partial<IoctlOptions>;
  readonly target?: Partial<IoctlTarget>;
  /** What a call that succeeds has done. */
  readonly check?: (result: number | Promise<number>, arg: Uint8Array, target: FakeTarget, variant: string) => void;
  /** The kernel fills the argument in although the call fails. */
  readonly fills?: Uint8Array;
  /** The mistake is in the target's answer: the call reaches it. */
  readonly reachesTarget?: boolean;
}

function one(arg: Uint8Array, more: Omit<Case, 'variants'>): Case {
  return { variants: { it: { arg } }, ...more };
}

const info = { request: uapi.VFIO_DEVICE_GET_INFO };
const region = { request: uapi.VFIO_DEVICE_GET_REGION_INFO };
const irq = { request: uapi.VFIO_DEVICE_GET_IRQ_INFO };
const irqs = { request: uapi.VFIO_DEVICE_SET_IRQS };
const hotInfo = { request: uapi.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO };
const hot = { request: uapi.VFIO_DEVICE_PCI_HOT_RESET };
const ioefd = { request: uapi.VFIO_DEVICE_IOEVENTFD };
const feature = { request: uapi.VFIO_DEVICE_FEATURE };
const bind = { request: uapi.VFIO_DEVICE_BIND_IOMMUFD, options: { access: 'cdev-unbound' } } as const;
const attach = { request: uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT, options: { access: 'cdev' } } as const;
const detach = { request: uapi.VFIO_DEVICE_DETACH_IOMMUFD_PT, options: { access: 'cdev' } } as const;

const capped: Partial<IoctlTarget> = {
  getInfo: () => ({ flags: 3, numRegions: 9, numIrqs: 5, caps: [{ id: 5, version: 1, data: new Uint8Array(8) }] }),
  getRegionInfo: (index) => ({
    index,
    flags: 7,
    size: 0x2000,
    offset: 0,
    caps: [{ id: 3, version: 1 }],
  }),
};

/** [argsz, flags, offset, data, fd] of IOEVENTFD. */
function ioeventfd(argsz: number, flags: number, offset: bigint, fd: number): Uint8Array {
  return words(argsz, flags, ...wide(offset), ...wide(0n), fd, 0);
}

function featureArg(argsz: number, flags: number, ...data: number[]): Uint8Array {
  return words(argsz, flags, ...data);
}

const START = SET | uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
const REPORT = GET | uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT;
const DMA_BUF = GET | uapi.VFIO_DEVICE_FEATURE_DMA_BUF;

function startArg(pageSize: bigint, count: number, pointer = 0x1000n): Uint8Array {
  return featureArg(32, START, ...wide(pageSize), count, 0, ...wide(pointer));
}

function ranges(...list: [bigint, bigint][]): { memory: uapi.UserMemory } {
  return { memory: userMemory({ 4096: words(...list.flatMap(([iova, length]) => [...wide(iova), ...wide(length)])) }) };
}

function reportArg(iova: bigint, length: bigint, pageSize: bigint): Uint8Array {
  return featureArg(40, REPORT, ...wide(iova), ...wide(length), ...wide(pageSize), ...wide(0x1000n));
}

function dmaBufArg(regionIndex: number, flags: number, count: number, ...list: [bigint, bigint][]): Uint8Array {
  const tail = list.flatMap(([offset, length]) => [...wide(offset), ...wide(length)]);
  return featureArg(24 + 4 * tail.length, DMA_BUF, regionIndex, 0, flags, count, ...tail);
}

const bitmap = { options: { memory: userMemory({ 4096: new Uint8Array(8) }) } };

const CASES: Record<string, Case> = {
  'GET_INFO.1': {
    ...info,
    variants: { empty: { arg: words() }, '15 bytes': { arg: words(24, 0, 0, 0).subarray(0, 15) } },
  },
  'GET_INFO.2': { ...info, variants: { 15: { arg: words(15, 0, 0, 0) }, 0: { arg: words(0, 0, 0, 0) } } },
  'GET_INFO.3': {
    ...info,
    target: capped,
    variants: {
      'no room': { arg: words(24, 0, 0, 0, 9, 9) },
      'a byte short': { arg: joined(words(39), new Uint8Array(36)) },
    },
    check: (result, arg) => {
      expect(result).toBe(0);
      expect(hexOf(arg.subarray(0, 24))).toBe(hexOf(words(40, 0x83, 9, 5, 0, 0)));
    },
  },
  'GET_INFO.4': one(words(40, 0, 0, 0, 0, 0), { ...info, target: capped }),
  'GET_INFO.5': one(words(16, 0, 0, 0, 0x55555555, 0x55555555), {
    ...info,
    target: capped,
    check: (_result, arg) => expect(hexOf(arg)).toBe(hexOf(words(40, 0x83, 9, 5, 0x55555555, 0x55555555))),
  }),

  'GET_REGION_INFO.1': {
    ...region,
    variants: { empty: { arg: words() }, '31 bytes': { arg: new Uint8Array(31).fill(32) } },
  },
  'GET_REGION_INFO.2': one(words(31, 0, 0, 0, 0, 0, 0, 0), region),
  'GET_REGION_INFO.3': {
    ...region,
    variants: {
      next: { arg: words(32, 0, 9, 0, 0, 0, 0, 0) },
      largest: { arg: words(32, 0, U32_MAX, 0, 0, 0, 0, 0) },
    },
  },
  'GET_REGION_INFO.4': one(words(39, 0, 1, 7, 0, 0, 0, 0), {
    ...region,
    target: capped,
    check: (_result, arg) => expect(hexOf(arg)).toBe(hexOf(words(40, 0xf, 1, 0, 0x2000, 0, 0, 0))),
  }),
  'GET_REGION_INFO.5': one(words(40, 0, 1, 0, 0, 0, 0, 0, 0), { ...region, target: capped }),

  'GET_IRQ_INFO.1': {
    ...irq,
    variants: { empty: { arg: words() }, '15 bytes': { arg: words(16, 0, 0, 0).subarray(0, 15) } },
  },
  'GET_IRQ_INFO.2': one(words(15, 0, 0, 0), irq),
  'GET_IRQ_INFO.3': {
    ...irq,
    variants: { next: { arg: words(16, 0, 5, 0) }, largest: { arg: words(16, 0, U32_MAX, 0) } },
  },

  'SET_IRQS.1': {
    ...irqs,
    variants: { empty: { arg: words() }, '19 bytes': { arg: words(20, 0x21, 0, 0, 0).subarray(0, 19) } },
  },
  'SET_IRQS.2': { ...irqs, variants: { 19: { arg: words(19, 0x21, 0, 0, 0) }, 0: { arg: words(0, 0x21, 0, 0, 0) } } },
  'SET_IRQS.3': {
    ...irqs,
    variants: { next: { arg: words(20, 0x21, 5, 0, 0) }, largest: { arg: words(20, 0x21, U32_MAX, 0, 0) } },
  },
  'SET_IRQS.4': {
    ...irqs,
    // A device with as many interrupts as 32 bits can say: nothing else can be wrong with these.
    target: { getIrqInfo: (index) => ({ index, flags: 9, count: U32_MAX }) },
    variants: {
      'count alone': { arg: words(20, 0x21, 2, 0, U32_MAX) },
      'with start': { arg: words(20, 0x21, 2, 16, U32_MAX - 16) },
      'start alone': { arg: words(20, 0x21, 2, U32_MAX, 0) },
    },
  },
  'SET_IRQS.5': {
    ...irqs,
    variants: { next: { arg: words(20, 0x61, 0, 0, 1) }, top: { arg: words(20, 0x80000021, 0, 0, 1) } },
  },
  'SET_IRQS.6': {
    ...irqs,
    variants: {
      'no count': { arg: words(20, 0x21, 2, 16, 0) },
      'a count': { arg: words(20, 0x21, 2, 16, 1) },
      'no interrupts at all': { arg: words(20, 0x21, 7, 0, 0) },
    },
    target: {
      getInfo: () => ({ flags: 3, numRegions: 9, numIrqs: 8, caps: [] }),
      getIrqInfo: (index) => ({ index, flags: 9, count: index === 7 ? 0 : 16 }),
    },
  },
  'SET_IRQS.7': {
    ...irqs,
    variants: { one: { arg: words(20, 0x21, 2, 0, 17) }, 'from the end': { arg: words(20, 0x21, 2, 15, 2) } },
  },
  'SET_IRQS.8': {
    ...irqs,
    variants: {
      none: { arg: words(20, 0x20, 0, 0, 1) },
      'NONE and BOOL': { arg: words(24, 0x23, 0, 0, 1, 0) },
      'BOOL and EVENTFD': { arg: words(28, 0x26, 0, 0, 1, 0, 0) },
      all: { arg: words(28, 0x27, 0, 0, 1, 0, 0) },
    },
  },
  'SET_IRQS.9': {
    ...irqs,
    variants: {
      bools: { arg: words(23, 0x22, 2, 0, 4, 0) },
      eventfds: { arg: words(35, 0x24, 2, 0, 4, 0, 0, 0, 0) },
    },
  },
  'SET_IRQS.10': {
    ...irqs,
    variants: {
      bools: { arg: words(24, 0x22, 2, 0, 4, 0).subarray(0, 23) },
      eventfds: { arg: words(36, 0x24, 2, 0, 4, 0, 0, 0) },
    },
  },
  'SET_IRQS.11': {
    ...irqs,
    variants: {
      'no action': { arg: words(20, 0x01, 0, 0, 1) },
      'two actions': { arg: words(20, 0x19, 0, 0, 1) },
      'MSI MASK': { arg: words(20, 0x09, 1, 0, 1) },
      'MSI UNMASK': { arg: words(20, 0x11, 1, 0, 1) },
      'MSI-X MASK': { arg: words(20, 0x09, 2, 0, 1) },
      'MSI-X UNMASK': { arg: words(20, 0x11, 2, 0, 1) },
      'ERR MASK': { arg: words(20, 0x09, 3, 0, 1) },
      'REQ UNMASK': { arg: words(20, 0x11, 4, 0, 1) },
    },
  },
  'SET_IRQS.12': one(words(36, 0x24, 2, 0, 4, 10, 11, 12, 13), {
    ...irqs,
    target: { setIrqs: () => 3 },
    check: (result) => expect(result).toBe(3),
  }),

  'GET_PCI_HOT_RESET_INFO.1': {
    ...hotInfo,
    variants: { empty: { arg: words() }, '11 bytes': { arg: words(12, 0, 0).subarray(0, 11) } },
  },
  'GET_PCI_HOT_RESET_INFO.2': one(words(11, 0, 0), hotInfo),
  'GET_PCI_HOT_RESET_INFO.3': one(words(27, 9, 9, 8, 8, 8, 8), { ...hotInfo, fills: words(27, 0, 2, 8, 8, 8, 8) }),

  'PCI_HOT_RESET.1': {
    ...hot,
    variants: { empty: { arg: words() }, '11 bytes': { arg: words(12, 0, 1).subarray(0, 11) } },
  },
  'PCI_HOT_RESET.2': one(words(11, 0, 1, 5), hot),
  'PCI_HOT_RESET.3': one(words(16, 1, 1, 5), hot),
  'PCI_HOT_RESET.4': one(words(12, 0, 0), hot),
  'PCI_HOT_RESET.5': one(words(16, 0, 1, 5), { ...hot, options: { access: 'cdev' } }),
  'PCI_HOT_RESET.7': {
    ...hot,
    variants: { three: { arg: words(24, 0, 3, 5, 6, 7) }, many: { arg: words(24, 0, U32_MAX, 5, 6, 7) } },
  },
  'PCI_HOT_RESET.8': one(words(20, 0, 2, 5), hot),

  'IOEVENTFD.1': {
    ...ioefd,
    variants: { empty: { arg: words() }, '27 bytes': { arg: ioeventfd(28, 4, 0n, -1).subarray(0, 27) } },
  },
  'IOEVENTFD.2': one(ioeventfd(27, 4, 0n, -1), ioefd),
  'IOEVENTFD.3': {
    ...ioefd,
    variants: { next: { arg: ioeventfd(32, 0x14, 0n, -1) }, top: { arg: ioeventfd(32, 0x80000004, 0n, -1) } },
  },
  'IOEVENTFD.4': {
    ...ioefd,
    variants: {
      none: { arg: ioeventfd(32, 0, 0n, -1) },
      two: { arg: ioeventfd(32, 3, 0n, -1) },
      all: { arg: ioeventfd(32, 15, 0n, -1) },
    },
  },
  'IOEVENTFD.5': {
    ...ioefd,
    variants: { next: { arg: ioeventfd(32, 4, 0n, -2) }, least: { arg: ioeventfd(32, 4, 0n, -0x80000000) } },
  },
  'IOEVENTFD.6': {
    ...ioefd,
    variants: {
      ROM: { arg: ioeventfd(32, 4, 6n << 40n, -1) },
      config: { arg: ioeventfd(32, 4, 7n << 40n, -1) },
      'beyond all regions': { arg: ioeventfd(32, 4, 2n ** 64n - 8n, -1) },
    },
  },

  'FEATURE.1': {
    ...feature,
    variants: { empty: { arg: words() }, '7 bytes': { arg: featureArg(8, PROBE | 1).subarray(0, 7) } },
  },
  'FEATURE.2': { ...feature, variants: { 7: { arg: featureArg(7, PROBE | 1) }, 0: { arg: featureArg(0, PROBE | 1) } } },
  'FEATURE.3': {
    ...feature,
    variants: { next: { arg: featureArg(8, 0x80000 | PROBE) }, top: { arg: featureArg(8, 0x80000000 | PROBE) } },
  },
  'FEATURE.4': one(featureArg(16, GET | SET | 2, 0, 0), feature),
  'FEATURE.8': {
    ...feature,
    variants: {
      'GET of the token': { arg: featureArg(24, GET | 0, 0, 0, 0, 0) },
      'SET of the migration flags': { arg: featureArg(16, SET | 1, 0, 0) },
      'PROBE with SET of the migration flags': { arg: featureArg(16, PROBE | SET | 1, 0, 0) },
      'PROBE with GET and SET of low power': { arg: featureArg(8, PROBE | GET | SET | 3) },
      'SET of a report': { arg: featureArg(40, SET | 8, 0, 0, 0, 0, 0, 0, 0, 0) },
      'GET of a logging start': { arg: featureArg(32, GET | 6, 0, 0, 0, 0, 0, 0) },
      'GET of PRECOPY_INFOv2': { arg: featureArg(8, GET | 12) },
    },
  },
  'FEATURE.9': {
    ...feature,
    variants: {
      alone: { arg: featureArg(8, PROBE | 1) },
      'with GET': { arg: featureArg(8, PROBE | GET | 1) },
      'with GET and SET': { arg: featureArg(8, PROBE | GET | SET | 2) },
      'with SET of the token, without its 16 bytes': { arg: featureArg(8, PROBE | SET | 0) },
    },
    check: (result, _arg, target) => {
      expect(result).toBe(0);
      expect(target.seen).toEqual([]);
    },
  },
  'FEATURE.10': one(featureArg(16, 2, 0, 0), feature),
  'FEATURE.11': {
    ...feature,
    variants: {
      token: { arg: featureArg(23, SET | 0, 0, 0, 0, 0) },
      'migration flags': { arg: featureArg(15, GET | 1, 0, 0) },
      'device state': { arg: featureArg(15, SET | 2, 0, 0) },
      wakeup: { arg: featureArg(15, SET | 4, 0, 0) },
      'logging start': { arg: featureArg(31, START, 0, 0, 0, 0, 0, 0) },
      'logging report': { arg: featureArg(39, REPORT, 0, 0, 0, 0, 0, 0, 0, 0) },
      'data size': { arg: featureArg(15, GET | 9, 0, 0) },
      'bus master': { arg: featureArg(11, SET | 10, 0) },
      'dma-buf': { arg: featureArg(23, DMA_BUF, 0, 0, 0, 0) },
      'zPCI error': { arg: featureArg(15, GET | 13, 0, 0) },
    },
  },
  'FEATURE.12': {
    ...feature,
    variants: {
      token: { arg: featureArg(24, SET | 0, 0, 0, 0) },
      'device state': { arg: featureArg(16, SET | 2, 0) },
      'logging start': { arg: featureArg(32, START, 0, 0, 0, 0, 0) },
      'logging report': { arg: featureArg(40, REPORT, 0, 0, 0, 0, 0, 0, 0) },
    },
  },
  'FEATURE.14': {
    ...feature,
    variants: { '-1': { arg: featureArg(16, SET | 4, -1, 0) }, least: { arg: featureArg(16, SET | 4, 0x80000000, 0) } },
  },
  'FEATURE.16': one(featureArg(16, GET | 13, 0, 0), feature),

  'DMA_BUF.2': one(dmaBufArg(0, 0, 0, [0n, 0x1000n]), feature),
  'DMA_BUF.3': one(dmaBufArg(0, 1, 1, [0n, 0x1000n]), feature),
  'DMA_BUF.4': {
    ...feature,
    variants: {
      ROM: { arg: dmaBufArg(6, 0, 1, [0n, 0x1000n]) },
      far: { arg: dmaBufArg(U32_MAX, 0, 1, [0n, 0x1000n]) },
    },
  },
  'DMA_BUF.5': {
    ...feature,
    variants: {
      none: { arg: dmaBufArg(0, 0, 1) },
      'one of two': { arg: dmaBufArg(0, 0, 2, [0n, 0x1000n]) },
      many: { arg: dmaBufArg(0, 0, U32_MAX, [0n, 0x1000n]) },
    },
  },
  'DMA_BUF.6': {
    ...feature,
    variants: {
      'no length': { arg: dmaBufArg(0, 0, 1, [0n, 0n]) },
      'offset in a page': { arg: dmaBufArg(0, 0, 1, [0x800n, 0x1000n]) },
      'part of a page': { arg: dmaBufArg(0, 0, 1, [0n, 0x800n]) },
      'the second one': { arg: dmaBufArg(0, 0, 2, [0n, 0x1000n], [0n, 1n]) },
      'a host with larger pages': { arg: dmaBufArg(0, 0, 1, [0n, 0x1000n]), options: { hostPageSize: 0x10000 } },
    },
  },
  'DMA_BUF.7': {
    ...feature,
    variants: {
      end: { arg: dmaBufArg(0, 0, 1, [2n ** 64n - 0x1000n, 0x1000n]) },
      sum: { arg: dmaBufArg(0, 0, 2, [0n, 2n ** 53n - 0x1000n], [0n, 2n ** 64n - 0x1000n]) },
    },
  },

  'LOGGING_START.1': one(startArg(0x1000n, 0), feature),
  'LOGGING_START.2': {
    ...feature,
    variants: {
      257: { arg: startArg(0x1000n, 257) },
      'all there are': { arg: startArg(0x1000n, U32_MAX) },
      '4097 with pages of 64 KiB': { arg: startArg(0x1000n, 4097), options: { hostPageSize: 0x10000 } },
    },
  },
  'LOGGING_START.3': {
    ...feature,
    variants: {
      'no memory': { arg: startArg(0x1000n, 1) },
      'one of two': { arg: startArg(0x1000n, 2), options: ranges([0n, 0x1000n]) },
    },
  },
  'LOGGING_START.4': {
    ...feature,
    variants: {
      iova: { arg: startArg(0x1000n, 1), options: ranges([0x800n, 0x1000n]) },
      length: { arg: startArg(0x1000n, 1), options: ranges([0n, 0x1800n]) },
      'before it overflows': { arg: startArg(0x1000n, 1), options: ranges([2n ** 64n - 0x800n, 0x1000n]) },
      'the second one': { arg: startArg(0x1000n, 2), options: ranges([0n, 0x1000n], [0x1001n, 0x1000n]) },
      'the first one, although the others cannot be read': {
        arg: startArg(0x1000n, 256),
        options: ranges([1n, 0x1000n]),
      },
    },
  },
  'LOGGING_START.5': {
    ...feature,
    variants: {
      'past the end': { arg: startArg(0x1000n, 1), options: ranges([2n ** 64n - 0x1000n, 0x2000n]) },
      'up to the end': { arg: startArg(0x1000n, 1), options: ranges([2n ** 64n - 0x1000n, 0x1000n]) },
      'before it is found to overlap': {
        arg: startArg(0x1000n, 2),
        options: ranges([2n ** 64n - 0x3000n, 0x1000n], [2n ** 64n - 0x3000n, 0x4000n]),
      },
    },
  },
  'LOGGING_START.6': {
    ...feature,
    variants: {
      same: { arg: startArg(0x1000n, 2), options: ranges([0x4000n, 0x1000n], [0x4000n, 0x1000n]) },
      inside: { arg: startArg(0x1000n, 2), options: ranges([0x1000n, 0x9000n], [0x4000n, 0x1000n]) },
      around: { arg: startArg(0x1000n, 2), options: ranges([0x4000n, 0x1000n], [0x1000n, 0x9000n]) },
      'by the last page': { arg: startArg(0x1000n, 2), options: ranges([0x4000n, 0x2000n], [0x5000n, 0x1000n]) },
      'by the first page': { arg: startArg(0x1000n, 2), options: ranges([0x4000n, 0x2000n], [0x3000n, 0x2000n]) },
      'not the neighbours': {
        arg: startArg(0x1000n, 3),
        options: ranges([0x1000n, 0x1000n], [0x9000n, 0x1000n], [0x2000n, 0x8000n]),
      },
    },
  },

  'LOGGING_REPORT.1': {
    ...feature,
    ...bitmap,
    variants: { 2048: { arg: reportArg(0n, 0x1000n, 2048n) }, 0: { arg: reportArg(0n, 0x1000n, 0n) } },
  },
  'LOGGING_REPORT.2': {
    ...feature,
    ...bitmap,
    variants: { 12288: { arg: reportArg(0n, 0x3000n, 0x3000n) }, 'one more': { arg: reportArg(0n, 0x1000n, 0x1001n) } },
  },
  'LOGGING_REPORT.3': {
    ...feature,
    ...bitmap,
    variants: {
      past: { arg: reportArg(2n ** 64n - 0x1000n, 0x2000n, 0x1000n) },
      end: { arg: reportArg(2n ** 64n - 0x1000n, 0x1000n, 0x1000n) },
    },
  },
  'LOGGING_REPORT.4': {
    ...feature,
    variants: {
      'no memory': { arg: reportArg(0n, 0x1000n, 0x1000n) },
      'a word too few': { arg: reportArg(0n, 65n << 12n, 0x1000n), ...bitmap },
      'more than there can be': { arg: reportArg(0n, 2n ** 64n - 1n, 0x1000n), ...bitmap },
    },
  },

  'MIG_DEVICE_STATE.4': one(featureArg(16, SET | 2, 3, 77), {
    ...feature,
    target: {
      deviceFeature: ({ flags }) => {
        if ((flags & PROBE) === 0) throw errnoError('EIO', 'the device is gone');
        return undefined;
      },
    },
    reachesTarget: true,
    fills: featureArg(16, SET | 2, 3, -1),
  }),

  'ioctl.1': {
    variants: {
      unknown: { arg: words(), request: 0x3b80 },
      'of the container': { arg: words(), request: uapi.VFIO_GET_API_VERSION },
      'of another class of devices': { arg: words(), request: uapi.VFIO_DEVICE_QUERY_GFX_PLANE },
      'of the data descriptor': { arg: words(24, 0, 0, 0, 0, 0), request: uapi.VFIO_MIG_GET_PRECOPY_INFO },
    },
  },
  'ioctl.2': {
    options: { access: 'cdev-unbound' },
    variants: {
      info: { arg: words(24, 0, 0, 0, 0, 0), request: uapi.VFIO_DEVICE_GET_INFO },
      reset: { arg: words(), request: uapi.VFIO_DEVICE_RESET },
      feature: { arg: featureArg(8, PROBE | 1), request: uapi.VFIO_DEVICE_FEATURE },
      attach: { arg: words(12, 0, 1), request: uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT },
      unknown: { arg: words(), request: 0x3b80 },
    },
  },

  'BIND_IOMMUFD.1': {
    ...bind,
    variants: { 15: { arg: words(15, 0, 3, 0, 0, 0) }, 0: { arg: words(0, 0, 3, 0, 0, 0) } },
  },
  'BIND_IOMMUFD.2': {
    ...bind,
    variants: { next: { arg: words(28, 0, 3, 0, 0, 0, 1) }, last: { arg: words(32, 0, 3, 0, 0, 0, 0, 0x80000000) } },
  },
  'BIND_IOMMUFD.3': one(words(24, 0, -1, 0, 0, 0), bind),
  'BIND_IOMMUFD.4': {
    ...bind,
    variants: { next: { arg: words(24, 2, 3, 0, 0, 0) }, top: { arg: words(24, 0x80000000, 3, 0, 0, 0) } },
  },
  'BIND_IOMMUFD.5': one(words(24, 0, 3, 0, 0, 0), { ...bind, options: { access: 'group' } }),
  'BIND_IOMMUFD.6': one(words(24, 0, 3, 0, 0, 0), { ...bind, options: { access: 'cdev' } }),
  'BIND_IOMMUFD.7': {
    ...bind,
    variants: {
      empty: { arg: words() },
      '3 bytes': { arg: words(24).subarray(0, 3) },
      'argsz beyond': { arg: words(28, 0, 3, 0, 0, 0) },
    },
  },
  'BIND_IOMMUFD.8': {
    ...bind,
    variants: {
      'no memory': { arg: words(24, 1, 3, 0, 0x2000, 0) },
      '15 bytes': {
        arg: words(24, 1, 3, 0, 0x2000, 0),
        options: { ...bind.options, memory: userMemory({ 8192: new Uint8Array(15) }) },
      },
      'a flag without the field': { arg: words(16, 1, 3, 0) },
    },
  },

  'ATTACH_IOMMUFD_PT.1': one(words(12, 0, 1), { ...attach, options: { access: 'group' } }),
  'ATTACH_IOMMUFD_PT.2': {
    ...attach,
    variants: {
      empty: { arg: words() },
      '11 bytes': { arg: words(12, 0, 1).subarray(0, 11) },
      'no PASID': { arg: words(16, 1, 1) },
    },
  },
  'ATTACH_IOMMUFD_PT.3': {
    ...attach,
    variants: { 11: { arg: words(11, 0, 1, 0) }, '15 with a PASID': { arg: words(15, 1, 1, 0) } },
  },
  'ATTACH_IOMMUFD_PT.4': one(words(16, 2, 1, 0), attach),
  'DETACH_IOMMUFD_PT.1': one(words(8, 0), { ...detach, options: { access: 'group' } }),
  'DETACH_IOMMUFD_PT.2': {
    ...detach,
    variants: {
      empty: { arg: words() },
      '7 bytes': { arg: words(8, 0).subarray(0, 7) },
      'no PASID': { arg: words(12, 1) },
    },
  },
  'DETACH_IOMMUFD_PT.3': {
    ...detach,
    variants: { 7: { arg: words(7, 0, 0) }, '11 with a PASID': { arg: words(11, 1, 0) } },
  },
  'DETACH_IOMMUFD_PT.4': one(words(12, 2, 0), detach),
};

/** Rows of the migration data descriptor, which has a dispatcher of its own. */
const MIGRATION_CASES: Record<string, { request?: number; args: Record<string, Uint8Array> }> = {
  'MIG_GET_PRECOPY_INFO.1': { request: uapi.VFIO_DEVICE_GET_INFO, args: { 'of the device': words(24, 0, 0, 0, 0, 0) } },
  'MIG_GET_PRECOPY_INFO.2': { args: { empty: words(), '23 bytes': words(24, 0, 0, 0, 0, 0).subarray(0, 23) } },
  'MIG_GET_PRECOPY_INFO.3': { args: { 23: words(23, 0, 0, 0, 0, 0), 0: words(0, 0, 0, 0, 0, 0) } },
};

describe.each(Object.entries(CASES))(
  '%s',
  (id, { variants, request, options, target: replace, check, fills, reachesTarget }) => {
    const row = errnoRow(id);
    test.each(Object.entries(variants))(`${row.condition}: ${row.errno ?? row.result} (%s)`, (name, variant) => {
      const arg = variant.arg.slice();
      const target = fakeTarget(replace);
      const run = () =>
        dispatchIoctl(target, variant.request ?? request ?? -1, arg, {
          littleEndian: true,
          ...options,
          ...variant.options,
        });
      if (check !== undefined) {
        expect(row.errno).toBeUndefined();
        check(run(), arg, target, name);
        return;
      }
      const error = caught(run);
      expect(error).toMatchObject({ name: 'VfioError', errno: row.errno ?? 'EIO' });
      expect(hexOf(arg)).toBe(hexOf(fills ?? variant.arg));
      if (reachesTarget !== true) expect(target.seen).toEqual([]);
    });
  },
);

describe.each(Object.entries(MIGRATION_CASES))('%s', (id, { request = uapi.VFIO_MIG_GET_PRECOPY_INFO, args }) => {
  const row = errnoRow(id);
  test.each(Object.entries(args))(`${row.condition}: ${row.errno} (%s)`, (_name, given) => {
    const arg = given.slice();
    const target = {
      precopyInfo: () => {
        throw new Error('the target was reached');
      },
    };
    expect(caught(() => dispatchMigrationIoctl(target, request, arg, true))).toMatchObject({ errno: row.errno });
    expect(hexOf(arg)).toBe(hexOf(given));
  });
});

describe('the table', () => {
  test('has every row of the ioctl layer tested by its number', () => {
    const tested = [...Object.keys(CASES), ...Object.keys(MIGRATION_CASES)].sort();
    expect(tested).toEqual(
      errnoRows('ioctl')
        .map((row) => row.id)
        .sort(),
    );
  });

  test('has each number once', () => {
    expect(new Set(ERRNO_TABLE.map((row) => row.id)).size).toBe(ERRNO_TABLE.length);
  });

  test('says what a call without an errno gives', () => {
    expect(ERRNO_TABLE.filter((row) => row.errno === undefined && row.result === undefined)).toEqual([]);
  });

  test('splits into the two layers', () => {
    expect(errnoRows('ioctl').length + errnoRows('device').length).toBe(ERRNO_TABLE.length);
  });

  test('refuses an id that it does not have', () => {
    expect(() => errnoRow('SET_IRQS.0')).toThrow('no row SET_IRQS.0');
  });
});

test('bytes of a hex string with an odd digit are a mistake in a test', () => {
  expect(() => bytesOf('abc')).toThrow('not hex');
});
