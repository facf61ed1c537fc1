import {
  PCI_CAP_ID_EXP,
  PCI_CFG_SPACE_SIZE,
  PCI_EXP_DEVCAP,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_EXP_DEVCTL_PAYLOAD,
  PCI_EXP_DEVCTL_READRQ,
} from '@vfio/uapi';
import { type CapAccess, readByTable, writeByTable } from './access.js';
import { EXP_TABLE } from './permissions.js';
import type { ConfigState } from './state.js';
import { resetFunction } from './traps.js';

const MAX_READ_REQUEST = 4096;

/**
 * Lets a changed MRRS through to hardware, but not below the real MPS: the user has no view of the whole hierarchy and
 * might pick a value that is safe and slow. Values 6 and 7 encode more than PCIe allows; hardware keeps what it has.
 */
function followReadRequest(state: ConfigState, start: number, before: number): void {
  const after = state.word(start + PCI_EXP_DEVCTL) & PCI_EXP_DEVCTL_READRQ;
  if (after === before) return;
  const position = state.expressAt;
  if (position === 0 || position + PCI_EXP_DEVCTL >= PCI_CFG_SPACE_SIZE) return;
  const hardware = state.hw.read(position + PCI_EXP_DEVCTL, 2);
  const payload = 128 << ((hardware & PCI_EXP_DEVCTL_PAYLOAD) >> 5);
  const request = Math.max(128 << (after >> 12), payload);
  if (request > MAX_READ_REQUEST) return;
  const field = (31 - Math.clz32(request / 128)) << 12;
  state.hw.write(position + PCI_EXP_DEVCTL, 2, (hardware & ~PCI_EXP_DEVCTL_READRQ) | field);
}

async function followLater(pending: Promise<void>, state: ConfigState, start: number, before: number): Promise<void> {
  await pending;
  followReadRequest(state, start, before);
}

/** PCI Express: FLR is carried out by the host, MPS stays virtual, MRRS has a floor. */
export const EXPRESS: CapAccess = {
  read: (state, position, width, start) => readByTable(state, EXP_TABLE, position, width, start),
  write(state, position, width, start, value) {
    const control = start + PCI_EXP_DEVCTL;
    const before = state.word(control) & PCI_EXP_DEVCTL_READRQ;
    writeByTable(state, EXP_TABLE, position, width, start, value);
    // What is left of an overlapped capability may begin anywhere; no register of another one is ours to act on.
    if (!state.owns(PCI_CAP_ID_EXP, control, 2)) return undefined;
    const virtual = state.word(control);
    let pending: undefined | Promise<void>;
    if ((virtual & PCI_EXP_DEVCTL_BCR_FLR) !== 0) {
      // The bit reads as 0, whether the function has FLR or not.
      state.setWord(control, virtual & ~PCI_EXP_DEVCTL_BCR_FLR);
      const aligned = (start & 3) === 0;
      if (aligned && (state.hw.read(start + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR) !== 0) {
        pending = resetFunction(state.host);
      }
    }
    if (pending !== undefined) return followLater(pending, state, start, before);
    followReadRequest(state, start, before);
    return undefined;
  },
};
