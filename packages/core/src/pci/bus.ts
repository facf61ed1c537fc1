import { VfioError } from '@vfio/uapi';
import type { OpsRegistry } from '../device/ops-registry.js';
import { checkPciDriver, type PciDriver } from './driver.js';
import { type BusWarning, DriverCore } from './driver-core.js';
import { parseDriverOverride } from './driver-override.js';
import { DynamicIds } from './dynids.js';
import type { PciFunction, PciHost } from './function.js';
import { type PciDeviceId, parseIdsParameter, parseNewId, parseRemoveId } from './ids.js';
import type { RawSriov } from './raw-function.js';
import { rebind } from './rebind.js';

export type { BusWarning } from './driver-core.js';

/** Where the best driver of a function comes from: an alias index and a way to load what it names. */
export interface DriverSource {
  /** The best driver for a function, before any of its code is loaded; undefined where none matches. */
  best(fn: PciFunction): { readonly driver: string } | undefined;
  /** The driver of that name. @throws `ERR_VFIO_NO_DRIVER` where it is not known, `ERR_VFIO_BAD_DRIVER` where it cannot be loaded. */
  load(name: string): PciDriver | Promise<PciDriver>;
}

export interface PciBusOptions {
  /** The ops tables that drivers of this bus register. */
  readonly ops?: OpsRegistry;
  /** Told of probe failures on the way, mixed PF/VF drivers and the like. Default: nobody is told. */
  readonly warn?: (warning: BusWarning) => void;
}

/**
 * The driver core over one host: which drivers there are, which function is whose, and how they come together. All of it
 * belongs to one thread; nothing is global.
 *
 * Operations on one function never overlap: the second of two is refused with EBUSY at once, and the first goes on.
 */
export class PciBus {
  readonly host: PciHost;
  readonly #ops: OpsRegistry | undefined;
  readonly #core: DriverCore;
  /** Functions whose arrival is being worked on. */
  readonly #arriving = new Map<PciFunction, Promise<void>>();
  readonly #unwatch: () => void;

