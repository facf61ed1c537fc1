import { isVfioError, type VfioDeviceClient } from '@vfio/core';
import {
  PCI_BASE_ADDRESS_0,
  PCI_CAP_ID_MSIX,
  PCI_CAPABILITY_LIST,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_MSIX_ENTRY_SIZE,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_QSIZE,
  PCI_MSIX_TABLE,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '@vfio/uapi';

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

/** Sets and clears bits of COMMAND. */
export async function setCommand(device: VfioDeviceClient, set: number, clear = 0): Promise<void> {
  await writeConfig(device, PCI_COMMAND, 2, ((await readConfig(device, PCI_COMMAND, 2)) & ~clear) | set);
}

/** Turns decoding of BARs on or off, as a guest's firmware does. */
export async function decode(device: VfioDeviceClient, on: boolean): Promise<void> {
  const bits = PCI_COMMAND_IO | PCI_COMMAND_MEMORY;
  await setCommand(device, on ? bits : 0, bits);
}

export async function busMaster(device: VfioDeviceClient, on: boolean): Promise<void> {
  await setCommand(device, on ? PCI_COMMAND_MASTER : 0, PCI_COMMAND_MASTER);
}

/** Offset of a capability in the chain that the device shows, or undefined. */
export async function findCapability(device: VfioDeviceClient, id: number): Promise<number | undefined> {
  for (const cap of await capabilities(device)) if (cap.id === id) return cap.offset;
  return undefined;
}

/** As many capabilities as there is room for behind the header. */
export const MAX_CAPABILITIES = 48;

/** The chain of capabilities; a chain that loops or leaves config space is cut after one more than there can be. */
export async function capabilities(device: VfioDeviceClient): Promise<{ id: number; offset: number }[]> {
  const found: { id: number; offset: number }[] = [];
  if (((await readConfig(device, PCI_STATUS, 2)) & PCI_STATUS_CAP_LIST) === 0) return found;
  let at = (await readConfig(device, PCI_CAPABILITY_LIST, 1)) & ~3;
  while (at !== 0 && found.length <= MAX_CAPABILITIES) {
    found.push({ id: await readConfig(device, at, 1), offset: at });
    at = (await readConfig(device, at + 1, 1)) & ~3;
  }
  return found;
}

/** As many extended capabilities as there is room for. */
export const MAX_EXTENDED = (4096 - 256) / 4;

/** The chain of extended capabilities, cut like {@link capabilities}; empty in a config space of 256 bytes. */
export async function extendedCapabilities(device: VfioDeviceClient): Promise<{ id: number; offset: number }[]> {
  const found: { id: number; offset: number }[] = [];
  const { size } = await device.getRegionInfo(VFIO_PCI_CONFIG_REGION_INDEX);
  for (let at = 0x100; at !== 0 && size > 0x100 && found.length <= MAX_EXTENDED; ) {
    const header = await readConfig(device, at, 4);
    if (header === 0) break;
    found.push({ id: header & 0xffff, offset: at });
    at = (header >>> 20) & ~3;
  }
  return found;
}

/** A BAR as config space shows it. */
export interface Bar {
  readonly index: number;
  readonly size: number;
  readonly io: boolean;
  readonly is64Bit: boolean;
}

/** BARs 0 to 5 that the device has. */
export async function bars(device: VfioDeviceClient): Promise<Bar[]> {
  const found: Bar[] = [];
  for (let index = 0; index < 6; index++) {
    const { size } = await device.getRegionInfo(index);
    if (size === 0) continue;
    const register = await readConfig(device, PCI_BASE_ADDRESS_0 + 4 * index, 4);
    const io = (register & 1) !== 0;
    found.push({ index, size, io, is64Bit: !io && (register & 6) === 4 });
  }
  return found;
}

/** Where the MSI-X table lies; undefined without one. */
export async function msixTable(device: VfioDeviceClient) {
  const at = await findCapability(device, PCI_CAP_ID_MSIX);
  if (at === undefined) return undefined;
  const place = await readConfig(device, at + PCI_MSIX_TABLE, 4);
  const vectors = ((await readConfig(device, at + PCI_MSIX_FLAGS, 2)) & PCI_MSIX_FLAGS_QSIZE) + 1;
  return { bar: place & 7, offset: place & ~7, size: vectors * PCI_MSIX_ENTRY_SIZE };
}

/** The errno of a call that may be refused; undefined where it was not. */
export async function refusal(call: Promise<unknown>): Promise<string | undefined> {
  try {
    await call;
    return undefined;
  } catch (error) {
    if (isVfioError(error)) return error.errno ?? 'no errno';
    throw error;
  }
}
