import { errnoError } from '../errors.js';
import { viewOf } from '../struct.js';

/**
 * The caller's memory, for the arguments that hold pointers (dirty bitmaps, ranges, tokens). Addresses are the caller's.
 */
export interface UserMemory {
  /** A copy of `length` bytes. @throws VfioError EFAULT: the range is not there; checked before anything is allocated. */
  read(address: bigint, length: number): Uint8Array;
  /** @throws VfioError EFAULT: the range is not there; nothing is stored then. */
  write(address: bigint, data: Uint8Array): void;
}

/** A caller without memory behind its pointers: every one of them faults. */
export const NO_USER_MEMORY: UserMemory = {
  read: (address, length) => {
    throw errnoError('EFAULT', `${length} bytes at 0x${address.toString(16)} are not in the caller's memory`);
  },
  write: (address, data) => {
    throw errnoError('EFAULT', `${data.length} bytes at 0x${address.toString(16)} are not in the caller's memory`);
  },
};

/**
 * The first `size` bytes of an argument.
 * @throws VfioError EFAULT: the caller's memory ends before them.
 */
export function fromUser(arg: Uint8Array, size: number, op: string): DataView {
  if (arg.length < size) {
    throw errnoError('EFAULT', `the argument has ${arg.length} readable bytes, ${size} are wanted`, { op });
  }
  return viewOf(arg.subarray(0, size));
}

/**
 * Stores a reply in an argument.
 * @throws VfioError EFAULT: the caller's memory ends before the reply does; nothing is stored then.
 */
export function toUser(arg: Uint8Array, at: number, data: Uint8Array, op: string): void {
  if (arg.length < at + data.length) {
    throw errnoError('EFAULT', `the argument has ${arg.length} bytes, the reply needs ${at + data.length}`, { op });
  }
  arg.set(data, at);
}
