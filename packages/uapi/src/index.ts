export * from './errno.js';
export * from './errors.js';
export * from './pci-ids.js';
export * from './pci-regs.js';
export * from './struct.js';
export * from './vfio.js';
export * from './vfio-structs.js';
export * from './vfio-user.js';
