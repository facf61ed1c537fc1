import type { SharedMemory } from '@vfio/core';
import { closeFd, memfdCreate, mmap } from '@vfio/native';

/** Memory that was made and mapped for a device. */
export interface AllocatedMemory {
  readonly iova: bigint;
  /** Length 0 after `free`. */
  readonly bytes: Uint8Array;
  /** Of the memfd; undefined where the server has to ask for every access. */
  readonly fd: number | undefined;
  /** Takes it back from the device. */
  free(): Promise<void>;
}

/** `size` zeroed bytes, sealed so that nobody can cut them, or without a descriptor. `release` gives them back. */
export function allocateMemory(size: number, isPrivate: boolean): { memory: SharedMemory; release: () => void } {
  if (isPrivate) return { memory: { bytes: new Uint8Array(size), fd: undefined, fdOffset: 0 }, release: () => {} };
  const fd = memfdCreate('vfio-user-dma', { size });
  const mapping = mmapOrClose(fd, size);
  return {
    memory: { bytes: mapping.bytes, fd, fdOffset: 0 },
    release: () => {
      mapping.unmap();
      closeFd(fd);
    },
  };
}

function mmapOrClose(fd: number, size: number) {
  try {
    return mmap(fd, 0, size);
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}
