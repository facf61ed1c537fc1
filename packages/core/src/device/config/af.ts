import { PCI_AF_CAP, PCI_AF_CAP_FLR, PCI_AF_CAP_TP, PCI_AF_CTRL, PCI_AF_CTRL_FLR, PCI_CAP_ID_AF } from '@vfio/uapi';
import { type CapAccess, readByTable, writeByTable } from './access.js';
import { AF_TABLE } from './permissions.js';
import { resetFunction } from './traps.js';

/** Both must be there: a reset that cannot tell when transactions have drained is not one to offer. */
const FLR_CAPABLE = PCI_AF_CAP_TP | PCI_AF_CAP_FLR;

/** Advanced features: the FLR of conventional PCI. */
export const ADVANCED_FEATURES: CapAccess = {
  read: (state, position, width, start) => readByTable(state, AF_TABLE, position, width, start),
  write(state, position, width, start, value) {
    writeByTable(state, AF_TABLE, position, width, start, value);
    const control = start + PCI_AF_CTRL;
    if (!state.owns(PCI_CAP_ID_AF, control, 1)) return undefined;
    const virtual = state.vconfig[control]!;
    if ((virtual & PCI_AF_CTRL_FLR) === 0) return undefined;
    state.vconfig[control] = virtual & ~PCI_AF_CTRL_FLR;
    if ((state.hw.read(start + PCI_AF_CAP, 1) & FLR_CAPABLE) !== FLR_CAPABLE) return undefined;
    return resetFunction(state.host);
  },
};
