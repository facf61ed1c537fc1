import type { SharedMemory } from '@vfio/core';
import { errnoError, hex } from '@vfio/uapi';

/** What is asked of a {@link MemoryProvider}. */
export interface MemoryOptions {
  /** The memory is to be offered to other processes: the provider gives it a descriptor where it can. */
  readonly shared?: boolean;
  /** Appears in the system's lists where the provider names its memory (`memfd_create`). */
  readonly name?: string;
}

/**
 * Where BAR memory comes from. The default is private memory of this process; one that gives descriptors (memfds)
 * makes the same BARs mappable by a VMM.
 */
export interface MemoryProvider {
  /** `size` zeroed bytes. The memory lives until the host that asked for it lets go of it.
   * @throws EINVAL for a size that is not a positive integer; ENOMEM where there is none. */
  allocate(size: number, options?: MemoryOptions): SharedMemory;
}

/** Private memory: an ArrayBuffer, no descriptor. */
export const arrayBufferMemory: MemoryProvider = {
  allocate(size: number): SharedMemory {
    if (!Number.isSafeInteger(size) || size <= 0)
      throw errnoError('EINVAL', `memory of ${size} bytes: the size must be a positive integer`);
    try {
      return { bytes: new Uint8Array(size), fd: undefined, fdOffset: 0 };
    } catch (cause) {
      throw errnoError('ENOMEM', `memory of ${hex(size)} bytes: this process cannot have that much`, { cause });
    }
  },
};
