import {
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PCIX,
  PCI_CFG_SPACE_SIZE,
  PCI_COMMAND,
  PCI_ERR_CAP,
  PCI_ERR_COR_MASK,
  PCI_ERR_UNCOR_MASK,
  PCI_ERR_UNCOR_SEVER,
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
  PCI_EXT_CAP_ID_ERR,
  PCI_EXT_CAP_ID_LTR,
  PCI_EXT_CAP_ID_REBAR,
  PCI_EXT_CAP_ID_SRIOV,
  PCI_LTR_MAX_SNOOP_LAT,
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
  PCI_REBAR_CTRL,
  PCI_REBAR_CTRL_NBAR_MASK,
  PCI_REBAR_CTRL_NBAR_SHIFT,
  PCI_SRIOV_BAR,
  PCI_SRIOV_CTRL,
  PCI_SRIOV_NUM_VF,
  PCI_SRIOV_SYS_PGSIZE,
  PCI_X_CMD,
} from '@vfio/uapi';
import type { AccessWidth, RawConfigSpace } from '../../pci/raw-function.js';
import { findPciCap, findPciExtCap } from '../pci-caps.js';

/** Offset in the ATS capability. */
const ATS_CTRL = 0x06;
/** A resizable BAR's pair of capability and control. */
const REBAR_STRIDE = 8;

interface SavedRegister {
  readonly offset: number;
  readonly width: AccessWidth;
  readonly value: number;
}

/** What `pci_save_state` keeps of a function: what a reset or D3hot loses and software had set. Immutable. */
export interface SavedState {
  /** Written back in this order. */
  readonly registers: readonly SavedRegister[];
  /** SR-IOV. Written back last: when virtual functions appear, the physical one answers. */
  readonly sriov: readonly SavedRegister[];
  /** MSI and MSI-X; written back only where the capability is in use. */
  readonly interrupts: readonly SavedRegister[];
}

class Collector {
  readonly list: SavedRegister[] = [];
  readonly #config: RawConfigSpace;

  constructor(config: RawConfigSpace) {
    this.#config = config;
  }

  /** Registers of a standard capability that a hostile list put too near the end do not exist. */
  standard(offset: number, width: AccessWidth): void {
    if (offset + width <= PCI_CFG_SPACE_SIZE) this.#add(offset, width);
  }

