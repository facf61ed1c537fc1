import {
  errnoError,
  hex,
  PCI_CACHE_LINE_SIZE,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PCIX,
  PCI_CAP_ID_PM,
  PCI_CFG_SPACE_SIZE,
  PCI_CLASS_REVISION,
  PCI_COMMAND,
  PCI_DEVICE_ID,
  PCI_ERR_CAP,
  PCI_ERR_COR_MASK,
  PCI_ERR_UNCOR_MASK,
  PCI_ERR_UNCOR_SEVER,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL2,
  PCI_EXT_CAP_ID_ERR,
  PCI_HEADER_TYPE,
  PCI_LATENCY_TIMER,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_MASK_32,
  PCI_MSI_MASK_64,
  PCI_MSIX_PBA,
  PCI_MSIX_TABLE,
  PCI_PM_CTRL,
  PCI_STD_HEADER_SIZEOF,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
  PCI_X_CMD,
} from '@vfio/uapi';
import type { AccessWidth } from '../../pci/raw-function.js';

/** A virtual config space as one user left it. Plain bytes, as many of each as config space has. */
export interface SavedView {
  /** What the user reads. */
  readonly seen: Uint8Array;
  /** The virtual values. */
  readonly values: Uint8Array;
  /** Owner of each byte: which capabilities are shown, and where. */
  readonly owners: Uint8Array;
  /** Hardware's MSI control, which the virtual one does not show: SET_IRQS enables MSI, and the user's writes change it. */
  readonly msiControl: number;
}

interface Register {
  readonly offset: number;
  readonly width: AccessWidth;
}

/** Where the capability of an owner begins; -1 where none is shown. */
function startOf(owners: Uint8Array, owner: number, from: number, to: number): number {
  const at = owners.subarray(from, to).indexOf(owner);
  return at < 0 ? -1 : from + at;
}

const standard = (owners: Uint8Array, id: number): number =>
  startOf(owners, id, PCI_STD_HEADER_SIZEOF, PCI_CFG_SPACE_SIZE);

/** Registers in which a user's writes reach hardware, in the order in which they are to be set. Not among them: what acts when
 * it is written (BIST, status bits, resets), and what only the device's own driver knows. */
export function userRegisters({ owners, values }: SavedView): Register[] {
  const found: Register[] = [];
  const add = (start: number, offset: number, width: AccessWidth): void => {
    // Cut short by a hostile list, it is not all there.
    const owner = owners[start];
    if (start < 0 || owners.subarray(start + offset, start + offset + width).some((other) => other !== owner)) return;
    if (start + offset + width <= owners.length) found.push({ offset: start + offset, width });
  };
  add(0, PCI_CACHE_LINE_SIZE, 1);
  add(0, PCI_LATENCY_TIMER, 1);
  const express = standard(owners, PCI_CAP_ID_EXP);
  add(express, PCI_EXP_DEVCTL, 2);
  add(express, PCI_EXP_DEVCTL2, 2);
  add(standard(owners, PCI_CAP_ID_PCIX), PCI_X_CMD, 2);
  const err = startOf(owners, PCI_EXT_CAP_ID_ERR, PCI_CFG_SPACE_SIZE, owners.length);
  for (const register of [PCI_ERR_UNCOR_MASK, PCI_ERR_UNCOR_SEVER, PCI_ERR_COR_MASK, PCI_ERR_CAP]) {
    add(err, register, 4);
  }
  const msi = standard(owners, PCI_CAP_ID_MSI);
  const flags = values[msi + PCI_MSI_FLAGS] ?? 0;
  if ((flags & PCI_MSI_FLAGS_MASKBIT) !== 0) {
    add(msi, (flags & PCI_MSI_FLAGS_64BIT) !== 0 ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32, 4);
  }
  add(0, PCI_COMMAND, 2);
  add(standard(owners, PCI_CAP_ID_PM), PCI_PM_CTRL, 2);
  return found;
}

/** Of the header: which function it is, and how its registers are laid out. */
const IDENTITY: readonly Register[] = [
  { offset: PCI_VENDOR_ID, width: 2 },
  { offset: PCI_DEVICE_ID, width: 2 },
  { offset: PCI_CLASS_REVISION, width: 4 },
  { offset: PCI_HEADER_TYPE, width: 1 },
  { offset: PCI_SUBSYSTEM_VENDOR_ID, width: 4 },
];

/**
 * A user who looked once must not find another function: ids, class, the capabilities and their places, where the MSI-X
 * tables are.
 * @throws EINVAL
 */
export function checkSameView(mine: SavedView, other: SavedView, device: string): void {
  const refuse = (why: string) =>
    errnoError('EINVAL', `the config space of another function: ${why}`, { op: 'restore', device });
  for (const name of ['seen', 'values', 'owners'] as const) {
    if (other[name].length === mine[name].length) continue;
    throw refuse(`${name} has ${hex(other[name].length)} bytes, ${hex(mine[name].length)} are here`);
  }
  const at = mine.owners.findIndex((owner, offset) => owner !== other.owners[offset]);
  if (at >= 0) {
    throw refuse(`capability ${hex(other.owners[at]!)} at ${hex(at)}, where this one has ${hex(mine.owners[at]!)}`);
  }
  const msix = standard(mine.owners, PCI_CAP_ID_MSIX);
  const tables: readonly Register[] =
    msix < 0
      ? []
      : [
          { offset: msix + PCI_MSIX_TABLE, width: 4 },
          { offset: msix + PCI_MSIX_PBA, width: 4 },
        ];
  for (const { offset, width } of [...IDENTITY, ...tables]) {
    for (let byte = offset; byte < offset + width; byte++) {
      if (mine.seen[byte] === other.seen[byte]) continue;
      throw refuse(`byte ${hex(byte)} is ${hex(other.seen[byte]!)} there and ${hex(mine.seen[byte]!)} here`);
    }
  }
}
