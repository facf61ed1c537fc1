import { type PciDeviceId, pciDriverOverrideClassVfio } from '@vfio/core';
import { PCI_CLASS_STORAGE_EXPRESS } from '@vfio/uapi';

/** Every NVMe controller, by class: mass storage, non-volatile memory, interface 02 (NVM Express I/O controller). */
export const ids: readonly PciDeviceId[] = [pciDriverOverrideClassVfio(PCI_CLASS_STORAGE_EXPRESS, 0xffffff)];
