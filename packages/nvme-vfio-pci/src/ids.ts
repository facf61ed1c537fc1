import { type PciDeviceId, pciDriverOverrideClassVfio } from '@vfio/core';

/** Base class 01 (mass storage), subclass 08 (non-volatile memory), interface 02 (NVM Express I/O controller). */
const PCI_CLASS_STORAGE_EXPRESS = 0x010802;

/** Every NVMe controller, by class. */
export const ids: readonly PciDeviceId[] = [pciDriverOverrideClassVfio(PCI_CLASS_STORAGE_EXPRESS, 0xffffff)];
