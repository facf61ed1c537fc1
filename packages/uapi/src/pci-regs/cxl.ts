/**
 * Compute Express Link: designated vendor-specific capabilities (extended capability 0x23) of CXL's own vendor id. Spelling
 * and values of `linux/pci_regs.h`; offsets count from the start of the capability.
 */

/* Device */
export const PCI_DVSEC_CXL_DEVICE = 0;
export const PCI_DVSEC_CXL_CAP = 0x0a;
export const PCI_DVSEC_CXL_CACHE_CAPABLE = 0x0001;
export const PCI_DVSEC_CXL_MEM_CAPABLE = 0x0004;
export const PCI_DVSEC_CXL_HDM_COUNT = 0x0030;
export const PCI_DVSEC_CXL_CTRL = 0x0c;
export const PCI_DVSEC_CXL_MEM_ENABLE = 0x0004;
export const PCI_DVSEC_CXL_MEM_INFO_VALID = 0x00000001;
export const PCI_DVSEC_CXL_MEM_ACTIVE = 0x00000002;
export const PCI_DVSEC_CXL_MEM_ACTIVE_TIMEOUT = 0x0000e000;
export const PCI_DVSEC_CXL_MEM_SIZE_LOW = 0xf0000000;
export const PCI_DVSEC_CXL_MEM_BASE_LOW = 0xf0000000;

/* Functions that are not CXL's */
export const PCI_DVSEC_CXL_FUNCTION_MAP = 2;

/* Port */
export const PCI_DVSEC_CXL_PORT = 3;
export const PCI_DVSEC_CXL_PORT_CTL = 0x0c;
export const PCI_DVSEC_CXL_PORT_CTL_UNMASK_SBR = 0x00000001;

/* Global persistent flush of a port and of a device */
export const PCI_DVSEC_CXL_PORT_GPF = 4;
export const PCI_DVSEC_CXL_PORT_GPF_PHASE_1_CONTROL = 0x0c;
export const PCI_DVSEC_CXL_PORT_GPF_PHASE_1_TMO_BASE = 0x000f;
export const PCI_DVSEC_CXL_PORT_GPF_PHASE_1_TMO_SCALE = 0x0f00;
export const PCI_DVSEC_CXL_PORT_GPF_PHASE_2_CONTROL = 0x0e;
export const PCI_DVSEC_CXL_PORT_GPF_PHASE_2_TMO_BASE = 0x000f;
export const PCI_DVSEC_CXL_PORT_GPF_PHASE_2_TMO_SCALE = 0x0f00;
export const PCI_DVSEC_CXL_DEVICE_GPF = 5;

/* Flex Bus port */
export const PCI_DVSEC_CXL_FLEXBUS_PORT = 7;
export const PCI_DVSEC_CXL_FLEXBUS_PORT_STATUS = 0x0e;
export const PCI_DVSEC_CXL_FLEXBUS_PORT_STATUS_CACHE = 0x0001;
export const PCI_DVSEC_CXL_FLEXBUS_PORT_STATUS_MEM = 0x0004;

/* Register locator */
export const PCI_DVSEC_CXL_REG_LOCATOR = 8;
export const PCI_DVSEC_CXL_REG_LOCATOR_BLOCK1 = 0x0c;
export const PCI_DVSEC_CXL_REG_LOCATOR_BIR = 0x00000007;
export const PCI_DVSEC_CXL_REG_LOCATOR_BLOCK_ID = 0x0000ff00;
export const PCI_DVSEC_CXL_REG_LOCATOR_BLOCK_OFF_LOW = 0xffff0000;
