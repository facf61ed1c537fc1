/**
 * PCI extended capabilities (config space 0x100 to 0xfff). Spelling and values of `linux/pci_regs.h`; offsets count
 * from the start of the capability.
 */

/* Extended capability ids */
export const PCI_EXT_CAP_ID_ERR = 0x01;
export const PCI_EXT_CAP_ID_VC = 0x02;
export const PCI_EXT_CAP_ID_DSN = 0x03;
export const PCI_EXT_CAP_ID_PWR = 0x04;
export const PCI_EXT_CAP_ID_RCLD = 0x05;
export const PCI_EXT_CAP_ID_RCILC = 0x06;
export const PCI_EXT_CAP_ID_RCEC = 0x07;
export const PCI_EXT_CAP_ID_MFVC = 0x08;
export const PCI_EXT_CAP_ID_VC9 = 0x09;
export const PCI_EXT_CAP_ID_RCRB = 0x0a;
export const PCI_EXT_CAP_ID_VNDR = 0x0b;
export const PCI_EXT_CAP_ID_CAC = 0x0c;
export const PCI_EXT_CAP_ID_ACS = 0x0d;
export const PCI_EXT_CAP_ID_ARI = 0x0e;
export const PCI_EXT_CAP_ID_ATS = 0x0f;
export const PCI_EXT_CAP_ID_SRIOV = 0x10;
export const PCI_EXT_CAP_ID_MRIOV = 0x11;
export const PCI_EXT_CAP_ID_MCAST = 0x12;
export const PCI_EXT_CAP_ID_PRI = 0x13;
export const PCI_EXT_CAP_ID_AMD_XXX = 0x14;
export const PCI_EXT_CAP_ID_REBAR = 0x15;
export const PCI_EXT_CAP_ID_DPA = 0x16;
export const PCI_EXT_CAP_ID_TPH = 0x17;
export const PCI_EXT_CAP_ID_LTR = 0x18;
export const PCI_EXT_CAP_ID_SECPCI = 0x19;
export const PCI_EXT_CAP_ID_PMUX = 0x1a;
export const PCI_EXT_CAP_ID_PASID = 0x1b;
export const PCI_EXT_CAP_ID_DPC = 0x1d;
export const PCI_EXT_CAP_ID_L1SS = 0x1e;
export const PCI_EXT_CAP_ID_PTM = 0x1f;
export const PCI_EXT_CAP_ID_DVSEC = 0x23;
export const PCI_EXT_CAP_ID_VF_REBAR = 0x24;
export const PCI_EXT_CAP_ID_DLF = 0x25;
export const PCI_EXT_CAP_ID_PL_16GT = 0x26;
export const PCI_EXT_CAP_ID_NPEM = 0x29;
export const PCI_EXT_CAP_ID_PL_32GT = 0x2a;
export const PCI_EXT_CAP_ID_DOE = 0x2e;
export const PCI_EXT_CAP_ID_DEV3 = 0x2f;
export const PCI_EXT_CAP_ID_IDE = 0x30;
export const PCI_EXT_CAP_ID_PL_64GT = 0x31;
export const PCI_EXT_CAP_ID_MAX = PCI_EXT_CAP_ID_PL_64GT;

/* Sizes of Device Serial Number and Multicast */
export const PCI_EXT_CAP_DSN_SIZEOF = 12;
export const PCI_EXT_CAP_MCAST_ENDPOINT_SIZEOF = 40;

