import { closeFd, dupFd, type FdStat } from '@vfio/native';
import { MAX_KEPT_FILES } from './limits.js';

/** A descriptor of a file behind some of a client's mappings. */
export interface KeptFile {
  readonly key: string;
  readonly fd: number;
  users: number;
}

/**
 * One descriptor of each file that a client's mappings lie in. The device does not need them: they are for another process
 * that takes the client over. Guests have one file or two behind all of their memory.
 */
export class KeptFiles {
  readonly #files = new Map<string, KeptFile>();

  /**
   * Keeps a copy of a descriptor, or counts one more user of the copy that is there. Undefined where there is no room for
   * another file, which hinders nobody but who wants to take the client over.
   */
  keep(fd: number, stat: FdStat, isWritable: boolean): KeptFile | undefined {
    // A descriptor that can only be read does not serve a mapping that is written.
    const key = `${stat.dev}:${stat.ino}:${isWritable ? 'rw' : 'r'}`;
    const known = this.#files.get(key);
    if (known !== undefined) {
      known.users++;
      return known;
    }
    if (this.#files.size >= MAX_KEPT_FILES) return undefined;
    try {
      const file: KeptFile = { key, fd: dupFd(fd), users: 1 };
      this.#files.set(key, file);
      return file;
    } catch {
      return undefined;
    }
  }

  /** The last user's release closes the descriptor. */
  release(file: KeptFile): void {
    if (--file.users > 0) return;
    this.#files.delete(file.key);
    closeFd(file.fd);
  }

  /** Closes all. Idempotent. */
  close(): void {
    for (const { fd } of this.#files.values()) closeFd(fd);
    this.#files.clear();
  }
}
