import { type ErrnoName, isVfioError, messageOf, VfioError, type VfioErrorCode } from '@vfio/uapi';
import type { PciBus } from './bus.js';
import type { PciDriver } from './driver.js';
import type { DynamicIds } from './dynids.js';
import type { PciFunction } from './function.js';
import type { PciDeviceId } from './ids.js';
import { pciMatchDevice } from './match.js';

/** Something that went wrong without failing the call in which it was noticed. */
export interface BusWarning {
  readonly message: string;
  /** Address of the function. */
  readonly device: string;
  readonly cause?: unknown;
}

/** What the bus keeps of one function: the driver-core part of the kernel's `struct device`. */
export interface Slot {
  readonly fn: PciFunction;
  /** Set from the beginning of probe to the end of remove. */
  driver: PciDriver | undefined;
  /** By which row the driver took the function. */
  id: PciDeviceId | undefined;
  /** Probe has succeeded and remove has not begun. */
  bound: boolean;
  override: string | undefined;
  drvdata: unknown;
  /** Name of the operation that holds the function. */
  op: string | undefined;
  /** Settles when that operation has ended; never rejects. */
  opEnd: Promise<void> | undefined;
  /** The host is taking the function away; no operation begins any more. */
  gone: boolean;
  /** To be told when the driver of this function (a PF) is about to let go of it; the value is the VF that asked. */
  readonly pfWatchers: Map<(pf: PciFunction) => void | Promise<void>, PciFunction>;
  /** Unregisters from the function's errors. */
  offError: (() => void) | undefined;
}

export interface RegisteredDriver {
  readonly driver: PciDriver;
  readonly dynids: DynamicIds;
  /** Binds by name or by alias that are under way: they must not lose it when one of them fails. */
  binds: number;
}

/**
 * The state behind a {@link PciBus} and the steps that its operations are made of. Internal: programs and drivers see
 * the bus.
 */
export class DriverCore {
  readonly slots = new Map<string, Slot>();
  /** In the order of registration. */
  readonly drivers = new Map<string, RegisteredDriver>();
  /** PFs whose new VFs are captured, with the number of those who asked. */
  readonly captures = new Map<PciFunction, number>();
  readonly warn: (warning: BusWarning) => void;
  readonly #bus: PciBus;

  constructor(bus: PciBus, warn: (warning: BusWarning) => void) {
    this.#bus = bus;
    this.warn = warn;
  }

  /** The slot of a function of this bus. @throws ENODEV where the function is not on it (any more). */
  slot(fn: PciFunction, op: string): Slot {
    const slot = this.slots.get(fn.address);
    if (slot?.fn !== fn) {
      throw new VfioError('ERR_VFIO_NO_DEVICE', `${fn.address} is not on this bus, or has been removed from it`, {
        errno: 'ENODEV',
        op,
        device: fn.address,
      });
    }
    return slot;
  }

  /** A registered driver, by name or object. @throws ENODEV (`ERR_VFIO_NO_DRIVER`). */
  registered(driver: PciDriver | string, op: string): RegisteredDriver {
    const name = typeof driver === 'string' ? driver : driver.name;
    const registered = this.drivers.get(name);
    if (registered === undefined || (typeof driver !== 'string' && registered.driver !== driver)) {
      throw new VfioError('ERR_VFIO_NO_DRIVER', `driver "${name}" is not registered on this bus`, {
        errno: 'ENODEV',
        op,
      });
    }
    return registered;
  }

  error(errno: ErrnoName, code: VfioErrorCode, slot: Slot, op: string, message: string, cause?: unknown): VfioError {
    return new VfioError(code, `${slot.fn.address}: ${message}`, {
      errno,
      op,
      device: slot.fn.address,
      ...(cause === undefined ? {} : { cause }),
    });
  }

  adopt(fn: PciFunction): Slot {
    const slot: Slot = {
      fn,
      driver: undefined,
      id: undefined,
      bound: false,
      override: undefined,
      drvdata: undefined,
      op: undefined,
      opEnd: undefined,
      gone: false,
      pfWatchers: new Map(),
      offError: undefined,
    };
    // Before any driver sees it, and with the name that driver_override is compared to.
    if (fn.physfn !== undefined && this.captures.has(fn.physfn)) {
      slot.override = this.slots.get(fn.physfn.address)?.driver?.name;
    }
    this.slots.set(fn.address, slot);
    return slot;
  }

  /**
   * Runs an operation as the only one on its function. The function is taken before this returns.
   * @throws EBUSY while another one holds it, ENODEV where it is going away.
   */
  async exclusive<T>(slot: Slot, op: string, work: () => Promise<T>): Promise<T> {
    if (slot.op !== undefined) throw this.error('EBUSY', 'ERR_VFIO_BUSY', slot, op, `${slot.op} is under way`);
    if (slot.gone && op !== 'remove')
      throw this.error('ENODEV', 'ERR_VFIO_NO_DEVICE', slot, op, 'the function is being removed');
    slot.op = op;
    let ended = (): void => {};
    slot.opEnd = new Promise((resolve) => {
      ended = resolve;
    });
    try {
      return await work();
    } finally {
      slot.op = undefined;
      slot.opEnd = undefined;
      ended();
    }
  }

  match({ driver, dynids }: RegisteredDriver, slot: Slot): PciDeviceId | undefined {
    const { vendor, device, subvendor, subdevice, class: deviceClass } = slot.fn;
    return pciMatchDevice(
      driver,
      { vendor, device, subvendor, subdevice, class: deviceClass, driverOverride: slot.override },
      dynids.ids,
    );
  }

