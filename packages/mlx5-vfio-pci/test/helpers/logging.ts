import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_SET,
} from '@vfio/uapi';
import { MEMORY_BASE, MEMORY_BYTES, PAGE, type Vf } from './setup.js';

/** The memory of a program. */
export const SPACE = { iova: BigInt(MEMORY_BASE), length: BigInt(MEMORY_BYTES) };

export async function start(
  vf: Vf,
  ranges: readonly { iova: bigint; length: bigint }[] = [SPACE],
  pageSize = BigInt(PAGE),
) {
  const result = await vf.device.deviceFeature({
    flags: VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
    value: { pageSize, ranges },
  });
  return (result as { pageSize: bigint }).pageSize;
}

export const stop = (vf: Vf) =>
  vf.device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP });

/** Numbers of the pages of a program's memory that were written. */
export async function report(vf: Vf, range = SPACE): Promise<number[]> {
  const pages = Number(range.length) / PAGE;
  const bitmap = new Uint8Array(Math.ceil(pages / 64) * 8);
  await vf.device.deviceFeature({
    flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
    value: { ...range, pageSize: BigInt(PAGE), bitmap },
  });
  return Array.from({ length: pages }, (_, n) => n).filter((n) => ((bitmap[n >> 3] ?? 0) & (1 << (n & 7))) !== 0);
}
