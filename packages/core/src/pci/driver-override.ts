import { VfioError } from '@vfio/uapi';

/** Size that bounds a sysfs write. */
const PAGE_SIZE = 4096;

/**
 * What a write to the sysfs attribute `driver_override` sets: the text up to its first newline; undefined (cleared) where
 * that is empty.
 *
 * @throws EINVAL for `PAGE_SIZE - 1` bytes or more, the newline included, or a NUL.
 */
export function parseDriverOverride(text: string): string | undefined {
  // Bytes, not characters: that is what the kernel counts.
  const length = new TextEncoder().encode(text).length;
  if (length >= PAGE_SIZE - 1) {
    throw invalid(`driver_override of ${length} bytes: allowed are fewer than ${PAGE_SIZE - 1}`);
  }
  const newline = text.indexOf('\n');
  const name = newline === -1 ? text : text.slice(0, newline);
  if (name.includes('\0')) throw invalid('driver_override contains a NUL character');
  return name === '' ? undefined : name;
}

/** What reading the sysfs attribute gives: the name or `(null)`, with a newline. */
export function formatDriverOverride(name: string | undefined): string {
  return `${name ?? '(null)'}\n`;
}

function invalid(message: string): VfioError {
  return new VfioError('ERR_VFIO_INVALID_ARGUMENT', message, { errno: 'EINVAL', op: 'driver_override' });
}
