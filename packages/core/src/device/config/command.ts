import { PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, PCI_COMMAND_IO, PCI_COMMAND_MEMORY } from '@vfio/uapi';
import type { AccessWidth } from '../../pci/raw-function.js';
import { type CapAccess, readByTable, writeByTable } from './access.js';
import { barsLost, isBar, restoreBars, settleBars } from './bars.js';
import { BASIC_TABLE } from './permissions.js';
import type { ConfigState } from './state.js';

const DECODE = PCI_COMMAND_MEMORY | PCI_COMMAND_IO;

/** A bit that the user sets and believes to be set already, but which hardware has lost. */
function lostEnable(bit: number, written: number, virtual: number, hardware: number): boolean {
  return (written & virtual & bit) !== 0 && (hardware & bit) === 0;
}

function writeCommand(state: ConfigState, position: number, width: AccessWidth, value: number): void {
  const { host } = state;
  // Mappings die before decode goes off, never after: a store in between would hit nothing, or a master abort.
  host.lockMemory((value & PCI_COMMAND_MEMORY) === 0);
  try {
    const virtual = state.word(PCI_COMMAND);
    const hardware = state.hw.read(PCI_COMMAND, 2);
    if (
      (!host.noCommandMemory && lostEnable(PCI_COMMAND_MEMORY, value, virtual, hardware)) ||
      lostEnable(PCI_COMMAND_IO, value, virtual, hardware) ||
      barsLost(state)
    ) {
      restoreBars(state);
    }
    writeByTable(state, BASIC_TABLE, position, width, 0, value);
    // What the user last asked for is what the next write is compared with, and what memory gating goes by.
    state.setWord(PCI_COMMAND, (state.word(PCI_COMMAND) & ~DECODE) | (value & DECODE));
  } finally {
    host.unlockMemory();
  }
}

/** Lets interrupts follow the user's DisINTx, which hardware's bit does not show. */
function followIntxDisable(state: ConfigState): void {
  const { host } = state;
  const disabled = (state.word(PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE) !== 0;
  if (disabled === host.virqDisabled) return;
  host.virqDisabled = disabled;
  if (disabled) host.maskIntx();
  else host.unmaskIntx();
}

/** The header: COMMAND and BARs are trapped, the rest is as its table says. */
export const BASIC: CapAccess = {
  read(state, position, width) {
    if (isBar(position)) settleBars(state);
    const value = readByTable(state, BASIC_TABLE, position, width, 0);
    // Hardware of a VF reads 0 there; the bit lives only with us.
    return position === PCI_COMMAND && state.host.noCommandMemory
      ? value | (state.word(PCI_COMMAND) & PCI_COMMAND_MEMORY)
      : value;
  },
  write(state, position, width, _start, value) {
    if (position === PCI_COMMAND) writeCommand(state, position, width, value);
    else writeByTable(state, BASIC_TABLE, position, width, 0, value);
    if (position === PCI_COMMAND || position === PCI_COMMAND + 1) followIntxDisable(state);
    if (isBar(position)) state.barsDirty = true;
    return undefined;
  },
};
