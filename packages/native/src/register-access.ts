import { errnoError, hex } from '@vfio/uapi';
import { nativeBinding } from './binding.js';

/**
 * Volatile access to device registers and to memory that another party reads and writes. Each call is exactly one load or
 * store of its width, which DataView and typed arrays do not promise, in the machine's byte order. Offsets are in bytes and
 * naturally aligned. 32-bit values are int32 patterns (`v >>> 0` for the unsigned one), so that nothing is allocated.
 * All throw ERR_VFIO_FAULT (EFAULT) outside `bytes`, a detached buffer included, and ERR_VFIO_INVALID_ARGUMENT where not aligned.
 */

function check(bytes: Uint8Array, offset: number, width: number): void {
  // The address counts, not the offset: a view may start anywhere. A negative or fractional offset fails the last test.
  if (offset + width > bytes.length || ((bytes.byteOffset + offset) & (width - 1)) !== 0 || offset >>> 0 !== offset)
    refuse(bytes, offset, width);
}

function refuse(bytes: Uint8Array, offset: number, width: number): never {
  if (!Number.isSafeInteger(offset) || offset < 0 || offset + width > bytes.length) {
    throw errnoError(
      'EFAULT',
      `register access of ${width} bytes at ${offset}: the memory has ${hex(bytes.length)} bytes`,
      {
        op: 'register',
      },
    );
  }
  if ((bytes.byteOffset + offset) % width !== 0) {
    const start = bytes.byteOffset % width === 0 ? '' : ' of a view that starts at no multiple of it';
    throw errnoError('EINVAL', `register access of ${width} bytes at ${hex(offset)}${start}: not aligned`, {
      op: 'register',
    });
  }
  throw errnoError('EFAULT', `register access at ${hex(offset)}: above 4 GiB; take a view that starts nearer`, {
    op: 'register',
  });
}

export function readRegister8(bytes: Uint8Array, offset: number): number {
  check(bytes, offset, 1);
  return nativeBinding().read8(bytes, offset);
}

export function readRegister16(bytes: Uint8Array, offset: number): number {
  check(bytes, offset, 2);
  return nativeBinding().read16(bytes, offset);
}

export function readRegister32(bytes: Uint8Array, offset: number): number {
  check(bytes, offset, 4);
  return nativeBinding().read32(bytes, offset);
}

/** One 8-byte load; `out[0]` gets the low, `out[1]` the high half. */
export function readRegister64(bytes: Uint8Array, offset: number, out: Uint32Array): void {
  check(bytes, offset, 8);
  if (nativeBinding().read64(bytes, offset, out) < 0) {
    throw errnoError('EINVAL', `register access of 8 bytes: ${out.length} words for the result, 2 are needed`, {
      op: 'register',
    });
  }
}

export function writeRegister8(bytes: Uint8Array, offset: number, value: number): void {
  check(bytes, offset, 1);
  nativeBinding().write8(bytes, offset, value | 0);
}

export function writeRegister16(bytes: Uint8Array, offset: number, value: number): void {
  check(bytes, offset, 2);
  nativeBinding().write16(bytes, offset, value | 0);
}

export function writeRegister32(bytes: Uint8Array, offset: number, value: number): void {
  check(bytes, offset, 4);
  nativeBinding().write32(bytes, offset, value | 0);
}

/** One 8-byte store of the two halves. */
export function writeRegister64(bytes: Uint8Array, offset: number, low: number, high: number): void {
  check(bytes, offset, 8);
  nativeBinding().write64(bytes, offset, low | 0, high | 0);
}

/** A 32-bit load after which no later load or store is seen to happen before it: to read a queue's phase bit or index
 * before the entries that it announces. */
export function loadAcquire32(bytes: Uint8Array, offset: number): number {
  check(bytes, offset, 4);
  return nativeBinding().loadAcquire32(bytes, offset);
}

/** A 32-bit store that nobody sees before the loads and stores made until now: to publish an index or phase bit after the
 * entries that it announces. */
export function storeRelease32(bytes: Uint8Array, offset: number, value: number): void {
  check(bytes, offset, 4);
  nativeBinding().storeRelease32(bytes, offset, value | 0);
}

/** A full, sequentially consistent fence: orders stores before it against loads after it, which release and acquire do
 * not. Needed between "I sleep" and the last look at a queue. `eventfdWrite` has one of its own. */
export function fence(): void {
  nativeBinding().fence();
}
