import { PCI_VENDOR_ID_INTEL } from '@vfio/uapi';
import type { PciFunction } from '../pci/function.js';

/** Intel accelerators that a user could bring to a state in which they harm the host. */
const DENIED_DEVICES: readonly number[] = [0x19e2, 0x19e3, 0x37c8, 0x37c9, 0x0435, 0x0443, 0x0b25, 0x0cfe];

/** Whether the generic driver refuses a function (unless `disable_denylist`). Variant drivers do not ask. */
export function isDenylisted(fn: PciFunction): boolean {
  return fn.vendor === PCI_VENDOR_ID_INTEL && DENIED_DEVICES.includes(fn.device);
}
