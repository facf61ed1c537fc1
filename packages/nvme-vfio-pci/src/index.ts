/**
 * A VFIO variant driver for NVMe controllers: takes a controller over in a known state and shuts it down in order when
 * its user is gone.
 *
 * @packageDocumentation
 */
export * from './device.js';
export * from './ids.js';
export * from './ops.js';
