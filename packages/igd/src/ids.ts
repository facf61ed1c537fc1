import { type PciDeviceId, pciDriverOverrideClassVfio } from '@vfio/core';
import { PCI_BASE_CLASS_DISPLAY, PCI_VENDOR_ID_INTEL } from '@vfio/uapi';

/** Every Intel display controller. Which of them is an integrated one, only its OpRegion tells. */
export const ids: readonly PciDeviceId[] = [
  { ...pciDriverOverrideClassVfio(PCI_BASE_CLASS_DISPLAY << 16, 0xff0000), vendor: PCI_VENDOR_ID_INTEL },
];
