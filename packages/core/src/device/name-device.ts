import { isVfioError, VfioError } from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';

/** Runs a check that knows no device; its error gets this one's address. */
export function nameDevice<T>(dev: VfioPciCoreDevice, check: () => T): T {
  try {
    return check();
  } catch (error) {
    if (!isVfioError(error) || error.device !== undefined) throw error;
    const { code, message, errno, op, details } = error;
    throw new VfioError(code, message, { errno, op, details, device: dev.fn.address, cause: error });
  }
}
