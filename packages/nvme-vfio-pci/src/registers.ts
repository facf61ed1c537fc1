/**
 * Controller registers of NVM Express, in BAR 0: NVM Express Base Specification 1.4, section 3.1. Only what a driver
 * touches that takes a controller down in order.
 */

/** Controller Capabilities, low half: TO 31:24 in units of 500 ms. */
export const NVME_REG_CAP = 0x00;
/** Controller Capabilities, high half: MPSMIN 19:16 (bits 51:48), CSS 12:5 (bits 44:37). */
export const NVME_REG_CAP_HIGH = 0x04;
/** Controller Configuration. */
export const NVME_REG_CC = 0x14;
/** Controller Status. */
export const NVME_REG_CSTS = 0x1c;
/** Admin Queue Attributes: ASQS 11:0, ACQS 27:16, both 0's based. */
export const NVME_REG_AQA = 0x24;
/** Admin Submission and Completion Queue Base Address, 64 bits each. */
export const NVME_REG_ASQ = 0x28;
export const NVME_REG_ACQ = 0x30;

export const NVME_CAP_TO_UNIT_MS = 500;
/** CAP.CSS, in the high half: the NVM command set is supported. */
export const NVME_CAP_HIGH_CSS_NVM = 1 << 5;

export const NVME_CC_EN = 1 << 0;
/** CC.CSS: admin commands only. 0 is the NVM command set. */
export const NVME_CC_CSS_ADMIN = 7 << 4;
export const NVME_CC_MPS_SHIFT = 7;
export const NVME_CC_SHN_MASK = 3 << 14;
export const NVME_CC_SHN_NORMAL = 1 << 14;
/** Queue entry sizes as powers of two: 64-byte commands, 16-byte completions. */
export const NVME_CC_IOSQES = 6 << 16;
export const NVME_CC_IOCQES = 4 << 20;

export const NVME_CSTS_RDY = 1 << 0;
export const NVME_CSTS_CFS = 1 << 1;
export const NVME_CSTS_SHST_MASK = 3 << 2;
export const NVME_CSTS_SHST_COMPLETE = 2 << 2;
