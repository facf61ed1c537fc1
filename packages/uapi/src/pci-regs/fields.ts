/** The macros of `linux/pci_regs.h` that take a register's value apart, as functions. */

/** Capability id in an extended capability header (bits 15:0). */
export function pciExtCapId(header: number): number {
  return header & 0xffff;
}

/** Version in an extended capability header (bits 19:16). */
export function pciExtCapVer(header: number): number {
  return (header >>> 16) & 0xf;
}

/** Offset of the next extended capability, rounded down to a dword; 0 ends the list. */
export function pciExtCapNext(header: number): number {
  return (header >>> 20) & 0xffc;
}

/** An extended capability header. `next` is an offset in config space, or 0. */
export function pciExtCapHeader(id: number, version: number, next: number): number {
  return ((id & 0xffff) | ((version & 0xf) << 16) | ((next & 0xffc) << 20)) >>> 0;
}

/** Vendor-specific id (VSEC id) in the dword at `PCI_VNDR_HEADER`. */
export function pciVndrHeaderId(header: number): number {
  return header & 0xffff;
}

/** Revision in the dword at `PCI_VNDR_HEADER`. */
export function pciVndrHeaderRev(header: number): number {
  return (header >>> 16) & 0xf;
}

/** Length in bytes, header included, in the dword at `PCI_VNDR_HEADER`. */
export function pciVndrHeaderLen(header: number): number {
  return header >>> 20;
}

/** Vendor in the dword at `PCI_DVSEC_HEADER1`. */
export function pciDvsecHeader1Vid(header: number): number {
  return header & 0xffff;
}

/** Revision in the dword at `PCI_DVSEC_HEADER1`. */
export function pciDvsecHeader1Rev(header: number): number {
  return (header >>> 16) & 0xf;
}

/** Length in bytes, header included, in the dword at `PCI_DVSEC_HEADER1`. */
export function pciDvsecHeader1Len(header: number): number {
  return header >>> 20;
}

/** DVSEC id in the dword at `PCI_DVSEC_HEADER2`. */
export function pciDvsecHeader2Id(header: number): number {
  return header & 0xffff;
}

/** PCI-X version in the word at `PCI_X_CMD`. */
export function pciXCmdVersion(command: number): number {
  return (command >>> 12) & 3;
}

/** Next function number in the word at `PCI_ARI_CAP`. */
export function pciAriCapNfn(capability: number): number {
  return (capability >>> 8) & 0xff;
}

/** Function group in the word at `PCI_ARI_CTRL`. */
export function pciAriCtrlFg(control: number): number {
  return (control >>> 4) & 7;
}

/** Invalidate queue depth in the word at `PCI_ATS_CAP`; 0 means 32. */
export function pciAtsCapQdep(capability: number): number {
  return capability & 0x1f;
}

/** Smallest translation unit in the word at `PCI_ATS_CTRL`. */
export function pciAtsCtrlStu(control: number): number {
  return control & 0x1f;
}

/** First error pointer in the dword at `PCI_ERR_CAP`. */
export function pciErrCapFep(capability: number): number {
  return capability & 0x1f;
}

/** Interrupt message number in the dword at `PCI_SRIOV_CAP`. */
export function pciSriovCapIntr(capability: number): number {
  return capability >>> 21;
}
