export * from './device/index.js';
export * from './pci/index.js';
