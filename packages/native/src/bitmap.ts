import { ERRNO, errnoError, hex } from '@vfio/uapi';
import { nativeBinding } from './binding.js';

/**
 * Dirty bitmaps as VFIO has them: 64-bit words in the machine's byte order, bit n in word n / 64 at place n % 64. The bytes
 * need no alignment; their number must be a multiple of 8. Bit numbers are below 2^53. All throw
 * ERR_VFIO_INVALID_ARGUMENT for a range outside the bitmap; the bitmap is then unchanged.
 */

/** A bitmap: its words, or their bytes. */
export type Bitmap = Uint8Array | BigUint64Array;

function bytesOf(bitmap: Bitmap): Uint8Array {
  return bitmap instanceof Uint8Array ? bitmap : new Uint8Array(bitmap.buffer, bitmap.byteOffset, bitmap.byteLength);
}

function refuse(op: string, bitmap: Bitmap, start: number, count: number): never {
  throw errnoError(
    'EINVAL',
    `bits ${hex(start)}+${hex(count)} of a bitmap of ${hex(bitmap.byteLength)} bytes: whole 64-bit words and a range inside are allowed`,
    { op },
  );
}

/** Bytes of a bitmap of `bits` bits: whole words. */
export function bitmapBytes(bits: number): number {
  return Math.ceil(bits / 64) * 8;
}

/** Sets bits `start` to `start + count - 1`. */
export function bitmapSet(bitmap: Bitmap, start: number, count: number): void {
  if (nativeBinding().bitmapSet(bytesOf(bitmap), start, count) < 0) refuse('bitmapSet', bitmap, start, count);
}

/** Clears bits `start` to `start + count - 1`. */
export function bitmapClear(bitmap: Bitmap, start: number, count: number): void {
  if (nativeBinding().bitmapClear(bytesOf(bitmap), start, count) < 0) refuse('bitmapClear', bitmap, start, count);
}

/** Sets in `target` every bit that is set in `source`, which is as long or shorter. */
export function bitmapOr(target: Bitmap, source: Bitmap): void {
  if (nativeBinding().bitmapOr(bytesOf(target), bytesOf(source)) < 0)
    refuse('bitmapOr', target, 0, source.byteLength * 8);
}

/** How many of the bits `start` to `start + count - 1` are set. */
export function bitmapCount(bitmap: Bitmap, start = 0, count: number = bitmap.byteLength * 8 - start): number {
  const result = nativeBinding().bitmapCount(bytesOf(bitmap), start, count);
  if (result < 0) refuse('bitmapCount', bitmap, start, count);
  return result;
}

/** Number of the first set bit at or after `from` and before `end`, or -1. */
export function bitmapNext(bitmap: Bitmap, from = 0, end: number = bitmap.byteLength * 8): number {
  const result = nativeBinding().bitmapNext(bytesOf(bitmap), from, end);
  if (result === -ERRNO.ENOENT) return -1;
  if (result < 0) refuse('bitmapNext', bitmap, from, end - from);
  return result;
}

/**
 * Reports dirty pages of one size as pages of another: ORs the `count` bits of `source` from bit `start` on into `target`
 * from its bit 0 on, where a bit of `source` stands for `sourcePage` bytes and one of `target` for `targetPage` bytes. A
 * coarser target gets a bit where any of its pages is dirty, a finer one all bits of a dirty page: nothing dirty is lost.
 * The range's first byte is the first byte of both.
 *
 * @param sourcePage bytes, a power of two; so is `targetPage`
 */
export function bitmapScale(
  source: Bitmap,
  start: number,
  count: number,
  sourcePage: number,
  target: Bitmap,
  targetPage: number,
): void {
  if (!isPowerOfTwo(sourcePage) || !isPowerOfTwo(targetPage)) {
    throw errnoError('EINVAL', `page sizes ${hex(sourcePage)} and ${hex(targetPage)}: powers of two are allowed`, {
      op: 'bitmapScale',
    });
  }
  const finer = Math.max(1, sourcePage / targetPage);
  const coarser = Math.max(1, targetPage / sourcePage);
  if (nativeBinding().bitmapScale(bytesOf(source), start, count, bytesOf(target), finer, coarser) < 0) {
    refuse('bitmapScale', source, start, count);
  }
}

function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 1 && value === 2 ** Math.round(Math.log2(value));
}
