import { PCI_VENDOR_ID_INTEL } from '@vfio/uapi';
import type { PciFunction } from '../pci/function.js';

/** Intel's 700 series (i40e) and X550: their INTx status does not follow the line. First and last device id. */
const BROKEN_INTX: readonly (readonly [number, number])[] = [
  [0x1563, 0x1563],
  [0x1572, 0x1572],
  [0x1574, 0x1574],
  [0x1580, 0x1581],
  [0x1583, 0x158b],
  [0x37d0, 0x37d2],
];

/** Whether INTx of a function is known to be broken: no pin is shown then, and DisINTx stays set. */
export function isNointxDevice(fn: PciFunction): boolean {
  return (
    fn.vendor === PCI_VENDOR_ID_INTEL && BROKEN_INTX.some(([first, last]) => fn.device >= first && fn.device <= last)
  );
}
