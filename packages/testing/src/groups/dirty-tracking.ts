import type { VfioDeviceClient } from '@vfio/core';
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
} from '@vfio/uapi';
import { busMaster, decode, refusal } from '../access.js';
import { check, equal, fails, notApplicable } from '../assert.js';
import type { Rule, RuleGroup } from '../contract.js';
import { random } from '../random.js';
import { workloadOf } from '../workload.js';

const PAGE = 4096n;
const IOVA = 0x10000n;
const PAGES = 8n;
const RANGE = { iova: IOVA, length: PAGES * PAGE };
/** A bit for each page of {@link RANGE}, in whole 64-bit words. */
const BITMAP_SIZE = 8;
/** Ranges that one call may name: as many as fit into a page (linux/vfio.h, a range has 16 bytes). */
const MAX_RANGES = 256;
const TOP = 2n ** 64n;

/** Memory that a load writes to, and how often it does. */
const LOAD = { iova: 0x400000n, length: 0x80000n };
const ROUNDS = 30;
/** Page sizes that a report is asked for, whatever is tracked. */
const REPORTED = [PAGE, 2n * PAGE, 16n * PAGE];

const START = VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_SET;
const STOP = VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP | VFIO_DEVICE_FEATURE_SET;
const REPORT = VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT | VFIO_DEVICE_FEATURE_GET;

type Range = typeof RANGE;

const startLog = (device: VfioDeviceClient, ranges: readonly Range[] = [RANGE], pageSize = PAGE) =>
  device.deviceFeature({ flags: START, value: { pageSize, ranges } });

const stopLog = (device: VfioDeviceClient) => device.deviceFeature({ flags: STOP });

const report = (device: VfioDeviceClient, bitmap: Uint8Array, more: Partial<Range & { pageSize: bigint }> = {}) =>
  device.deviceFeature({ flags: REPORT, value: { ...RANGE, pageSize: PAGE, bitmap, ...more } });

const LITTLE_ENDIAN = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

/** Numbers of the pages of a range that are dirty, after which they count as clean. */
async function dirtyPagesOf(device: VfioDeviceClient, range: Range, pageSize: bigint): Promise<number[]> {
  const count = Number(range.length / pageSize);
  const bitmap = new Uint8Array(Math.ceil(count / 64) * 8);
  await report(device, bitmap, { ...range, pageSize });
  const words = new DataView(bitmap.buffer);
  const pages: number[] = [];
  for (let page = 0; page < count; page++) {
    const word = words.getBigUint64(Math.floor(page / 64) * 8, LITTLE_ENDIAN);
    if ((word & (1n << BigInt(page % 64))) !== 0n) pages.push(page);
  }
  return pages;
}

const dirtyPages = async (device: VfioDeviceClient): Promise<string> =>
  (await dirtyPagesOf(device, RANGE, PAGE)).join(' ');

/** Numbers of the pages that ranges of {@link LOAD} touch. */
function pagesOf(ranges: readonly Range[], pageSize: bigint): Set<number> {
  const pages = new Set<number>();
  for (const { iova, length } of ranges)
    for (let at = (iova - LOAD.iova) / pageSize; at * pageSize < iova - LOAD.iova + length; at++) pages.add(Number(at));
  return pages;
}

/** Numbers of the pages in which a byte is not 0. */
function pagesWithBytes(bytes: Uint8Array, pageSize: bigint): number[] {
  const size = Number(pageSize);
  return Array.from({ length: bytes.length / size }, (_, page) => page).filter((page) =>
    bytes.subarray(page * size, (page + 1) * size).some((byte) => byte !== 0),
  );
}

/** A rule of devices that log. */
const whereLogged =
  (rule: Rule): Rule =>
  async (device, options) => {
    const flags = START | VFIO_DEVICE_FEATURE_PROBE;
    if ((await refusal(device.deviceFeature({ flags }))) !== undefined)
      notApplicable('the device does not log its DMA');
    await rule(device, options);
  };

