import type { RemoteDma } from '@vfio/core';
import { closeFd, dupFd, preadFd, pwriteFd } from '@vfio/native';
import { errnoError, hex } from '@vfio/uapi';

/**
 * Client memory that is reached by reading and writing a file (DMA_MAP with FILE_IO), `/proc/<pid>/mem` for instance:
 * nothing is mapped, and each access is a system call.
 */
export class FileDma implements RemoteDma {
  #fd: number;
  readonly #iova: bigint;
  readonly #offset: bigint;

  /** Keeps a copy of the descriptor. @param offset in the file of what is at `iova` */
  constructor(fd: number, iova: bigint, offset: bigint) {
    this.#fd = dupFd(fd);
    this.#iova = iova;
    this.#offset = offset;
  }

  async read(iova: number, into: Uint8Array): Promise<void> {
    this.#transfer(iova, into, preadFd);
  }

  async write(iova: number, from: Uint8Array): Promise<void> {
    this.#transfer(iova, from, pwriteFd);
  }

  /** Idempotent. */
  close(): void {
    if (this.#fd < 0) return;
    closeFd(this.#fd);
    this.#fd = -1;
  }

  #transfer(iova: number, data: Uint8Array, move: typeof preadFd): void {
    let offset = this.#offset + (BigInt(iova) - this.#iova);
    for (let done = 0; done < data.length; ) {
      const moved = this.#fd < 0 ? 0 : move(this.#fd, data.subarray(done), offset);
      if (moved === 0) {
        throw errnoError('EFAULT', `DMA at ${hex(iova)}+${hex(data.length)}: the file ends ${hex(done)} bytes into it`);
      }
      done += moved;
      offset += BigInt(moved);
    }
  }
}