/* Advanced Error Reporting */
export const PCI_ERR_UNCOR_STATUS = 0x04;
export const PCI_ERR_UNC_UND = 0x00000001;
export const PCI_ERR_UNC_DLP = 0x00000010;
export const PCI_ERR_UNC_SURPDN = 0x00000020;
export const PCI_ERR_UNC_POISON_TLP = 0x00001000;
export const PCI_ERR_UNC_FCP = 0x00002000;
export const PCI_ERR_UNC_COMP_TIME = 0x00004000;
export const PCI_ERR_UNC_COMP_ABORT = 0x00008000;
export const PCI_ERR_UNC_UNX_COMP = 0x00010000;
export const PCI_ERR_UNC_RX_OVER = 0x00020000;
export const PCI_ERR_UNC_MALF_TLP = 0x00040000;
export const PCI_ERR_UNC_ECRC = 0x00080000;
export const PCI_ERR_UNC_UNSUP = 0x00100000;
export const PCI_ERR_UNC_ACSV = 0x00200000;
export const PCI_ERR_UNC_INTN = 0x00400000;
export const PCI_ERR_UNC_MCBTLP = 0x00800000;
export const PCI_ERR_UNC_ATOMEG = 0x01000000;
export const PCI_ERR_UNC_TLPPRE = 0x02000000;
export const PCI_ERR_UNC_POISON_BLK = 0x04000000;
export const PCI_ERR_UNC_DMWR_BLK = 0x08000000;
export const PCI_ERR_UNC_IDE_CHECK = 0x10000000;
export const PCI_ERR_UNC_MISR_IDE = 0x20000000;
export const PCI_ERR_UNC_PCRC_CHECK = 0x40000000;
export const PCI_ERR_UNC_XLAT_BLK = 0x80000000;
export const PCI_ERR_UNCOR_MASK = 0x08;
export const PCI_ERR_UNCOR_SEVER = 0x0c;
export const PCI_ERR_COR_STATUS = 0x10;
export const PCI_ERR_COR_RCVR = 0x00000001;
export const PCI_ERR_COR_BAD_TLP = 0x00000040;
export const PCI_ERR_COR_BAD_DLLP = 0x00000080;
export const PCI_ERR_COR_REP_ROLL = 0x00000100;
export const PCI_ERR_COR_REP_TIMER = 0x00001000;
export const PCI_ERR_COR_ADV_NFAT = 0x00002000;
export const PCI_ERR_COR_INTERNAL = 0x00004000;
export const PCI_ERR_COR_LOG_OVER = 0x00008000;
export const PCI_ERR_COR_MASK = 0x14;
export const PCI_ERR_CAP = 0x18;
export const PCI_ERR_CAP_ECRC_GENC = 0x00000020;
export const PCI_ERR_CAP_ECRC_GENE = 0x00000040;
export const PCI_ERR_CAP_ECRC_CHKC = 0x00000080;
export const PCI_ERR_CAP_ECRC_CHKE = 0x00000100;
export const PCI_ERR_CAP_PREFIX_LOG_PRESENT = 0x00000800;
export const PCI_ERR_CAP_COMP_TIME_LOG = 0x00001000;
export const PCI_ERR_CAP_TLP_LOG_FLIT = 0x00040000;
export const PCI_ERR_CAP_TLP_LOG_SIZE = 0x00f80000;
export const PCI_ERR_HEADER_LOG = 0x1c;
export const PCI_ERR_ROOT_COMMAND = 0x2c;
export const PCI_ERR_ROOT_CMD_COR_EN = 0x00000001;
export const PCI_ERR_ROOT_CMD_NONFATAL_EN = 0x00000002;
export const PCI_ERR_ROOT_CMD_FATAL_EN = 0x00000004;
export const PCI_ERR_ROOT_STATUS = 0x30;
export const PCI_ERR_ROOT_COR_RCV = 0x00000001;
export const PCI_ERR_ROOT_MULTI_COR_RCV = 0x00000002;
export const PCI_ERR_ROOT_UNCOR_RCV = 0x00000004;
export const PCI_ERR_ROOT_MULTI_UNCOR_RCV = 0x00000008;
export const PCI_ERR_ROOT_FIRST_FATAL = 0x00000010;
export const PCI_ERR_ROOT_NONFATAL_RCV = 0x00000020;
export const PCI_ERR_ROOT_FATAL_RCV = 0x00000040;
export const PCI_ERR_ROOT_AER_IRQ = 0xf8000000;
export const PCI_ERR_ROOT_ERR_SRC = 0x34;
export const PCI_ERR_PREFIX_LOG = 0x38;

