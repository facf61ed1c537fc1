import {
  errnoError,
  hex,
  PCI_AF_CAP,
  PCI_AF_CAP_FLR,
  PCI_AF_CAP_TP,
  PCI_AF_CTRL,
  PCI_AF_CTRL_FLR,
  PCI_AF_LENGTH,
  PCI_CAP_AF_SIZEOF,
  PCI_CAP_ID_AF,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_CAP_ID_SSVID,
  PCI_CAP_ID_VNDR,
  PCI_CAP_ID_VPD,
  PCI_CAP_MSIX_SIZEOF,
  PCI_CAP_VPD_SIZEOF,
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_DATA_32,
  PCI_MSI_DATA_64,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_FLAGS_QSIZE,
  PCI_MSI_MASK_32,
  PCI_MSI_MASK_64,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
  PCI_MSIX_PBA,
  PCI_MSIX_TABLE,
  PCI_PM_CAP_D1,
  PCI_PM_CAP_D2,
  PCI_PM_CAP_PME_D0,
  PCI_PM_CAP_PME_D3hot,
  PCI_PM_CTRL,
  PCI_PM_CTRL_NO_SOFT_RESET,
  PCI_PM_CTRL_PME_ENABLE,
  PCI_PM_CTRL_PME_STATUS,
  PCI_PM_CTRL_STATE_MASK,
  PCI_PM_PMC,
  PCI_PM_SIZEOF,
  PCI_SSVID_DEVICE_ID,
  PCI_SSVID_VENDOR_ID,
  PCI_VPD_ADDR,
  PCI_VPD_ADDR_F,
  PCI_VPD_DATA,
} from '@vfio/uapi';
import type { ConfigSpace } from './config-space.js';

/** Power management (PCI PM 1.2). */
export interface PmOptions {
  /** Registers survive D3hot: no reset on the way back to D0. */
  readonly noSoftReset?: boolean;
  readonly d1?: boolean;
  readonly d2?: boolean;
  /** PME# can be raised from D0 and D3hot. */
  readonly pme?: boolean;
}

/** @param onState called after software moved the function to another power state. */
export function addPm(config: ConfigSpace, options: PmOptions, onState: (from: number, to: number) => void): number {
  const at = config.addCapability(PCI_CAP_ID_PM, PCI_PM_SIZEOF);
  const pme = options.pme === true;
  config.define(
    at + PCI_PM_PMC,
    2,
    3 |
      (options.d1 === true ? PCI_PM_CAP_D1 : 0) |
      (options.d2 === true ? PCI_PM_CAP_D2 : 0) |
      (pme ? PCI_PM_CAP_PME_D0 | PCI_PM_CAP_PME_D3hot : 0),
  );
  config.define(at + PCI_PM_CTRL, 2, options.noSoftReset === true ? PCI_PM_CTRL_NO_SOFT_RESET : 0, {
    rw: PCI_PM_CTRL_STATE_MASK | (pme ? PCI_PM_CTRL_PME_ENABLE : 0),
    w1c: pme ? PCI_PM_CTRL_PME_STATUS : 0,
    sticky: pme ? PCI_PM_CTRL_PME_ENABLE | PCI_PM_CTRL_PME_STATUS : 0,
  });
  config.onWrite(at + PCI_PM_CTRL, (_offset, _width, before) => {
    const from = before & PCI_PM_CTRL_STATE_MASK;
    const to = config.get(at + PCI_PM_CTRL, 2) & PCI_PM_CTRL_STATE_MASK;
    if (from === to) return;
    const supported = to === 0 || to === 3 || (to === 1 ? options.d1 === true : options.d2 === true);
    // PCI PM 5.4.1: a state may only be deepened, except to D0, and an unsupported one is discarded.
    if (supported && (to === 0 || to > from)) onState(from, to);
    else config.change(at + PCI_PM_CTRL, 2, from, PCI_PM_CTRL_STATE_MASK);
  });
  return at;
}

