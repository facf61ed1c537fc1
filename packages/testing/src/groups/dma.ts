import type { DmaMapRequest } from '@vfio/core';
import { fails } from '../assert.js';
import type { RuleGroup } from '../contract.js';

const PAGE = 4096n;
const IOVA = 0x10000n;

/** A mapping that is reached by messages only, so that it fits every transport. */
const request = (iova: bigint, size: bigint): DmaMapRequest => ({
  iova,
  size,
  readable: true,
  writable: true,
  memory: undefined,
});

export const dma: RuleGroup = {
  group: 'DMA',
  rules: {
    'a range is mapped, taken away and mapped again': async (device) => {
      for (let n = 0; n < 3; n++) {
        await device.dmaMap(request(IOVA, 4n * PAGE));
        await device.dmaUnmap(IOVA, 4n * PAGE);
      }
    },
    'a map that overlaps another is refused with EEXIST, and the first one stands': async (device) => {
      await device.dmaMap(request(IOVA, 4n * PAGE));
      await fails(() => device.dmaMap(request(IOVA + PAGE, PAGE)), 'EEXIST', 'a map inside another');
      await fails(() => device.dmaMap(request(IOVA - PAGE, 2n * PAGE)), 'EEXIST', 'a map across the start of another');
      await device.dmaUnmap(IOVA, 4n * PAGE);
    },
    'what is not mapped cannot be unmapped: ENOENT': async (device) => {
      await fails(() => device.dmaUnmap(IOVA, PAGE), 'ENOENT', 'unmap of nothing');
      await device.dmaMap(request(IOVA, 2n * PAGE));
      await fails(() => device.dmaUnmap(IOVA, PAGE), 'ENOENT', 'unmap of a part');
      await device.dmaUnmap(IOVA, 2n * PAGE);
    },
    'a map of nothing, or past the end of the address space, is refused with EINVAL': async (device) => {
      await fails(() => device.dmaMap(request(IOVA, 0n)), 'EINVAL', 'a map of 0 bytes');
      await fails(
        () => device.dmaMap(request(2n ** 64n - PAGE, 2n * PAGE)),
        ['EINVAL', 'EOVERFLOW'],
        'a map that wraps',
      );
    },
    'the last page of the address space can be mapped': async (device) => {
      await device.dmaMap(request(2n ** 64n - PAGE, PAGE));
      await device.dmaUnmap(2n ** 64n - PAGE, PAGE);
    },
  },
};
