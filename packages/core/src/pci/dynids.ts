import { errnoError, PCI_ANY_ID, VfioError } from '@vfio/uapi';
import { formatPciDeviceId, isPciTableEnd, type NewId, type PciDeviceId, pciDeviceId } from './ids.js';
import { pciMatchOneDevice } from './match.js';

/**
 * The dynamic ids of one driver: what `new_id` and `ids=` added and `remove_id` has not taken away, oldest first. They
 * carry `overrideOnly` 0 whatever was given, so they bind even a VFIO driver without driver_override.
 */
export class DynamicIds {
  readonly #driverName: string;
  readonly #table: readonly PciDeviceId[];
  #ids: readonly PciDeviceId[] = [];

  constructor(driverName: string, table: readonly PciDeviceId[]) {
    this.#driverName = driverName;
    // A C terminator is not a row.
    const end = table.findIndex(isPciTableEnd);
    this.#table = end === -1 ? table : table.slice(0, end);
  }

  get ids(): readonly PciDeviceId[] {
    return this.#ids;
  }

  /** Adds without any test: the `ids=` path. */
  add(id: PciDeviceId): void {
    this.#ids = [...this.#ids, pciDeviceId({ ...id, overrideOnly: 0 })];
  }

  /**
   * Adds as `new_id` does.
   *
   * @throws EEXIST unless all seven fields were given, where an ordinary row of the table or a dynamic id matches the id
   *   already; `override_only` rows do not count, or the match-all table of vfio-pci would refuse every id.
   * @throws EINVAL where the driver has a table and none of its rows has this driver_data.
   */
  addNew({ id, complete }: NewId): void {
    if (!complete) {
      // The id stands for a function here: "any" is compared as the number it is, so a row for one subsystem does not
      // count as a duplicate of an id for all of them.
      const existing =
        this.#table.find((row) => row.overrideOnly === 0 && pciMatchOneDevice(row, id)) ??
        this.#ids.find((row) => pciMatchOneDevice(row, id));
      if (existing !== undefined) {
        throw errnoError(
          'EEXIST',
          `new_id: ${this.#driverName} matches ${formatPciDeviceId(id)} already, by ${formatPciDeviceId(existing)}`,
          { op: 'new_id' },
        );
      }
    }
    if (this.#table.length > 0 && !this.#table.some((row) => row.driverData === id.driverData)) {
      throw new VfioError(
        'ERR_VFIO_INVALID_ARGUMENT',
        `new_id: no row of ${this.#driverName} has driver_data ${id.driverData}`,
        { errno: 'EINVAL', op: 'new_id' },
      );
    }
    this.add(id);
  }

  /**
   * Removes as `remove_id` does: the first dynamic id with this vendor and device, with this subvendor and subdevice
   * unless `PCI_ANY_ID` was written, and with a class that is equal under the **written** mask.
   *
   * @throws ENODEV where there is none.
   */
  remove(written: PciDeviceId): void {
    const index = this.#ids.findIndex(
      (id) =>
        id.vendor === written.vendor &&
        id.device === written.device &&
        (written.subvendor === PCI_ANY_ID || id.subvendor === written.subvendor) &&
        (written.subdevice === PCI_ANY_ID || id.subdevice === written.subdevice) &&
        ((id.class ^ written.class) & written.classMask) === 0,
    );
    if (index === -1) {
      throw errnoError('ENODEV', `remove_id: ${this.#driverName} has no dynamic id ${formatPciDeviceId(written)}`, {
        op: 'remove_id',
      });
    }
    this.#ids = this.#ids.filter((_, at) => at !== index);
  }
}
