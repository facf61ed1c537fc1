/**
 * The vfio-user protocol between bytes and typed messages: constants, the header, and the payload of each command in both
 * directions. Messages are in the byte order of the hosts, which share one machine; it is a parameter all the same.
 *
 * Only what the bytes themselves tell is checked here. Limits that peers agree on, and what a device allows, belong to the
 * connection and the device.
 */
export * from './vfio-user/access.js';
export * from './vfio-user/constants.js';
export * from './vfio-user/dma.js';
export * from './vfio-user/feature.js';
export * from './vfio-user/header.js';
export * from './vfio-user/info.js';
export * from './vfio-user/io-fds.js';
export * from './vfio-user/irq-set.js';
export * from './vfio-user/migration.js';
export * from './vfio-user/version.js';
