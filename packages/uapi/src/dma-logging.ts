/**
 * The rules of DMA logging that do not depend on a device: ranges of LOGGING_START, the request and the bitmap of
 * LOGGING_REPORT. The same in the kernel's ioctls and in vfio-user.
 */
import { errnoError, hex } from './errors.js';

/** A range of device address space. */
export interface IovaRange {
  readonly iova: bigint;
  readonly length: bigint;
}

/** VFIO_DEVICE_FEATURE_DMA_LOGGING_START. */
export interface DmaLoggingStart {
  /** Hint for the granularity; what a device makes of it is its own. */
  readonly pageSize: bigint;
  readonly ranges: readonly IovaRange[];
}

/** VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT. */
export interface DmaLoggingReport extends IovaRange {
  readonly pageSize: bigint;
  /**
   * One bit a page, in 64-bit words of the byte order of the bytes that it goes into: bit `n % 64` of word `n / 64`. Bits
   * are set for dirty pages and never cleared.
   */
  readonly bitmap: Uint8Array;
}

const START = 'VFIO_DEVICE_FEATURE_DMA_LOGGING_START';
const REPORT = 'VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT';
const U64_MAX = 0xffffffffffffffffn;

/** Page size that REPORT starts at. */
export const VFIO_DMA_LOGGING_MIN_PAGE_SIZE = 4096n;

/** Most ranges that a START may have: as many as fit one page of the host, 256 for 4 KiB. */
export function maxLoggingRanges(hostPageSize: number): number {
  return Math.floor(hostPageSize / 16);
}

/**
 * The number of ranges of a START.
 * @throws VfioError EINVAL: none. E2BIG: more than fit a page of the host.
 */
export function checkLoggingRangeCount(count: number, hostPageSize: number): void {
  if (count === 0) {
    throw errnoError('EINVAL', 'no ranges to log', { op: START });
  }
  const most = maxLoggingRanges(hostPageSize);
  if (count > most) {
    throw errnoError('E2BIG', `${count} ranges to log: at most ${most} are allowed`, { op: START });
  }
}

/**
 * The ranges of a START, one after the other: aligned to the page size, no wrap-around, no overlap with an earlier one. The
 * page size itself is for the device to judge. A range of no length is refused: the kernel would take it for one that ends
 * before it starts.
 * @param ranges Taken one at a time, as the kernel fetches them: a wrong one is found before a later one faults.
 * @throws VfioError EINVAL, EOVERFLOW.
 */
export function checkLoggingRanges(ranges: Iterable<IovaRange>, pageSize: bigint): IovaRange[] {
  const checked: IovaRange[] = [];
  const mask = (pageSize - 1n) & U64_MAX;
  // Sorted starts with their last addresses, so that a long list is not compared pair by pair.
  const taken: { start: bigint; last: bigint }[] = [];
  for (const { iova, length } of ranges) {
    const range = `range ${hex(iova)} of ${hex(length)} bytes`;
    if ((iova & mask) !== 0n || (length & mask) !== 0n || length === 0n) {
      throw errnoError('EINVAL', `${range}: multiples of the page size ${hex(pageSize)} are wanted`, { op: START });
    }
    if (iova + length > U64_MAX) {
      throw errnoError('EOVERFLOW', `${range}: it ends beyond 64 bits`, { op: START });
    }
    const last = iova + length - 1n;
    let low = 0;
    let high = taken.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (taken[middle]!.start < iova) low = middle + 1;
      else high = middle;
    }
    const before = taken[low - 1];
    const after = taken[low];
    if ((before !== undefined && before.last >= iova) || (after !== undefined && after.start <= last)) {
      throw errnoError('EINVAL', `${range}: it overlaps another one`, { op: START });
    }
    taken.splice(low, 0, { start: iova, last });
    checked.push({ iova, length });
  }
  return checked;
}

/**
 * The request of a REPORT. Returns the bytes that its bitmap takes, whole 64-bit words.
 * @throws VfioError EINVAL: the page size is below 4096 or no power of two, or nothing is asked for. EOVERFLOW: the range
 * ends beyond 64 bits.
 */
export function checkLoggingReport(iova: bigint, length: bigint, pageSize: bigint): bigint {
  if (pageSize < VFIO_DMA_LOGGING_MIN_PAGE_SIZE || (pageSize & (pageSize - 1n)) !== 0n) {
    throw errnoError(
      'EINVAL',
      `page size ${hex(pageSize)}: a power of two from ${hex(VFIO_DMA_LOGGING_MIN_PAGE_SIZE)} is wanted`,
      {
        op: REPORT,
      },
    );
  }
  if (iova + length > U64_MAX) {
    throw errnoError('EOVERFLOW', `range ${hex(iova)} of ${hex(length)} bytes: it ends beyond 64 bits`, { op: REPORT });
  }
  if (length === 0n) {
    throw errnoError('EINVAL', 'a report of no bytes', { op: REPORT });
  }
  return loggingBitmapSize(length, pageSize);
}

/** Bytes of the bitmap for `length` bytes of address space: one bit a page, whole 64-bit words. */
export function loggingBitmapSize(length: bigint, pageSize: bigint): bigint {
  const pages = (length + pageSize - 1n) / pageSize;
  return ((pages + 63n) / 64n) * 8n;
}