/* Virtual Channel */
export const PCI_VC_PORT_CAP1 = 0x04;
export const PCI_VC_CAP1_EVCC = 0x00000007;
export const PCI_VC_CAP1_LPEVCC = 0x00000070;
export const PCI_VC_CAP1_ARB_SIZE = 0x00000c00;
export const PCI_VC_PORT_CAP2 = 0x08;
export const PCI_VC_CAP2_32_PHASE = 0x00000002;
export const PCI_VC_CAP2_64_PHASE = 0x00000004;
export const PCI_VC_CAP2_128_PHASE = 0x00000008;
export const PCI_VC_CAP2_ARB_OFF = 0xff000000;
export const PCI_VC_PORT_CTRL = 0x0c;
export const PCI_VC_PORT_CTRL_LOAD_TABLE = 0x00000001;
export const PCI_VC_PORT_STATUS = 0x0e;
export const PCI_VC_PORT_STATUS_TABLE = 0x00000001;
export const PCI_VC_RES_CAP = 0x10;
export const PCI_VC_RES_CAP_32_PHASE = 0x00000002;
export const PCI_VC_RES_CAP_64_PHASE = 0x00000004;
export const PCI_VC_RES_CAP_128_PHASE = 0x00000008;
export const PCI_VC_RES_CAP_128_PHASE_TB = 0x00000010;
export const PCI_VC_RES_CAP_256_PHASE = 0x00000020;
export const PCI_VC_RES_CAP_ARB_OFF = 0xff000000;
export const PCI_VC_RES_CTRL = 0x14;
export const PCI_VC_RES_CTRL_LOAD_TABLE = 0x00010000;
export const PCI_VC_RES_CTRL_ARB_SELECT = 0x000e0000;
export const PCI_VC_RES_CTRL_ID = 0x07000000;
export const PCI_VC_RES_CTRL_ENABLE = 0x80000000;
export const PCI_VC_RES_STATUS = 0x1a;
export const PCI_VC_RES_STATUS_TABLE = 0x00000001;
export const PCI_VC_RES_STATUS_NEGO = 0x00000002;
export const PCI_CAP_VC_BASE_SIZEOF = 0x10;
export const PCI_CAP_VC_PER_VC_SIZEOF = 0x0c;

/* Power Budgeting */
export const PCI_PWR_DSR = 0x04;
export const PCI_PWR_DATA = 0x08;
export const PCI_PWR_CAP = 0x0c;
export const PCI_EXT_CAP_PWR_SIZEOF = 0x10;

/* Root Complex Event Collector endpoint association */
export const PCI_RCEC_RCIEP_BITMAP = 4;
export const PCI_RCEC_BUSN = 8;
export const PCI_RCEC_BUSN_REG_VER = 0x02;

/* Vendor-Specific (extended) */
export const PCI_VNDR_HEADER = 4;

/* Alternative Routing-ID */
export const PCI_ARI_CAP = 0x04;
export const PCI_ARI_CAP_MFVC = 0x0001;
export const PCI_ARI_CAP_ACS = 0x0002;
export const PCI_ARI_CTRL = 0x06;
export const PCI_ARI_CTRL_MFVC = 0x0001;
export const PCI_ARI_CTRL_ACS = 0x0002;
export const PCI_EXT_CAP_ARI_SIZEOF = 8;

/* Address Translation Services */
export const PCI_ATS_CAP = 0x04;
export const PCI_ATS_MAX_QDEP = 32;
export const PCI_ATS_CAP_PAGE_ALIGNED = 0x0020;
export const PCI_ATS_CTRL = 0x06;
export const PCI_ATS_CTRL_ENABLE = 0x8000;
export const PCI_ATS_MIN_STU = 12;
export const PCI_EXT_CAP_ATS_SIZEOF = 8;

/* Page Request Interface */
export const PCI_PRI_CTRL = 0x04;
export const PCI_PRI_CTRL_ENABLE = 0x0001;
export const PCI_PRI_CTRL_RESET = 0x0002;
export const PCI_PRI_STATUS = 0x06;
export const PCI_PRI_STATUS_RF = 0x0001;
export const PCI_PRI_STATUS_UPRGI = 0x0002;
export const PCI_PRI_STATUS_STOPPED = 0x0100;
export const PCI_PRI_STATUS_PASID = 0x8000;
export const PCI_PRI_MAX_REQ = 0x08;
export const PCI_PRI_ALLOC_REQ = 0x0c;
export const PCI_EXT_CAP_PRI_SIZEOF = 16;

/* Process Address Space ID */
export const PCI_PASID_CAP = 0x04;
export const PCI_PASID_CAP_EXEC = 0x02;
export const PCI_PASID_CAP_PRIV = 0x04;
export const PCI_PASID_CAP_WIDTH = 0x1f00;
export const PCI_PASID_CTRL = 0x06;
export const PCI_PASID_CTRL_ENABLE = 0x01;
export const PCI_PASID_CTRL_EXEC = 0x02;
export const PCI_PASID_CTRL_PRIV = 0x04;
export const PCI_EXT_CAP_PASID_SIZEOF = 8;

