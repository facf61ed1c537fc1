import {
  messageOf,
  PCI_CAP_ID_PM,
  PCI_PM_CAP_D1,
  PCI_PM_CAP_D2,
  PCI_PM_CTRL,
  PCI_PM_CTRL_NO_SOFT_RESET,
  PCI_PM_CTRL_STATE_MASK,
  PCI_PM_PMC,
  VFIO_PCI_INTX_IRQ_INDEX,
  type VfioError,
} from '@vfio/uapi';
import type { PciPowerState } from './config/host.js';
import { restoreConfigState, saveConfigState } from './config/saved-state.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { maskIntx, unmaskIntx } from './intx.js';
import { IRQ_NONE } from './irq-state.js';
import { chain, isPromise, type MaybePromise, tracked, withCleanup, withRecovery } from './maybe-promise.js';
import { notifyMemory } from './memory.js';
import { findPciCap } from './pci-caps.js';

/** Finds out what the function's power management can do and in which state it is. At registration. */
export function probePowerState(dev: VfioPciCoreDevice): void {
  const { config } = dev.raw;
  const pm = findPciCap(config, PCI_CAP_ID_PM);
  if (pm === 0) return;
  const pmcsr = config.read(pm + PCI_PM_CTRL, 2);
  dev.power.pmAt = pm;
  dev.power.needsRestore = (pmcsr & PCI_PM_CTRL_NO_SOFT_RESET) === 0;
  dev.power.state = (pmcsr & PCI_PM_CTRL_STATE_MASK) as PciPowerState;
}

/**
 * Moves the function between power states, keeping over D3hot what it forgets: `vfio_pci_set_power_state`. From a low state
 * only a deeper one and D0 can be reached. The state afterwards is what PMCSR says: hardware may refuse.
 *
 * @throws EBUSY on a PF whose VFs are there, EIO for a state that the function does not have, EINVAL for a way that there is
 *   not (from D3hot to D1).
 */
export function setPowerState(dev: VfioPciCoreDevice, state: PciPowerState): MaybePromise<void> {
  const { power } = dev;
  if (dev.vf.sriovActive && state > 0) {
    throw dev.error('EBUSY', 'setPowerState', `D${state} asked for; while the function has VFs only D0 is allowed`);
  }
  if (state === power.state) return undefined;
  const raw = dev.raw;
  const { config } = raw;
  if (power.pmAt === 0) {
    throw dev.error('EIO', 'setPowerState', `D${state} asked for; the function has no power management capability`);
  }
  if (state !== 0 && state < power.state) {
    throw dev.error('EINVAL', 'setPowerState', `D${state} asked for in D${power.state}, which only D0 leads out of`);
  }
  const missing = state === 1 ? PCI_PM_CAP_D1 : state === 2 ? PCI_PM_CAP_D2 : 0;
  if ((config.read(power.pmAt + PCI_PM_PMC, 2) & missing) !== missing) {
    throw dev.error('EIO', 'setPowerState', `D${state} asked for; the function does not have that state`);
  }
  if (power.needsRestore && state === 3) power.saved = saveConfigState(config);
  return chain(raw.setPowerState(state), () => {
    const before = power.state;
    power.state = (config.read(power.pmAt + PCI_PM_CTRL, 2) & PCI_PM_CTRL_STATE_MASK) as PciPowerState;
    if (before === 3 && power.state === 0 && power.saved !== undefined) {
      restoreConfigState(config, power.saved, dev.irqs.type !== IRQ_NONE);
      rewriteMessages(dev);
    }
    if (power.state !== 3) power.saved = undefined;
  });
}

/** Writes the messages of all vectors in use to the hardware again. */
export function rewriteMessages(dev: VfioPciCoreDevice): void {
  const { irqs } = dev;
  const { interrupts } = dev.raw;
  for (let vector = 0; vector < irqs.vectors.length; vector++) {
    if (irqs.vectors[vector] !== undefined) interrupts.rewriteMessage(vector);
  }
}

/** Someone needs the function awake until {@link pmPut}: `pm_runtime_resume_and_get`. @throws where it cannot be woken */
export function pmGet(dev: VfioPciCoreDevice): MaybePromise<void> {
  const { power } = dev;
  power.users++;
  return withRecovery(
    () => pmResume(dev),
    (error) => {
      power.users--;
      throw error;
    },
  );
}

