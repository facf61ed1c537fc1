import {
  PCI_BASE_ADDRESS_0,
  PCI_BASE_ADDRESS_MEM_PREFETCH,
  PCI_BASE_ADDRESS_MEM_TYPE_64,
  PCI_BASE_ADDRESS_SPACE_IO,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_ROM_ADDRESS,
  PCI_ROM_ADDRESS_ENABLE,
  PCI_STD_NUM_BARS,
} from '@vfio/uapi';
import type { PciResource } from '../../pci/raw-function.js';
import type { ConfigState } from './state.js';

const ROM_INDEX = 6;

/** Whether a header offset lies in a BAR or the ROM BAR. */
export function isBar(offset: number): boolean {
  return (
    (offset >= PCI_BASE_ADDRESS_0 && offset < PCI_BASE_ADDRESS_0 + 4 * PCI_STD_NUM_BARS) ||
    (offset >= PCI_ROM_ADDRESS && offset < PCI_ROM_ADDRESS + 4)
  );
}

/** Low dword of `~(size - 1)`. Sizes may exceed 32 bits, where JavaScript's operators would wrap. */
function sizeMaskLow(size: number): number {
  return ~((size - 1) % 0x1_0000_0000);
}

function sizeMaskHigh(size: number): number {
  return ~Math.floor((size - 1) / 0x1_0000_0000);
}

function typeBits(resource: PciResource): number {
  if (resource.io) return PCI_BASE_ADDRESS_SPACE_IO;
  return (
    (resource.prefetchable ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0) | (resource.is64Bit ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0)
  );
}

/** The bits that the user may keep in the ROM BAR. */
function romMask(resource: PciResource | undefined): number {
  let size = 0;
  if (resource !== undefined && resource.start !== 0) {
    // The true size, also where region info says 0 since the content cannot be read.
    size = resource.size;
  } else if (resource?.shadowLength !== undefined && resource.shadowLength > 0) {
    size = 1;
    while (size < resource.shadowLength) size *= 2;
  }
  return size === 0 ? 0 : sizeMaskLow(size) | PCI_ROM_ADDRESS_ENABLE;
}

/**
 * Cuts what the user wrote to BARs and ROM down to what hardware of these sizes would hold, so that sizing (write all
 * ones, read back) works. Done once, on the first read after a write.
 */
export function settleBars(state: ConfigState): void {
  if (!state.barsDirty) return;
  const { resources } = state.host.raw;
  for (let i = 0; i < PCI_STD_NUM_BARS; i++) {
    const at = PCI_BASE_ADDRESS_0 + 4 * i;
    const resource = resources[i];
    if (resource === undefined || resource.start === 0) {
      // What the host left without an address does not exist for the user either.
      state.setDword(at, 0);
      continue;
    }
    const low = (state.dword(at) & sizeMaskLow(resource.size)) | typeBits(resource);
    state.setDword(at, low);
    // Bit 2 of the result decides, whoever set it: upstream takes an address bit of a 4-byte I/O BAR for the 64-bit
    // type too, and the neighbour then keeps what was written.
    if ((low & PCI_BASE_ADDRESS_MEM_TYPE_64) !== 0) {
      i++;
      if (i < PCI_STD_NUM_BARS) state.setDword(at + 4, state.dword(at + 4) & sizeMaskHigh(resource.size));
    }
  }
  state.setDword(PCI_ROM_ADDRESS, state.dword(PCI_ROM_ADDRESS) & romMask(resources[ROM_INDEX]));
  state.barsDirty = false;
}

/** Remembers where hardware's BARs and ROM are. */
export function saveBars(state: ConfigState): void {
  for (let i = 0; i < PCI_STD_NUM_BARS; i++) {
    state.savedBars[i] = state.hw.read(PCI_BASE_ADDRESS_0 + 4 * i, 4);
  }
  state.savedBars[ROM_INDEX] = state.hw.read(PCI_ROM_ADDRESS, 4);
}

/** Whether a BAR that was set at open has changed behind our back. The ROM is not compared: the host switches it. */
export function barsLost(state: ConfigState): boolean {
  for (let i = 0; i < PCI_STD_NUM_BARS; i++) {
    const saved = state.savedBars[i]!;
    if (saved !== 0 && saved !== state.hw.read(PCI_BASE_ADDRESS_0 + 4 * i, 4)) return true;
  }
  return false;
}

/**
 * Puts back what a reset behind our back (by the device's own registers, or by its PF) took: BARs and ROM, and DisINTx
 * where INTx is broken. A VF has neither: its BARs belong to the PF.
 */
export function restoreBars(state: ConfigState): void {
  if (state.host.isVf) return;
  state.host.warn('the function was reset behind the back of its driver; its BARs are restored');
  for (let i = 0; i < PCI_STD_NUM_BARS; i++) {
    state.hw.write(PCI_BASE_ADDRESS_0 + 4 * i, 4, state.savedBars[i]!);
  }
  state.hw.write(PCI_ROM_ADDRESS, 4, state.savedBars[ROM_INDEX]!);
  if (state.host.nointx) {
    state.hw.write(PCI_COMMAND, 2, state.hw.read(PCI_COMMAND, 2) | PCI_COMMAND_INTX_DISABLE);
  }
}
