/**
 * A VFIO variant driver for NVMe controllers: takes a controller over in a known state and shuts it down in order when
 * its user is gone; moves virtual functions whose physical one manages migration.
 *
 * @packageDocumentation
 */
export * from './device.js';
export * from './ids.js';
export * from './ops.js';
export { NVME, type NvmeCore, type NvmeDriverOptions, nvmeDriver } from './parent/driver.js';