  /** The autoprobe gate: a VF is left alone where its PF says so, unless a driver was asked for by name. */
  canProbe(slot: Slot): boolean {
    const pf = slot.fn.physfn;
    if (pf === undefined || slot.override !== undefined) return true;
    return pf.base.kind !== 'raw' || (pf.base.sriov?.driversAutoprobe ?? true);
  }

  /** Offers every free function to one driver: `driver_attach`. A function that is being worked on is passed over. */
  async attachDriver(registered: RegisteredDriver): Promise<void> {
    for (const slot of [...this.slots.values()]) {
      if (this.drivers.get(registered.driver.name) !== registered) return;
      if (slot.driver !== undefined || slot.op !== undefined || slot.gone || !this.canProbe(slot)) continue;
      const id = this.match(registered, slot);
      if (id === undefined) continue;
      try {
        await this.exclusive(slot, 'probe', () => this.probeDriver(slot, registered, id));
      } catch (error) {
        this.#warnProbe(slot, registered.driver, error);
      }
    }
  }

  /** Offers one function to the drivers, the first that takes it has it: `device_attach`. The caller holds the slot. */
  async attachSlot(slot: Slot): Promise<void> {
    if (slot.driver !== undefined || !this.canProbe(slot)) return;
    for (const registered of [...this.drivers.values()]) {
      if (slot.gone || this.drivers.get(registered.driver.name) !== registered) continue;
      const id = this.match(registered, slot);
      if (id === undefined) continue;
      try {
        await this.probeDriver(slot, registered, id);
        return;
      } catch (error) {
        this.#warnProbe(slot, registered.driver, error);
      }
    }
  }

  /** ENODEV and ENXIO are how a driver declines a function after a closer look: nothing to report. */
  #warnProbe(slot: Slot, driver: PciDriver, error: unknown): void {
    if (isVfioError(error) && (error.errno === 'ENODEV' || error.errno === 'ENXIO')) return;
    const reason = messageOf(error);
    this.warn({ message: `probe of ${driver.name} failed: ${reason}`, device: slot.fn.address, cause: error });
  }

  /** Probes a free function. On failure the function is free again and the error is the probe's. The caller holds the slot. */
  async probeDriver(slot: Slot, registered: RegisteredDriver, id: PciDeviceId): Promise<void> {
    const { driver } = registered;
    const { fn } = slot;
    if (this.drivers.get(driver.name) !== registered) {
      throw this.error('ENODEV', 'ERR_VFIO_NO_DRIVER', slot, 'probe', `driver ${driver.name} has been unregistered`);
    }
    slot.driver = driver;
    slot.id = id;
    try {
      await driver.probe(fn, id, this.#bus);
    } catch (error) {
      this.#release(slot);
      throw error;
    }
    slot.bound = true;
    const { errorHandlers } = driver;
    if (errorHandlers !== undefined && fn.base.kind === 'raw') {
      slot.offError = fn.base.onError((event) => {
        if (event === 'reset-done') errorHandlers.resetDone?.(fn, this.#bus);
        else errorHandlers.errorDetected?.(fn, this.#bus);
      });
    }
    if (fn.physfn !== undefined && this.captures.has(fn.physfn)) {
      const pfDriver = this.slots.get(fn.physfn.address)?.driver;
      if (pfDriver !== undefined && pfDriver !== driver) {
        this.warn({
          message: `virtual function bound to ${driver.name} while its physical function ${fn.physfn.address} is bound to ${pfDriver.name}`,
          device: fn.address,
        });
      }
    }
  }

  /** Gives a function back to a driver that had it; returns how that went, for a message. The caller holds the slot. */
  async probeAgain(slot: Slot, registered: RegisteredDriver, id: PciDeviceId): Promise<string> {
    try {
      await this.probeDriver(slot, registered, id);
      return `the function is back with ${registered.driver.name}`;
    } catch (error) {
      this.#warnProbe(slot, registered.driver, error);
      const reason = messageOf(error);
      return `the function is without a driver, because ${registered.driver.name} did not take it back: ${reason}`;
    }
  }

  /**
   * Takes a function from its driver. It is free afterwards, whatever happens; the first error of a watcher or of `remove`
   * is thrown then. The caller holds the slot.
   */
  async removeDriver(slot: Slot): Promise<void> {
    const { driver, fn } = slot;
    if (driver === undefined) return;
    slot.bound = false;
    slot.offError?.();
    slot.offError = undefined;
    const errors: unknown[] = [];
    for (const gone of [...slot.pfWatchers.keys()]) {
      if (!slot.pfWatchers.delete(gone)) continue;
      try {
        await gone(fn);
      } catch (error) {
        errors.push(error);
      }
    }
    try {
      await driver.remove(fn, this.#bus);
    } catch (error) {
      errors.push(error);
    }
    this.#release(slot);
    if (errors.length > 0) throw errors[0];
  }

  /** What ends with a driver's hold on a function, also when its probe failed. */
  #release(slot: Slot): void {
    slot.driver = undefined;
    slot.id = undefined;
    slot.bound = false;
    slot.drvdata = undefined;
    this.captures.delete(slot.fn);
    const { physfn } = slot.fn;
    const watchers = physfn === undefined ? undefined : this.slots.get(physfn.address)?.pfWatchers;
    for (const [watcher, vf] of watchers ?? []) if (vf === slot.fn) watchers?.delete(watcher);
  }
}