/** MSI (PCI Local Bus 3.0, 6.8.1). */
export interface MsiOptions {
  /** 1, 2, 4, 8, 16 or 32. */
  readonly vectors?: number;
  readonly is64Bit?: boolean;
  readonly maskable?: boolean;
}

/** @param onChange the enable bit or number of messages was written. @param onMask the mask register was. */
export function addMsi(config: ConfigSpace, options: MsiOptions, onChange: () => void, onMask: () => void): number {
  const vectors = options.vectors ?? 1;
  const log = Math.log2(vectors);
  if (!Number.isInteger(log) || log < 0 || log > 5)
    throw errnoError('EINVAL', `MSI with ${vectors} vectors: a power of two up to 32 is allowed`);
  const is64Bit = options.is64Bit === true;
  const maskable = options.maskable === true;
  const at = config.addCapability(PCI_CAP_ID_MSI, (is64Bit ? 14 : 10) + (maskable ? 10 : 0));
  config.define(
    at + PCI_MSI_FLAGS,
    2,
    (log << 1) | (is64Bit ? PCI_MSI_FLAGS_64BIT : 0) | (maskable ? PCI_MSI_FLAGS_MASKBIT : 0),
    { rw: PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE },
  );
  config.define(at + PCI_MSI_ADDRESS_LO, 4, 0, { rw: 0xfffffffc });
  if (is64Bit) config.define(at + PCI_MSI_ADDRESS_HI, 4, 0, { rw: 0xffffffff });
  config.define(at + (is64Bit ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 2, 0, { rw: 0xffff });
  config.onWrite(at, (_offset, _width, before) => {
    // More messages than the function asked for cannot be granted (6.8.1.3): hold it at what there is.
    const flags = config.get(at + PCI_MSI_FLAGS, 2);
    const granted = (flags & PCI_MSI_FLAGS_QSIZE) >> 4;
    if (granted > log) config.set(at + PCI_MSI_FLAGS, 2, (flags & ~PCI_MSI_FLAGS_QSIZE) | (log << 4));
    if (config.get(at, 4) !== before) onChange();
  });
  if (maskable) {
    const mask = at + (is64Bit ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32);
    config.define(mask, 4, 0, { rw: vectors === 32 ? 0xffffffff : (1 << vectors) - 1 });
    config.onWrite(mask, onMask);
  }
  return at;
}

/** Where a structure lies in the function's BARs. */
export interface BarLocation {
  readonly bar: number;
  readonly offset: number;
}

/** MSI-X (PCI Local Bus 3.0, 6.8.2). */
export interface MsixOptions {
  /** 1 to 2048. */
  readonly vectors: number;
  readonly table: BarLocation;
  readonly pba: BarLocation;
}

/** @param onChange the enable or function mask bit was written. */
export function addMsix(config: ConfigSpace, options: MsixOptions, onChange: () => void): number {
  const { vectors, table, pba } = options;
  if (!Number.isInteger(vectors) || vectors < 1 || vectors > 2048)
    throw errnoError('EINVAL', `MSI-X with ${vectors} vectors: 1 to 2048 are allowed`);
  for (const where of [table, pba])
    if (where.bar < 0 || where.bar > 5 || (where.offset & 7) !== 0 || where.offset < 0)
      throw errnoError(
        'EINVAL',
        `MSI-X structure at BAR ${where.bar}+${hex(where.offset)}: BARs 0 to 5 and multiples of 8 are allowed`,
      );
  const at = config.addCapability(PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);
  config.define(at + PCI_MSIX_FLAGS, 2, vectors - 1, { rw: PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL });
  config.define(at + PCI_MSIX_TABLE, 4, table.offset | table.bar);
  config.define(at + PCI_MSIX_PBA, 4, pba.offset | pba.bar);
  config.onWrite(at, (_offset, _width, before) => {
    if (config.get(at, 4) !== before) onChange();
  });
  return at;
}

/** Advanced Features: function-level reset for conventional functions. @param onFlr software asked for the reset. */
export function addAf(config: ConfigSpace, onFlr: () => void): number {
  const at = config.addCapability(PCI_CAP_ID_AF, PCI_CAP_AF_SIZEOF);
  config.define(at + PCI_AF_LENGTH, 1, PCI_CAP_AF_SIZEOF);
  config.define(at + PCI_AF_CAP, 1, PCI_AF_CAP_TP | PCI_AF_CAP_FLR);
  config.define(at + PCI_AF_CTRL, 1, 0, { rw: PCI_AF_CTRL_FLR });
  config.onWrite(at + PCI_AF_CTRL, () => {
    if ((config.get(at + PCI_AF_CTRL, 1) & PCI_AF_CTRL_FLR) === 0) return;
    config.set(at + PCI_AF_CTRL, 1, 0); // reads as 0 always
    onFlr();
  });
  return at;
}

/** Vital product data: the bytes behind the capability. */
export interface VpdOptions {
  /** Up to 32 KiB; the size is what it is, reads past it give zeros. */
  readonly data: Uint8Array;
  /** Whether software may write; false by default: the data is hard-wired, writes complete without effect. */
  readonly writable?: boolean;
}

/**
 * Vital Product Data (PCI Local Bus 3.0, appendix I). Software writes an address with F = 0, and F becomes 1 when the
 * data register holds four bytes from there; or writes data, then an address with F = 1, and F becomes 0 when they are
 * stored. A transfer ends on a dword-aligned address only; others never complete.
 */
export function addVpd(config: ConfigSpace, options: VpdOptions): number {
  const { data } = options;
  if (data.length > 0x8000)
    throw errnoError('EINVAL', `VPD of ${data.length} bytes: 15 address bits reach ${hex(0x8000)}`);
  const at = config.addCapability(PCI_CAP_ID_VPD, PCI_CAP_VPD_SIZEOF);
  config.define(at + PCI_VPD_ADDR, 2, 0, { rw: 0xffff });
  config.define(at + PCI_VPD_DATA, 4, 0, { rw: 0xffffffff });
  config.onWrite(at, (offset, width) => {
    // The transfer starts when the byte that holds F is written.
    if (offset + width <= at + PCI_VPD_ADDR + 1) return;
    const word = config.get(at + PCI_VPD_ADDR, 2);
    const address = word & ~PCI_VPD_ADDR_F;
    if ((address & 3) !== 0) return;
    if ((word & PCI_VPD_ADDR_F) === 0) {
      for (let i = 0; i < 4; i++) config.set(at + PCI_VPD_DATA + i, 1, data[address + i] ?? 0);
      config.set(at + PCI_VPD_ADDR, 2, address | PCI_VPD_ADDR_F);
      return;
    }
    if (options.writable === true)
      for (let i = 0; i < 4 && address + i < data.length; i++) data[address + i] = config.get(at + PCI_VPD_DATA + i, 1);
    config.set(at + PCI_VPD_ADDR, 2, address);
  });
  return at;
}

/** Vendor-specific capability. @param body the bytes after id, next and length. @param writable mask of the same length. */
export function addVendor(config: ConfigSpace, body: Uint8Array, writable?: Uint8Array): number {
  const length = body.length + 3;
  const at = config.addCapability(PCI_CAP_ID_VNDR, length);
  config.define(at + 2, 1, length);
  for (let i = 0; i < body.length; i++) config.define(at + 3 + i, 1, body[i] ?? 0, { rw: writable?.[i] ?? 0 });
  return at;
}

/** Subsystem ids of a bridge, which has no room for them in its header. */
export function addSsvid(config: ConfigSpace, subvendor: number, subdevice: number): number {
  const at = config.addCapability(PCI_CAP_ID_SSVID, 8);
  config.define(at + PCI_SSVID_VENDOR_ID, 2, subvendor);
  config.define(at + PCI_SSVID_DEVICE_ID, 2, subdevice);
  return at;
}
