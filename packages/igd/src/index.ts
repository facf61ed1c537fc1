/**
 * A VFIO variant driver for Intel integrated graphics: shows the OpRegion and the configuration of host bridge and LPC
 * bridge as device regions, which the guest's firmware and driver need.
 *
 * @packageDocumentation
 */
export * from './device.js';
export * from './ids.js';
export * from './ops.js';
