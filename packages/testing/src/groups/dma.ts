import type { DmaMapRequest, VfioDeviceClient } from '@vfio/core';
import { busMaster, decode } from '../access.js';
import { check, equal, fails, notApplicable, sameBytes } from '../assert.js';
import type { ContractOptions, DeviceDma, RuleGroup } from '../contract.js';

const PAGE = 4096n;
const IOVA = 0x10000n;
const TOP = 2n ** 64n;
/** More than any limit that a device may have by oversight. */
const MANY = 64;

/** A mapping that is reached by messages only, so that it fits every transport. */
const request = (iova: bigint, size: bigint, more: Partial<DmaMapRequest> = {}): DmaMapRequest => ({
  iova,
  size,
  readable: true,
  writable: true,
  memory: undefined,
  ...more,
});

/** Pages that the device writes to, with one in front and one behind that it must leave alone. */
const PAGES = 5;
const FIRST = 1;
const LENGTH = 2 * Number(PAGE);

/** A rule that sees what DMA does to memory. */
const withMemory =
  (rule: (device: VfioDeviceClient, memory: Uint8Array, dma: DeviceDma) => Promise<void>) =>
  async (device: VfioDeviceClient, { dma }: ContractOptions) => {
    if (dma === undefined) notApplicable('the suite was not told how to make the device write to memory');
    const memory = await dma.map(device, IOVA, PAGES * Number(PAGE));
    await decode(device, true);
    await busMaster(device, true);
    await rule(device, memory, dma);
  };

const TARGET = IOVA + BigInt(FIRST) * PAGE;
const start = FIRST * Number(PAGE);

export const dma: RuleGroup = {
  group: 'DMA',
  rules: {
    'a range is mapped, taken away and mapped again': async (device) => {
      for (let n = 0; n < 3; n++) {
        await device.dmaMap(request(IOVA, 4n * PAGE));
        await device.dmaUnmap(IOVA, 4n * PAGE);
      }
    },
    'many ranges are mapped beside each other': async (device) => {
      for (let n = 0n; n < MANY; n++) await device.dmaMap(request(IOVA + n * PAGE, PAGE));
      for (let n = 0n; n < MANY; n++) await device.dmaUnmap(IOVA + n * PAGE, PAGE);
    },
    'a map that overlaps another is refused with EEXIST, and the first one stands': async (device) => {
      await device.dmaMap(request(IOVA, 4n * PAGE));
      for (const [iova, size, what] of [
        [IOVA + PAGE, PAGE, 'inside another'],
        [IOVA - PAGE, 2n * PAGE, 'across the start of another'],
        [IOVA + 3n * PAGE, 2n * PAGE, 'across the end of another'],
        [IOVA - PAGE, 6n * PAGE, 'around another'],
      ] as const)
        await fails(() => device.dmaMap(request(iova, size)), 'EEXIST', `a map ${what}`);
      await device.dmaUnmap(IOVA, 4n * PAGE);
    },
    'what is not mapped cannot be unmapped: ENOENT': async (device) => {
      await fails(() => device.dmaUnmap(IOVA, PAGE), 'ENOENT', 'unmap of nothing');
      await device.dmaMap(request(IOVA, 2n * PAGE));
      await fails(() => device.dmaUnmap(IOVA, PAGE), 'ENOENT', 'unmap of a part');
      await device.dmaUnmap(IOVA, 2n * PAGE);
      await fails(() => device.dmaUnmap(IOVA, 2n * PAGE), 'ENOENT', 'unmap of what is unmapped');
    },
    'a map of nothing, without access, or past the end of the address space, is refused with EINVAL': async (
      device,
    ) => {
      await fails(() => device.dmaMap(request(IOVA, 0n)), 'EINVAL', 'a map of 0 bytes');
      const without = request(IOVA, PAGE, { readable: false, writable: false });
      await fails(() => device.dmaMap(without), 'EINVAL', 'a map without access');
      await fails(() => device.dmaMap(request(TOP - PAGE, 2n * PAGE)), ['EINVAL', 'EOVERFLOW'], 'a map that wraps');
    },
    'the last page of the address space can be mapped': async (device) => {
      await device.dmaMap(request(TOP - PAGE, PAGE));
      await device.dmaUnmap(TOP - PAGE, PAGE);
    },
    'memory is let go of once: when it is unmapped, and when its map is refused': async (device) => {
      let releases = 0;
      const counted = (size: bigint) => request(IOVA, size, { release: () => void releases++ });
      await device.dmaMap(counted(PAGE));
      equal(releases, 0, 'releases while it is mapped');
      await fails(() => device.dmaMap(counted(2n * PAGE)), 'EEXIST', 'a map over it');
      equal(releases, 1, 'releases after the refused map');
      await device.dmaUnmap(IOVA, PAGE);
      equal(releases, 2, 'releases after the unmap');
    },
    'what the device writes arrives, and nothing beside it changes': withMemory(async (device, memory, { write }) => {
      await write(device, TARGET, LENGTH);
      const written = memory.subarray(start, start + LENGTH);
      check(!written.includes(0), `${written.filter((byte) => byte === 0).length} of ${LENGTH} bytes did not arrive`);
      check(
        memory.every((byte, at) => (at >= start && at < start + LENGTH) || byte === 0),
        'bytes beside those written changed',
      );
    }),
    'nothing is written while bus mastering is off': withMemory(async (device, memory, { write }) => {
      await busMaster(device, false);
      await write(device, TARGET, LENGTH);
      sameBytes(memory, new Uint8Array(memory.length), 'memory');
    }),
    'nothing is written to memory that was unmapped, and the range can be mapped again': withMemory(
      async (device, memory, { write }) => {
        const size = BigInt(PAGES) * PAGE;
        await device.dmaUnmap(IOVA, size);
        await write(device, TARGET, LENGTH);
        // Shared memory may be out of sight with its mapping; it has no bytes then.
        if (memory.length > 0) sameBytes(memory, new Uint8Array(memory.length), 'memory');
        await device.dmaMap(request(IOVA, size));
        await device.dmaUnmap(IOVA, size);
      },
    ),
  },
};