/* Single Root I/O Virtualization */
export const PCI_SRIOV_CAP = 0x04;
export const PCI_SRIOV_CAP_VFM = 0x00000001;
export const PCI_SRIOV_CTRL = 0x08;
export const PCI_SRIOV_CTRL_VFE = 0x0001;
export const PCI_SRIOV_CTRL_VFM = 0x0002;
export const PCI_SRIOV_CTRL_INTR = 0x0004;
export const PCI_SRIOV_CTRL_MSE = 0x0008;
export const PCI_SRIOV_CTRL_ARI = 0x0010;
export const PCI_SRIOV_STATUS = 0x0a;
export const PCI_SRIOV_STATUS_VFM = 0x0001;
export const PCI_SRIOV_INITIAL_VF = 0x0c;
export const PCI_SRIOV_TOTAL_VF = 0x0e;
export const PCI_SRIOV_NUM_VF = 0x10;
export const PCI_SRIOV_FUNC_LINK = 0x12;
export const PCI_SRIOV_VF_OFFSET = 0x14;
export const PCI_SRIOV_VF_STRIDE = 0x16;
export const PCI_SRIOV_VF_DID = 0x1a;
export const PCI_SRIOV_SUP_PGSIZE = 0x1c;
export const PCI_SRIOV_SYS_PGSIZE = 0x20;
export const PCI_SRIOV_BAR = 0x24;
export const PCI_SRIOV_NUM_BARS = 6;
export const PCI_SRIOV_VFM = 0x3c;
export const PCI_SRIOV_VFM_UA = 0x0;
export const PCI_SRIOV_VFM_MI = 0x1;
export const PCI_SRIOV_VFM_MO = 0x2;
export const PCI_SRIOV_VFM_AV = 0x3;
export const PCI_EXT_CAP_SRIOV_SIZEOF = 0x40;

/* Latency Tolerance Reporting */
export const PCI_LTR_MAX_SNOOP_LAT = 0x4;
export const PCI_LTR_MAX_NOSNOOP_LAT = 0x6;
export const PCI_LTR_VALUE_MASK = 0x000003ff;
export const PCI_LTR_SCALE_MASK = 0x00001c00;
export const PCI_LTR_SCALE_SHIFT = 10;
export const PCI_LTR_NOSNOOP_VALUE = 0x03ff0000;
export const PCI_LTR_NOSNOOP_SCALE = 0x1c000000;
export const PCI_EXT_CAP_LTR_SIZEOF = 8;

/* Access Control Services */
export const PCI_ACS_CAP = 0x04;
export const PCI_ACS_SV = 0x0001;
export const PCI_ACS_TB = 0x0002;
export const PCI_ACS_RR = 0x0004;
export const PCI_ACS_CR = 0x0008;
export const PCI_ACS_UF = 0x0010;
export const PCI_ACS_EC = 0x0020;
export const PCI_ACS_DT = 0x0040;
export const PCI_ACS_EGRESS_BITS = 0x05;
export const PCI_ACS_CTRL = 0x06;
export const PCI_ACS_EGRESS_CTL_V = 0x08;

/* Vendor-Specific, older spelling */
export const PCI_VSEC_HDR = 4;
export const PCI_VSEC_HDR_LEN_SHIFT = 20;

/* Resizable BAR */
export const PCI_REBAR_CAP = 4;
export const PCI_REBAR_CAP_SIZES = 0xfffffff0;
export const PCI_REBAR_CTRL = 8;
export const PCI_REBAR_CTRL_BAR_IDX = 0x00000007;
export const PCI_REBAR_CTRL_NBAR_MASK = 0x000000e0;
export const PCI_REBAR_CTRL_NBAR_SHIFT = 5;
export const PCI_REBAR_CTRL_BAR_SIZE = 0x00001f00;
export const PCI_REBAR_CTRL_BAR_SHIFT = 8;

/* Dynamic Power Allocation */
export const PCI_DPA_CAP = 4;
export const PCI_DPA_CAP_SUBSTATE_MASK = 0x1f;
export const PCI_DPA_BASE_SIZEOF = 16;

