import { messageOf } from '@vfio/uapi';
import type { ConfigSpaceHost, PciPowerState } from './host.js';

function report(host: ConfigSpaceHost, error: unknown): void {
  host.warn(messageOf(error));
}

function isPromise(value: unknown): value is Promise<void> {
  return typeof value === 'object' && value !== null && 'then' in value;
}

/**
 * Resets the function, its mappings killed.
 *
 * This and {@link changePower} are functions of their own, since a closure in an access function would cost every
 * access an allocation, sprung trap or not.
 */
export function resetFunction(host: ConfigSpaceHost): undefined | Promise<void> {
  return withMemoryLocked(host, true, () => host.tryResetFunction());
}

/** Moves the function to another power state; in D3hot its memory is out of reach. */
export function changePower(host: ConfigSpaceHost, state: PciPowerState): undefined | Promise<void> {
  return withMemoryLocked(host, state >= 3, () => host.setPowerState(state));
}

/**
 * Runs a reset or power change with memory decode taken. Its failure is logged and not passed on: a register write has
 * no way to fail, and the user finds out by reading the register or the device.
 */
function withMemoryLocked(
  host: ConfigSpaceHost,
  zap: boolean,
  action: () => void | Promise<void>,
): undefined | Promise<void> {
  host.lockMemory(zap);
  let pending: void | Promise<void>;
  try {
    pending = action();
  } catch (error) {
    report(host, error);
    host.unlockMemory();
    return undefined;
  }
  if (!isPromise(pending)) {
    host.unlockMemory();
    return undefined;
  }
  return pending.then(
    () => host.unlockMemory(),
    (error: unknown) => {
      report(host, error);
      host.unlockMemory();
    },
  );
}
