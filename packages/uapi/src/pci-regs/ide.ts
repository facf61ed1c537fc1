/**
 * Integrity and Data Encryption (extended capability 0x30). Spelling and values of `linux/pci_regs.h`; offsets count
 * from the start of the capability, those of a stream from the start of its register block.
 */

/* Capability and control */
export const PCI_IDE_CAP = 0x04;
export const PCI_IDE_CAP_LINK = 0x1;
export const PCI_IDE_CAP_SELECTIVE = 0x2;
export const PCI_IDE_CAP_FLOWTHROUGH = 0x4;
export const PCI_IDE_CAP_PARTIAL_HEADER_ENC = 0x8;
export const PCI_IDE_CAP_AGGREGATION = 0x10;
export const PCI_IDE_CAP_PCRC = 0x20;
export const PCI_IDE_CAP_IDE_KM = 0x40;
export const PCI_IDE_CAP_SEL_CFG = 0x80;
export const PCI_IDE_CAP_ALG = 0x1f00;
export const PCI_IDE_CAP_ALG_AES_GCM_256 = 0;
export const PCI_IDE_CAP_LINK_TC_NUM = 0xe000;
export const PCI_IDE_CAP_SEL_NUM = 0xff0000;
export const PCI_IDE_CAP_TEE_LIMITED = 0x1000000;
export const PCI_IDE_CTL = 0x08;
export const PCI_IDE_CTL_FLOWTHROUGH_IDE = 0x4;

/* Link streams */
export const PCI_IDE_LINK_STREAM_0 = 0xc;
export const PCI_IDE_LINK_BLOCK_SIZE = 8;
export const PCI_IDE_LINK_CTL_0 = 0x00;
export const PCI_IDE_LINK_CTL_EN = 0x1;
export const PCI_IDE_LINK_CTL_TX_AGGR_NPR = 0xc;
export const PCI_IDE_LINK_CTL_TX_AGGR_PR = 0x30;
export const PCI_IDE_LINK_CTL_TX_AGGR_CPL = 0xc0;
export const PCI_IDE_LINK_CTL_PCRC_EN = 0x100;
export const PCI_IDE_LINK_CTL_PART_ENC = 0x3c00;
export const PCI_IDE_LINK_CTL_ALG = 0x7c000;
export const PCI_IDE_LINK_CTL_TC = 0x380000;
export const PCI_IDE_LINK_CTL_ID = 0xff000000;
export const PCI_IDE_LINK_STS_0 = 0x4;
export const PCI_IDE_LINK_STS_STATE = 0xf;
export const PCI_IDE_LINK_STS_IDE_FAIL = 0x80000000;

/* Selective streams */
export const PCI_IDE_SEL_CAP = 0x00;
export const PCI_IDE_SEL_CAP_ASSOC_NUM = 0xf;
export const PCI_IDE_SEL_CTL = 0x04;
export const PCI_IDE_SEL_CTL_EN = 0x1;
export const PCI_IDE_SEL_CTL_TX_AGGR_NPR = 0xc;
export const PCI_IDE_SEL_CTL_TX_AGGR_PR = 0x30;
export const PCI_IDE_SEL_CTL_TX_AGGR_CPL = 0xc0;
export const PCI_IDE_SEL_CTL_PCRC_EN = 0x100;
export const PCI_IDE_SEL_CTL_CFG_EN = 0x200;
export const PCI_IDE_SEL_CTL_PART_ENC = 0x3c00;
export const PCI_IDE_SEL_CTL_ALG = 0x7c000;
export const PCI_IDE_SEL_CTL_TC = 0x380000;
export const PCI_IDE_SEL_CTL_DEFAULT = 0x400000;
export const PCI_IDE_SEL_CTL_TEE_LIMITED = 0x800000;
export const PCI_IDE_SEL_CTL_ID = 0xff000000;
export const PCI_IDE_SEL_CTL_ID_MAX = 255;
export const PCI_IDE_SEL_STS = 0x08;
export const PCI_IDE_SEL_STS_STATE = 0xf;
export const PCI_IDE_SEL_STS_STATE_INSECURE = 0;
export const PCI_IDE_SEL_STS_STATE_SECURE = 2;
export const PCI_IDE_SEL_STS_IDE_FAIL = 0x80000000;
export const PCI_IDE_SEL_RID_1 = 0x0c;
export const PCI_IDE_SEL_RID_1_LIMIT = 0xffff00;
export const PCI_IDE_SEL_RID_2 = 0x10;
export const PCI_IDE_SEL_RID_2_VALID = 0x1;
export const PCI_IDE_SEL_RID_2_BASE = 0xffff00;
export const PCI_IDE_SEL_RID_2_SEG = 0xff000000;
export const PCI_IDE_SEL_ADDR_BLOCK_SIZE = 12;
export const PCI_IDE_SEL_ADDR_1_VALID = 0x1;
export const PCI_IDE_SEL_ADDR_1_BASE_LOW = 0xfff00;
export const PCI_IDE_SEL_ADDR_1_LIMIT_LOW = 0xfff00000;
