import { ERRNO } from '@vfio/uapi';
import { nativeBinding } from './binding.js';
import { checked } from './syscall-error.js';

/** Flags of {@link openFd} (asm-generic/fcntl.h); x86, arm64 and s390x share these values. O_CLOEXEC is always added. */
export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;
export const O_NONBLOCK = 0o4000;

/** Events of {@link pollFd}. */
export const POLLIN = 1;
export const POLLOUT = 4;
export const POLLERR = 8;
export const POLLHUP = 16;

/** What `fstat` and `fstatfs` tell of a descriptor. */
export interface FdStat {
  readonly dev: bigint;
  readonly ino: bigint;
  /** Bytes; 0 for what is not a file or block device. */
  readonly size: bigint;
  /** Preferred I/O size; on hugetlbfs the size of its pages, to which a mapping's offset and length are rounded. */
  readonly blockSize: number;
  /** `st_mode`, file type included. */
  readonly mode: number;
  /** Whether the file lives on hugetlbfs. */
  readonly isHugetlb: boolean;
}

const HUGETLBFS_MAGIC = 0x958458f6n;

/** Opens a file; the descriptor is closed on exec. The caller owns it. @throws ERR_VFIO_SYSCALL */
export function openFd(path: string, flags: number, mode = 0o600): number {
  return checked('open', nativeBinding().open(path, flags, mode), path);
}

/** Closes a descriptor. @throws ERR_VFIO_SYSCALL (EBADF) where it is not open: a double close is a bug that hits others. */
export function closeFd(fd: number): void {
  checked('close', nativeBinding().close(fd), `descriptor ${fd}`);
}

/** A second descriptor of the same open file, closed on exec. The caller owns it. @throws ERR_VFIO_SYSCALL */
export function dupFd(fd: number): number {
  return checked('fcntl', nativeBinding().dup(fd), `F_DUPFD_CLOEXEC of descriptor ${fd}`);
}

/** Whether the number is an open descriptor of this process. */
export function isFdOpen(fd: number): boolean {
  return nativeBinding().fdFlags(fd) >= 0;
}

/** Whether the descriptor is closed on exec. @throws ERR_VFIO_SYSCALL (EBADF) */
export function isCloseOnExec(fd: number): boolean {
  return (checked('fcntl', nativeBinding().fdFlags(fd), `F_GETFD of descriptor ${fd}`) & 1) !== 0;
}

/** Sets or clears O_NONBLOCK, which all descriptors of the same open file share. @throws ERR_VFIO_SYSCALL */
export function setNonBlocking(fd: number, on: boolean): void {
  checked('fcntl', nativeBinding().setNonBlocking(fd, on), `O_NONBLOCK of descriptor ${fd}`);
}

/** @throws ERR_VFIO_SYSCALL (EBADF) */
export function statFd(fd: number): FdStat {
  const out = new BigUint64Array(6);
  checked('fstat', nativeBinding().fstat(fd, out), `descriptor ${fd}`);
  const [dev = 0n, ino = 0n, size = 0n, blockSize = 0n, mode = 0n, fsType = 0n] = out;
  return { dev, ino, size, blockSize: Number(blockSize), mode: Number(mode), isHugetlb: fsType === HUGETLBFS_MAGIC };
}

/** Bytes in the file behind a descriptor. @throws ERR_VFIO_SYSCALL */
export function fdSize(fd: number): bigint {
  return statFd(fd).size;
}

/** Whether two descriptors reach the same file: the same open file (kcmp), or else the same device and inode. @throws ERR_VFIO_SYSCALL */
export function isSameFile(a: number, b: number): boolean {
  return checked('fstat', nativeBinding().sameFile(a, b), `descriptors ${a} and ${b}`) === 1;
}

/** Sets a file's size in bytes. @throws ERR_VFIO_SYSCALL (EPERM where a seal forbids it) */
export function truncateFd(fd: number, size: number | bigint): void {
  checked('ftruncate', nativeBinding().ftruncate(fd, size), `descriptor ${fd} to ${size} bytes`);
}

/** Reads at an offset into `bytes`; answers how many were read, 0 at the end. @throws ERR_VFIO_SYSCALL */
export function preadFd(fd: number, bytes: Uint8Array, offset: number | bigint): number {
  return checked('pread', nativeBinding().pread(fd, bytes, offset), `descriptor ${fd}`);
}

/** Writes `bytes` at an offset; answers how many were written. @throws ERR_VFIO_SYSCALL */
export function pwriteFd(fd: number, bytes: Uint8Array, offset: number | bigint): number {
  return checked('pwrite', nativeBinding().pwrite(fd, bytes, offset), `descriptor ${fd}`);
}

/** Blocks the thread until an event or the timeout (ms, -1: for ever); answers the events, 0 on timeout. @throws ERR_VFIO_SYSCALL */
export function pollFd(fd: number, events: number, timeoutMs: number): number {
  const result = nativeBinding().poll(fd, events, timeoutMs);
  return result === -ERRNO.EINTR ? 0 : checked('poll', result, `descriptor ${fd}`);
}
