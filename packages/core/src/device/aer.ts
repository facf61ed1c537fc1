import type { PciErrorHandlers } from '../pci/driver.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { deviceOf } from './lifecycle.js';
import { notifyReset } from './reset.js';

/** An uncorrectable error was reported: the user is told through ERR. `vfio_pci_core_aer_err_detected`. */
export function vfioPciCoreAerErrDetected(dev: VfioPciCoreDevice): 'can_recover' {
  dev.irqs.errTrigger?.signal();
  return 'can_recover';
}

/** The function was reset by error recovery, or by whoever owns the host. */
export function vfioPciCoreAerResetDone(dev: VfioPciCoreDevice): void {
  notifyReset(dev);
}

/** What a VFIO driver does about hardware errors and resets: `vfio_pci_core_err_handlers`, with the kernel's `reset_done` for all. */
export const vfioPciCoreErrHandlers: PciErrorHandlers = Object.freeze({
  errorDetected(fn, bus) {
    vfioPciCoreAerErrDetected(deviceOf(bus, fn));
  },
  resetDone(fn, bus) {
    vfioPciCoreAerResetDone(deviceOf(bus, fn));
  },
} satisfies PciErrorHandlers);
