import { PCI_ID_F_VFIO_DRIVER_OVERRIDE, VfioError } from '@vfio/uapi';
import type { PciBus } from './bus.js';
import type { PciFunction } from './function.js';
import { formatPciDeviceId, isPciTableEnd, type PciDeviceId, pciDeviceIdProblem } from './ids.js';

/** What a driver does about hardware errors: the kernel's `pci_error_handlers`. */
export interface PciErrorHandlers {
  /**
   * An uncorrectable error of the function was reported (AER). Called from the end of `probe` to the beginning of `remove`,
   * where the host knows of such errors. Synchronous, must not throw.
   */
  errorDetected?(fn: PciFunction, bus: PciBus): void;
  /** The host has reset the function, which is configured as before. Called as `errorDetected` is. */
  resetDone?(fn: PciFunction, bus: PciBus): void;
}

/**
 * A PCI driver: the kernel's `struct pci_driver`. It is data and functions, nothing is registered by having one.
 *
 * **Guarantees**: `probe` and `remove` of one function never overlap; `remove` follows only a `probe` that succeeded; what
 * was set by `bus.setDrvdata` is kept until `remove` has ended or `probe` has failed.
 */
export interface PciDriver {
  /** Driver name, as in driver_override and in alias files: `mlx5_vfio_pci`. Neither the package nor the ops name. */
  readonly name: string;
  /** May be empty: such a driver is reached by driver_override and dynamic ids only. */
  readonly idTable: readonly PciDeviceId[];
  /**
   * Takes a function. `id` is the row that matched. A failure undoes what it did; the function stays without a driver.
   */
  probe(fn: PciFunction, id: PciDeviceId, bus: PciBus): void | Promise<void>;
  /** Lets go of a function; cannot refuse. */
  remove(fn: PciFunction, bus: PciBus): void | Promise<void>;
  /**
   * Enables `count` virtual functions (0 disables) and returns how many there are. Called through
   * `bus.sriovConfigure`; uses `bus.enableSriov` and `bus.disableSriov`.
   */
  sriovConfigure?(fn: PciFunction, count: number, bus: PciBus): number | Promise<number>;
  readonly errorHandlers?: PciErrorHandlers;
  /** The driver owns DMA of the whole IOMMU group, as all VFIO drivers do. */
  readonly driverManagedDma?: boolean;
}

function badDriver(name: unknown, problem: string): VfioError {
  return new VfioError('ERR_VFIO_BAD_DRIVER', `driver "${String(name)}": ${problem}`, {
    errno: 'EINVAL',
    op: 'register',
    details: { driver: String(name) },
  });
}

/** What a driver's name may look like: it becomes a file name in sysfs and a word in alias files. */
const DRIVER_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}$/;

/** Whether a text can be a driver's name. */
export function isPciDriverName(name: unknown): name is string {
  return typeof name === 'string' && DRIVER_NAME.test(name);
}

/**
 * Checks what a bus takes: the name, each row, and that no terminator hides rows behind it.
 *
 * @throws EINVAL (`ERR_VFIO_BAD_DRIVER`).
 */
export function checkPciDriver(driver: PciDriver): void {
  const { name } = driver;
  if (!isPciDriverName(name)) {
    throw badDriver(name, 'the name must be 1 to 64 of A-Z a-z 0-9 _ . + - and begin with a letter, digit or _');
  }
  if (!Array.isArray(driver.idTable)) throw badDriver(name, 'idTable must be an array');
  for (const [index, id] of driver.idTable.entries()) {
    const problem = pciDeviceIdProblem(id);
    if (problem !== undefined) throw badDriver(name, `row ${index} of the id table: ${problem}`);
    if (isPciTableEnd(id) && index !== driver.idTable.length - 1) {
      throw badDriver(name, `row ${index} of the id table is a terminator, so the rows after it could never match`);
    }
  }
  if (typeof driver.probe !== 'function' || typeof driver.remove !== 'function') {
    throw badDriver(name, 'probe and remove must be functions');
  }
}

/**
 * Defines a VFIO driver: every row must carry `PCI_ID_F_VFIO_DRIVER_OVERRIDE` and nothing else, because a VFIO driver
 * must be asked for and never takes a function from its own driver. DMA is driver-managed.
 *
 * @throws EINVAL (`ERR_VFIO_BAD_DRIVER`) for an ordinary row, an unknown bit, an empty table, or what a bus would refuse.
 */
export function defineVfioDriver(driver: PciDriver): PciDriver {
  checkPciDriver(driver);
  const rows = driver.idTable.filter((id) => !isPciTableEnd(id));
  if (rows.length === 0) throw badDriver(driver.name, 'the id table is empty, so no alias would ever lead to it');
  for (const [index, id] of rows.entries()) {
    if (id.overrideOnly !== PCI_ID_F_VFIO_DRIVER_OVERRIDE) {
      throw badDriver(
        driver.name,
        `row ${index} (${formatPciDeviceId(id)}) has overrideOnly ${id.overrideOnly}; a VFIO driver needs ` +
          `PCI_ID_F_VFIO_DRIVER_OVERRIDE (1) in every row, see pciDriverOverrideDeviceVfio`,
      );
    }
  }
  // Bound, so that a driver may also be an instance of a class.
  return Object.freeze({
    name: driver.name,
    idTable: Object.freeze([...rows]),
    probe: driver.probe.bind(driver),
    remove: driver.remove.bind(driver),
    ...(driver.sriovConfigure === undefined ? {} : { sriovConfigure: driver.sriovConfigure.bind(driver) }),
    ...(driver.errorHandlers === undefined ? {} : { errorHandlers: driver.errorHandlers }),
    driverManagedDma: true,
  });
}
