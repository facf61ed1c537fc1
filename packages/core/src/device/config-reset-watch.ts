import {
  PCI_AF_CAP,
  PCI_AF_CAP_FLR,
  PCI_AF_CAP_TP,
  PCI_AF_CTRL,
  PCI_AF_CTRL_FLR,
  PCI_CAP_ID_AF,
  PCI_CAP_ID_EXP,
  PCI_CAP_LIST_NEXT,
  PCI_CAPABILITY_LIST,
  PCI_EXP_DEVCAP,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCTL,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
} from '@vfio/uapi';

/** DEVCTL's Initiate Function Level Reset, in the high byte. */
const DEVCTL_HIGH_FLR = 0x80;

/**
 * Knows which writes to config space reset the function, on a base that does it without telling: a migration that is done
 * on top of it must go back to RUNNING then.
 */
export class ConfigResetWatch {
  /** Bytes with a reset bit and the bit; -1: there is none. */
  #expAt = -1;
  #afAt = -1;

  /** @param read reads config space as the user sees it. */
  constructor(read: (offset: number, data: Uint8Array) => number) {
    const bytes = new Uint8Array(256);
    try {
      read(0, bytes);
    } catch {
      return;
    }
    const view = new DataView(bytes.buffer);
    if ((view.getUint16(PCI_STATUS, true) & PCI_STATUS_CAP_LIST) === 0) return;
    let at = bytes[PCI_CAPABILITY_LIST]! & 0xfc;
    for (let i = 0; i < 48 && at >= 0x40; i++) {
      const id = bytes[at];
      if (
        id === PCI_CAP_ID_EXP &&
        at + PCI_EXP_DEVCTL + 2 <= 256 &&
        (view.getUint32(at + PCI_EXP_DEVCAP, true) & PCI_EXP_DEVCAP_FLR) !== 0
      ) {
        this.#expAt = at + PCI_EXP_DEVCTL + 1;
      }
      const afBits = PCI_AF_CAP_TP | PCI_AF_CAP_FLR;
      if (id === PCI_CAP_ID_AF && at + PCI_AF_CTRL < 256 && (bytes[at + PCI_AF_CAP]! & afBits) === afBits)
        this.#afAt = at + PCI_AF_CTRL;
      at = bytes[at + PCI_CAP_LIST_NEXT]! & 0xfc;
    }
  }

  /** Whether a write resets the function. */
  resets(offset: number, data: Uint8Array): boolean {
    return (
      (this.#expAt >= 0 && ((data[this.#expAt - offset] ?? 0) & DEVCTL_HIGH_FLR) !== 0) ||
      (this.#afAt >= 0 && ((data[this.#afAt - offset] ?? 0) & PCI_AF_CTRL_FLR) !== 0)
    );
  }
}
