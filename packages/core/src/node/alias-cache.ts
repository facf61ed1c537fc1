import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { DriverManifest, PackageProblemKind } from './manifest.js';

/** A driver that is installed. */
export interface InstalledDriver extends DriverManifest {
  /** Name of its package. */
  readonly package: string;
  /** Real directory of its package. */
  readonly directory: string;
}

/** Why a package, or a part of one, is not used. */
export interface PackageProblem {
  readonly package: string;
  readonly directory: string;
  readonly kind: PackageProblemKind;
  /** The driver, where it is about one. */
  readonly driver?: string;
  readonly message: string;
}

/** What discovery found: the content of the cache. */
export interface Catalog {
  readonly drivers: readonly InstalledDriver[];
  readonly problems: readonly PackageProblem[];
  /** The merged alias file. */
  readonly aliases: string;
}

/** One file that the catalog was made from, and what tells that it has changed. */
export interface FileStamp {
  readonly path: string;
  /** `missing`, or times, size and inode. */
  readonly stamp: string;
}

/** Raised with every change of the files' content or of how they are made: an old cache is made again. */
const CACHE_FORMAT = 3;

/** The stamp of a file as it is now. */
export async function stampOf(path: string): Promise<FileStamp> {
  try {
    const { mtimeNs, ctimeNs, size, ino, dev } = await stat(path, { bigint: true });
    return { path, stamp: [mtimeNs, ctimeNs, size, dev, ino].join(' ') };
  } catch {
    return { path, stamp: 'missing' };
  }
}

/** Where caches of this kind belong: `$XDG_CACHE_HOME/vfio` or `~/.cache/vfio`; undefined for a user without a home. */
export function defaultCacheDirectory(
  env: Readonly<Record<string, string | undefined>> = process.env,
  home: () => string = homedir,
): string | undefined {
  const base = env['XDG_CACHE_HOME'];
  // The specification: a relative path is to be ignored.
  if (base?.startsWith('/')) return join(base, 'vfio');
  try {
    return join(home(), '.cache/vfio');
  } catch {
    // A number without an entry in passwd, as containers run under.
    return undefined;
  }
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** What drivers.json keeps beside the aliases, which are a file of their own. */
interface KeptCatalog extends Omit<Catalog, 'aliases'> {
  readonly files: readonly FileStamp[];
}

interface CacheFile extends KeptCatalog {
  readonly format: number;
  /** Of both files: they are replaced one after the other, and must be of one making. */
  readonly sha256: string;
}

function checksum({ files, drivers, problems }: KeptCatalog, aliases: string): string {
  return sha256(JSON.stringify([files, drivers, problems, aliases]));
}

/**
 * The merged index on disk: `modules.alias` and `drivers.json`, what depmod's files are to the kernel's modules, in one folder
 * for each set of packages. It only saves work: whatever is wrong with it, the index is made again.
 *
 * Each file is replaced as a whole (written aside, then renamed), so a reader never sees half of one; two processes at once
 * do the same work twice, and files of different makings are told by their checksum.
 */
export class AliasCache {
  readonly #directory: string;

  /**
   * @param root the folder of all caches.
   * @param packages directories that are considered; each set has a folder of its own.
   */
  constructor(root: string, packages: readonly string[]) {
    this.#directory = join(root, sha256([CACHE_FORMAT, ...[...packages].sort()].join('\n')).slice(0, 32));
  }

  /** The folder of this cache. */
  get directory(): string {
    return this.#directory;
  }

  /** What was kept, where it is there, whole, ours, and made from the files as they are now. */
  async read(packageFiles: readonly string[]): Promise<Catalog | undefined> {
    try {
      if (!(await isOurs(this.#directory))) return undefined;
      const path = join(this.#directory, 'drivers.json');
      if (!(await isOurs(path))) return undefined;
      const kept = JSON.parse(await readFile(path, 'utf8')) as CacheFile;
      if (kept.format !== CACHE_FORMAT) return undefined;
      const aliases = await readFile(join(this.#directory, 'modules.alias'), 'utf8');
      if (checksum(kept, aliases) !== kept.sha256) return undefined;
      const known = new Set(kept.files.map((file) => file.path));
      if (!packageFiles.every((file) => known.has(file))) return undefined;
      const now = await Promise.all(kept.files.map((file) => stampOf(file.path)));
      if (!now.every((file, i) => file.stamp === kept.files[i]?.stamp)) return undefined;
      return { drivers: kept.drivers, problems: kept.problems, aliases };
    } catch {
      // Missing, unreadable, cut, garbage: all the same, it is made again.
      return undefined;
    }
  }

  /** Keeps a catalog. Returns whether that went well: a cache that cannot be written is no error. */
  async write(catalog: Catalog, files: readonly FileStamp[]): Promise<boolean> {
    try {
      await mkdir(this.#directory, { recursive: true, mode: 0o700 });
      if (!(await isOurs(this.#directory))) return false;
      const { aliases, drivers, problems } = catalog;
      const content = { files, drivers, problems };
      const kept: CacheFile = { format: CACHE_FORMAT, ...content, sha256: checksum(content, aliases) };
      await replaceFile(join(this.#directory, 'modules.alias'), aliases);
      await replaceFile(join(this.#directory, 'drivers.json'), `${JSON.stringify(kept, undefined, 2)}\n`);
      return true;
    } catch {
      return false;
    }
  }
}

/** Whether a file or folder belongs to this user and nobody else can write to it: what it says decides what is loaded. */
async function isOurs(path: string): Promise<boolean> {
  const { uid, mode } = await stat(path);
  return process.geteuid === undefined || (uid === process.geteuid() && (mode & 0o022) === 0);
}

/** Writes a file as a whole or not at all. */
export async function replaceFile(path: string, content: string): Promise<void> {
  const aside = `${path}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await writeFile(aside, content, { flag: 'wx', mode: 0o644 });
    await rename(aside, path);
  } catch (error) {
    await rm(aside, { force: true });
    throw error;
  }
}
