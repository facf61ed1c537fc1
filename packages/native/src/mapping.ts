import { constants } from 'node:buffer';
import { errnoError, hex } from '@vfio/uapi';
import { type NativeMappingHandle, nativeBinding } from './binding.js';
import { statFd } from './fd.js';
import { checked, syscallError } from './syscall-error.js';

/** Protection bits of {@link mmap}. */
export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;

/** Flags of {@link mmap}; x86, arm64 and s390x share these values. */
export const MAP_SHARED = 1;
export const MAP_PRIVATE = 2;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;

/** Advice of {@link Mapping.advise}. */
export const MADV_DONTNEED = 4;
export const MADV_DONTDUMP = 16;

/**
 * Memory mapped into this process as an ArrayBuffer. It lives until {@link unmap}, or until neither this object nor any
 * view of the buffer is reachable. The buffer cannot be transferred to another thread: Node 20 copies it, newer versions
 * refuse. If the file behind it is cut (another process can do that to a memfd that is not sealed), an access does not kill
 * the process: the lost pages read as zero, and {@link poisonedPages} says so.
 */
export class Mapping {
  /** Bytes that were asked for; unchanged by {@link unmap}. */
  readonly length: number;
  /** Everything that is mapped; `byteLength` is 0 after {@link unmap}. */
  readonly buffer: ArrayBuffer;
  /** The bytes that were asked for: all of {@link buffer}, or a part where {@link mapFile} had to round. */
  readonly bytes: Uint8Array;
  /** For `MessageLoop.watchMapping`. */
  readonly handle: NativeMappingHandle;

  constructor(handle: NativeMappingHandle, start = 0, length: number = handle.buffer.byteLength - start) {
    this.handle = handle;
    this.buffer = handle.buffer;
    this.length = length;
    this.bytes = new Uint8Array(this.buffer, start, length);
  }

  /** Whether {@link unmap} has not been called. */
  get isMapped(): boolean {
    return this.buffer.byteLength !== 0;
  }

  /** Pages that were lost because the file behind them was cut (or its memory failed) and that were replaced by zeroes. */
  get poisonedPages(): number {
    return nativeBinding().poisoned(this.handle);
  }

  get isPoisoned(): boolean {
    return this.poisonedPages !== 0;
  }

  /** Writes 1 to the eventfd `fd` (a copy of the descriptor is kept) when the first page is lost; -1 ends that. @throws ERR_VFIO_SYSCALL */
  notifyPoison(fd: number): void {
    checked('fcntl', nativeBinding().notifyPoison(this.handle, fd), `F_DUPFD_CLOEXEC of descriptor ${fd}`);
  }

  /** madvise(2) on a page-aligned part. @throws ERR_VFIO_SYSCALL */
  advise(offset: number, length: number, advice: number): void {
    checked('madvise', nativeBinding().madvise(this.handle, offset, length, advice), `advice ${advice}`);
  }

  /** Detaches the buffer, so that every view of it has length 0, then unmaps. Idempotent. @throws ERR_VFIO_SYSCALL (EBUSY:
   * the program gave the bytes another owner with `ArrayBuffer.transfer()`; they live until that is collected) */
  unmap(): void {
    checked('munmap', nativeBinding().unmap(this.handle), `${hex(this.length)} bytes`);
  }
}

/** Bytes of a page: what offsets of {@link mmap} must be multiples of. */
export function pageSize(): number {
  return nativeBinding().pageSize();
}

/** The longest mapping that one ArrayBuffer of this Node version can show. A longer range takes several mappings. */
export const MAX_MAPPING_LENGTH: number = constants.MAX_LENGTH;

/**
 * mmap(2).
 *
 * @param fd descriptor to map, -1 with MAP_ANONYMOUS; it may be closed afterwards
 * @param offset bytes from the start of the file, a multiple of the page size (on hugetlbfs: of its page size)
 * @param length bytes, 1..{@link MAX_MAPPING_LENGTH}; the last page is mapped whole but shown to `length` only
 * @throws ERR_VFIO_SYSCALL with the kernel's errno (EINVAL: offset not aligned; EACCES: the descriptor's mode forbids
 *   it; ENODEV: cannot be mapped; ENOMEM), ERR_VFIO_LIMIT where the length is above {@link MAX_MAPPING_LENGTH}
 */
export function mmap(
  fd: number,
  offset: number | bigint,
  length: number,
  prot: number = PROT_READ | PROT_WRITE,
  flags: number = MAP_SHARED,
): Mapping {
  if (length > MAX_MAPPING_LENGTH) {
    throw errnoError('E2BIG', `mapping of ${hex(length)} bytes: one buffer holds at most ${hex(MAX_MAPPING_LENGTH)}`, {
      op: 'mmap',
    });
  }
  const handle = nativeBinding().mmap(fd, offset, length, prot, flags);
  if (typeof handle === 'number')
    throw syscallError('mmap', handle, `descriptor ${fd}, offset ${hex(offset)}, length ${hex(length)}`);
  return new Mapping(handle);
}

/**
 * Maps part of a file or memfd that another party gave us: {@link mmap} with what a stranger's descriptor needs. The range must
 * lie in the file as it is now; on hugetlbfs it is rounded to its larger pages, and {@link Mapping.bytes} shows the part asked for.
 * The file can still be cut later: see {@link Mapping}.
 *
 * @param offset bytes, a multiple of {@link pageSize}
 * @throws ERR_VFIO_INVALID_ARGUMENT (EINVAL) where the range is empty, not aligned, beyond the end of the file, or the descriptor
 *   is no regular file; otherwise as {@link mmap}
 */
export function mapFile(
  fd: number,
  offset: number | bigint,
  length: number,
  prot: number = PROT_READ | PROT_WRITE,
): Mapping {
  const start = BigInt(offset);
  const file = statFd(fd);
  const refuse = (why: string) =>
    errnoError('EINVAL', `mapping of ${hex(length)} bytes at ${hex(offset)} of descriptor ${fd}: ${why}`, {
      op: 'mmap',
    });
  if ((file.mode & S_IFMT) !== S_IFREG) throw refuse('it is not a file or memfd');
  if (!Number.isSafeInteger(length) || length <= 0 || start < 0n)
    throw refuse('a length above 0 and no negative offset are allowed');
  if (start % BigInt(pageSize()) !== 0n) throw refuse(`offsets are multiples of ${hex(pageSize())}`);
  if (start + BigInt(length) > file.size) throw refuse(`the file has ${hex(file.size)} bytes`);
  const skip = file.isHugetlb ? Number(start % BigInt(file.blockSize)) : 0;
  if (skip === 0) return mmap(fd, offset, length, prot);
  const whole = mmap(fd, start - BigInt(skip), skip + length, prot);
  return new Mapping(whole.handle, skip, length);
}

const S_IFMT = 0o170000;
const S_IFREG = 0o100000;

/** Mappings of this package that exist in the process, those of all threads: for leak checks. */
export function mappingCount(): number {
  return nativeBinding().mappingCount();
}
