import { type PciDeviceId, pciDriverOverrideDeviceVfio } from '@vfio/core';
import { PCI_ANY_ID } from '@vfio/uapi';

/** Everything, but only on request: the kernel's table. */
export const ids: readonly PciDeviceId[] = [pciDriverOverrideDeviceVfio(PCI_ANY_ID, PCI_ANY_ID)];
