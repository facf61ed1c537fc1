/**
 * PCI capabilities (config space 0x40 to 0xff). Spelling and values of `linux/pci_regs.h`; offsets count from the
 * start of the capability.
 */

/* Capability list */
export const PCI_CAP_LIST_ID = 0;
export const PCI_CAP_ID_MASK = 0x00ff;
export const PCI_CAP_LIST_NEXT_MASK = 0xff00;
export const PCI_CAP_ID_PM = 0x01;
export const PCI_CAP_ID_AGP = 0x02;
export const PCI_CAP_ID_VPD = 0x03;
export const PCI_CAP_ID_SLOTID = 0x04;
export const PCI_CAP_ID_MSI = 0x05;
export const PCI_CAP_ID_CHSWP = 0x06;
export const PCI_CAP_ID_PCIX = 0x07;
export const PCI_CAP_ID_HT = 0x08;
export const PCI_CAP_ID_VNDR = 0x09;
export const PCI_CAP_ID_DBG = 0x0a;
export const PCI_CAP_ID_CCRC = 0x0b;
export const PCI_CAP_ID_SHPC = 0x0c;
export const PCI_CAP_ID_SSVID = 0x0d;
export const PCI_CAP_ID_AGP3 = 0x0e;
export const PCI_CAP_ID_SECDEV = 0x0f;
export const PCI_CAP_ID_EXP = 0x10;
export const PCI_CAP_ID_MSIX = 0x11;
export const PCI_CAP_ID_SATA = 0x12;
export const PCI_CAP_ID_AF = 0x13;
export const PCI_CAP_ID_EA = 0x14;
export const PCI_CAP_ID_MAX = PCI_CAP_ID_EA;
export const PCI_CAP_LIST_NEXT = 1;
export const PCI_CAP_FLAGS = 2;
export const PCI_CAP_SIZEOF = 4;

/* Power Management */
export const PCI_PM_PMC = 2;
export const PCI_PM_CAP_VER_MASK = 0x0007;
export const PCI_PM_CAP_PME_CLOCK = 0x0008;
export const PCI_PM_CAP_RESERVED = 0x0010;
export const PCI_PM_CAP_DSI = 0x0020;
export const PCI_PM_CAP_AUX_POWER = 0x01c0;
export const PCI_PM_CAP_D1 = 0x0200;
export const PCI_PM_CAP_D2 = 0x0400;
export const PCI_PM_CAP_PME = 0x0800;
export const PCI_PM_CAP_PME_MASK = 0xf800;
export const PCI_PM_CAP_PME_D0 = 0x0800;
export const PCI_PM_CAP_PME_D1 = 0x1000;
export const PCI_PM_CAP_PME_D2 = 0x2000;
export const PCI_PM_CAP_PME_D3hot = 0x4000;
export const PCI_PM_CAP_PME_D3cold = 0x8000;
export const PCI_PM_CAP_PME_SHIFT = 11;
export const PCI_PM_CTRL = 4;
export const PCI_PM_CTRL_STATE_MASK = 0x0003;
export const PCI_PM_CTRL_NO_SOFT_RESET = 0x0008;
export const PCI_PM_CTRL_PME_ENABLE = 0x0100;
export const PCI_PM_CTRL_DATA_SEL_MASK = 0x1e00;
export const PCI_PM_CTRL_DATA_SCALE_MASK = 0x6000;
export const PCI_PM_CTRL_PME_STATUS = 0x8000;
export const PCI_PM_PPB_EXTENSIONS = 6;
export const PCI_PM_PPB_B2_B3 = 0x40;
export const PCI_PM_BPCC_ENABLE = 0x80;
export const PCI_PM_DATA_REGISTER = 7;
export const PCI_PM_SIZEOF = 8;

