import type { IovaRange, VfioDevice } from '@vfio/core';
import { bitmapBytes, bitmapClear, bitmapCount, bitmapNext, bitmapSet, PAGE_SUM_BYTES, pageSums } from '@vfio/native';
import {
  isVfioError,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_SET,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import type { ClientMemory } from '../dma.js';

/** Bytes that one bit stands for. */
export const DIRTY_PAGE = 4096;
/** Bytes of memory whose bits are asked for at once: a bitmap of 256 KiB. */
const WINDOW = 8n << 30n;
/** Bytes of memory that are summed in one go. */
const SCAN_BYTES = 1 << 20;
/** Ranges that a device is asked to log at most: a kernel page of them. */
const MAX_LOGGED_RANGES = 256;

/** A stretch of memory, and which of its pages must go yet. */
interface Window {
  readonly iova: bigint;
  readonly pages: number;
  readonly length: bigint;
  readonly bitmap: Uint8Array;
  /** Sums of the pages as they were sent last. Made when the first is. */
  sums: Uint8Array | undefined;
}

/** Pages of a device's memory that must go to the other side, and its log of those that it has written. */
export class DirtyMemory {
  readonly #device: VfioDevice;
  readonly #windows: readonly Window[];
  #isLogging = false;

  /** @param ranges to be moved, by address; whole pages. All of them are dirty. */
  constructor(device: VfioDevice, ranges: readonly IovaRange[]) {
    this.#device = device;
    this.#windows = ranges.flatMap(({ iova, length }) => windowsOf(iova, length));
    this.markAll();
  }

  get bytes(): number {
    return this.#windows.reduce((sum, { pages }) => sum + pages * DIRTY_PAGE, 0);
  }

  /** Bytes of the pages that must go. */
  get dirtyBytes(): number {
    return this.#windows.reduce((sum, { bitmap, pages }) => sum + bitmapCount(bitmap, 0, pages) * DIRTY_PAGE, 0);
  }

  /** Whether the device says what it writes. Without that all memory has to go when it has stopped. */
  get isLogging(): boolean {
    return this.#isLogging;
  }

  /** Every page must go. */
  markAll(): void {
    for (const { bitmap, pages } of this.#windows) bitmapSet(bitmap, 0, pages);
  }

  /** Has the device log what it writes, where it can. @throws EINVAL where its client has it log already */
  async startLog(): Promise<void> {
    if (this.#windows.length === 0) return;
    const ranges = mergeRanges(this.#windows, MAX_LOGGED_RANGES);
    try {
      await this.#device.deviceFeature({
        flags: VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
        value: { pageSize: BigInt(DIRTY_PAGE), ranges },
      });
      this.#isLogging = true;
    } catch (error) {
      // It has no log, or not one for so much memory.
      if (!isVfioError(error) || (error.errno !== 'ENOTTY' && error.errno !== 'EOPNOTSUPP')) throw error;
    }
  }

  /** Idempotent. */
  async stopLog(): Promise<void> {
    if (!this.#isLogging) return;
    this.#isLogging = false;
    await this.#device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP });
  }

  /** Adds what the device has written since it was last asked. Where it cannot say any more, that is everything. */
  async collect(): Promise<void> {
    if (!this.#isLogging) {
      this.markAll();
      return;
    }
    try {
      for (const { iova, length, bitmap } of this.#windows) {
        await this.#device.deviceFeature({
          flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
          value: { iova, length, pageSize: BigInt(DIRTY_PAGE), bitmap },
        });
      }
    } catch (error) {
      // Only what the log says is a reason to go on; a handle that was closed is none.
      if (isVfioError(error, 'ERR_VFIO_CLOSED')) throw error;
      this.markAll();
      await this.stopLog();
    }
  }

  /** Keeps what pages were when they were sent, so that {@link scan} knows them again. @param bytes whole pages, of one stretch */
  sent(iova: bigint, bytes: Uint8Array): void {
    const window = this.#windows.find((each) => iova >= each.iova && iova < each.iova + each.length);
    if (window === undefined) return;
    window.sums ??= new Uint8Array(window.pages * PAGE_SUM_BYTES);
    pageSums(bytes, DIRTY_PAGE, window.sums, Number((iova - window.iova) / BigInt(DIRTY_PAGE)));
  }

  /**
   * Adds pages that are not as they were sent: those that the client has written itself, which no device logs.
   * @param breathe called after each piece
   */
  async scan(memory: ClientMemory, breathe: () => Promise<void>): Promise<void> {
    const copy = new Uint8Array(SCAN_BYTES);
    for (const { iova, length, bitmap, sums } of this.#windows) {
      if (sums === undefined) continue;
      for (let at = 0; at < length; at += SCAN_BYTES) {
        const count = Math.min(SCAN_BYTES, Number(length) - at);
        let bytes = memory.view(iova + BigInt(at), count);
        if (bytes === undefined) {
          bytes = copy.subarray(0, count);
          await memory.read(iova + BigInt(at), bytes);
        }
        pageSums(bytes, DIRTY_PAGE, sums, at / DIRTY_PAGE, bitmap);
        await breathe();
      }
    }
  }

  /** Takes the pages that must go, in stretches of so many bytes at most. What was taken is clean, even before it was read: what the
   * device writes after this is in its log. */
  *take(most: number): Generator<IovaRange, void> {
    const mostPages = Math.floor(most / DIRTY_PAGE);
    for (const { iova, pages, bitmap } of this.#windows) {
      for (let first = bitmapNext(bitmap, 0, pages); first >= 0; first = bitmapNext(bitmap, first, pages)) {
        let count = 1;
        while (count < mostPages && first + count < pages && isSet(bitmap, first + count)) count++;
        bitmapClear(bitmap, first, count);
        yield { iova: iova + BigInt(first * DIRTY_PAGE), length: BigInt(count * DIRTY_PAGE) };
        first += count;
        if (first >= pages) break;
      }
    }
  }
}

/** A bit of 64-bit words in this machine's byte order. */
function isSet(bitmap: Uint8Array, bit: number): boolean {
  const byte = bit >>> 3;
  return ((bitmap[LITTLE_ENDIAN ? byte : byte ^ 7]! >>> (bit & 7)) & 1) !== 0;
}

function windowsOf(iova: bigint, length: bigint): Window[] {
  const windows: Window[] = [];
  for (let at = 0n; at < length; at += WINDOW) {
    const part = length - at < WINDOW ? length - at : WINDOW;
    const pages = Number(part / BigInt(DIRTY_PAGE));
    windows.push({ iova: iova + at, length: part, pages, bitmap: new Uint8Array(bitmapBytes(pages)), sums: undefined });
  }
  return windows;
}

/** Ranges by address, those next to each other as one, the smallest gaps filled until there are at most `limit`. */
export function mergeRanges(ranges: readonly IovaRange[], limit: number): IovaRange[] {
  const merged: { iova: bigint; length: bigint }[] = [];
  for (const { iova, length } of ranges) {
    const last = merged.at(-1);
    if (last !== undefined && last.iova + last.length === iova) last.length += length;
    else merged.push({ iova, length });
  }
  const gapBefore = (index: number) => merged[index]!.iova - (merged[index - 1]!.iova + merged[index - 1]!.length);
  while (merged.length > limit) {
    let best = 1;
    for (let index = 2; index < merged.length; index++) if (gapBefore(index) < gapBefore(best)) best = index;
    const [before, after] = [merged[best - 1]!, merged[best]!];
    merged.splice(best - 1, 2, { iova: before.iova, length: after.iova + after.length - before.iova });
  }
  return merged;
}
