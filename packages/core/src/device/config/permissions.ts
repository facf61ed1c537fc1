import {
  PCI_AF_CTRL,
  PCI_AF_CTRL_FLR,
  PCI_BASE_ADDRESS_0,
  PCI_BASE_ADDRESS_1,
  PCI_BASE_ADDRESS_2,
  PCI_BASE_ADDRESS_3,
  PCI_BASE_ADDRESS_4,
  PCI_BASE_ADDRESS_5,
  PCI_BIST,
  PCI_CACHE_LINE_SIZE,
  PCI_CAP_AF_SIZEOF,
  PCI_CAP_EXP_ENDPOINT_SIZEOF_V2,
  PCI_CAP_LIST_NEXT,
  PCI_CAP_PCIX_SIZEOF_V2,
  PCI_CAP_VPD_SIZEOF,
  PCI_CAPABILITY_LIST,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_DEVICE_ID,
  PCI_ERR_CAP,
  PCI_ERR_COR_MASK,
  PCI_ERR_COR_STATUS,
  PCI_ERR_ROOT_COMMAND,
  PCI_ERR_UNCOR_MASK,
  PCI_ERR_UNCOR_SEVER,
  PCI_ERR_UNCOR_STATUS,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL2,
  PCI_EXT_CAP_PWR_SIZEOF,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_LATENCY_TIMER,
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_DATA_32,
  PCI_MSI_DATA_64,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_MASK_32,
  PCI_MSI_MASK_64,
  PCI_MSI_PENDING_32,
  PCI_MSI_PENDING_64,
  PCI_PM_CTRL,
  PCI_PM_PMC,
  PCI_PM_SIZEOF,
  PCI_PWR_DATA,
  PCI_PWR_DSR,
  PCI_ROM_ADDRESS,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
  PCI_VENDOR_ID,
  PCI_VPD_ADDR,
  PCI_VPD_DATA,
  PCI_X_CMD,
  PCI_X_ECC_CSR,
} from '@vfio/uapi';

/** Owner of the header: id 0, which is no capability a user is shown. */
export const MAP_BASIC = 0x00;
/** Owner of bytes that exist only virtually: the user reads and writes them, hardware never sees them. */
export const MAP_VIRTUAL = 0xfe;
/** Owner of bytes in no visible capability: straight to hardware both ways, since some devices keep registers there. */
export const MAP_UNASSIGNED = 0xff;

/**
 * Who serves each bit of a capability. A bit that is `virt` is read from the virtual value, else from hardware. A bit
 * that is `write` may be changed: virtually where `virt`, else in hardware. Byte by byte, little-endian.
 */
export interface PermissionTable {
  /** Bytes, a multiple of 4. What lies beyond is read-only hardware. */
  readonly length: number;
  readonly virt: Uint8Array;
  readonly write: Uint8Array;
}

/** One register: offset in the capability, width in bytes, virtual bits, writable bits. Unnamed bytes are 0 in both. */
export type PermissionRow = readonly [offset: number, width: 1 | 2 | 4, virt: number, write: number];

const NONE = 0;
const ALL = 0xffffffff;

/** Makes the table of a capability of `length` bytes. Rows must lie within `length` rounded up to a dword. */
export function permissionTable(length: number, rows: readonly PermissionRow[]): PermissionTable {
  const rounded = (length + 3) & ~3;
  const virt = new Uint8Array(rounded);
  const write = new Uint8Array(rounded);
  for (const [offset, width, virtBits, writeBits] of rows) {
    for (let i = 0; i < width; i++) {
      virt[offset + i] = virtBits >>> (8 * i);
      write[offset + i] = writeBits >>> (8 * i);
    }
  }
  return { length: rounded, virt, write };
}

/** A standard capability: its next pointer is always ours, since capabilities may be hidden behind it. */
function standardTable(length: number, rows: readonly PermissionRow[]): PermissionTable {
  return permissionTable(length, [[PCI_CAP_LIST_NEXT, 1, ALL, NONE], ...rows]);
}

/** An extended capability: the whole header dword is ours, for the same reason. */
function extendedTable(length: number, rows: readonly PermissionRow[]): PermissionTable {
  return permissionTable(length, [[0, 4, ALL, NONE], ...rows]);
}

/** The 64-byte header. What is not named (revision, class, header type, CIS, subsystem) is read-only hardware. */
export const BASIC_TABLE: PermissionTable = permissionTable(PCI_STD_HEADER_SIZEOF, [
  // Hardware's ids may be missing (VFs) or patched by the host.
  [PCI_VENDOR_ID, 2, ALL, NONE],
  [PCI_DEVICE_ID, 2, ALL, NONE],
  // Hardware's DisINTx belongs to the interrupt code; the user's is only virtual. The rest reaches hardware.
  [PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE, ALL],
  [PCI_STATUS, 2, PCI_STATUS_CAP_LIST, NONE],
  [PCI_CACHE_LINE_SIZE, 1, NONE, ALL],
  [PCI_LATENCY_TIMER, 1, NONE, ALL],
  [PCI_BIST, 1, NONE, ALL],
  // Where the BARs really are is the host's business.
  [PCI_BASE_ADDRESS_0, 4, ALL, ALL],
  [PCI_BASE_ADDRESS_1, 4, ALL, ALL],
  [PCI_BASE_ADDRESS_2, 4, ALL, ALL],
  [PCI_BASE_ADDRESS_3, 4, ALL, ALL],
  [PCI_BASE_ADDRESS_4, 4, ALL, ALL],
  [PCI_BASE_ADDRESS_5, 4, ALL, ALL],
  [PCI_ROM_ADDRESS, 4, ALL, ALL],
  [PCI_CAPABILITY_LIST, 1, ALL, NONE],
  // Pure scratch for the user's firmware.
  [PCI_INTERRUPT_LINE, 1, ALL, ALL],
  [PCI_INTERRUPT_PIN, 1, ALL, NONE],
]);

