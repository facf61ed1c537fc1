import { PCI_CAP_ID_PM, PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK, PCI_PM_PMC } from '@vfio/uapi';
import { type CapAccess, readByTable, writeByTable } from './access.js';
import type { PciPowerState } from './host.js';
import { PM_CTRL_VIRT, PM_PMC_VIRT, PM_TABLE } from './permissions.js';
import type { ConfigState } from './state.js';
import { changePower } from './traps.js';

/** Hides wake-up from a capability just copied from hardware: no PME would ever reach the user. */
export function hidePme(state: ConfigState, position: number): void {
  if (state.owns(PCI_CAP_ID_PM, position + PCI_PM_PMC, 2)) {
    state.setWord(position + PCI_PM_PMC, state.word(position + PCI_PM_PMC) & ~PM_PMC_VIRT);
  }
  if (state.owns(PCI_CAP_ID_PM, position + PCI_PM_CTRL, 2)) {
    state.setWord(position + PCI_PM_CTRL, state.word(position + PCI_PM_CTRL) & ~PM_CTRL_VIRT);
  }
}

/** Power management: the state bits go through the host, which knows what a transition loses. */
export const PM: CapAccess = {
  read: (state, position, width, start) => readByTable(state, PM_TABLE, position, width, start),
  write(state, position, width, start, value) {
    writeByTable(state, PM_TABLE, position, width, start, value);
    if (position - start !== PCI_PM_CTRL) return undefined;
    return changePower(state.host, (value & PCI_PM_CTRL_STATE_MASK) as PciPowerState);
  },
};
