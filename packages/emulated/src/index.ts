/**
 * A software PCI host and device models: the embedded default of the `vfio` tools and everybody's test bed.
 *
 * @packageDocumentation
 */
export * from './clock.js';
export * from './config/capabilities.js';
export * from './config/config-space.js';
export * from './config/express.js';
export * from './config/ext-capabilities.js';
export * from './config/header.js';
export * from './deferred.js';
export * from './demo.js';
export * from './devices/connectx/index.js';
export * from './devices/display.js';
export * from './devices/edu.js';
export * from './devices/igd/index.js';
export * from './devices/nvme/index.js';
export * from './devices/serial/index.js';
export * from './devices/sriov-edu.js';
export * from './devices/stub.js';
export * from './devices/zpci.js';
export * from './host/address.js';
export * from './host/bar.js';
export * from './host/dma.js';
export * from './host/function.js';
export * from './host/host.js';
export * from './host/raw-interrupts.js';
export { RootPort, type RootPortOptions } from './host/root-port.js';
export * from './irq/controller.js';
export * from './irq/function-interrupts.js';
export * from './irq/msix-table.js';
export * from './memory.js';
export * from './model.js';
