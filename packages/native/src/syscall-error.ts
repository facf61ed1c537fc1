import { errnoName, VfioError } from '@vfio/uapi';

/** The error of a system call that answered `result`, a negative errno. `detail` says on what it was called. */
export function syscallError(syscall: string, result: number, detail: string): VfioError {
  const errno = errnoName(-result);
  return new VfioError('ERR_VFIO_SYSCALL', `${syscall} ${detail}: ${errno ?? `errno ${-result}`}`, {
    errno,
    op: syscall,
    details: { errno: -result },
  });
}

/** `result` of a system call, or its error. */
export function checked(syscall: string, result: number, detail: string): number {
  if (result < 0) throw syscallError(syscall, result, detail);
  return result;
}