  extended(offset: number, width: AccessWidth): void {
    if (offset + width <= this.#config.size) this.#add(offset, width);
  }

  #add(offset: number, width: AccessWidth): void {
    this.list.push({ offset, width, value: this.#config.read(offset, width) });
  }
}

function collectExpress(config: RawConfigSpace, into: Collector): void {
  const express = findPciCap(config, PCI_CAP_ID_EXP);
  if (express === 0) return;
  const flags = config.read(express + PCI_EXP_FLAGS, 2);
  const hasLink = (flags & PCI_EXP_FLAGS_TYPE) >> 4 !== PCI_EXP_TYPE_RC_END;
  const hasSlot = (flags & PCI_EXP_FLAGS_SLOT) !== 0;
  into.standard(express + PCI_EXP_DEVCTL, 2);
  if (hasLink) into.standard(express + PCI_EXP_LNKCTL, 2);
  if (hasSlot) into.standard(express + PCI_EXP_SLTCTL, 2);
  if ((flags & PCI_EXP_FLAGS_VERS) < 2) return;
  into.standard(express + PCI_EXP_DEVCTL2, 2);
  if (hasLink) into.standard(express + PCI_EXP_LNKCTL2, 2);
  if (hasSlot) into.standard(express + PCI_EXP_SLTCTL2, 2);
}

/** The sizes of BARs, which have to be right before their addresses are. */
function collectBarSizes(config: RawConfigSpace, into: Collector): void {
  const rebar = findPciExtCap(config, PCI_EXT_CAP_ID_REBAR);
  if (rebar === 0 || rebar + PCI_REBAR_CTRL >= config.size) return;
  const bars = (config.read(rebar + PCI_REBAR_CTRL, 4) & PCI_REBAR_CTRL_NBAR_MASK) >> PCI_REBAR_CTRL_NBAR_SHIFT;
  for (let i = 0; i < bars; i++) into.extended(rebar + PCI_REBAR_CTRL + REBAR_STRIDE * i, 4);
}

function collectErrorReporting(config: RawConfigSpace, into: Collector): void {
  const err = findPciExtCap(config, PCI_EXT_CAP_ID_ERR);
  if (err === 0) return;
  for (const register of [PCI_ERR_UNCOR_MASK, PCI_ERR_UNCOR_SEVER, PCI_ERR_COR_MASK, PCI_ERR_CAP]) {
    into.extended(err + register, 4);
  }
}

function collectSriov(config: RawConfigSpace): SavedRegister[] {
  const into = new Collector(config);
  const sriov = findPciExtCap(config, PCI_EXT_CAP_ID_SRIOV);
  if (sriov === 0) return [];
  // Enabling last: until then the VFs have no place.
  for (let bar = 0; bar < 6; bar++) into.extended(sriov + PCI_SRIOV_BAR + 4 * bar, 4);
  into.extended(sriov + PCI_SRIOV_SYS_PGSIZE, 4);
  into.extended(sriov + PCI_SRIOV_NUM_VF, 2);
  into.extended(sriov + PCI_SRIOV_CTRL, 2);
  return into.list;
}

function collectInterrupts(config: RawConfigSpace): SavedRegister[] {
  const into = new Collector(config);
  const msi = findPciCap(config, PCI_CAP_ID_MSI);
  if (msi !== 0) {
    const flags = config.read(msi + PCI_MSI_FLAGS, 2);
    const is64Bit = (flags & PCI_MSI_FLAGS_64BIT) !== 0;
    into.standard(msi + PCI_MSI_ADDRESS_LO, 4);
    if (is64Bit) into.standard(msi + PCI_MSI_ADDRESS_HI, 4);
    into.standard(msi + (is64Bit ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 2);
    if ((flags & PCI_MSI_FLAGS_MASKBIT) !== 0) into.standard(msi + (is64Bit ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32), 4);
    // Enabling last: before, there is no message to send.
    into.standard(msi + PCI_MSI_FLAGS, 2);
  }
  const msix = findPciCap(config, PCI_CAP_ID_MSIX);
  if (msix !== 0) into.standard(msix + PCI_MSIX_FLAGS, 2);
  return into.list;
}

/**
 * Reads what software has set in a function: header, PCI Express, PCI-X and LTR control, ATS, BAR sizes, error
 * reporting, SR-IOV, MSI. Changes nothing.
 */
export function saveConfigState(config: RawConfigSpace): SavedState {
  const into = new Collector(config);
  const ltr = findPciExtCap(config, PCI_EXT_CAP_ID_LTR);
  if (ltr !== 0) into.extended(ltr + PCI_LTR_MAX_SNOOP_LAT, 4);
  // LTR before DEVCTL2, which switches it on.
  collectExpress(config, into);
  const ats = findPciExtCap(config, PCI_EXT_CAP_ID_ATS);
  if (ats !== 0) into.extended(ats + ATS_CTRL, 2);
  collectBarSizes(config, into);
  collectErrorReporting(config, into);
  // The header backwards, COMMAND last: decoding starts when the addresses are there. STATUS is not written, its bits
  // clear by writing 1.
  for (let offset = 0x3c; offset >= 0x0c; offset -= 4) into.standard(offset, 4);
  into.standard(PCI_COMMAND, 2);
  const pcix = findPciCap(config, PCI_CAP_ID_PCIX);
  if (pcix !== 0) into.standard(pcix + PCI_X_CMD, 2);
  return { registers: into.list, sriov: collectSriov(config), interrupts: collectInterrupts(config) };
}

function writeBack(config: RawConfigSpace, registers: readonly SavedRegister[]): void {
  for (const { offset, width, value } of registers) {
    if (config.read(offset, width) !== value) config.write(offset, width, value);
  }
}

/**
 * Writes a state back, the registers that differ, interrupts only `withInterrupts`. The MSI-X table is in a BAR, so its
 * messages are for the caller to write again. A state can be written back any number of times.
 */
export function restoreConfigState(config: RawConfigSpace, state: SavedState, withInterrupts: boolean): void {
  writeBack(config, state.registers);
  writeBack(config, state.sriov);
  if (withInterrupts) writeBack(config, state.interrupts);
}
