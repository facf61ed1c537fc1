import { type ErrnoName, errnoError, hex, VfioError } from '@vfio/uapi';

/** Status codes with their type (bits 10:8) that are told apart (NVM Express Base 2.1, figures 102 and 103). */
export const NVME_STATUS = {
  INVALID_CONTROLLER_ID: 0x11f,
  NOT_ENOUGH_RESOURCES: 0x138,
  CONTROLLER_SUSPENDED: 0x139,
  CONTROLLER_NOT_SUSPENDED: 0x13a,
} as const;

/** What is made of a status. Others are EIO. */
const STATUS: Readonly<Record<number, readonly [ErrnoName, string]>> = {
  1: ['EOPNOTSUPP', 'Invalid Command Opcode'],
  2: ['EINVAL', 'Invalid Field in Command'],
  4: ['EIO', 'Data Transfer Error'],
  6: ['EIO', 'Internal Error'],
  7: ['EIO', 'Command Abort Requested'],
  12: ['EINVAL', 'Command Sequence Error'],
  [NVME_STATUS.INVALID_CONTROLLER_ID]: ['EINVAL', 'Invalid Controller Identifier'],
  [NVME_STATUS.NOT_ENOUGH_RESOURCES]: ['ENOSPC', 'Not Enough Resources'],
  [NVME_STATUS.CONTROLLER_SUSPENDED]: ['EBUSY', 'Controller Suspended'],
  [NVME_STATUS.CONTROLLER_NOT_SUSPENDED]: ['EINVAL', 'Controller Not Suspended'],
  640: ['EIO', 'Write Fault'],
};

/** A command that the controller refused: `details` has its status. */
export function refused(command: string, status: number, device: string): VfioError {
  const [errno, what] = STATUS[status] ?? ['EIO', 'unknown status'];
  return errnoError(errno, `${command}: the controller answered ${what} (${hex(status)})`, {
    op: command,
    device,
    details: { status },
  });
}

/** The controller does not answer any more: nothing is known of what it did. */
export function lost(command: string, errno: 'ETIMEDOUT' | 'ENOLINK', message: string, device: string): VfioError {
  const code = errno === 'ETIMEDOUT' ? 'ERR_VFIO_TIMEOUT' : 'ERR_VFIO_IO';
  return new VfioError(code, `${command}: ${message}`, { errno, op: command, device, details: { lost: true } });
}

/** Whether the controller refused with this status. */
export function hasStatus(error: unknown, status: number): boolean {
  return (error as { readonly details?: { readonly status?: unknown } }).details?.status === status;
}
