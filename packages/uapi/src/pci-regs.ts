/** PCI registers in the spelling of `linux/pci_regs.h`, one file a part of config space. */
export * from './pci-regs/caps.js';
export * from './pci-regs/cxl.js';
export * from './pci-regs/express.js';
export * from './pci-regs/ext-caps.js';
export * from './pci-regs/fields.js';
export * from './pci-regs/header.js';
export * from './pci-regs/ide.js';
