import { type DeviceExtension, ZPCI } from '@vfio/core';
import { attachZpci, closeZpci, openZpci } from './attach.js';
import { ZDEV_OPS_NAME } from './ops.js';

/**
 * Adds the same to a zPCI function that another driver serves: on s390 every function is one, whatever its family. For
 * `OpsRegistry.addExtension`.
 */
export const zdevExtension: DeviceExtension = {
  name: 'zdev',
  appliesTo: (fn) => fn.platform(ZPCI) !== undefined,
  init(dev) {
    if (dev.name !== ZDEV_OPS_NAME) attachZpci(dev);
  },
  openDevice(dev) {
    if (dev.name !== ZDEV_OPS_NAME) openZpci(dev);
  },
  closeDevice(dev) {
    if (dev.name !== ZDEV_OPS_NAME) closeZpci(dev);
  },
};
