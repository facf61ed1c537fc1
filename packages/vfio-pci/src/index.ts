/**
 * The generic VFIO PCI driver: takes any function, when asked to, and changes nothing of what core does.
 *
 * @packageDocumentation
 */
export * from './device.js';
export * from './ids.js';
export * from './ops.js';
