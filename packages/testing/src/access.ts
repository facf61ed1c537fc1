import type { VfioDeviceClient } from '@vfio/core';
import { PCI_COMMAND, PCI_COMMAND_IO, PCI_COMMAND_MEMORY, VFIO_PCI_CONFIG_REGION_INDEX } from '@vfio/uapi';

export async function readBytes(
  device: VfioDeviceClient,
  region: number,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await device.read(region, offset, bytes);
  return bytes;
}

const value = (bytes: Uint8Array): number => bytes.reduceRight((sum, byte) => sum * 256 + byte, 0);

/** A little-endian register of config space. */
export async function readConfig(device: VfioDeviceClient, offset: number, width: 1 | 2 | 4): Promise<number> {
  return value(await readBytes(device, VFIO_PCI_CONFIG_REGION_INDEX, offset, width));
}

export async function writeConfig(
  device: VfioDeviceClient,
  offset: number,
  width: 1 | 2 | 4,
  register: number,
): Promise<void> {
  const bytes = Uint8Array.from({ length: width }, (_, at) => (register >>> (8 * at)) & 0xff);
  await device.write(VFIO_PCI_CONFIG_REGION_INDEX, offset, bytes);
}

/** Turns decoding of BARs on or off, as a guest's firmware does. */
export async function decode(device: VfioDeviceClient, on: boolean): Promise<void> {
  const command = await readConfig(device, PCI_COMMAND, 2);
  const bits = PCI_COMMAND_IO | PCI_COMMAND_MEMORY;
  await writeConfig(device, PCI_COMMAND, 2, on ? command | bits : command & ~bits);
}

/** Offset of a capability in the chain that the device shows, or undefined. */
export async function findCapability(device: VfioDeviceClient, id: number): Promise<number | undefined> {
  for (const cap of await capabilities(device)) if (cap.id === id) return cap.offset;
  return undefined;
}

/** The chain of capabilities; a chain that loops or leaves config space is cut after as many as there can be. */
export async function capabilities(device: VfioDeviceClient): Promise<{ id: number; offset: number }[]> {
  const found: { id: number; offset: number }[] = [];
  if (((await readConfig(device, 0x06, 2)) & 0x10) === 0) return found;
  for (let at = (await readConfig(device, 0x34, 1)) & ~3; at >= 0x40 && found.length <= 48; ) {
    found.push({ id: await readConfig(device, at, 1), offset: at });
    at = (await readConfig(device, at + 1, 1)) & ~3;
  }
  return found;
}

/** BAR 0 to 5 that the device has, with its kind as config space shows it. */
export async function bars(device: VfioDeviceClient): Promise<{ index: number; size: number; io: boolean }[]> {
  const found: { index: number; size: number; io: boolean }[] = [];
  for (let index = 0; index < 6; index++) {
    const { size } = await device.getRegionInfo(index);
    if (size === 0) continue;
    found.push({ index, size, io: ((await readConfig(device, 0x10 + 4 * index, 4)) & 1) !== 0 });
  }
  return found;
}
