import { PCI_ROM_ADDRESS, PCI_ROM_ADDRESS_ENABLE, PCI_ROM_ADDRESS_MASK, VFIO_PCI_ROM_REGION_INDEX } from '@vfio/uapi';
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

/**
 * Size of the ROM region: that of the BAR, or without one that of firmware's copy rounded up to a power of two; 0: there is
 * none.
 */
export function romSize(dev: VfioPciCoreDevice): number {
  const { resource } = dev.bars[VFIO_PCI_ROM_REGION_INDEX]!;
  if (resource === undefined) return 0;
  if (resource.start !== 0) return resource.size;
  const length = resource.shadowLength ?? 0;
  if (length === 0) return 0;
  let size = 1;
  while (size < length) size *= 2;
  return size;
}

/**
 * Runs `work` on the ROM, whose decoder is on meanwhile; undefined where it cannot be mapped or holds no valid image.
 * `length` are the bytes of its images. Firmware's copy is memory, all of it, and was checked when it was made.
 */
export function withRom<T>(dev: VfioPciCoreDevice, work: (space: RegisterSpace, length: number) => T): T | undefined {
  const { raw } = dev;
  const { resource } = dev.bars[VFIO_PCI_ROM_REGION_INDEX]!;
  if (resource === undefined) return undefined;
  let space: RegisterSpace;
  try {
    space = raw.open(VFIO_PCI_ROM_REGION_INDEX);
  } catch {
    return undefined;
  }
  if (resource.start === 0) return work(space, resource.shadowLength ?? 0);
  const { config } = raw;
  const register = config.read(PCI_ROM_ADDRESS, 4);
  // Only while it is read: on some devices the ROM's decoder shares its gates with a BAR's.
  config.write(PCI_ROM_ADDRESS, 4, (register & ~PCI_ROM_ADDRESS_MASK) | resource.start | PCI_ROM_ADDRESS_ENABLE);
  try {
    const length = romLength(space, resource.size);
    return length === 0 ? undefined : work(space, length);
  } finally {
    config.write(PCI_ROM_ADDRESS, 4, register);
  }
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
