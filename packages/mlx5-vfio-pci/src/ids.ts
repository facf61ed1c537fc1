import { type PciDeviceId, pciDriverOverrideDeviceVfio } from '@vfio/core';
import { PCI_VENDOR_ID_MELLANOX } from '@vfio/uapi';

/** "ConnectX Family mlx5Gen Virtual Function": every ConnectX VF since the fourth generation, on request. */
export const ids: readonly PciDeviceId[] = [pciDriverOverrideDeviceVfio(PCI_VENDOR_ID_MELLANOX, 0x101e)];
