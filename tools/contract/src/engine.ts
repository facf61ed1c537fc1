import type { VfioDeviceClient } from '@vfio/core';
import { CONNECTX_ENGINE as ENGINE } from '@vfio/emulated';
import { read32, write32 } from './registers.js';

export const readEngine = (device: VfioDeviceClient, register: number): Promise<number> =>
  read32(device, ENGINE.BASE + register);

export const writeEngine = (device: VfioDeviceClient, register: number, value: number): Promise<void> =>
  write32(device, ENGINE.BASE + register, value);

/** Has a ConnectX function's engine work on a ring of `1 << logSize` descriptors. */
export async function startEngine(
  device: VfioDeviceClient,
  ring: { readonly iova: bigint; readonly logSize: number; readonly vector: number },
): Promise<void> {
  await writeEngine(device, ENGINE.CONTROL, 0);
  await writeEngine(device, ENGINE.RING_LOW, Number(ring.iova & 0xffffffffn));
  await writeEngine(device, ENGINE.RING_HIGH, Number(ring.iova >> 32n));
  await writeEngine(device, ENGINE.RING_LOG_SIZE, ring.logSize);
  await writeEngine(device, ENGINE.VECTOR, ring.vector);
  await writeEngine(device, ENGINE.CONTROL, ENGINE.CONTROL_ENABLE);
}

/** Writes a descriptor that copies memory, at the offset of its slot; it signals where it is the last of several. */
export function putCopy(
  view: DataView,
  at: number,
  copy: { readonly from: bigint; readonly to: bigint; readonly length: number; readonly isLast: boolean },
): void {
  view.setUint32(at, (ENGINE.COPY | (copy.isLast ? ENGINE.INTERRUPT : 0)) >>> 0, true);
  view.setUint32(at + 4, copy.length, true);
  view.setBigUint64(at + 8, copy.from, true);
  view.setBigUint64(at + 16, copy.to, true);
}
