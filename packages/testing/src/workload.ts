import { notApplicable } from './assert.js';
import type { ContractOptions, DeviceDma, DeviceWorkload } from './contract.js';

const WRITES = 6;
const MAX_LENGTH = 10_000;

/** The load that the suite was told of, or writes here and there by what it knows of the device's DMA. */
export function workloadOf({ workload, dma }: ContractOptions): DeviceWorkload {
  if (workload !== undefined) return workload;
  if (dma === undefined) notApplicable('the suite was not told how to make the device write to memory');
  return ofDma(dma);
}

const ofDma = ({ map, write }: DeviceDma): DeviceWorkload => ({
  map,
  async run(device, { iova, bytes }, random) {
    const ranges = [];
    for (let n = 0; n < WRITES; n++) {
      const at = Math.floor(random() * bytes.length);
      const length = Math.min(1 + Math.floor(random() * MAX_LENGTH), bytes.length - at);
      await write(device, iova + BigInt(at), length);
      ranges.push({ iova: iova + BigInt(at), length: BigInt(length) });
    }
    return ranges;
  },
});
