import { PCI_CAP_ID_MSI, PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE, PCI_MSI_FLAGS_QSIZE } from '@vfio/uapi';
import { type CapAccess, READ_ONLY, readByTable, writeByTable } from './access.js';

/**
 * MSI: enabling is SET_IRQS' business, so the bit only stands while the interrupt type agrees, and no more vectors than
 * were enabled there. Reads show hardware's MMC: upstream means to cut it to what was enabled, but patches a byte that
 * never shows, and a count that shrinks after enabling is not what a guest's driver may expect.
 */
export const MSI: CapAccess = {
  read(state, position, width, start) {
    return state.msiTable === undefined
      ? READ_ONLY.read(state, position, width, start)
      : readByTable(state, state.msiTable, position, width, start);
  },
  write(state, position, width, start, value) {
    if (state.msiTable === undefined) return undefined;
    writeByTable(state, state.msiTable, position, width, start, value);
    const offset = position - start;
    // Every piece up to the flags that reaches them, or ends right before them.
    if (offset > PCI_MSI_FLAGS || offset + width < PCI_MSI_FLAGS) return undefined;
    const at = start + PCI_MSI_FLAGS;
    // What is left of an overlapped capability may begin anywhere, also where no register of 16 bits can be.
    if ((at & 1) !== 0 || !state.owns(PCI_CAP_ID_MSI, at, 2)) return undefined;
    const { host } = state;
    let flags = state.word(at);
    if (!host.msiActive) flags &= ~PCI_MSI_FLAGS_ENABLE;
    if ((flags & PCI_MSI_FLAGS_QSIZE) >> 4 > host.msiQmax) {
      flags = (flags & ~PCI_MSI_FLAGS_QSIZE) | (host.msiQmax << 4);
    }
    state.setWord(at, flags);
    state.hw.write(at, 2, flags);
    return undefined;
  },
};
