/**
 * What needs a file system: namespaces in sparse files, and a drive's memory of itself in a file beside them.
 *
 * @packageDocumentation
 */
import {
  closeSync,
  fdatasync,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { errnoError, hex, systemError, type VfioError } from '@vfio/uapi';
import type { NvmePersistence, NvmePersistentState } from '../devices/nvme/health.js';
import type { BlockStore } from '../devices/nvme/store.js';

/** Parts of a file that are known to be holes need no zeros written into them. */
const EXTENT = 0x100000;

/**
 * A namespace in a file, created where it is missing. A hole takes no room on disk.
 * Reads and writes go through the page cache and are synchronous; {@link BlockStore.flush} is fdatasync.
 */
export class FileStore implements BlockStore {
  readonly path: string;
  readonly size: number;
  #fd: number;
  /** Extents that may hold data; undefined: any may. */
  readonly #touched: Set<number> | undefined;

  /**
   * @param size bytes; an existing file of another size is refused. Without it the file is there and has its size.
   * @throws EINVAL for a file of another size, and for an empty one without a size; ERR_VFIO_SYSCALL with the errno of the system call that failed.
   */
  constructor(path: string, size?: number) {
    this.path = path;
    if (size !== undefined) {
      if (!Number.isSafeInteger(size) || size <= 0)
        throw errnoError('EINVAL', `${path} with ${size} bytes: a positive integer is allowed`);
      closeSync(attempt(path, 'open', () => openSync(path, 'a+', 0o600)));
    }
    this.#fd = attempt(path, 'open', () => openSync(path, 'r+'));
    const stat = fstatSync(this.#fd);
    this.size = size ?? stat.size;
    if (this.size === 0 || (stat.size !== 0 && stat.size !== this.size)) {
      closeSync(this.#fd);
      throw errnoError(
        'EINVAL',
        `${path} has ${hex(stat.size)} bytes, the namespace ${hex(this.size)}: they must agree, and an empty file needs a size`,
      );
    }
    if (stat.size === 0) attempt(path, 'ftruncate', () => ftruncateSync(this.#fd, this.size));
    this.#touched = stat.size === 0 ? new Set() : undefined;
  }

  read(offset: number, into: Uint8Array): void {
    for (let done = 0; done < into.length; ) {
      const count = attempt(this.path, 'read', () => readSync(this.#fd, into, done, into.length - done, offset + done));
      if (count === 0) {
        into.fill(0, done);
        return;
      }
      done += count;
    }
  }

  write(offset: number, from: Uint8Array): void {
    if (this.#touched !== undefined)
      for (let extent = Math.floor(offset / EXTENT); extent * EXTENT < offset + from.length; extent++)
        this.#touched.add(extent);
    for (let done = 0; done < from.length; )
      done += attempt(this.path, 'write', () => writeSync(this.#fd, from, done, from.length - done, offset + done));
  }

  discard(offset: number, length: number): void {
    const end = offset + length;
    if (end === this.size) {
      // Cut off and grown again, the end of the file is a hole.
      attempt(this.path, 'ftruncate', () => ftruncateSync(this.#fd, offset));
      attempt(this.path, 'ftruncate', () => ftruncateSync(this.#fd, this.size));
      return;
    }
    const buffer = new Uint8Array(Math.min(EXTENT, length));
    for (let at = offset; at < end; ) {
      const next = Math.min(end, (Math.floor(at / EXTENT) + 1) * EXTENT);
      if (this.#touched === undefined || this.#touched.has(Math.floor(at / EXTENT))) {
        const part = buffer.subarray(0, next - at);
        this.read(at, part);
        if (part.some((byte) => byte !== 0)) this.write(at, part.fill(0));
      }
      at = next;
    }
  }

  flush(): Promise<void> {
    return new Promise((resolve, reject) => {
      fdatasync(this.#fd, (error) => {
        if (error === null) resolve();
        else reject(fileError(this.path, 'fdatasync', error));
      });
    });
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}

const NUMBERS = [
  'powerCycles',
  'unsafeShutdowns',
  'blocksRead',
  'blocksWritten',
  'readCommands',
  'writeCommands',
  'mediaErrors',
  'errorLogEntries',
] as const;

/**
 * Keeps a drive's counters, saved features and whether it was shut down in a JSON file. A file that says that the drive
 * was in use when its process ended makes one more unsafe shutdown.
 * @throws EINVAL from `load` where the file is not what `save` writes; ERR_VFIO_SYSCALL where it cannot be read.
 */
export function filePersistence(path: string): NvmePersistence {
  return {
    load() {
      let text: string;
      try {
        text = readFileSync(path, 'utf8');
      } catch (error) {
        const failed = fileError(path, 'read', error);
        if (failed.errno === 'ENOENT') return undefined;
        throw failed;
      }
      return parseState(path, text);
    },
    save(state) {
      // Written beside and moved over: whoever reads finds the old state or the new one.
      attempt(path, 'write', () => {
        writeFileSync(`${path}.new`, `${JSON.stringify(state, undefined, 2)}\n`, { mode: 0o600, flush: true });
        renameSync(`${path}.new`, path);
      });
    },
  };
}

function parseState(path: string, text: string): NvmePersistentState {
  const bad = (what: string): VfioError => errnoError('EINVAL', `${path}: ${what}; remove the file to begin anew`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw bad('not JSON');
  }
  if (typeof value !== 'object' || value === null) throw bad('not an object');
  const record = value as Record<string, unknown>; // a JSON object; each field is checked below
  const { clean, features } = record;
  if (typeof clean !== 'boolean') throw bad('clean is not true or false');
  for (const name of NUMBERS)
    if (!Number.isSafeInteger(record[name]) || (record[name] as number) < 0) throw bad(`${name} is not a count`);
  if (typeof features !== 'object' || features === null || !Object.values(features).every(Number.isSafeInteger))
    throw bad('features are not numbers');
  return value as NvmePersistentState; // every field was checked
}

function attempt<T>(path: string, call: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw fileError(path, call, error);
  }
}

const fileError = (path: string, call: string, cause: unknown): VfioError =>
  systemError(`${call} ${path}`, call, cause);
