import type { ConfigSpaceHost } from './host.js';

function report(host: ConfigSpaceHost, error: unknown): void {
  host.warn(error instanceof Error ? error.message : String(error));
}

function isPromise(value: unknown): value is Promise<void> {
  return typeof value === 'object' && value !== null && 'then' in value;
}

/**
 * Runs a reset or power change with memory decode taken. Its failure is logged and not passed on: a register write has
 * no way to fail, and the user finds out by reading the register or the device.
 */
export function withMemoryLocked(
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