/** PM_CTRL bits that a user may write: all but the power state, which is trapped, and PME, which is hidden. */
export const PM_CTRL_WRITE = 0xffff7efc;
/** PME_En and PME_Status: a user has no way to receive a PME. */
export const PM_CTRL_VIRT = 0x8100;
/** PME_Support. */
export const PM_PMC_VIRT = 0xf800;

export const PM_TABLE: PermissionTable = standardTable(PCI_PM_SIZEOF, [
  [PCI_PM_PMC, 2, PM_PMC_VIRT, NONE],
  [PCI_PM_CTRL, 4, PM_CTRL_VIRT, PM_CTRL_WRITE],
]);

/** Address and data are mailboxes of ours: the transfer is made by the trap. */
export const VPD_TABLE: PermissionTable = standardTable(PCI_CAP_VPD_SIZEOF, [
  [PCI_VPD_ADDR, 2, ALL, ALL],
  [PCI_VPD_DATA, 4, ALL, ALL],
]);

/** Status is read-only; the longer layout serves the shorter too. */
export const PCIX_TABLE: PermissionTable = standardTable(PCI_CAP_PCIX_SIZEOF_V2, [
  [PCI_X_CMD, 2, NONE, ALL],
  [PCI_X_ECC_CSR, 4, NONE, ALL],
]);

/** FLR, MPS and MRRS in DEVCTL. */
export const EXP_DEVCTL_VIRT = 0xf0e0;
/** All but phantom functions: their use changes what the IOMMU sees as the requester. */
export const EXP_DEVCTL_WRITE = 0xfdff;
/** All but ARI forwarding. */
export const EXP_DEVCTL2_WRITE = 0xffdf;

export const EXP_TABLE: PermissionTable = standardTable(PCI_CAP_EXP_ENDPOINT_SIZEOF_V2, [
  [PCI_EXP_DEVCTL, 2, EXP_DEVCTL_VIRT, EXP_DEVCTL_WRITE],
  [PCI_EXP_DEVCTL2, 2, NONE, EXP_DEVCTL2_WRITE],
]);

export const AF_TABLE: PermissionTable = standardTable(PCI_CAP_AF_SIZEOF, [
  [PCI_AF_CTRL, 1, PCI_AF_CTRL_FLR, PCI_AF_CTRL_FLR],
]);

/**
 * The table of an MSI capability with these flags. Address and data are the user's scratch: the real message belongs to
 * whoever delivers the interrupt. The upper byte of the flags is reserved.
 */
export function msiTable(length: number, flags: number): PermissionTable {
  const rows: PermissionRow[] = [
    [PCI_MSI_FLAGS, 1, ALL, ALL],
    [PCI_MSI_ADDRESS_LO, 4, ALL, ALL],
  ];
  const maskable = (flags & PCI_MSI_FLAGS_MASKBIT) !== 0;
  if ((flags & PCI_MSI_FLAGS_64BIT) !== 0) {
    rows.push([PCI_MSI_ADDRESS_HI, 4, ALL, ALL], [PCI_MSI_DATA_64, 2, ALL, ALL]);
    if (maskable) rows.push([PCI_MSI_MASK_64, 4, NONE, ALL], [PCI_MSI_PENDING_64, 4, NONE, ALL]);
  } else {
    rows.push([PCI_MSI_DATA_32, 2, ALL, ALL]);
    if (maskable) rows.push([PCI_MSI_MASK_32, 4, NONE, ALL], [PCI_MSI_PENDING_32, 4, NONE, ALL]);
  }
  return standardTable(length, rows);
}

/** Every uncorrectable error that AER defines. */
export const ERR_UNCOR_BITS = 0x03fff031;
/** Every correctable one. */
export const ERR_COR_BITS = 0xf1c1;
/** ECRC generation and check enable. */
export const ERR_CAP_BITS = 0x0140;

/** Ends before the root error registers, which endpoints do not have. */
export const ERR_TABLE: PermissionTable = extendedTable(PCI_ERR_ROOT_COMMAND, [
  [PCI_ERR_UNCOR_STATUS, 4, NONE, ERR_UNCOR_BITS],
  [PCI_ERR_UNCOR_MASK, 4, NONE, ERR_UNCOR_BITS],
  [PCI_ERR_UNCOR_SEVER, 4, NONE, ERR_UNCOR_BITS],
  [PCI_ERR_COR_STATUS, 4, NONE, ERR_COR_BITS],
  [PCI_ERR_COR_MASK, 4, NONE, ERR_COR_BITS],
  [PCI_ERR_CAP, 4, NONE, ERR_CAP_BITS],
]);

export const PWR_TABLE: PermissionTable = extendedTable(PCI_EXT_CAP_PWR_SIZEOF, [
  // The selector is what a user has to write. Upstream opens only the data register, which hardware does not take; it
  // stays open so that no write is refused here that goes through there.
  [PCI_PWR_DSR, 1, NONE, ALL],
  [PCI_PWR_DATA, 1, NONE, ALL],
]);
