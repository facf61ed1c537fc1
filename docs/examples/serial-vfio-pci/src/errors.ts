import { errnoError, type VfioError } from '@vfio/core';

/** What is wrong with a stream that is being loaded. */
export function refused(message: string): VfioError {
  return errnoError('EINVAL', `the migration stream: ${message}`, { op: 'MIG_DATA_WRITE' });
}