/* AGP */
export const PCI_AGP_VERSION = 2;
export const PCI_AGP_RFU = 3;
export const PCI_AGP_STATUS = 4;
export const PCI_AGP_STATUS_RQ_MASK = 0xff000000;
export const PCI_AGP_STATUS_SBA = 0x0200;
export const PCI_AGP_STATUS_64BIT = 0x0020;
export const PCI_AGP_STATUS_FW = 0x0010;
export const PCI_AGP_STATUS_RATE4 = 0x0004;
export const PCI_AGP_STATUS_RATE2 = 0x0002;
export const PCI_AGP_STATUS_RATE1 = 0x0001;
export const PCI_AGP_COMMAND = 8;
export const PCI_AGP_COMMAND_RQ_MASK = 0xff000000;
export const PCI_AGP_COMMAND_SBA = 0x0200;
export const PCI_AGP_COMMAND_AGP = 0x0100;
export const PCI_AGP_COMMAND_64BIT = 0x0020;
export const PCI_AGP_COMMAND_FW = 0x0010;
export const PCI_AGP_COMMAND_RATE4 = 0x0004;
export const PCI_AGP_COMMAND_RATE2 = 0x0002;
export const PCI_AGP_COMMAND_RATE1 = 0x0001;
export const PCI_AGP_SIZEOF = 12;

/* Vital Product Data */
export const PCI_VPD_ADDR = 2;
export const PCI_VPD_ADDR_MASK = 0x7fff;
export const PCI_VPD_ADDR_F = 0x8000;
export const PCI_VPD_DATA = 4;
export const PCI_CAP_VPD_SIZEOF = 8;

/* Slot identification */
export const PCI_SID_ESR = 2;
export const PCI_SID_ESR_NSLOTS = 0x1f;
export const PCI_SID_ESR_FIC = 0x20;
export const PCI_SID_CHASSIS_NR = 3;

/* MSI */
export const PCI_MSI_FLAGS = 0x02;
export const PCI_MSI_FLAGS_ENABLE = 0x0001;
export const PCI_MSI_FLAGS_QMASK = 0x000e;
export const PCI_MSI_FLAGS_QSIZE = 0x0070;
export const PCI_MSI_FLAGS_64BIT = 0x0080;
export const PCI_MSI_FLAGS_MASKBIT = 0x0100;
export const PCI_MSI_RFU = 3;
export const PCI_MSI_ADDRESS_LO = 0x04;
export const PCI_MSI_ADDRESS_HI = 0x08;
export const PCI_MSI_DATA_32 = 0x08;
export const PCI_MSI_MASK_32 = 0x0c;
export const PCI_MSI_PENDING_32 = 0x10;
export const PCI_MSI_DATA_64 = 0x0c;
export const PCI_MSI_MASK_64 = 0x10;
export const PCI_MSI_PENDING_64 = 0x14;

/* MSI-X */
export const PCI_MSIX_FLAGS = 2;
export const PCI_MSIX_FLAGS_QSIZE = 0x07ff;
export const PCI_MSIX_FLAGS_MASKALL = 0x4000;
export const PCI_MSIX_FLAGS_ENABLE = 0x8000;
export const PCI_MSIX_TABLE = 4;
export const PCI_MSIX_TABLE_BIR = 0x00000007;
export const PCI_MSIX_TABLE_OFFSET = 0xfffffff8;
export const PCI_MSIX_PBA = 8;
export const PCI_MSIX_PBA_BIR = 0x00000007;
export const PCI_MSIX_PBA_OFFSET = 0xfffffff8;
export const PCI_MSIX_FLAGS_BIRMASK = PCI_MSIX_PBA_BIR;
export const PCI_CAP_MSIX_SIZEOF = 12;

/* MSI-X table entry (in a BAR) */
export const PCI_MSIX_ENTRY_SIZE = 16;
export const PCI_MSIX_ENTRY_LOWER_ADDR = 0x0;
export const PCI_MSIX_ENTRY_UPPER_ADDR = 0x4;
export const PCI_MSIX_ENTRY_DATA = 0x8;
export const PCI_MSIX_ENTRY_VECTOR_CTRL = 0xc;
export const PCI_MSIX_ENTRY_CTRL_MASKBIT = 0x00000001;
export const PCI_MSIX_ENTRY_CTRL_ST = 0xffff0000;

