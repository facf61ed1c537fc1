import {
  PCI_CAPABILITY_LIST,
  PCI_CFG_SPACE_EXP_SIZE,
  PCI_CFG_SPACE_SIZE,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
  pciExtCapId,
  pciExtCapNext,
} from '@vfio/uapi';
import type { RawConfigSpace } from '../../pci/raw-function.js';

/** As many as fit between the header and 0x100, one a dword. */
export const STANDARD_STEPS = (PCI_CFG_SPACE_SIZE - PCI_STD_HEADER_SIZEOF) / 4;
/** As many as fit in extended space, with the 8 bytes that the smallest takes. */
const EXTENDED_STEPS = (PCI_CFG_SPACE_EXP_SIZE - PCI_CFG_SPACE_SIZE) / 8;

/**
 * Position of the first capability with this id in hardware's list, 0 where there is none. As the kernel's
 * `pci_find_capability` reads the list: links are rounded down to dwords, and one into the header ends it.
 */
export function findCapability(config: RawConfigSpace, id: number): number {
  if ((config.read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST) === 0) return 0;
  let position = config.read(PCI_CAPABILITY_LIST, 1);
  for (let step = 0; step < STANDARD_STEPS && position >= PCI_STD_HEADER_SIZEOF; step++) {
    position &= ~3;
    const header = config.read(position, 2);
    const found = header & 0xff;
    if (found === 0xff) return 0;
    if (found === id) return position;
    position = header >> 8;
  }
  return 0;
}

/** Position of the first extended capability with this id in hardware's list, 0 where there is none. */
export function findExtCapability(config: RawConfigSpace, id: number): number {
  if (config.size <= PCI_CFG_SPACE_SIZE) return 0;
  let position = PCI_CFG_SPACE_SIZE;
  for (let step = 0; step < EXTENDED_STEPS && position >= PCI_CFG_SPACE_SIZE; step++) {
    const header = config.read(position, 4);
    // Nothing there, or nobody answers.
    if (header === 0 || header === -1) return 0;
    if (pciExtCapId(header) === id) return position;
    position = pciExtCapNext(header);
  }
  return 0;
}