/* TPH Requester */
export const PCI_TPH_CAP = 4;
export const PCI_TPH_CAP_ST_NS = 0x00000001;
export const PCI_TPH_CAP_ST_IV = 0x00000002;
export const PCI_TPH_CAP_ST_DS = 0x00000004;
export const PCI_TPH_CAP_EXT_TPH = 0x00000100;
export const PCI_TPH_CAP_LOC_MASK = 0x600;
export const PCI_TPH_LOC_NONE = 0x000;
export const PCI_TPH_LOC_CAP = 0x200;
export const PCI_TPH_LOC_MSIX = 0x400;
export const PCI_TPH_CAP_ST_MASK = 0x07ff0000;
export const PCI_TPH_CAP_ST_SHIFT = 16;
export const PCI_TPH_BASE_SIZEOF = 0xc;
export const PCI_TPH_CTRL = 8;
export const PCI_TPH_CTRL_MODE_SEL_MASK = 0x00000007;
export const PCI_TPH_ST_NS_MODE = 0x0;
export const PCI_TPH_ST_IV_MODE = 0x1;
export const PCI_TPH_ST_DS_MODE = 0x2;
export const PCI_TPH_CTRL_REQ_EN_MASK = 0x00000300;
export const PCI_TPH_REQ_DISABLE = 0x0;
export const PCI_TPH_REQ_TPH_ONLY = 0x1;
export const PCI_TPH_REQ_EXT_TPH = 0x3;

/* Downstream Port Containment */
export const PCI_EXP_DPC_CAP = 0x04;
export const PCI_EXP_DPC_IRQ = 0x001f;
export const PCI_EXP_DPC_CAP_RP_EXT = 0x0020;
export const PCI_EXP_DPC_CAP_POISONED_TLP = 0x0040;
export const PCI_EXP_DPC_CAP_SW_TRIGGER = 0x0080;
export const PCI_EXP_DPC_RP_PIO_LOG_SIZE = 0x0f00;
export const PCI_EXP_DPC_CAP_DL_ACTIVE = 0x1000;
export const PCI_EXP_DPC_RP_PIO_LOG_SIZE4 = 0x2000;
export const PCI_EXP_DPC_CTL = 0x06;
export const PCI_EXP_DPC_CTL_EN_FATAL = 0x0001;
export const PCI_EXP_DPC_CTL_EN_NONFATAL = 0x0002;
export const PCI_EXP_DPC_CTL_INT_EN = 0x0008;
export const PCI_EXP_DPC_STATUS = 0x08;
export const PCI_EXP_DPC_STATUS_TRIGGER = 0x0001;
export const PCI_EXP_DPC_STATUS_TRIGGER_RSN = 0x0006;
export const PCI_EXP_DPC_STATUS_TRIGGER_RSN_UNCOR = 0x0000;
export const PCI_EXP_DPC_STATUS_TRIGGER_RSN_NFE = 0x0002;
export const PCI_EXP_DPC_STATUS_TRIGGER_RSN_FE = 0x0004;
export const PCI_EXP_DPC_STATUS_TRIGGER_RSN_IN_EXT = 0x0006;
export const PCI_EXP_DPC_STATUS_INTERRUPT = 0x0008;
export const PCI_EXP_DPC_RP_BUSY = 0x0010;
export const PCI_EXP_DPC_STATUS_TRIGGER_RSN_EXT = 0x0060;
export const PCI_EXP_DPC_STATUS_TRIGGER_RSN_RP_PIO = 0x0000;
export const PCI_EXP_DPC_STATUS_TRIGGER_RSN_SW_TRIGGER = 0x0020;
export const PCI_EXP_DPC_RP_PIO_FEP = 0x1f00;
export const PCI_EXP_DPC_SOURCE_ID = 0x0a;
export const PCI_EXP_DPC_RP_PIO_STATUS = 0x0c;
export const PCI_EXP_DPC_RP_PIO_MASK = 0x10;
export const PCI_EXP_DPC_RP_PIO_SEVERITY = 0x14;
export const PCI_EXP_DPC_RP_PIO_SYSERROR = 0x18;
export const PCI_EXP_DPC_RP_PIO_EXCEPTION = 0x1c;
export const PCI_EXP_DPC_RP_PIO_HEADER_LOG = 0x20;
export const PCI_EXP_DPC_RP_PIO_IMPSPEC_LOG = 0x30;
export const PCI_EXP_DPC_RP_PIO_TLPPREFIX_LOG = 0x34;