export const dirtyTracking: RuleGroup = {
  group: 'dirty tracking',
  rules: {
    'what cannot be logged is refused': whereLogged(async (device) => {
      const many = Array.from({ length: MAX_RANGES + 1 }, (_, n) => ({ iova: IOVA + BigInt(n) * PAGE, length: PAGE }));
      for (const [ranges, errno, what] of [
        [[], 'EINVAL', 'no range'],
        [many, 'E2BIG', 'more ranges than fit'],
        [[{ iova: IOVA + 1n, length: PAGE }], 'EINVAL', 'a range that does not start at a page'],
        [[{ iova: IOVA, length: PAGE + 1n }], 'EINVAL', 'a range that does not end at a page'],
        [[{ iova: TOP - PAGE, length: 2n * PAGE }], 'EOVERFLOW', 'a range that wraps'],
        [[RANGE, { iova: IOVA + PAGE, length: PAGE }], 'EINVAL', 'ranges that overlap'],
      ] as const)
        await fails(() => startLog(device, ranges), errno, `logging ${what}`);
      await fails(() => report(device, new Uint8Array(BITMAP_SIZE)), 'EINVAL', 'a report after refused starts');
    }),
    'a second start is refused with EINVAL; stopping twice is not': whereLogged(async (device) => {
      await startLog(device);
      await fails(() => startLog(device), 'EINVAL', 'a second start');
      await stopLog(device);
      await stopLog(device);
      await startLog(device);
      await stopLog(device);
    }),
    'a report that cannot be is refused': whereLogged(async (device) => {
      const bitmap = new Uint8Array(BITMAP_SIZE);
      await fails(() => report(device, bitmap), 'EINVAL', 'a report while nothing is logged');
      await startLog(device);
      await fails(() => report(device, bitmap, { pageSize: PAGE / 2n }), 'EINVAL', 'pages of 2 KiB');
      await fails(() => report(device, bitmap, { pageSize: 3n * PAGE }), 'EINVAL', 'pages of 12 KiB');
      await fails(
        () => report(device, bitmap, { iova: TOP - PAGE, length: 2n * PAGE }),
        'EOVERFLOW',
        'a range that wraps',
      );
      await stopLog(device);
      await fails(() => report(device, bitmap), 'EINVAL', 'a report after the stop');
    }),
    'a report sets bits and clears none; of untouched memory it sets none': whereLogged(async (device) => {
      await startLog(device);
      equal(await dirtyPages(device), '', 'dirty pages of untouched memory');
      const bitmap = new Uint8Array(BITMAP_SIZE).fill(0x5a);
      await report(device, bitmap);
      equal(
        bitmap.every((byte) => byte === 0x5a),
        true,
        'the bits of the caller are as they were',
      );
      await stopLog(device);
    }),
    'the pages that the device writes are dirty, all of them and no other, until they are reported': whereLogged(
      async (device, { dma }) => {
        if (dma === undefined) notApplicable('the suite was not told how to make the device write to memory');
        await dma.map(device, IOVA, Number(RANGE.length));
        await decode(device, true);
        await busMaster(device, true);
        await dma.write(device, IOVA, Number(PAGE));
        await startLog(device);
        // From the middle of page 2 to the middle of page 4.
        await dma.write(device, IOVA + 2n * PAGE + PAGE / 2n, 2 * Number(PAGE));
        equal(await dirtyPages(device), '2 3 4', 'dirty pages');
        equal(await dirtyPages(device), '', 'dirty pages after they were reported');
        await dma.write(device, IOVA + 7n * PAGE, 1);
        equal(await dirtyPages(device), '7', 'dirty pages after another write');
        await stopLog(device);
      },
    ),
    'no page that the device writes under load is missed: the whole memory is compared with reports of each page size':
      whereLogged(async (device, options) => {
        const { map, run } = workloadOf(options);
        const bytes = await map(device, LOAD.iova, Number(LOAD.length));
        await decode(device, true);
        await busMaster(device, true);
        const next = random(23);
        await startLog(device, [LOAD]);
        for (let round = 0; round < ROUNDS; round++) {
          bytes.fill(0);
          const ranges = await run(device, { iova: LOAD.iova, bytes }, next);
          const pageSize = REPORTED[round % REPORTED.length] ?? PAGE;
          const changed = pagesWithBytes(bytes, pageSize);
          const written = pagesOf(ranges, pageSize);
          const untold = changed.filter((page) => !written.has(page));
          equal(
            untold.join(' '),
            '',
            `round ${round}: pages of ${pageSize} bytes that changed, unknown to the workload`,
          );
          const dirty = await dirtyPagesOf(device, LOAD, pageSize);
          // A page on which what was there is written again does not change, and is dirty.
          const missed = [...written].filter((page) => !dirty.includes(page));
          equal(missed.join(' '), '', `round ${round}: pages of ${pageSize} bytes that were written and are not dirty`);
        }
        await stopLog(device);
      }),
    'a report has pages of the size that it asks for, whatever is tracked': whereLogged(async (device, { dma }) => {
      if (dma === undefined) notApplicable('the suite was not told how to make the device write to memory');
      await dma.map(device, LOAD.iova, Number(LOAD.length));
      await decode(device, true);
      await busMaster(device, true);
      for (const tracked of [PAGE, 16n * PAGE]) {
        await startLog(device, [LOAD], tracked);
        for (const pageSize of REPORTED) {
          await dma.write(device, LOAD.iova + 20n * PAGE, 1);
          const dirty = await dirtyPagesOf(device, LOAD, pageSize);
          const wanted = Number((20n * PAGE) / pageSize);
          check(dirty.includes(wanted), `pages of ${pageSize} bytes, tracked by ${tracked}: ${wanted} is not dirty`);
          // No more than the page that is tracked.
          const [from, to] = [(20n * PAGE) / tracked, (20n * PAGE) / tracked + 1n].map((n) =>
            Number((n * tracked) / pageSize),
          );
          if (tracked >= pageSize)
            check(
              dirty.every((page) => page >= (from ?? 0) && page < (to ?? 0)),
              `pages of ${pageSize} bytes, tracked by ${tracked}: ${dirty.join(' ')} are dirty`,
            );
          else equal(dirty.join(' '), String(wanted), `pages of ${pageSize} bytes, tracked by ${tracked}`);
        }
        await stopLog(device);
      }
    }),
    'as many ranges as are allowed are logged': whereLogged(async (device) => {
      const ranges = Array.from({ length: MAX_RANGES }, (_, n) => ({
        iova: LOAD.iova + 2n * BigInt(n) * PAGE,
        length: PAGE,
      }));
      await startLog(device, ranges);
      await stopLog(device);
    }),
    'a device without a log says ENOTTY to start, stop and report': async (device) => {
      if ((await refusal(device.deviceFeature({ flags: START | VFIO_DEVICE_FEATURE_PROBE }))) === undefined)
        notApplicable('the device logs its DMA');
      await fails(() => startLog(device), 'ENOTTY', 'start');
      await fails(() => stopLog(device), 'ENOTTY', 'stop');
      await fails(() => report(device, new Uint8Array(BITMAP_SIZE)), 'ENOTTY', 'report');
    },
    'logging ends at close': whereLogged(async (device, { open }) => {
      await startLog(device);
      await device.close();
      const next = await open();
      try {
        await fails(() => report(next.device, new Uint8Array(BITMAP_SIZE)), 'EINVAL', 'a report to the next user');
        await startLog(next.device);
      } finally {
        await next.close();
      }
    }),
  },
};
