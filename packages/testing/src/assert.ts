import { isVfioError } from '@vfio/core';

/** Thrown, as no error, by a rule that finds nothing to which it applies. */
export class NotApplicable {
  readonly reason: string;

  constructor(reason: string) {
    this.reason = reason;
  }
}

/** Ends a case that cannot say anything about this device. */
export function notApplicable(reason: string): never {
  throw new NotApplicable(reason);
}

/** Fails a case with a sentence. */
export function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

/** Fails a case where two values differ. */
export function equal<T>(found: T, wanted: T, what: string): void {
  check(Object.is(found, wanted), `${what}: found ${show(found)}, wanted ${show(wanted)}`);
}

/** Fails a case where bytes differ. */
export function sameBytes(found: Uint8Array, wanted: Uint8Array, what: string): void {
  const text = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  check(
    found.length === wanted.length && found.every((byte, at) => byte === wanted[at]),
    `${what}: found ${text(found)}, wanted ${text(wanted)}`,
  );
}

/** Fails a case where a call does not fail, or with another errno than one of these. */
export async function fails(
  call: () => Promise<unknown>,
  errnos: string | readonly string[],
  what: string,
): Promise<void> {
  const wanted = typeof errnos === 'string' ? [errnos] : errnos;
  try {
    await call();
  } catch (error) {
    check(isVfioError(error), `${what}: threw something that is no VfioError: ${String(error)}`);
    check(
      error.errno !== undefined && wanted.includes(error.errno),
      `${what}: failed with ${error.errno ?? 'no errno'} (${error.message}), wanted ${wanted.join(' or ')}`,
    );
    return;
  }
  throw new Error(`${what}: succeeded, wanted ${wanted.join(' or ')}`);
}

const show = (value: unknown): string =>
  typeof value === 'number' ? `${value} (0x${value.toString(16)})` : String(value);
