import { PCI_ANY_ID } from '@vfio/uapi';
import type { PciIdentity } from './function.js';
import { isPciTableEnd, type PciDeviceId, pciDeviceId } from './ids.js';

/** What {@link pciMatchDevice} needs of a driver. */
export interface PciMatchDriver {
  /** Driver name, as written to driver_override. */
  readonly name: string;
  readonly idTable: readonly PciDeviceId[];
}

/** What {@link pciMatchDevice} needs of a function: what it is, and its driver_override where one is set. */
export interface PciMatchFunction extends PciIdentity {
  readonly driverOverride?: string | undefined;
}

/** What a match by driver_override alone yields: the kernel's `pci_device_id_any`. */
export const PCI_DEVICE_ID_ANY: PciDeviceId = pciDeviceId({});

/**
 * Whether one row matches a function, `overrideOnly` left aside: each id equal or `PCI_ANY_ID`, and the class equal
 * under the row's mask. The kernel's `pci_match_one_device`.
 */
export function pciMatchOneDevice(id: PciDeviceId, fn: PciIdentity): boolean {
  return (
    (id.vendor === PCI_ANY_ID || id.vendor === fn.vendor) &&
    (id.device === PCI_ANY_ID || id.device === fn.device) &&
    (id.subvendor === PCI_ANY_ID || id.subvendor === fn.subvendor) &&
    (id.subdevice === PCI_ANY_ID || id.subdevice === fn.subdevice) &&
    ((id.class ^ fn.class) & id.classMask) === 0
  );
}

/** The first row that matches, `overrideOnly` left aside; a C terminator ends the table. The kernel's `pci_match_id`. */
export function pciMatchId(ids: readonly PciDeviceId[], fn: PciIdentity): PciDeviceId | undefined {
  for (const id of ids) {
    if (isPciTableEnd(id)) return undefined;
    if (pciMatchOneDevice(id, fn)) return id;
  }
  return undefined;
}

/**
 * The row by which a driver takes a function, or undefined. The kernel's `pci_match_device`, in its order:
 *
 * 1. A driver_override that names another driver: no match.
 * 2. Dynamic ids, the first hit. They carry no `override_only`, so they bind even a VFIO driver by themselves.
 * 3. The table in order. An `override_only` hit counts only when driver_override is set (it names this driver then);
 *    otherwise the walk goes on: a later ordinary row may match.
 * 4. driver_override set and nothing matched: {@link PCI_DEVICE_ID_ANY}. Naming a driver always matches, table or not.
 *
 * @param dynids the driver's dynamic ids (`new_id`, `ids=`), oldest first.
 */
export function pciMatchDevice(
  driver: PciMatchDriver,
  fn: PciMatchFunction,
  dynids: readonly PciDeviceId[] = [],
): PciDeviceId | undefined {
  const overridden = fn.driverOverride !== undefined;
  if (overridden && fn.driverOverride !== driver.name) return undefined;

  for (const id of dynids) if (pciMatchOneDevice(id, fn)) return id;

  for (const id of driver.idTable) {
    if (isPciTableEnd(id)) break;
    if (!pciMatchOneDevice(id, fn)) continue;
    if (id.overrideOnly === 0 || overridden) return id;
  }
  return overridden ? PCI_DEVICE_ID_ANY : undefined;
}
