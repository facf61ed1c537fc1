import type { VfioDeviceClient } from '@vfio/core';

/** A 32-bit register of BAR 0, little-endian. */
export async function read32(device: VfioDeviceClient, offset: number): Promise<number> {
  const bytes = new Uint8Array(4);
  await device.read(0, offset, bytes);
  return new DataView(bytes.buffer).getUint32(0, true);
}

export async function write32(device: VfioDeviceClient, offset: number, value: number): Promise<void> {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  await device.write(0, offset, bytes);
}
