import { PCI_COMMAND, PCI_COMMAND_INTX_DISABLE } from '@vfio/uapi';
import { restoreConfigState, saveConfigState } from './config/saved-state.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { IRQ_NONE } from './irq-state.js';
import { chain, type MaybePromise, withCleanup } from './maybe-promise.js';
import { lockMemory, unlockMemory } from './memory.js';
import { rewriteMessages, setPowerState } from './power.js';

/**
 * `pci_try_reset_function`: saves what software has set, resets the function alone and writes it back; interrupts in use go
 * on working. The device's migration returns to RUNNING. The caller holds memory.
 *
 * @throws ENOTTY where the function cannot be reset alone, EAGAIN where a lock is contended.
 */
export function tryResetFunction(dev: VfioPciCoreDevice): MaybePromise<void> {
  const { raw } = dev;
  if (raw.resetMethods.length === 0) {
    throw dev.error('ENOTTY', 'reset', 'the function has no way to be reset alone');
  }
  return chain(setPowerState(dev, 0), () =>
    chain(
      withSavedState(dev, () => raw.tryResetFunction()),
      () => notifyReset(dev),
    ),
  );
}

/** Keeps over a reset what software has set; interrupts in use go on working. */
export function withSavedState(dev: VfioPciCoreDevice, reset: () => MaybePromise<void>): MaybePromise<void> {
  const { config } = dev.raw;
  const state = saveConfigState(config);
  return withCleanup(
    () => {
      // Quiet before the reset: no decoding, no bus mastering, no line interrupt.
      config.write(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
      return reset();
    },
    () => {
      restoreConfigState(config, state, dev.irqs.type !== IRQ_NONE);
      rewriteMessages(dev);
    },
  );
}

/** The function was reset, by whatever: tells the device, after a migration step that runs now. */
export function notifyReset(dev: VfioPciCoreDevice): void {
  dev.stateLock.resetDone();
}

/**
 * VFIO_DEVICE_RESET.
 *
 * @throws EINVAL where a reset does not work, EAGAIN where a lock is contended.
 */
export function vfioPciCoreReset(dev: VfioPciCoreDevice): MaybePromise<void> {
  if (!dev.resetWorks)
    throw dev.error('EINVAL', 'reset', 'the function cannot be reset alone (no VFIO_DEVICE_FLAGS_RESET)');
  if (dev.memoryLocks > 0) throw dev.error('EAGAIN', 'reset', 'the function is being reset already');
  lockMemory(dev, true);
  return withCleanup(
    () => tryResetFunction(dev),
    () => unlockMemory(dev),
  );
}
