import { isVfioError, messageOf, VfioError } from '@vfio/uapi';
import type { DriverSource, PciBus } from './bus.js';
import type { PciDriver } from './driver.js';
import type { DriverCore, RegisteredDriver, Slot } from './driver-core.js';

/**
 * Gives a function to the driver of a name, taking it from the one that has it: load, register, driver_override, unbind,
 * probe, in this order, so that nothing is touched before the new driver is at hand. A failure undoes every step.
 * The caller holds the slot.
 */
export async function rebind(
  bus: PciBus,
  core: DriverCore,
  slot: Slot,
  op: string,
  name: string,
  source: DriverSource | undefined,
): Promise<PciDriver> {
  const known = core.drivers.get(name);
  const registered = known ?? (await loadAndRegister(bus, core, slot, op, name, source));
  const { driver } = registered;
  if (slot.driver === driver) return driver;

  const old = slot.driver === undefined ? undefined : core.drivers.get(slot.driver.name);
  const oldId = slot.id;
  const oldOverride = slot.override;
  registered.binds++;
  try {
    slot.override = name;
    await core.removeDriver(slot);
    if (slot.gone) throw core.error('ENODEV', 'ERR_VFIO_NO_DEVICE', slot, op, 'the function is being removed');
    const id = core.match(registered, slot);
    // driver_override names the driver, so it matches; the test is for the type.
    if (id === undefined) throw core.error('ENODEV', 'ERR_VFIO_NO_DRIVER', slot, op, `${name} does not match`);
    await core.probeDriver(slot, registered, id);
    return driver;
  } catch (error) {
    slot.override = oldOverride;
    let restored = 'the function has no driver, as before';
    if (old !== undefined && oldId !== undefined && !slot.gone) {
      // The row is kept and not looked for again: what the driver took the function by may have been removed since.
      restored = await core.probeAgain(slot, old, oldId);
    }
    throw failure(slot, op, name, error, restored);
  } finally {
    registered.binds--;
    // Registered for this call alone: gone again, unless it has found other users.
    if (known === undefined && registered.binds === 0 && !inUse(core, driver)) {
      if (core.drivers.get(name) === registered) await bus.unregister(driver);
    }
  }
}

function inUse(core: DriverCore, driver: PciDriver): boolean {
  for (const slot of core.slots.values()) if (slot.driver === driver) return true;
  return false;
}

async function loadAndRegister(
  bus: PciBus,
  core: DriverCore,
  slot: Slot,
  op: string,
  name: string,
  source: DriverSource | undefined,
): Promise<RegisteredDriver> {
  if (source === undefined) return core.registered(name, op);
  const driver = await source.load(name);
  if (driver.name !== name) {
    throw core.error(
      'EINVAL',
      'ERR_VFIO_BAD_DRIVER',
      slot,
      op,
      `the driver that was loaded for "${name}" calls itself "${driver.name}"`,
    );
  }
  // Another function's bind may have registered it while it was loaded.
  if (core.drivers.get(name)?.driver !== driver) await bus.register(driver);
  return core.registered(driver, op);
}

function failure(slot: Slot, op: string, name: string, cause: unknown, restored: string): VfioError {
  const reason = messageOf(cause);
  const known = isVfioError(cause) ? cause : undefined;
  return new VfioError(
    known?.code ?? 'ERR_VFIO_IO',
    `${slot.fn.address}: could not be given to ${name}: ${reason}; ${restored}`,
    { errno: known?.errno ?? 'EIO', op, device: slot.fn.address, cause, details: { driver: name, restored } },
  );
}
