import type { PciFunction } from '../pci/function.js';
import type { VfioPciCoreDevice } from './core-device.js';

/**
 * Adds to every device that meets its condition, whatever its driver; it cannot replace ops. (On s390 every function is
 * zPCI, so what that adds belongs to no one driver.)
 *
 * **Guarantees**: `init` after the driver's `init` and before registration; `openDevice` after the driver's first open
 * succeeded, `closeDevice` before its last close; extensions open in the order of registration and close in reverse.
 */
export interface DeviceExtension {
  readonly name: string;
  appliesTo(fn: PciFunction): boolean;
  /** Attaches capabilities and regions. A failure fails the probe. */
  init?(dev: VfioPciCoreDevice): void;
  /** A failure fails the open and undoes what it did. */
  openDevice?(dev: VfioPciCoreDevice): void | Promise<void>;
  /** Must not fail. */
  closeDevice?(dev: VfioPciCoreDevice): void | Promise<void>;
}
