import { errnoError, hex } from '@vfio/uapi';
import { nativeBinding } from './binding.js';

/** Bytes of one sum. */
export const PAGE_SUM_BYTES = 8;

/**
 * Sums the pages in `bytes` and keeps the sums: a page whose sum is the one that was kept before is taken to be as it was then.
 * A sum has 64 bits, so of pages that did change one in 2^64 is missed; somebody who knows the pages could make one.
 *
 * @param bytes whole pages
 * @param pageSize bytes, a multiple of 32
 * @param sums {@link PAGE_SUM_BYTES} for each page
 * @param first the page of `sums` that the first one in `bytes` is
 * @param changed a bitmap as `bitmapSet` has them, in which a bit is set for each page whose sum is another than before
 * @param bit the bit of the first page. Default: `first`
 * @returns how many pages have another sum than before
 * @throws ERR_VFIO_INVALID_ARGUMENT for what does not fit
 */
export function pageSums(
  bytes: Uint8Array,
  pageSize: number,
  sums: Uint8Array,
  first: number,
  changed?: Uint8Array,
  bit: number = first,
): number {
  const result = nativeBinding().pageSums(bytes, pageSize, sums, first, changed ?? null, bit);
  if (result >= 0) return result;
  throw errnoError(
    'EINVAL',
    `sums of ${hex(bytes.length)} bytes in pages of ${hex(pageSize)} from page ${first} on: whole pages and room for their sums and bits are needed`,
    { op: 'pageSums' },
  );
}
