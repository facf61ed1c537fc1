import { VFIO_PCI_ROM_REGION_INDEX } from '@vfio/uapi';
import type { RegisterSpace } from '../pci/raw-function.js';
import type { VfioPciCoreDevice } from './core-device.js';

/** Offsets and values of the expansion ROM format (PCI Firmware Specification 3.3, 5.1). */
const ROM_SIGNATURE = 0xaa55;
const ROM_PCIR_POINTER = 0x18;
const PCIR_SIGNATURE = 0x52494350;
const PCIR_IMAGE_LENGTH = 0x10;
const PCIR_INDICATOR = 0x15;
const PCIR_LAST_IMAGE = 0x80;
const PCIR_SIZE = 0x18;
const IMAGE_UNIT = 512;

/** A ROM whose content makes sense. */
export interface OpenRom {
  readonly space: RegisterSpace;
  /** Bytes of the images; behind them all reads as ones. */
  readonly length: number;
}

/** Size of the ROM region: that of the BAR, or of firmware's copy rounded up to a power of two; 0: there is none. */
export function romSize(dev: VfioPciCoreDevice): number {
  const { resource } = dev.bars[VFIO_PCI_ROM_REGION_INDEX]!;
  if (resource === undefined) return 0;
  if (resource.shadowLength === undefined) return resource.size;
  let size = 1;
  while (size < resource.shadowLength) size *= 2;
  return resource.shadowLength === 0 ? 0 : size;
}

/** Reads the ROM's headers; undefined where it cannot be mapped or holds no image. */
export function openRom(dev: VfioPciCoreDevice): OpenRom | undefined {
  const slot = dev.bars[VFIO_PCI_ROM_REGION_INDEX]!;
  if (slot.resource === undefined) return undefined;
  if (slot.space === undefined) {
    try {
      slot.space = dev.raw.open(VFIO_PCI_ROM_REGION_INDEX);
    } catch {
      return undefined;
    }
  }
  const { space } = slot;
  const length = romLength(space, slot.resource.shadowLength ?? slot.resource.size);
  return length === 0 ? undefined : { space, length };
}

/** Sum of the images' lengths, up to the one that says it is the last: `pci_get_rom_size`. 0: no valid image. */
export function romLength(space: RegisterSpace, size: number): number {
  const limit = Math.min(size, space.size);
  let image = 0;
  for (;;) {
    if (image + ROM_PCIR_POINTER + 2 > limit || (space.read(image, 2) & 0xffff) !== ROM_SIGNATURE) break;
    const pointer = space.read(image + ROM_PCIR_POINTER, 2) & 0xffff;
    const pcir = image + pointer;
    // The structure must be aligned and inside the ROM: a pointer into nowhere is a fault on some machines.
    if ((pointer & 3) !== 0 || pcir + PCIR_SIZE > limit || space.read(pcir, 4) !== PCIR_SIGNATURE) break;
    const isLast = (space.read(pcir + PCIR_INDICATOR, 1) & PCIR_LAST_IMAGE) !== 0;
    const length = (space.read(pcir + PCIR_IMAGE_LENGTH, 2) & 0xffff) * IMAGE_UNIT;
    image += length;
    if (isLast || length === 0 || image >= limit) break;
  }
  return Math.min(image, limit);
}