/* CompactPCI hot swap */
export const PCI_CHSWP_CSR = 2;
export const PCI_CHSWP_DHA = 0x01;
export const PCI_CHSWP_EIM = 0x02;
export const PCI_CHSWP_PIE = 0x04;
export const PCI_CHSWP_LOO = 0x08;
export const PCI_CHSWP_PI = 0x30;
export const PCI_CHSWP_EXT = 0x40;
export const PCI_CHSWP_INS = 0x80;

/* Advanced Features */
export const PCI_AF_LENGTH = 2;
export const PCI_AF_CAP = 3;
export const PCI_AF_CAP_TP = 0x01;
export const PCI_AF_CAP_FLR = 0x02;
export const PCI_AF_CTRL = 4;
export const PCI_AF_CTRL_FLR = 0x01;
export const PCI_AF_STATUS = 5;
export const PCI_AF_STATUS_TP = 0x01;
export const PCI_CAP_AF_SIZEOF = 6;

/* Enhanced Allocation */
export const PCI_EA_NUM_ENT = 2;
export const PCI_EA_NUM_ENT_MASK = 0x3f;
export const PCI_EA_FIRST_ENT = 4;
export const PCI_EA_FIRST_ENT_BRIDGE = 8;
export const PCI_EA_ES = 0x00000007;
export const PCI_EA_BEI = 0x000000f0;
export const PCI_EA_SEC_BUS_MASK = 0xff;
export const PCI_EA_SUB_BUS_MASK = 0xff00;
export const PCI_EA_SUB_BUS_SHIFT = 8;
export const PCI_EA_BEI_BAR0 = 0;
export const PCI_EA_BEI_BAR5 = 5;
export const PCI_EA_BEI_BRIDGE = 6;
export const PCI_EA_BEI_ENI = 7;
export const PCI_EA_BEI_ROM = 8;
export const PCI_EA_BEI_VF_BAR0 = 9;
export const PCI_EA_BEI_VF_BAR5 = 14;
export const PCI_EA_BEI_RESERVED = 15;
export const PCI_EA_PP = 0x0000ff00;
export const PCI_EA_SP = 0x00ff0000;
export const PCI_EA_P_MEM = 0x00;
export const PCI_EA_P_MEM_PREFETCH = 0x01;
export const PCI_EA_P_IO = 0x02;
export const PCI_EA_P_VF_MEM_PREFETCH = 0x03;
export const PCI_EA_P_VF_MEM = 0x04;
export const PCI_EA_P_BRIDGE_MEM = 0x05;
export const PCI_EA_P_BRIDGE_MEM_PREFETCH = 0x06;
export const PCI_EA_P_BRIDGE_IO = 0x07;
export const PCI_EA_P_MEM_RESERVED = 0xfd;
export const PCI_EA_P_IO_RESERVED = 0xfe;
export const PCI_EA_P_UNAVAILABLE = 0xff;
export const PCI_EA_WRITABLE = 0x40000000;
export const PCI_EA_ENABLE = 0x80000000;
export const PCI_EA_BASE = 4;
export const PCI_EA_MAX_OFFSET = 8;
export const PCI_EA_IS_64 = 0x00000002;
export const PCI_EA_FIELD_MASK = 0xfffffffc;