  constructor(host: PciHost, options: PciBusOptions = {}) {
    this.host = host;
    this.#ops = options.ops;
    this.#core = new DriverCore(this, options.warn ?? (() => {}));
    for (const fn of host.functions()) this.#core.adopt(fn);
    this.#unwatch = host.watch({
      added: (fn) => this.#added(fn),
      removing: (fn) => this.remove(fn),
    });
  }

  /** The registry of ops tables that this bus was given. @throws `ERR_VFIO_STATE` where it was given none. */
  get ops(): OpsRegistry {
    if (this.#ops === undefined) {
      throw new VfioError('ERR_VFIO_STATE', 'this bus was made without an ops registry; pass one as option `ops`', {
        errno: 'EINVAL',
        op: 'ops',
      });
    }
    return this.#ops;
  }

  /** A sentence for the log, told to whom this bus tells its own. */
  warn(warning: BusWarning): void {
    this.#core.warn(warning);
  }

  /** All functions on the bus, in their host's order. */
  functions(): readonly PciFunction[] {
    return this.host.functions().filter((fn) => this.#core.slots.get(fn.address)?.fn === fn);
  }

  /** The drivers, in the order in which they are tried. */
  drivers(): readonly PciDriver[] {
    return [...this.#core.drivers.values()].map(({ driver }) => driver);
  }

  /** The driver of that name, or undefined. Names are taken as they are: `-` and `_` differ. */
  driver(name: string): PciDriver | undefined {
    return this.#core.drivers.get(name)?.driver;
  }

  /** The driver that has the function, also while its probe or remove runs. @throws ENODEV. */
  driverOf(fn: PciFunction): PciDriver | undefined {
    return this.#core.slot(fn, 'driverOf').driver;
  }

  /** Whether a driver has the function: its probe has succeeded and its remove has not begun. @throws ENODEV. */
  isBound(fn: PciFunction): boolean {
    return this.#core.slot(fn, 'isBound').bound;
  }

  /**
   * Adds a driver and lets it have every free function that it matches. A probe that fails leaves its function free and
   * is a warning, as when a kernel module is loaded. A function that is being worked on is passed over.
   *
   * @throws EINVAL (`ERR_VFIO_BAD_DRIVER`) for what `checkPciDriver` refuses, EBUSY (`ERR_VFIO_EXISTS`) where the name is taken.
   */
  async register(driver: PciDriver): Promise<void> {
    checkPciDriver(driver);
    if (this.#core.drivers.has(driver.name)) {
      throw new VfioError('ERR_VFIO_EXISTS', `driver "${driver.name}" is registered already`, {
        errno: 'EBUSY',
        op: 'register',
      });
    }
    const registered = { driver, dynids: new DynamicIds(driver.name, driver.idTable), binds: 0 };
    this.#core.drivers.set(driver.name, registered);
    await this.#core.attachDriver(registered);
  }

  /**
   * Takes a driver away: no function is given to it from now on, and those that it has are unbound, one after the other.
   * Waits for a function that is being worked on.
   *
   * @throws ENODEV (`ERR_VFIO_NO_DRIVER`) where it is not registered; what a `remove` threw, after all functions are free.
   */
  async unregister(driver: PciDriver): Promise<void> {
    const core = this.#core;
    core.registered(driver, 'unregister');
    core.drivers.delete(driver.name);
    const errors: unknown[] = [];
    for (const slot of [...core.slots.values()].reverse()) {
      while (slot.driver === driver && slot.opEnd !== undefined) await slot.opEnd;
      if (slot.driver !== driver) continue;
      try {
        await core.exclusive(slot, 'remove', () => core.removeDriver(slot));
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }

  /** By which row a driver takes a function, driver_override and dynamic ids included; undefined: not at all. @throws ENODEV. */
  match(driver: PciDriver | string, fn: PciFunction): PciDeviceId | undefined {
    return this.#core.match(this.#core.registered(driver, 'match'), this.#core.slot(fn, 'match'));
  }

  /**
   * Gives a free function to the first driver that matches and whose probe succeeds (`drivers_probe`). Returns that
   * driver, or the one that has the function already; undefined where none took it, failures being warnings.
   *
   * @throws EBUSY while another operation holds the function, ENODEV where it is not on the bus.
   */
  async probe(fn: PciFunction): Promise<PciDriver | undefined> {
    const slot = this.#core.slot(fn, 'probe');
    await this.#core.exclusive(slot, 'probe', () => this.#core.attachSlot(slot));
    return slot.driver;
  }

  /**
   * Gives a free function to one driver (`drivers/<name>/bind`).
   *
   * @throws ENODEV where the driver is not registered (`ERR_VFIO_NO_DRIVER`), does not match, or the function is a VF that
   *   may not be probed (`sriov_drivers_autoprobe` off, no driver_override); EBUSY where the function has a driver or
   *   another operation holds it; what the probe threw, the function being free then.
   */
  async bind(fn: PciFunction, driver: PciDriver | string): Promise<void> {
    const core = this.#core;
    const slot = core.slot(fn, 'bind');
    const registered = core.registered(driver, 'bind');
    const { name } = registered.driver;
    await core.exclusive(slot, 'bind', async () => {
      const id = core.match(registered, slot);
      if (id === undefined) {
        const override = slot.override === undefined ? '' : `, whose driver_override is "${slot.override}"`;
        throw core.error(
          'ENODEV',
          'ERR_VFIO_NO_DRIVER',
          slot,
          'bind',
          `${name} does not match the function${override}`,
        );
      }
      if (slot.driver !== undefined) {
        throw core.error('EBUSY', 'ERR_VFIO_BUSY', slot, 'bind', `the function has a driver, ${slot.driver.name}`);
      }
      if (!core.canProbe(slot)) {
        const why =
          'virtual functions of this PF are not probed (sriov_drivers_autoprobe is off); set driver_override to name a driver';
        throw core.error('ENODEV', 'ERR_VFIO_NO_DRIVER', slot, 'bind', why);
      }
      await core.probeDriver(slot, registered, id);
    });
  }

  /**
   * Takes a function away from its driver. driver_override and dynamic ids stay.
   *
   * @throws ENODEV where it has none, EBUSY while another operation holds the function; what `remove` threw, the function
   *   being free then.
   */
  async unbind(fn: PciFunction): Promise<void> {
    const core = this.#core;
    const slot = core.slot(fn, 'unbind');
    await core.exclusive(slot, 'unbind', async () => {
      if (slot.driver === undefined) {
        throw core.error('ENODEV', 'ERR_VFIO_NO_DRIVER', slot, 'unbind', 'the function has no driver');
      }
      await core.removeDriver(slot);
    });
  }

  /**
   * Gives a function to its best driver: asks the source which that is, loads and registers it where needed, sets
   * driver_override to its name, takes the function from the driver that has it, and probes. Nothing is touched before
   * the new driver is at hand. Where it has the function already, nothing is done.
   *
   * When a step fails, driver_override is what it was, the function is back with the driver that had it, and a driver
   * that was registered for this call alone is gone again.
   *
   * @returns the driver that has the function now.
   * @throws ENODEV (`ERR_VFIO_NO_DRIVER`) where no driver matches; what loading threw; EBUSY while another operation
   *   holds the function; the failure of the probe, saying what became of the function.
   */
  async bindBest(fn: PciFunction, source: DriverSource): Promise<PciDriver> {
    const core = this.#core;
    const slot = core.slot(fn, 'bindBest');
    return await core.exclusive(slot, 'bindBest', async () => {
      const best = source.best(fn);
      if (best === undefined) {
        throw core.error('ENODEV', 'ERR_VFIO_NO_DRIVER', slot, 'bindBest', 'no installed driver matches the function');
      }
      return await rebind(this, core, slot, 'bindBest', best.driver, source);
    });
  }

  /**
   * As {@link bindBest} with a driver that is named and not searched for: the way around a variant that misbehaves.
   *
   * @param source where the driver is loaded from; may be left out where it is registered.
   */
  async bindOverride(fn: PciFunction, name: string, source?: DriverSource): Promise<PciDriver> {
    const slot = this.#core.slot(fn, 'bindOverride');
    return await this.#core.exclusive(slot, 'bindOverride', () =>
      rebind(this, this.#core, slot, 'bindOverride', name, source),
    );
  }

  /**
   * Takes a function off the bus: unbinds its driver and forgets driver_override. Waits for an operation that holds it.
   * Called when the host announces that a function is about to go; does nothing for one that is not on the bus.
   *
   * @throws what the driver's `remove` threw; the function is off the bus nevertheless.
   */
  async remove(fn: PciFunction): Promise<void> {
    const core = this.#core;
    const slot = core.slots.get(fn.address);
    if (slot?.fn !== fn) return;
    slot.gone = true;
    while (slot.opEnd !== undefined) await slot.opEnd;
    // A second call has waited for the first.
    if (core.slots.get(fn.address) !== slot) return;
    try {
      await core.exclusive(slot, 'remove', () => core.removeDriver(slot));
    } finally {
      core.captures.delete(fn);
      // Another function may have come to this address since.
      if (core.slots.get(fn.address) === slot) core.slots.delete(fn.address);
    }
  }

  /** Takes up functions that the host has and this bus has not, after {@link remove}, and offers them to the drivers. */
  async rescan(): Promise<void> {
    for (const fn of this.host.functions()) {
      if (!this.#core.slots.has(fn.address)) await this.#addFunction(fn);
    }
  }

  /** Settles when every function that the host has announced has been offered to the drivers. */
  async settled(): Promise<void> {
    while (this.#arriving.size > 0) await Promise.all(this.#arriving.values());
  }

  /** Stops listening to the host and unregisters all drivers, last first. @throws what a `remove` threw, after all are gone. */
  async close(): Promise<void> {
    this.#unwatch();
    await this.settled();
    const errors: unknown[] = [];
    for (const driver of [...this.drivers()].reverse()) {
      try {
        await this.unregister(driver);
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }

  /** driver_override of a function; undefined where it is not set. @throws ENODEV. */
  driverOverride(fn: PciFunction): string | undefined {
    return this.#core.slot(fn, 'driver_override').override;
  }

  /**
   * Sets driver_override as a sysfs write does: the text up to its first newline; an empty one clears. It neither
   * unbinds nor binds.
   *
   * @throws EINVAL for 4095 bytes or more, or a NUL; EBUSY while an operation holds the function and relies on it.
   */
  setDriverOverride(fn: PciFunction, text: string): void {
    const slot = this.#core.slot(fn, 'driver_override');
    const override = parseDriverOverride(text);
    if (slot.op !== undefined) {
      throw this.#core.error('EBUSY', 'ERR_VFIO_BUSY', slot, 'driver_override', `${slot.op} is under way`);
    }
    slot.override = override;
  }

  /** The dynamic ids of a driver, oldest first. @throws `ERR_VFIO_NO_DRIVER`. */
  dynamicIds(driver: PciDriver | string): readonly PciDeviceId[] {
    return this.#core.registered(driver, 'dynamicIds').dynids.ids;
  }

  /**
   * Adds a dynamic id as a write to `new_id` does, and lets the driver have every free function that it matches now.
   *
   * @throws EINVAL for fewer than two fields or bad ones, or where no row of the driver's table has the given driver_data;
   *   EEXIST where the id matches already and not all seven fields were given.
   */
  async newId(driver: PciDriver | string, text: string): Promise<void> {
    const registered = this.#core.registered(driver, 'new_id');
    registered.dynids.addNew(parseNewId(text));
    await this.#core.attachDriver(registered);
  }

  /** Removes a dynamic id as a write to `remove_id` does; functions stay with the driver. @throws EINVAL; ENODEV where there is none. */
  removeId(driver: PciDriver | string, text: string): void {
    this.#core.registered(driver, 'remove_id').dynids.remove(parseRemoveId(text));
  }

  /**
   * Adds the ids of an `ids=` parameter, without the duplicate test of `new_id`; a bad item is skipped. Then lets the driver
   * have every free function that it matches now.
   *
   * @returns a sentence for each item that was skipped.
   * @throws ENOSPC for more than 1023 characters.
   */
  async addIds(driver: PciDriver | string, text: string): Promise<readonly string[]> {
    const registered = this.#core.registered(driver, 'ids');
    const { ids, warnings } = parseIdsParameter(text);
    for (const id of ids) registered.dynids.add(id);
    await this.#core.attachDriver(registered);
    return warnings;
  }

  /** What the driver of a function keeps with it: `pci_set_drvdata`. Forgotten when the driver lets go. @throws ENODEV. */
  setDrvdata(fn: PciFunction, data: unknown): void {
    this.#core.slot(fn, 'setDrvdata').drvdata = data;
  }

  /** `pci_get_drvdata`; undefined where nothing was set. Its type is what the driver that set it says. @throws ENODEV. */
  getDrvdata<T>(fn: PciFunction): T | undefined {
    return this.#core.slot(fn, 'getDrvdata').drvdata as T | undefined;
  }

  /**
   * Driver data of a VF's physical function, for a VF driver that knows the PF's driver: the kernel's
   * `pci_iov_get_pf_drvdata`. It may be used until the PF is gone, see {@link watchPf}.
   *
   * @throws EINVAL where the function is no VF, or the PF's driver is not the given one: its data is of another type then.
   */
  pciIovGetPfDrvdata<T>(vf: PciFunction, pfDriver: PciDriver | string): T | undefined {
    const op = 'pciIovGetPfDrvdata';
    const core = this.#core;
    const pf = core.slot(this.#physfn(vf, op), op);
    const wanted = typeof pfDriver === 'string' ? this.driver(pfDriver) : pfDriver;
    if (wanted === undefined || pf.driver !== wanted) {
      const name = typeof pfDriver === 'string' ? pfDriver : pfDriver.name;
      const found = pf.driver === undefined ? 'no driver' : `driver ${pf.driver.name}`;
      const message = `the physical function ${pf.fn.address} has ${found}, not ${name}`;
      throw core.error('EINVAL', 'ERR_VFIO_INVALID_ARGUMENT', core.slot(vf, op), op, message);
    }
    return pf.drvdata as T | undefined;
  }

  /**
   * Calls back once, before the driver of a VF's physical function lets go of it: from then on the data of
   * {@link pciIovGetPfDrvdata} must not be touched. A promise is waited for. The result unregisters and may be called
   * twice; the end of the VF's own driver unregisters too.
   *
   * @throws EINVAL where the function is no VF.
   */
  watchPf(vf: PciFunction, gone: (pf: PciFunction) => void | Promise<void>): () => void {
    this.#core.slot(vf, 'watchPf');
    const pf = this.#core.slot(this.#physfn(vf, 'watchPf'), 'watchPf');
    // A function of its own, so that one callback can be registered twice.
    const watcher = (fn: PciFunction): void | Promise<void> => gone(fn);
    pf.pfWatchers.set(watcher, vf);
    return () => {
      pf.pfWatchers.delete(watcher);
    };
  }

  /**
   * Sets the number of virtual functions through the PF's driver, as a write to `sriov_numvfs` does. Returns how many
   * there are.
   *
   * @throws ERANGE beyond `totalVfs`; ENOENT where the PF has no driver or its driver no `sriovConfigure`; EBUSY where VFs
   *   exist and the number is neither 0 nor theirs, or an operation holds the function; ENODEV where it has no SR-IOV;
   *   what the driver threw.
   */
  async sriovConfigure(pf: PciFunction, count: number): Promise<number> {
    const op = 'sriovConfigure';
    const core = this.#core;
    const slot = core.slot(pf, op);
    const sriov = this.#sriov(pf, op);
    if (!Number.isInteger(count) || count < 0 || count > sriov.totalVfs) {
      const message = `${count} VFs asked for; allowed are 0 to ${sriov.totalVfs}`;
      throw core.error('ERANGE', 'ERR_VFIO_INVALID_ARGUMENT', slot, op, message);
    }
    return await core.exclusive(slot, op, async () => {
      if (count === sriov.numVfs) return count;
      const { driver } = slot;
      if (driver?.sriovConfigure === undefined) {
        const why = driver === undefined ? 'the function has no driver' : `driver ${driver.name} has no sriovConfigure`;
        throw core.error('ENOENT', 'ERR_VFIO_NOT_SUPPORTED', slot, op, why);
      }
      if (count !== 0 && sriov.numVfs !== 0) {
        const message = `${sriov.numVfs} VFs exist; disable them before enabling ${count}`;
        throw core.error('EBUSY', 'ERR_VFIO_BUSY', slot, op, message);
      }
      const enabled = await driver.sriovConfigure(pf, count, this);
      if (enabled !== count)
        core.warn({ message: `${count} VFs asked for; only ${enabled} enabled`, device: pf.address });
      return enabled;
    });
  }

  /**
   * Creates virtual functions, for a driver's `sriovConfigure`: `pci_enable_sriov`. When it is done, each VF is on the bus
   * and has been offered to the drivers. A VF whose probe fails stays free.
   *
   * @throws ENODEV without SR-IOV; EBUSY where VFs exist, EINVAL out of range (the host says so).
   */
  async enableSriov(pf: PciFunction, count: number): Promise<void> {
    this.#core.slot(pf, 'enableSriov');
    await this.#sriov(pf, 'enableSriov').enable(count);
    // Only for its own VFs: the PF itself may be arriving, its driver's probe being the caller.
    await Promise.all([...this.#arriving].map(([fn, done]) => (fn.physfn === pf ? done : undefined)));
  }

  /** Removes all virtual functions, for a driver's `sriovConfigure`: `pci_disable_sriov`. Their drivers have let go when it is done. */
  async disableSriov(pf: PciFunction): Promise<void> {
    this.#core.slot(pf, 'disableSriov');
    await this.#sriov(pf, 'disableSriov').disable();
  }

  /**
   * From now on each new VF of this PF gets driver_override set to the name of the PF's **driver** before drivers see it, so
   * that the VFs of a PF in a user's hands do not go to other drivers by themselves. (The kernel writes the ops name
   * there, which is right only for vfio-pci, whose two names are the same.) A VF that another driver takes is a warning.
   * To be called in the probe of a PF. The result ends it and may be called twice; the end of the PF's driver ends it too.
   */
  captureVfs(pf: PciFunction): () => void {
    this.#core.slot(pf, 'captureVfs');
    const { captures } = this.#core;
    captures.set(pf, (captures.get(pf) ?? 0) + 1);
    let active = true;
    return () => {
      const count = captures.get(pf);
      if (!active || count === undefined) return;
      active = false;
      if (count > 1) captures.set(pf, count - 1);
      else captures.delete(pf);
    };
  }

  #physfn(vf: PciFunction, op: string): PciFunction {
    if (vf.physfn === undefined) {
      const message = 'the function is not a virtual function';
      throw this.#core.error('EINVAL', 'ERR_VFIO_INVALID_ARGUMENT', this.#core.slot(vf, op), op, message);
    }
    return vf.physfn;
  }

  #sriov(pf: PciFunction, op: string): RawSriov {
    const sriov = pf.base.kind === 'raw' ? pf.base.sriov : undefined;
    if (sriov === undefined) {
      const message = 'the function has no SR-IOV capability';
      throw this.#core.error('ENODEV', 'ERR_VFIO_NO_DEVICE', this.#core.slot(pf, op), op, message);
    }
    return sriov;
  }

  /** An event of the host cannot wait: what it begins is remembered for {@link settled}. */
  #added(fn: PciFunction): void {
    if (this.#core.slots.get(fn.address)?.fn === fn) return;
    const done = this.#addFunction(fn)
      .catch((cause: unknown) => this.#core.warn({ message: 'could not be added', device: fn.address, cause }))
      .finally(() => this.#arriving.delete(fn));
    this.#arriving.set(fn, done);
  }

  async #addFunction(fn: PciFunction): Promise<void> {
    const core = this.#core;
    // A driver that still lets go of the function that was at this address keeps its slot until it has.
    for (let old = core.slots.get(fn.address); old?.opEnd !== undefined; old = core.slots.get(fn.address)) {
      await old.opEnd;
    }
    const slot = core.adopt(fn);
    // Where nobody wants it the function is free at once, and who added it can bind it without waiting.
    if (!core.canProbe(slot) || ![...core.drivers.values()].some((driver) => core.match(driver, slot))) return;
    await core.exclusive(slot, 'probe', () => core.attachSlot(slot));
  }
}
