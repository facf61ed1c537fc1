/**
 * s390 zPCI functions: their facts as capabilities of GET_INFO, and their error records. As a driver, for functions that no
 * other driver knows better, and as a device extension, for those that one does.
 *
 * @packageDocumentation
 */
export { zpciCaps } from './caps.js';
export * from './device.js';
export { ZPCI_ERROR_SIZE } from './errors.js';
export * from './extension.js';
export * from './ids.js';
export * from './ops.js';
