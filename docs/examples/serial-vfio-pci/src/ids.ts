import { type PciDeviceId, pciDriverOverrideDeviceVfio } from '@vfio/core';
import { PCI_DEVICE_ID_WCH_CH352_2S, PCI_VENDOR_ID_WCH } from '@vfio/uapi';

/** The card, on request: `override_only` keeps the driver away from cards that nobody wants to pass through. */
export const ids: readonly PciDeviceId[] = [pciDriverOverrideDeviceVfio(PCI_VENDOR_ID_WCH, PCI_DEVICE_ID_WCH_CH352_2S)];
