import type { VfioDeviceClient } from '@vfio/core';
import { EDU } from '@vfio/emulated';
import { PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY, VFIO_PCI_CONFIG_REGION_INDEX } from '@vfio/uapi';

/** A 32-bit register. */
export async function read32(device: VfioDeviceClient, region: number, offset: number): Promise<number> {
  const data = new Uint8Array(4);
  const done = await device.read(region, offset, data);
  if (done !== 4) throw new Error(`${done} bytes of a register`);
  return new DataView(data.buffer).getUint32(0, true);
}

/** A little-endian value. */
export function le(value: number | bigint, width: 2 | 4 | 8): Uint8Array {
  const data = new Uint8Array(8);
  new DataView(data.buffer).setBigUint64(0, BigInt(value), true);
  return data.subarray(0, width);
}

/** Turns memory decode and bus mastering on, as a driver does. */
export async function enable(device: VfioDeviceClient): Promise<void> {
  await device.write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, le(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2));
}

/** One transfer of edu's DMA engine, waited for. */
export async function dma(
  device: VfioDeviceClient,
  from: bigint,
  to: bigint,
  count: number,
  command: number,
): Promise<void> {
  await device.write(0, EDU.DMA_SOURCE, le(from, 8));
  await device.write(0, EDU.DMA_DESTINATION, le(to, 8));
  await device.write(0, EDU.DMA_COUNT, le(count, 8));
  await device.write(0, EDU.DMA_COMMAND, le(EDU.DMA_START | command, 8));
  while (((await read32(device, 0, EDU.DMA_COMMAND)) & EDU.DMA_START) !== 0);
}
