import { isPciDriverName } from '../pci/driver.js';

/** The version of the `vfio` field in package.json that this core reads. */
export const VFIO_MANIFEST_API = 1;

/** One driver that a package declares in its `vfio` field. */
export interface DriverManifest {
  /** Driver name, `mlx5_vfio_pci`. */
  readonly name: string;
  /** Subpath of the package's exports whose module exports `driver`: `./driver`. */
  readonly export: string;
  /** The alias file, relative to the package: `dist/modules.alias`. Without one a driver is found by its name only. */
  readonly alias?: string;
  /** Names of conditions that must hold where the driver is used. */
  readonly requires: readonly string[];
}

/** Why a package or one of its drivers is not used. */
export type PackageProblemKind =
  /** The `vfio` field, the alias file or package.json itself breaks the rules. */
  | 'broken'
  /** The `vfio` field is for another version of core. */
  | 'incompatible'
  /** Two packages have a driver of the same name: none of them is used, because either could be the wrong one. */
  | 'duplicate'
  /** Something in an alias file was passed over; the rest is used. */
  | 'warning';

/** The `vfio` field, read. */
export type ManifestResult =
  | { readonly ok: true; readonly drivers: readonly DriverManifest[] }
  | { readonly ok: false; readonly kind: PackageProblemKind; readonly message: string };

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Whether a text is a path that stays below where it starts: relative, with `/`, without `.`, `..` or empty parts.
 * What it leads to may still be a symbolic link: see {@link realPathInside}.
 */
export function isInnerPath(path: unknown): path is string {
  if (typeof path !== 'string' || path.length === 0 || path.length > 1024) return false;
  // Control characters are refused; a backslash separates on other systems, a colon names a drive or stream there.
  for (const char of path) if (char < ' ' || char === '\\' || char === ':') return false;
  return path.split('/').every((part) => part !== '' && part !== '.' && part !== '..');
}

/** Whether a text is a subpath of a package's exports that can be asked for: `.` or `./a/b`. */
export function isExportSubpath(path: unknown): path is string {
  if (path === '.') return true;
  if (typeof path !== 'string' || !path.startsWith('./')) return false;
  const inner = path.slice(2);
  // As Node refuses: percent-encoded separators and node_modules within a subpath.
  return isInnerPath(inner) && !/%2f|%5c/i.test(inner) && !inner.split('/').includes('node_modules');
}

const CONDITION = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;

/** Reads the `vfio` field of a package.json. Never throws: what is wrong is said in a sentence. */
export function parseManifest(field: unknown): ManifestResult {
  const broken = (message: string): ManifestResult => ({ ok: false, kind: 'broken', message });
  if (!isObject(field)) return broken('the "vfio" field is not an object');
  const { api, drivers } = field;
  if (api !== VFIO_MANIFEST_API) {
    return {
      ok: false,
      kind: 'incompatible',
      message: `the "vfio" field has api ${JSON.stringify(api) ?? 'undefined'}; this version reads api ${VFIO_MANIFEST_API}`,
    };
  }
  if (!Array.isArray(drivers) || drivers.length === 0) return broken('"vfio.drivers" is not a list of drivers');
  const read: DriverManifest[] = [];
  for (const [index, driver] of drivers.entries()) {
    const at = `"vfio.drivers[${index}]`;
    if (!isObject(driver)) return broken(`${at}" is not an object`);
    const { name, alias, requires = [] } = driver;
    if (!isPciDriverName(name)) return broken(`${at}.name" ${show(name)} cannot be a driver's name`);
    if (read.some((other) => other.name === name)) return broken(`${at}.name" ${show(name)} is there twice`);
    if (!isExportSubpath(driver['export'])) {
      return broken(
        `${at}.export" ${show(driver['export'])} is not a subpath of the package's exports, such as "./driver"`,
      );
    }
    if (alias !== undefined && !isInnerPath(alias))
      return broken(`${at}.alias" ${show(alias)} is not a path within the package`);
    if (!Array.isArray(requires) || !requires.every((word) => typeof word === 'string' && CONDITION.test(word))) {
      return broken(`${at}.requires" ${show(requires)} is not a list of condition names`);
    }
    read.push({
      name,
      export: driver['export'],
      ...(alias === undefined ? {} : { alias }),
      requires: [...new Set(requires as string[])],
    });
  }
  return { ok: true, drivers: read };
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? 'undefined';
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}

/** Items by key, in the order in which keys first occur. */
export function groupBy<K, T>(items: Iterable<T>, key: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of items) {
    const group = groups.get(key(item));
    if (group === undefined) groups.set(key(item), [item]);
    else group.push(item);
  }
  return groups;
}
