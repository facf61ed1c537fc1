import { ERRNO, type ErrnoName } from './errno.js';

/**
 * Every error code and the sentence that explains it. Codes are stable: they are what a program branches on where the
 * errno alone does not tell enough. docs/reference/errors.md is made from this record.
 */
export const VFIO_ERROR_CODES = {
  ERR_VFIO_INVALID_ARGUMENT: 'An argument, flag, index or size is outside what the call allows.',
  ERR_VFIO_INVALID_ID: 'A PCI id, class, address or name could not be read.',
  ERR_VFIO_INVALID_ALIAS: 'A modalias or an alias line could not be read.',
  ERR_VFIO_INVALID_STRUCT: 'The bytes of a struct or message are too short, inconsistent or out of range.',
  ERR_VFIO_FAULT: 'The access lies outside the region, the config space or the mapped memory.',
  ERR_VFIO_NOT_SUPPORTED: 'The device, driver or host does not have this operation.',
  ERR_VFIO_NO_DEVICE: 'There is no such device, function, resource or interrupt line, or it is gone.',
  ERR_VFIO_NO_DRIVER: 'No driver of that name is known, or none matches the function.',
  ERR_VFIO_BUSY: 'The device, its reset set, a driver or a resource is in use.',
  ERR_VFIO_ACCESS: 'The VF token is missing or wrong, or the caller may not do this.',
  ERR_VFIO_EXISTS: 'The same thing is registered, mapped or created already.',
  ERR_VFIO_LIMIT: 'A limit of the device, the protocol or this process is reached.',
  ERR_VFIO_IO: 'The device cannot be reached now: memory decode is off, it is powered down, or the access failed.',
  ERR_VFIO_AGAIN: 'A lock is contended or the resource is not ready; the same call may succeed later.',
  ERR_VFIO_STATE: 'The device, driver or connection is in a state in which this call is not allowed.',
  ERR_VFIO_BAD_DRIVER: 'A driver, ops table or driver package breaks the rules of its registry.',
  ERR_VFIO_PROTOCOL: 'The peer of a vfio-user connection broke the protocol.',
  ERR_VFIO_REMOTE: 'The peer of a vfio-user connection answered with an error.',
  ERR_VFIO_DISCONNECTED: 'The connection is closed, or closed while the call was waiting.',
  ERR_VFIO_TIMEOUT: 'The call did not end within its deadline.',
  ERR_VFIO_WOULD_DEADLOCK: 'A blocking call on a server that the same thread has to run.',
  ERR_VFIO_NATIVE_UNAVAILABLE: 'The native addon could not be loaded on this system.',
  ERR_VFIO_SYSCALL: 'A system call failed.',
  ERR_VFIO_CLOSED: 'The handle, mapping, descriptor or view is closed already.',
} as const;

/** A stable error code. */
export type VfioErrorCode = keyof typeof VFIO_ERROR_CODES;

/** What a {@link VfioError} carries beside its code and sentence. */
export interface VfioErrorOptions {
  /** The errno that the kernel gives for the same mistake. */
  errno?: ErrnoName | undefined;
  /** The operation: an op name, ioctl, vfio-user command or system call. */
  op?: string | undefined;
  /** Address of the function, `0000:3b:00.1`. */
  device?: string | undefined;
  /** Plain data for programs: what was asked, found, allowed. */
  details?: Readonly<Record<string, unknown>> | undefined;
  cause?: unknown;
}

const BRAND = Symbol.for('@vfio/error');

/**
 * The one error class. `message` says what was asked, what was found and what is allowed, numbers in hex with `0x`.
 * Test with {@link isVfioError}, not `instanceof`: two copies of this package may be loaded.
 */
export class VfioError extends Error {
  override readonly name = 'VfioError';
  readonly code: VfioErrorCode;
  readonly errno: ErrnoName | undefined;
  readonly op: string | undefined;
  readonly device: string | undefined;
  readonly details: Readonly<Record<string, unknown>> | undefined;

  constructor(code: VfioErrorCode, message: string, options: VfioErrorOptions = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.errno = options.errno;
    this.op = options.op;
    this.device = options.device;
    this.details = options.details;
    Object.defineProperty(this, BRAND, { value: true });
  }

  /** Errno as the positive number that a vfio-user error reply carries; EINVAL where the error has none. */
  get errnoNumber(): number {
    return this.errno === undefined ? ERRNO.EINVAL : ERRNO[this.errno];
  }
}

/** Whether `error` is a {@link VfioError} of any loaded copy of this package, with `code` where one is given. */
export function isVfioError(error: unknown, code?: VfioErrorCode): error is VfioError {
  return (
    typeof error === 'object' &&
    error !== null &&
    BRAND in error &&
    (code === undefined || (error as { code?: unknown }).code === code)
  );
}

/** The code that goes with an errno where the place of the error says nothing more specific. */
const CODE_OF_ERRNO: Partial<Record<ErrnoName, VfioErrorCode>> = {
  EFAULT: 'ERR_VFIO_FAULT',
  ENOTTY: 'ERR_VFIO_NOT_SUPPORTED',
  EOPNOTSUPP: 'ERR_VFIO_NOT_SUPPORTED',
  ENOSYS: 'ERR_VFIO_NOT_SUPPORTED',
  ENODEV: 'ERR_VFIO_NO_DEVICE',
  ENXIO: 'ERR_VFIO_NO_DEVICE',
  EBUSY: 'ERR_VFIO_BUSY',
  EACCES: 'ERR_VFIO_ACCESS',
  EPERM: 'ERR_VFIO_ACCESS',
  EEXIST: 'ERR_VFIO_EXISTS',
  ENOSPC: 'ERR_VFIO_LIMIT',
  E2BIG: 'ERR_VFIO_LIMIT',
  ENOMEM: 'ERR_VFIO_LIMIT',
  EIO: 'ERR_VFIO_IO',
  EAGAIN: 'ERR_VFIO_AGAIN',
  ENOTCONN: 'ERR_VFIO_STATE',
  ENOMSG: 'ERR_VFIO_STATE',
};

/** A {@link VfioError} with the errno that the kernel gives, and the code that goes with it. */
export function errnoError(
  errno: ErrnoName,
  message: string,
  options: Omit<VfioErrorOptions, 'errno'> = {},
): VfioError {
  return new VfioError(CODE_OF_ERRNO[errno] ?? 'ERR_VFIO_INVALID_ARGUMENT', message, { ...options, errno });
}

/**
 * What a call of Node's on a file threw, as a {@link VfioError} with the system's errno; EIO where it has none.
 * @param what what was tried, on which file
 */
export function systemError(what: string, op: string, cause: unknown): VfioError {
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  const errno = Object.hasOwn(ERRNO, code) ? (code as ErrnoName) : undefined;
  const message = `${what}: ${errno ?? messageOf(cause)}`;
  return new VfioError('ERR_VFIO_SYSCALL', message, { errno: errno ?? 'EIO', op, cause });
}

/** The sentence of whatever was thrown: code that is not ours may throw anything. */
export function messageOf(thrown: unknown): string {
  if (thrown instanceof Error) return thrown.message;
  // What has no text of its own (`Object.create(null)`) throws when it is asked for one.
  return typeof thrown === 'object' && thrown !== null ? Object.prototype.toString.call(thrown) : String(thrown);
}

/** `value` as the messages of this project show numbers: lower-case hex with `0x`. */
export function hex(value: number | bigint): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}
