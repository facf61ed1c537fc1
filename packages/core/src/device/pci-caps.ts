import {
  PCI_CAP_LIST_NEXT,
  PCI_CAPABILITY_LIST,
  PCI_CFG_SPACE_SIZE,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
  pciExtCapId,
  pciExtCapNext,
} from '@vfio/uapi';
import type { RawConfigSpace } from '../pci/raw-function.js';

/** Longest lists that fit: entries of 4 bytes. A list that loops ends there. */
const MAX_CAPS = (PCI_CFG_SPACE_SIZE - PCI_STD_HEADER_SIZEOF) / 4;
const MAX_EXT_CAPS = (4096 - PCI_CFG_SPACE_SIZE) / 4;

/** Where hardware has the first capability of an id; 0: nowhere. */
export function findPciCap(config: RawConfigSpace, id: number): number {
  if ((config.read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST) === 0) return 0;
  let at = config.read(PCI_CAPABILITY_LIST, 1) & 0xfc;
  for (let i = 0; i < MAX_CAPS && at >= PCI_STD_HEADER_SIZEOF; i++) {
    const found = config.read(at, 1);
    if (found === 0xff) return 0;
    if (found === id) return at;
    at = config.read(at + PCI_CAP_LIST_NEXT, 1) & 0xfc;
  }
  return 0;
}

/** Where hardware has the first extended capability of an id; 0: nowhere. */
export function findPciExtCap(config: RawConfigSpace, id: number): number {
  if (config.size <= PCI_CFG_SPACE_SIZE) return 0;
  let at = PCI_CFG_SPACE_SIZE;
  for (let i = 0; i < MAX_EXT_CAPS && at >= PCI_CFG_SPACE_SIZE; i++) {
    const header = config.read(at, 4);
    if (header === 0 || header === -1) return 0;
    if (pciExtCapId(header) === id) return at;
    at = pciExtCapNext(header);
  }
  return 0;
}
