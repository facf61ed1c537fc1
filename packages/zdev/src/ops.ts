import type { VfioOpsFactory } from '@vfio/core';
import { attachZpci, closeZpci, openZpci } from './attach.js';

export const ZDEV_OPS_NAME = 'zdev-vfio-pci';

/** The table: the base's, with what a zPCI function has beside. */
export const zdevOps: VfioOpsFactory = (core) => ({
  ...core,
  name: ZDEV_OPS_NAME,
  init(dev) {
    core.init(dev);
    attachZpci(dev);
  },
  async openDevice(dev) {
    await core.openDevice(dev);
    openZpci(dev);
  },
  async closeDevice(dev) {
    closeZpci(dev);
    await core.closeDevice(dev);
  },
});