/* Precision Time Measurement */
export const PCI_PTM_CAP = 0x04;
export const PCI_PTM_CAP_REQ = 0x00000001;
export const PCI_PTM_CAP_RES = 0x00000002;
export const PCI_PTM_CAP_ROOT = 0x00000004;
export const PCI_PTM_GRANULARITY_MASK = 0x0000ff00;
export const PCI_PTM_CTRL = 0x08;
export const PCI_PTM_CTRL_ENABLE = 0x00000001;
export const PCI_PTM_CTRL_ROOT = 0x00000002;

/* L1 PM Substates */
export const PCI_L1SS_CAP = 0x04;
export const PCI_L1SS_CAP_PCIPM_L1_2 = 0x00000001;
export const PCI_L1SS_CAP_PCIPM_L1_1 = 0x00000002;
export const PCI_L1SS_CAP_ASPM_L1_2 = 0x00000004;
export const PCI_L1SS_CAP_ASPM_L1_1 = 0x00000008;
export const PCI_L1SS_CAP_L1_PM_SS = 0x00000010;
export const PCI_L1SS_CAP_CM_RESTORE_TIME = 0x0000ff00;
export const PCI_L1SS_CAP_P_PWR_ON_SCALE = 0x00030000;
export const PCI_L1SS_CAP_P_PWR_ON_VALUE = 0x00f80000;
export const PCI_L1SS_CTL1 = 0x08;
export const PCI_L1SS_CTL1_PCIPM_L1_2 = 0x00000001;
export const PCI_L1SS_CTL1_PCIPM_L1_1 = 0x00000002;
export const PCI_L1SS_CTL1_ASPM_L1_2 = 0x00000004;
export const PCI_L1SS_CTL1_ASPM_L1_1 = 0x00000008;
export const PCI_L1SS_CTL1_L1_2_MASK = 0x00000005;
export const PCI_L1SS_CTL1_L1SS_MASK = 0x0000000f;
export const PCI_L1SS_CTL1_CM_RESTORE_TIME = 0x0000ff00;
export const PCI_L1SS_CTL1_LTR_L12_TH_VALUE = 0x03ff0000;
export const PCI_L1SS_CTL1_LTR_L12_TH_SCALE = 0xe0000000;
export const PCI_L1SS_CTL2 = 0x0c;
export const PCI_L1SS_CTL2_T_PWR_ON_SCALE = 0x00000003;
export const PCI_L1SS_CTL2_T_PWR_ON_VALUE = 0x000000f8;

/* Designated Vendor-Specific */
export const PCI_DVSEC_HEADER1 = 0x4;
export const PCI_DVSEC_HEADER2 = 0x8;

/* VF Resizable BAR (the layout of Resizable BAR) */
export const PCI_VF_REBAR_CAP = PCI_REBAR_CAP;
export const PCI_VF_REBAR_CAP_SIZES = PCI_REBAR_CAP_SIZES;
export const PCI_VF_REBAR_CTRL = PCI_REBAR_CTRL;
export const PCI_VF_REBAR_CTRL_BAR_IDX = PCI_REBAR_CTRL_BAR_IDX;
export const PCI_VF_REBAR_CTRL_NBAR_MASK = PCI_REBAR_CTRL_NBAR_MASK;
export const PCI_VF_REBAR_CTRL_BAR_SIZE = PCI_REBAR_CTRL_BAR_SIZE;

/* Data Link Feature */
export const PCI_DLF_CAP = 0x04;
export const PCI_DLF_EXCHANGE_ENABLE = 0x80000000;

/* Secondary PCI Express */
export const PCI_SECPCI_LE_CTRL = 0x0c;

/* Physical Layer 16.0 GT/s */
export const PCI_PL_16GT_LE_CTRL = 0x20;
export const PCI_PL_16GT_LE_CTRL_DSP_TX_PRESET_MASK = 0x0000000f;
export const PCI_PL_16GT_LE_CTRL_USP_TX_PRESET_MASK = 0x000000f0;
export const PCI_PL_16GT_LE_CTRL_USP_TX_PRESET_SHIFT = 4;