/** Wakes the function if it sleeps or is about to: `pm_runtime_resume`. */
export function pmResume(dev: VfioPciCoreDevice): MaybePromise<void> {
  if (!dev.power.asleep && dev.power.transition === undefined) return undefined;
  return inTurn(dev, () => (dev.power.asleep ? wake(dev) : undefined));
}

/** Ends a {@link pmGet}; the function may sleep where nobody else needs it. */
export function pmPut(dev: VfioPciCoreDevice): MaybePromise<void> {
  const { power } = dev;
  power.users--;
  if (power.users > 0) return undefined;
  return inTurn(dev, () => (power.users > 0 || power.asleep ? undefined : suspend(dev)));
}

/** Falling asleep and waking of a function whose power changes take time never overlap. */
function inTurn(dev: VfioPciCoreDevice, change: () => MaybePromise<void>): MaybePromise<void> {
  const { power } = dev;
  const before = power.transition;
  const result = before === undefined ? change() : before.then(change);
  if (!isPromise(result)) return result;
  const { returned, settled } = tracked(result, () => {
    if (power.transition === settled) power.transition = undefined;
  });
  power.transition = settled;
  return returned;
}

function suspend(dev: VfioPciCoreDevice): MaybePromise<void> {
  const { power } = dev;
  power.intxMasked = dev.irqs.type === VFIO_PCI_INTX_IRQ_INDEX && maskIntx(dev);
  power.asleep = true;
  // Without the capability there is no state to go to; the device just counts as asleep.
  if (power.pmAt === 0) return undefined;
  return setPowerState(dev, 3);
}

function wake(dev: VfioPciCoreDevice): MaybePromise<void> {
  const { power } = dev;
  return chain(power.pmAt === 0 ? undefined : setPowerState(dev, 0), () => {
    power.asleep = false;
    const trigger = power.wakeTrigger;
    if (trigger !== undefined) {
      // One shot: having been woken ends low power, and the device stays awake.
      power.wakeTrigger = undefined;
      power.engaged = false;
      power.users++;
      trigger.signal();
      trigger.release();
    }
    if (power.intxMasked) {
      power.intxMasked = false;
      unmaskIntx(dev);
    }
    notifyMemory(dev);
  });
}

/** Runs `work` on an awake function, which may sleep again afterwards. @throws EIO where it cannot be woken. */
export function whileAwake<T>(dev: VfioPciCoreDevice, op: string, work: () => MaybePromise<T>): MaybePromise<T> {
  let awake: MaybePromise<void>;
  try {
    awake = pmGet(dev);
  } catch (cause) {
    throw wakeError(dev, op, cause);
  }
  if (!isPromise(awake)) return withCleanup(work, () => settledPut(dev));
  return awake.then(
    () => withCleanup(work, () => settledPut(dev)),
    (cause: unknown) => {
      throw wakeError(dev, op, cause);
    },
  );
}

/**
 * {@link whileAwake} for ops that cannot wait. A function whose power changes take time is woken, but this call answers
 * EIO, as the kernel does where a resume fails; a later one finds it awake.
 */
export function whileAwakeSync<T>(dev: VfioPciCoreDevice, op: string, work: () => T): T {
  let awake: MaybePromise<void>;
  try {
    awake = pmGet(dev);
  } catch (cause) {
    throw wakeError(dev, op, cause);
  }
  if (isPromise(awake)) {
    awake.then(
      () => settledPut(dev),
      (error: unknown) => dev.warn(`could not be woken: ${String(error)}`),
    );
    throw dev.error('EIO', op, 'the function sleeps and takes time to wake');
  }
  try {
    return work();
  } finally {
    settledPut(dev);
  }
}

function wakeError(dev: VfioPciCoreDevice, op: string, cause: unknown): VfioError {
  return dev.error('EIO', op, `the function could not be woken: ${messageOf(cause)}`);
}

/** {@link pmPut} of which nobody waits for the end. */
export function settledPut(dev: VfioPciCoreDevice): void {
  const failed = (error: unknown) => dev.warn(`could not be put to sleep: ${String(error)}`);
  try {
    const asleep = pmPut(dev);
    if (isPromise(asleep)) asleep.catch(failed);
  } catch (error) {
    failed(error);
  }
}
