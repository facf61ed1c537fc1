import { spawnSync } from 'node:child_process';
import {
  accessSync,
  chownSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { release } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { errnoError, isVfioError, systemError } from '@vfio/uapi';

export interface LinuxSystemOptions {
  /** Where sysfs is mounted. Default `/sys`; a container may have the host's elsewhere. */
  readonly sysfsRoot?: string;
  /** What stands before every other path (`/proc`, `/dev`, `/etc`, modules). Default: nothing. */
  readonly root?: string;
  /** The kernel's release, as `uname -r` says it. */
  readonly release?: string;
  /** Default: the process's. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/** How a program ended. */
export interface ProgramResult {
  /** Exit code; null where a signal ended it. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** The page that an attribute of sysfs fits in. */
const PAGE_SIZE = 4096;
/** Larger than every `/proc` or configuration file that is read whole; what is no such file must not fill memory. */
const MAX_FILE_SIZE = 32 * 1024 * 1024;

const page = Buffer.alloc(PAGE_SIZE);

/**
 * The machine as this package sees it: files and programs, nothing else. Whatever is read may be missing, lie, or go away
 * between two calls; a missing file is `undefined`, everything else that goes wrong is a `VfioError` with the
 * system's errno.
 */
export class LinuxSystem {
  readonly sysfsRoot: string;
  readonly root: string;
  readonly release: string;
  readonly env: Readonly<Record<string, string | undefined>>;

  constructor(options: LinuxSystemOptions = {}) {
    this.root = options.root ?? '';
    this.sysfsRoot = options.sysfsRoot ?? `${this.root}/sys`;
    this.release = options.release ?? release();
    this.env = options.env ?? process.env;
  }

  /** A path in sysfs: `sys('bus/pci/devices')`. */
  sys(...parts: string[]): string {
    return join(this.sysfsRoot, ...parts);
  }

  /** A path elsewhere: `file('/proc/mounts')`. */
  file(path: string): string {
    return `${this.root}${path}`;
  }

  /** An attribute of sysfs, without its last newline; undefined where there is none or its device has gone. @throws EACCES, EIO, ... */
  attribute(path: string): string | undefined {
    return readFrom(path, (fd) => {
      const length = readSync(fd, page, 0, PAGE_SIZE, 0);
      return page.toString('utf8', 0, length > 0 && page[length - 1] === 10 ? length - 1 : length);
    });
  }

  /** A whole file; undefined where there is none. @throws EACCES, E2BIG above 32 MiB, ... */
  bytes(path: string): Buffer | undefined {
    return readFrom(path, (fd) => {
      // Files of /proc have no size: read until the end.
      const chunks: Buffer[] = [];
      let total = 0;
      let chunk = Buffer.allocUnsafe(Math.min(Math.max(fstatSync(fd).size + 1, 65536), MAX_FILE_SIZE));
      for (;;) {
        const length = readSync(fd, chunk, 0, chunk.length, null);
        if (length === 0) break;
        total += length;
        if (total > MAX_FILE_SIZE) {
          throw errnoError('E2BIG', `${path} is larger than ${MAX_FILE_SIZE} bytes`, { op: 'read' });
        }
        chunks.push(chunk.subarray(0, length));
        chunk = Buffer.allocUnsafe(65536);
      }
      return Buffer.concat(chunks, total);
    });
  }

  /** A whole file as text; undefined where there is none. @throws as {@link bytes}. */
  text(path: string): string | undefined {
    return this.bytes(path)?.toString('utf8');
  }

  /** Names in a folder, sorted; none where there is no such folder. @throws EACCES, ... */
  list(path: string): string[] {
    try {
      return readdirSync(path).sort();
    } catch (error) {
      return missing(`list ${path}`, 'readdir', error) ?? [];
    }
  }

  /** What a symbolic link points to; undefined where there is none. */
  linkTarget(path: string): string | undefined {
    // Asked first: most of the links that are looked for are not there, and an exception costs more than the call.
    if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return undefined;
    try {
      return readlinkSync(path);
    } catch (error) {
      return missing(`readlink ${path}`, 'readlink', error);
    }
  }

  /** The last part of what a symbolic link points to: in sysfs the name of what it stands for. */
  linkName(path: string): string | undefined {
    const target = this.linkTarget(path);
    return target === undefined ? undefined : basename(target);
  }

  exists(path: string): boolean {
    return existsSync(path);
  }

  /**
   * Writes an attribute of sysfs: the whole text in one write, which is how the kernel takes it.
   * @throws the errno that the kernel gives
   */
  write(path: string, text: string): void {
    let fd: number;
    try {
      fd = openSync(path, constants.O_WRONLY);
    } catch (error) {
      throw systemError(`write ${JSON.stringify(text.trim())} to ${path}`, 'open', error);
    }
    try {
      writeSync(fd, text);
    } catch (error) {
      throw systemError(`write ${JSON.stringify(text.trim())} to ${path}`, 'write', error);
    } finally {
      closeSync(fd);
    }
  }

  /** Makes or replaces a file, and its folder, so that a reader sees the old one or the new one whole. */
  replace(path: string, text: string, mode = 0o644): void {
    const partial = `${path}.${process.pid}`;
    try {
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(partial, text, { mode, flush: true });
      renameSync(partial, path);
    } catch (error) {
      rmSync(partial, { force: true });
      throw systemError(`write ${path}`, 'write', error);
    }
  }

  /** Removes a file; it need not be there. */
  remove(path: string): void {
    try {
      rmSync(path, { force: true });
    } catch (error) {
      throw systemError(`remove ${path}`, 'unlink', error);
    }
  }

  /** Whether this process may read and write a file. */
  mayUse(path: string): boolean {
    try {
      accessSync(path, constants.R_OK | constants.W_OK);
      return true;
    } catch {
      return false;
    }
  }

  /** Number of the user that a file belongs to; undefined where there is no file. */
  ownerOf(path: string): number | undefined {
    return statSync(path, { throwIfNoEntry: false })?.uid;
  }

  /** Gives a file to a user; its group stays. @throws EPERM, ENOENT, ... */
  own(path: string, uid: number): void {
    try {
      chownSync(path, uid, statSync(path).gid);
    } catch (error) {
      throw systemError(`give ${path} to user ${uid}`, 'chown', error);
    }
  }

  /** Runs a program to its end; undefined where there is none of that name. */
  run(program: string, args: readonly string[]): ProgramResult | undefined {
    const path = [this.env['PATH'] ?? '', '/usr/sbin', '/sbin', '/usr/bin', '/bin'].join(':');
    const { status, stdout, stderr, error } = spawnSync(program, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...this.env, PATH: path },
    });
    if (error !== undefined) return missing(`run ${program}`, 'spawn', error);
    return { code: status, stdout, stderr };
  }
}

/** Reads from a file that is open as long as that takes; undefined where it is not there. */
function readFrom<T>(path: string, read: (fd: number) => T): T | undefined {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY);
  } catch (error) {
    return missing(`read ${path}`, 'open', error);
  }
  try {
    return read(fd);
  } catch (error) {
    return missing(`read ${path}`, 'read', error);
  } finally {
    closeSync(fd);
  }
}

/** What is not there (any more) is no failure; everything else is thrown. */
function missing(what: string, op: string, error: unknown): undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOENT' || code === 'ENODEV' || code === 'ENOTDIR' || code === 'ENXIO') return undefined;
  throw isVfioError(error) ? error : systemError(what, op, error);
}
