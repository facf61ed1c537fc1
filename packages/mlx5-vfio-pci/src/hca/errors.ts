import { type ErrnoName, hex, VfioError, type VfioErrorCode } from '@vfio/uapi';

/** Statuses of a command that its sender tells apart. */
export const CMD_STATUS = { OK: 0x0, BAD_RES_STATE: 0x9 } as const;

/** What the kernel makes of a command's status (first output byte). Others are EIO. */
const STATUS_ERRNO: Readonly<Record<number, readonly [ErrnoName, string]>> = {
  1: ['EIO', 'internal error'],
  2: ['EINVAL', 'bad operation'],
  3: ['EINVAL', 'bad parameter'],
  4: ['EIO', 'bad system state'],
  5: ['EINVAL', 'bad resource'],
  6: ['EBUSY', 'resource busy'],
  7: ['EAGAIN', 'not ready'],
  8: ['ENOMEM', 'limit exceeded'],
  9: ['EINVAL', 'bad resource state'],
  10: ['EINVAL', 'bad index'],
  15: ['EAGAIN', 'no resources'],
  16: ['EINVAL', 'bad queue pair state'],
  48: ['EINVAL', 'bad packet'],
  64: ['EINVAL', 'too many outstanding completions'],
  80: ['EIO', 'bad input length'],
  81: ['EIO', 'bad output length'],
};

/** What the kernel makes of a command that was not delivered. Others are EINVAL. */
const DELIVERY_ERRNO: Readonly<Record<number, readonly [ErrnoName, string]>> = {
  1: ['EBADR', 'signature error'],
  2: ['EBADR', 'token error'],
  3: ['EFAULT', 'bad block number'],
  4: ['EFAULT', 'output pointer not aligned'],
  5: ['EFAULT', 'input pointer not aligned'],
  6: ['EIO', 'firmware internal error'],
  7: ['ENOMSG', 'bad input length'],
  8: ['ENOMSG', 'bad output length'],
  9: ['ENOMSG', 'reserved field not clear'],
  16: ['ENOMSG', 'bad command descriptor'],
};

/** The kernel's errno has a code of ours that says most. */
const CODES: Partial<Record<ErrnoName, VfioErrorCode>> = {
  EBUSY: 'ERR_VFIO_BUSY',
  EAGAIN: 'ERR_VFIO_AGAIN',
  ENOMEM: 'ERR_VFIO_LIMIT',
  EINVAL: 'ERR_VFIO_STATE',
};

/** A command that the firmware refused: `details` has its status and syndrome. */
export function refused(command: string, status: number, syndrome: number, device: string): VfioError {
  const [errno, what] = STATUS_ERRNO[status] ?? ['EIO', 'unknown status'];
  return new VfioError(
    CODES[errno] ?? 'ERR_VFIO_IO',
    `${command}: the firmware answered ${what} (${hex(status)}), syndrome ${hex(syndrome)}`,
    { errno, op: command, device, details: { status, syndrome } },
  );
}

/** A command that did not reach the firmware. */
export function undelivered(command: string, delivery: number, device: string): VfioError {
  const [errno, what] = DELIVERY_ERRNO[delivery] ?? ['EINVAL', 'unknown delivery status'];
  return new VfioError('ERR_VFIO_IO', `${command}: not delivered, ${what} (${hex(delivery)})`, {
    errno,
    op: command,
    device,
    details: { delivery },
  });
}

/** The function does not answer any more: nothing is known of what it did. */
export function lost(
  command: string,
  errno: 'ETIMEDOUT' | 'ENOLINK' | 'EIO',
  message: string,
  device: string,
): VfioError {
  const code = errno === 'ETIMEDOUT' ? 'ERR_VFIO_TIMEOUT' : 'ERR_VFIO_IO';
  return new VfioError(code, `${command}: ${message}`, { errno, op: command, device, details: { lost: true } });
}

/** Whether nobody knows what a command did: it was not answered. What was refused did nothing. */
export function wasLost(error: unknown): boolean {
  const { details } = error as { readonly details?: Readonly<Record<string, unknown>> };
  return details?.['lost'] === true;
}

/** Whether the firmware refused with this status. */
export function hasStatus(error: unknown, status: number): boolean {
  const { details } = error as { readonly details?: Readonly<Record<string, unknown>> };
  return details?.['status'] === status;
}