/* Physical Layer 32.0 and 64.0 GT/s */
export const PCI_PL_32GT_LE_CTRL = 0x20;
export const PCI_PL_64GT_LE_CTRL = 0x20;

/* Native PCIe Enclosure Management */
export const PCI_NPEM_CAP = 0x04;
export const PCI_NPEM_CAP_CAPABLE = 0x00000001;
export const PCI_NPEM_CTRL = 0x08;
export const PCI_NPEM_CTRL_ENABLE = 0x00000001;
export const PCI_NPEM_CMD_RESET = 0x00000002;
export const PCI_NPEM_IND_OK = 0x00000004;
export const PCI_NPEM_IND_LOCATE = 0x00000008;
export const PCI_NPEM_IND_FAIL = 0x00000010;
export const PCI_NPEM_IND_REBUILD = 0x00000020;
export const PCI_NPEM_IND_PFA = 0x00000040;
export const PCI_NPEM_IND_HOTSPARE = 0x00000080;
export const PCI_NPEM_IND_ICA = 0x00000100;
export const PCI_NPEM_IND_IFA = 0x00000200;
export const PCI_NPEM_IND_IDT = 0x00000400;
export const PCI_NPEM_IND_DISABLED = 0x00000800;
export const PCI_NPEM_IND_SPEC_0 = 0x01000000;
export const PCI_NPEM_IND_SPEC_1 = 0x02000000;
export const PCI_NPEM_IND_SPEC_2 = 0x04000000;
export const PCI_NPEM_IND_SPEC_3 = 0x08000000;
export const PCI_NPEM_IND_SPEC_4 = 0x10000000;
export const PCI_NPEM_IND_SPEC_5 = 0x20000000;
export const PCI_NPEM_IND_SPEC_6 = 0x40000000;
export const PCI_NPEM_IND_SPEC_7 = 0x80000000;
export const PCI_NPEM_STATUS = 0x0c;
export const PCI_NPEM_STATUS_CC = 0x00000001;

/* Data Object Exchange */
export const PCI_DOE_CAP = 0x04;
export const PCI_DOE_CAP_INT_SUP = 0x00000001;
export const PCI_DOE_CAP_INT_MSG_NUM = 0x00000ffe;
export const PCI_DOE_CTRL = 0x08;
export const PCI_DOE_CTRL_ABORT = 0x00000001;
export const PCI_DOE_CTRL_INT_EN = 0x00000002;
export const PCI_DOE_CTRL_GO = 0x80000000;
export const PCI_DOE_STATUS = 0x0c;
export const PCI_DOE_STATUS_BUSY = 0x00000001;
export const PCI_DOE_STATUS_INT_STATUS = 0x00000002;
export const PCI_DOE_STATUS_ERROR = 0x00000004;
export const PCI_DOE_STATUS_DATA_OBJECT_READY = 0x80000000;
export const PCI_DOE_WRITE = 0x10;
export const PCI_DOE_READ = 0x14;
export const PCI_DOE_CAP_SIZEOF = 0x18;
export const PCI_DOE_DATA_OBJECT_HEADER_1_VID = 0x0000ffff;
export const PCI_DOE_DATA_OBJECT_HEADER_1_TYPE = 0x00ff0000;
export const PCI_DOE_DATA_OBJECT_HEADER_2_LENGTH = 0x0003ffff;
export const PCI_DOE_DATA_OBJECT_DISC_REQ_3_INDEX = 0x000000ff;
export const PCI_DOE_DATA_OBJECT_DISC_REQ_3_VER = 0x0000ff00;
export const PCI_DOE_DATA_OBJECT_DISC_RSP_3_VID = 0x0000ffff;
export const PCI_DOE_DATA_OBJECT_DISC_RSP_3_TYPE = 0x00ff0000;
export const PCI_DOE_DATA_OBJECT_DISC_RSP_3_PROTOCOL = 0x00ff0000;
export const PCI_DOE_DATA_OBJECT_DISC_RSP_3_NEXT_INDEX = 0xff000000;

/* Device 3 */
export const PCI_DEV3_CAP = 0x04;
export const PCI_DEV3_CTL = 0x08;
export const PCI_DEV3_STA = 0x0c;
export const PCI_DEV3_STA_SEGMENT = 0x8;