/* PCI-X, functions */
export const PCI_X_CMD = 2;
export const PCI_X_CMD_DPERR_E = 0x0001;
export const PCI_X_CMD_ERO = 0x0002;
export const PCI_X_CMD_READ_512 = 0x0000;
export const PCI_X_CMD_READ_1K = 0x0004;
export const PCI_X_CMD_READ_2K = 0x0008;
export const PCI_X_CMD_READ_4K = 0x000c;
export const PCI_X_CMD_MAX_READ = 0x000c;
export const PCI_X_CMD_SPLIT_1 = 0x0000;
export const PCI_X_CMD_SPLIT_2 = 0x0010;
export const PCI_X_CMD_SPLIT_3 = 0x0020;
export const PCI_X_CMD_SPLIT_4 = 0x0030;
export const PCI_X_CMD_SPLIT_8 = 0x0040;
export const PCI_X_CMD_SPLIT_12 = 0x0050;
export const PCI_X_CMD_SPLIT_16 = 0x0060;
export const PCI_X_CMD_SPLIT_32 = 0x0070;
export const PCI_X_CMD_MAX_SPLIT = 0x0070;
export const PCI_X_STATUS = 4;
export const PCI_X_STATUS_DEVFN = 0x000000ff;
export const PCI_X_STATUS_BUS = 0x0000ff00;
export const PCI_X_STATUS_64BIT = 0x00010000;
export const PCI_X_STATUS_133MHZ = 0x00020000;
export const PCI_X_STATUS_SPL_DISC = 0x00040000;
export const PCI_X_STATUS_UNX_SPL = 0x00080000;
export const PCI_X_STATUS_COMPLEX = 0x00100000;
export const PCI_X_STATUS_MAX_READ = 0x00600000;
export const PCI_X_STATUS_MAX_SPLIT = 0x03800000;
export const PCI_X_STATUS_MAX_CUM = 0x1c000000;
export const PCI_X_STATUS_SPL_ERR = 0x20000000;
export const PCI_X_STATUS_266MHZ = 0x40000000;
export const PCI_X_STATUS_533MHZ = 0x80000000;
export const PCI_X_ECC_CSR = 8;
export const PCI_CAP_PCIX_SIZEOF_V0 = 8;
export const PCI_CAP_PCIX_SIZEOF_V1 = 24;
export const PCI_CAP_PCIX_SIZEOF_V2 = PCI_CAP_PCIX_SIZEOF_V1;

/* PCI-X, bridges */
export const PCI_X_BRIDGE_SSTATUS = 2;
export const PCI_X_SSTATUS_64BIT = 0x0001;
export const PCI_X_SSTATUS_133MHZ = 0x0002;
export const PCI_X_SSTATUS_FREQ = 0x03c0;
export const PCI_X_SSTATUS_VERS = 0x3000;
export const PCI_X_SSTATUS_V1 = 0x1000;
export const PCI_X_SSTATUS_V2 = 0x2000;
export const PCI_X_SSTATUS_266MHZ = 0x4000;
export const PCI_X_SSTATUS_533MHZ = 0x8000;
export const PCI_X_BRIDGE_STATUS = 4;

/* Bridge subsystem ids */
export const PCI_SSVID_VENDOR_ID = 4;
export const PCI_SSVID_DEVICE_ID = 6;

/* HyperTransport (id 0x08) */
export const HT_3BIT_CAP_MASK = 0xe0;
export const HT_CAPTYPE_SLAVE = 0x00;
export const HT_CAPTYPE_HOST = 0x20;
export const HT_5BIT_CAP_MASK = 0xf8;
export const HT_CAPTYPE_IRQ = 0x80;
export const HT_CAPTYPE_REMAPPING_40 = 0xa0;
export const HT_CAPTYPE_REMAPPING_64 = 0xa2;
export const HT_CAPTYPE_UNITID_CLUMP = 0x90;
export const HT_CAPTYPE_EXTCONF = 0x98;
export const HT_CAPTYPE_MSI_MAPPING = 0xa8;
export const HT_MSI_FLAGS = 0x02;
export const HT_MSI_FLAGS_ENABLE = 0x1;
export const HT_MSI_FLAGS_FIXED = 0x2;
export const HT_MSI_FIXED_ADDR = 0x00000000fee00000;
export const HT_MSI_ADDR_LO = 0x04;
export const HT_MSI_ADDR_LO_MASK = 0xfff00000;
export const HT_MSI_ADDR_HI = 0x08;
export const HT_CAPTYPE_DIRECT_ROUTE = 0xb0;
export const HT_CAPTYPE_VCSET = 0xb8;
export const HT_CAPTYPE_ERROR_RETRY = 0xc0;
export const HT_CAPTYPE_GEN3 = 0xd0;
export const HT_CAPTYPE_PM = 0xe0;
export const HT_CAP_SIZEOF_LONG = 28;
export const HT_CAP_SIZEOF_SHORT = 24;

/* SATA data/index */
export const PCI_SATA_REGS = 4;
export const PCI_SATA_REGS_MASK = 0xf;
export const PCI_SATA_REGS_INLINE = 0xf;
export const PCI_SATA_SIZEOF_SHORT = 8;
export const PCI_SATA_SIZEOF_LONG = 16;
