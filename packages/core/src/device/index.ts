export * from './dma-space.js';
export * from './features.js';
export * from './info.js';
export * from './migration-types.js';
export * from './ops.js';
export * from './triggers.js';
export * from './vfio-base.js';
export * from './vfio-device.js';
