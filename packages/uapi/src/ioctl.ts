/**
 * The ioctls of a VFIO device between bytes and typed calls: the one place where the rules for `argsz`, flags and sizes are.
 * {@link dispatchIoctl} serves them, {@link ioctlDevice} makes them.
 */
export * from './ioctl/client.js';
export * from './ioctl/dispatch.js';
export * from './ioctl/feature.js';
export * from './ioctl/feature-data.js';
export * from './ioctl/hot-reset.js';
export * from './ioctl/ioeventfd.js';
export * from './ioctl/iommufd.js';
export * from './ioctl/irq-set.js';
export * from './ioctl/target.js';
export * from './ioctl/user-memory.js';
