import { readFile, realpath, stat } from 'node:fs/promises';
import { dirname, join, resolve, sep } from 'node:path';
import { VfioError } from '@vfio/uapi';

/** Largest package.json that is read. */
const MAX_PACKAGE_JSON = 4 * 1024 * 1024;

/** A package.json that was read. */
export interface PackageJson {
  /** The package's real directory. */
  readonly directory: string;
  /** `name`, or the directory where it has none. */
  readonly name: string;
  readonly json: Readonly<Record<string, unknown>>;
}

/** Whether an error says that a file is not there. */
export function isMissing(error: unknown): boolean {
  const code = (error as { code?: unknown } | undefined)?.code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

/** Whether there is a file of that name. */
export async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}

/**
 * Reads the package.json of a directory.
 *
 * @throws `ERR_VFIO_BAD_DRIVER` where it is too large or not JSON; the system's error where it cannot be read.
 */
export async function readPackageJson(directory: string): Promise<PackageJson> {
  const real = await realpath(directory);
  const path = join(real, 'package.json');
  const { size } = await stat(path);
  const bad = (problem: string, cause?: unknown): VfioError =>
    new VfioError('ERR_VFIO_BAD_DRIVER', `${path}: ${problem}`, {
      errno: 'EINVAL',
      op: 'discover',
      ...(cause === undefined ? {} : { cause }),
    });
  if (size > MAX_PACKAGE_JSON) throw bad(`${size} bytes; at most ${MAX_PACKAGE_JSON} are read`);
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) throw bad(`not JSON: ${error.message}`, error);
    throw error;
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) throw bad('not an object');
  const { name } = json as { name?: unknown };
  return { directory: real, name: typeof name === 'string' ? name : real, json: json as Record<string, unknown> };
}

/** The nearest directory at or above `from` (a file or directory, links followed) that has a package.json; undefined where there is none. */
export async function nearestPackage(from: string): Promise<string | undefined> {
  try {
    return await nearestPackageAsGiven(await realpath(from));
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** As {@link nearestPackage}, without following links: where a package is linked from, not where it lies. */
export async function nearestPackageAsGiven(from: string): Promise<string | undefined> {
  for (let directory = resolve(from); ; directory = dirname(directory)) {
    if (await isFile(join(directory, 'package.json'))) return directory;
    if (dirname(directory) === directory) return undefined;
  }
}

/** Where Node finds the package of a name from a directory: the real path of the first one going up; undefined where none is. */
export async function resolvePackage(from: string, name: string): Promise<string | undefined> {
  for (let directory = from; ; directory = dirname(directory)) {
    const candidate = join(directory, 'node_modules', name);
    if (await isFile(join(candidate, 'package.json'))) return await realpath(candidate);
    if (dirname(directory) === directory) return undefined;
  }
}

/**
 * The real path of what a relative path leads to within a directory, links followed.
 *
 * @throws `ERR_VFIO_BAD_DRIVER` where it leads out of the directory; the system's error where nothing is there.
 */
export async function realPathInside(directory: string, relative: string): Promise<string> {
  const root = await realpath(directory);
  const real = await realpath(join(root, relative));
  if (!real.startsWith(root.endsWith(sep) ? root : root + sep)) {
    throw new VfioError('ERR_VFIO_BAD_DRIVER', `${relative} leads out of the package, to ${real}`, {
      errno: 'EACCES',
      op: 'discover',
    });
  }
  return real;
}
