import { nativeBinding } from './binding.js';
import { closeFd, truncateFd } from './fd.js';
import { checked } from './syscall-error.js';

/** Flags of memfd_create(2). MFD_CLOEXEC is always added. */
export const MFD_ALLOW_SEALING = 2;
export const MFD_HUGETLB = 4;

/** Seals of {@link addSeals} (linux/fcntl.h). */
export const F_SEAL_SEAL = 1;
export const F_SEAL_SHRINK = 2;
export const F_SEAL_GROW = 4;
export const F_SEAL_WRITE = 8;

/** What {@link memfdCreate} makes. */
export interface MemfdOptions {
  /** Bytes. */
  readonly size: number;
  /** Seals to set once the size is; 0 for none. Default: F_SEAL_SHRINK | F_SEAL_GROW, so that nobody who is given the
   * descriptor can cut the memory under a mapping. */
  readonly seals?: number;
  /** Further MFD_ flags. */
  readonly flags?: number;
}

/** Memory with a descriptor, zeroed and sealed. The caller owns the descriptor. @throws ERR_VFIO_SYSCALL */
export function memfdCreate(name: string, options: MemfdOptions): number {
  const fd = checked(
    'memfd_create',
    nativeBinding().memfdCreate(name, MFD_ALLOW_SEALING | (options.flags ?? 0)),
    `"${name}"`,
  );
  try {
    truncateFd(fd, options.size);
    const seals = options.seals ?? F_SEAL_SHRINK | F_SEAL_GROW;
    if (seals !== 0) addSeals(fd, seals);
  } catch (error) {
    closeFd(fd);
    throw error;
  }
  return fd;
}

/** F_ADD_SEALS. @throws ERR_VFIO_SYSCALL (EPERM: sealed against it; EBUSY: F_SEAL_WRITE while a writable mapping exists) */
export function addSeals(fd: number, seals: number): void {
  checked('fcntl', nativeBinding().addSeals(fd, seals), `F_ADD_SEALS of descriptor ${fd}`);
}

/** F_GET_SEALS. @throws ERR_VFIO_SYSCALL (EINVAL: the file cannot be sealed) */
export function getSeals(fd: number): number {
  return checked('fcntl', nativeBinding().getSeals(fd), `F_GET_SEALS of descriptor ${fd}`);
}
