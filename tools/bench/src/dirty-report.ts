import { largeDevice } from './large-device.js';

/** VFIO_DEVICE_FEATURE_GET, SET, and the features of the dirty log. */
const GET = 1 << 16;
const SET = 1 << 17;
const START = 6;
const STOP = 7;
const REPORT = 8;

const PAGE = 4096n;
const SPACE = 1n << 40n;
/** What is asked for at once: a bitmap of 256 KiB. */
const WINDOW = 8n << 30n;
/** Pages that were written, here and there. */
const WRITTEN = 1000;

const ones = (word: number): number => word.toString(2).replaceAll('0', '').length;

/** Milliseconds of the dirty report of 1 TiB, and the pages that it found. */
export async function dirtyReport(): Promise<{ readonly ms: number; readonly pages: number }> {
  const core = await largeDevice(0);
  const device = await core.open();
  const bitmap = new Uint8Array(Number(WINDOW / PAGE / 8n));
  const words = new Uint32Array(bitmap.buffer);
  const memory = { bytes: new Uint8Array(Number(PAGE)), fd: undefined, fdOffset: 0 };
  const step = SPACE / BigInt(WRITTEN) / PAGE;
  await device.deviceFeature({
    flags: SET | START,
    value: { pageSize: PAGE, ranges: [{ iova: 0n, length: SPACE }] },
  });
  for (let n = 0n; n < BigInt(WRITTEN); n++) {
    const iova = n * step * PAGE;
    device.dmaMap({ iova, size: PAGE, readable: true, writable: true, memory });
    await core.dmaSpace.write(Number(iova), new Uint8Array(1));
  }
  let pages = 0;
  const start = performance.now();
  for (let iova = 0n; iova < SPACE; iova += WINDOW) {
    bitmap.fill(0);
    await device.deviceFeature({ flags: GET | REPORT, value: { iova, length: WINDOW, pageSize: PAGE, bitmap } });
    for (let at = 0; at < words.length; at++) if (words[at] !== 0) pages += ones(words[at] ?? 0);
  }
  const ms = performance.now() - start;
  await device.deviceFeature({ flags: SET | STOP });
  await device.close();
  return { ms, pages };
}
