import {
  PCI_BASE_ADDRESS_0,
  PCI_CACHE_LINE_SIZE,
  PCI_COMMAND,
  PCI_INTERRUPT_LINE,
  PCI_PM_CTRL,
  PCI_STD_HEADER_SIZEOF,
} from '@vfio/uapi';
import type { EmulatedFunction } from './function.js';

/** What the kernel keeps of a function over a reset that it does itself. */
export interface SavedState {
  readonly fn: EmulatedFunction;
  readonly words: Int32Array;
}

/** Keeps the registers of a function. */
export function saveState(fn: EmulatedFunction): SavedState {
  const words = new Int32Array(fn.config.size / 4);
  for (let i = 0; i < words.length; i++) words[i] = fn.config.read(4 * i, 4);
  return { fn, words };
}

/**
 * Writes the registers back, in an order that hardware accepts: capabilities from the end (the number of VFs before VF
 * Enable), BARs, and COMMAND last; then the interrupt messages.
 */
export function restoreState({ fn, words }: SavedState): void {
  const { config, offsets } = fn;
  const write = (offset: number): void => {
    if (config.writableBits(offset, 4) === 0) return;
    config.write(offset, 4, (words[offset >> 2] ?? 0) & ~config.clearableBits(offset, 4));
  };
  for (let offset = config.size - 4; offset >= PCI_STD_HEADER_SIZEOF; offset -= 4) {
    // Writing these starts something instead of setting it.
    const isPower = offsets.pm !== 0 && offset === offsets.pm + PCI_PM_CTRL;
    const isVpd = offsets.vpd !== 0 && (offset === offsets.vpd || offset === offsets.vpd + 4);
    if (!isPower && !isVpd) write(offset);
  }
  write(PCI_INTERRUPT_LINE);
  for (let offset = 0x30; offset >= PCI_BASE_ADDRESS_0; offset -= 4) write(offset);
  write(PCI_CACHE_LINE_SIZE);
  config.write(PCI_COMMAND, 2, words[PCI_COMMAND >> 2] ?? 0);
  fn.interrupts.restore();
}
