import { type PciDeviceId, pciDriverOverrideDeviceVfio } from '@vfio/core';
import { PCI_ANY_ID } from '@vfio/uapi';

/** Every function; the package requires `zpci`, which only those of s390 machines meet. */
export const ids: readonly PciDeviceId[] = [pciDriverOverrideDeviceVfio(PCI_ANY_ID, PCI_ANY_ID)];
