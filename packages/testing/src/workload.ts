import { notApplicable } from './assert.js';
import type { ContractOptions, DeviceDma, DeviceWorkload } from './contract.js';

const MAX_LENGTH = 10_000;

/** The load that the suite was told of, or a write somewhere by what it knows of the device's DMA. */
export function workloadOf({ workload, dma }: ContractOptions): DeviceWorkload {
  if (workload !== undefined) return workload;
  if (dma === undefined) notApplicable('the suite was not told how to make the device write to memory');
  return ofDma(dma);
}

const ofDma = ({ map, write, interrupt }: DeviceDma): DeviceWorkload => ({
  map,
  ...(interrupt === undefined ? {} : { interrupt }),
  async run(device, { iova, bytes }, random) {
    const at = Math.floor(random() * bytes.length);
    const length = Math.min(1 + Math.floor(random() * MAX_LENGTH), bytes.length - at);
    await write(device, iova + BigInt(at), length);
    return [{ iova: iova + BigInt(at), length: BigInt(length) }];
  },
});
