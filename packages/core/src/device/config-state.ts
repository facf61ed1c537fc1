import {
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PCIX,
  PCI_COMMAND,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL2,
  PCI_EXP_FLAGS,
  PCI_EXP_FLAGS_SLOT,
  PCI_EXP_FLAGS_TYPE,
  PCI_EXP_FLAGS_VERS,
  PCI_EXP_LNKCTL,
  PCI_EXP_LNKCTL2,
  PCI_EXP_SLTCTL,
  PCI_EXP_SLTCTL2,
  PCI_EXP_TYPE_RC_END,
  PCI_EXT_CAP_ID_ATS,
  PCI_EXT_CAP_ID_LTR,
  PCI_EXT_CAP_ID_SRIOV,
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_DATA_32,
  PCI_MSI_DATA_64,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_MASK_32,
  PCI_MSI_MASK_64,
  PCI_MSIX_FLAGS,
} from '@vfio/uapi';
import type { AccessWidth, RawConfigSpace } from '../pci/raw-function.js';
import { findPciCap, findPciExtCap } from './pci-caps.js';

/** Offsets in the SR-IOV capability (PCIe Base 6.0, 9.3.3). */
const SRIOV_CTRL = 0x08;
const SRIOV_NUM_VF = 0x10;
const SRIOV_SYS_PGSIZE = 0x20;
const SRIOV_BAR = 0x24;
/** Offset in the ATS capability. */
const ATS_CTRL = 0x06;
/** Offsets in the LTR capability. */
const LTR_MAX_SNOOP = 0x04;
/** Offset in the PCI-X capability. */
const PCIX_CMD = 0x02;

interface SavedRegister {
  readonly offset: number;
  readonly width: AccessWidth;
  readonly value: number;
}

/** What `pci_save_state` keeps of a function: what a reset or D3hot loses and software had set. */
export interface SavedState {
  /** Written back in this order. */
  readonly registers: readonly SavedRegister[];
  /** MSI and MSI-X; written back only where the capability is in use. */
  readonly interrupts: readonly SavedRegister[];
}

/** Reads the state of a function: header, PCIe and PCI-X control, LTR, ATS, SR-IOV, MSI. */
export function saveConfigState(config: RawConfigSpace): SavedState {
  const registers: SavedRegister[] = [];
  const add = (offset: number, width: AccessWidth) => {
    if (offset + width <= config.size) registers.push({ offset, width, value: config.read(offset, width) });
  };
  const exp = findPciCap(config, PCI_CAP_ID_EXP);
  if (exp !== 0) {
    const flags = config.read(exp + PCI_EXP_FLAGS, 2);
    const hasLink = (flags & PCI_EXP_FLAGS_TYPE) >> 4 !== PCI_EXP_TYPE_RC_END;
    const hasSlot = (flags & PCI_EXP_FLAGS_SLOT) !== 0;
    add(exp + PCI_EXP_DEVCTL, 2);
    if (hasLink) add(exp + PCI_EXP_LNKCTL, 2);
    if (hasSlot) add(exp + PCI_EXP_SLTCTL, 2);
    if ((flags & PCI_EXP_FLAGS_VERS) >= 2) {
      add(exp + PCI_EXP_DEVCTL2, 2);
      if (hasLink) add(exp + PCI_EXP_LNKCTL2, 2);
      if (hasSlot) add(exp + PCI_EXP_SLTCTL2, 2);
    }
  }
  const ltr = findPciExtCap(config, PCI_EXT_CAP_ID_LTR);
  if (ltr !== 0) add(ltr + LTR_MAX_SNOOP, 4);
  const ats = findPciExtCap(config, PCI_EXT_CAP_ID_ATS);
  if (ats !== 0) add(ats + ATS_CTRL, 2);
  // The header backwards, COMMAND last: decoding starts when the addresses are there. STATUS is never written, its bits clear by 1.
  for (let offset = 0x3c; offset >= 0x0c; offset -= 4) add(offset, 4);
  add(PCI_COMMAND, 2);
  const pcix = findPciCap(config, PCI_CAP_ID_PCIX);
  if (pcix !== 0) add(pcix + PCIX_CMD, 2);
  const sriov = findPciExtCap(config, PCI_EXT_CAP_ID_SRIOV);
  if (sriov !== 0) {
    for (let bar = 0; bar < 6; bar++) add(sriov + SRIOV_BAR + bar * 4, 4);
    add(sriov + SRIOV_SYS_PGSIZE, 4);
    add(sriov + SRIOV_NUM_VF, 2);
    add(sriov + SRIOV_CTRL, 2);
  }
  return { registers, interrupts: saveInterrupts(config) };
}

function saveInterrupts(config: RawConfigSpace): SavedRegister[] {
  const saved: SavedRegister[] = [];
  const add = (offset: number, width: AccessWidth) => {
    if (offset + width <= config.size) saved.push({ offset, width, value: config.read(offset, width) });
  };
  const msi = findPciCap(config, PCI_CAP_ID_MSI);
  if (msi !== 0) {
    const flags = config.read(msi + PCI_MSI_FLAGS, 2);
    const is64Bit = (flags & PCI_MSI_FLAGS_64BIT) !== 0;
    add(msi + PCI_MSI_ADDRESS_LO, 4);
    if (is64Bit) add(msi + PCI_MSI_ADDRESS_HI, 4);
    add(msi + (is64Bit ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 2);
    if ((flags & PCI_MSI_FLAGS_MASKBIT) !== 0) add(msi + (is64Bit ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32), 4);
    add(msi + PCI_MSI_FLAGS, 2);
  }
  const msix = findPciCap(config, PCI_CAP_ID_MSIX);
  if (msix !== 0) add(msix + PCI_MSIX_FLAGS, 2);
  return saved;
}

/** Writes a state back: registers that differ, and interrupts only `withInterrupts`. */
export function restoreConfigState(config: RawConfigSpace, state: SavedState, withInterrupts: boolean): void {
  for (const { offset, width, value } of state.registers) {
    if (config.read(offset, width) !== value) config.write(offset, width, value);
  }
  if (!withInterrupts) return;
  for (const { offset, width, value } of state.interrupts) {
    if (config.read(offset, width) !== value) config.write(offset, width, value);
  }
}
