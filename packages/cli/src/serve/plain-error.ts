import { type ErrnoName, isVfioError, messageOf, VfioError, type VfioErrorCode } from '@vfio/core';

/** An error as a plain message: between threads, and in JSON. */
export interface PlainError {
  readonly message: string;
  readonly code: string | undefined;
  readonly errno: string | undefined;
  readonly device: string | undefined;
  readonly stack: string | undefined;
}

export function plainError(error: unknown): PlainError {
  const known = isVfioError(error) ? error : undefined;
  return {
    message: messageOf(error),
    code: known?.code,
    errno: known?.errno,
    device: known?.device,
    stack: error instanceof Error ? error.stack : undefined,
  };
}

/** The error that it was, as far as plain data tells. */
export function errorOf(plain: PlainError, op: string): Error {
  const { message, code, errno, device, stack } = plain;
  const error =
    code === undefined
      ? new Error(message)
      : // What another version has for a code is still the best that there is to show.
        new VfioError(code as VfioErrorCode, message, { errno: errno as ErrnoName | undefined, device, op });
  if (stack !== undefined) error.stack = stack;
  return error;
}
