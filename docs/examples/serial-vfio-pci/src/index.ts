/**
 * A VFIO variant driver for a serial card, written to be read: docs/guides/write-a-driver.md goes through it.
 *
 * @packageDocumentation
 */
export * from './device.js';
export * from './ids.js';
export { MINOR, type StreamMinor } from './stream.js';
