import { mkdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { messageOf, VfioError } from '@vfio/uapi';
import { checkPciDriver, type PciDriver } from '../pci/driver.js';
import { tableToAliases } from '../pci/file2alias.js';
import { formatModulesAlias } from '../pci/modules-alias.js';
import { replaceFile } from './alias-cache.js';
import { type DriverManifest, groupBy, parseManifest } from './manifest.js';
import { NODE_CONDITIONS, resolveExport } from './package-exports.js';
import { isMissing, readPackageJson, realPathInside } from './package-files.js';

export interface BuildAliasOptions {
  /** Conditions of `exports` that are active when a driver is imported. Default: those of Node's `import`. */
  readonly conditions?: readonly string[];
  /** Compare and write nothing. */
  readonly check?: boolean;
}

/** One alias file of a package. */
export interface BuiltAliasFile {
  /** Relative to the package, as declared. */
  readonly path: string;
  readonly content: string;
  readonly drivers: readonly string[];
  /** Rows of id tables that gave no alias, one sentence each. */
  readonly warnings: readonly string[];
  /** Whether the file on disk was another, or missing. */
  readonly changed: boolean;
}

function bad(message: string, cause?: unknown): VfioError {
  return new VfioError('ERR_VFIO_BAD_DRIVER', message, {
    errno: 'EINVAL',
    op: 'vfio-alias',
    ...(cause === undefined ? {} : { cause }),
  });
}

/**
 * Builds the alias files that a package declares in its `vfio` field, from the id tables of the drivers that it exports, and
 * writes those that have changed. The third column is the driver's name as driver_override takes it.
 *
 * @throws `ERR_VFIO_BAD_DRIVER` where the field breaks the rules, a driver cannot be imported, its name is not the declared
 *   one, or its table gives no alias at all; nothing has been written then.
 */
export async function buildAliasFiles(directory: string, options: BuildAliasOptions = {}): Promise<BuiltAliasFile[]> {
  const pkg = await readPackageJson(directory);
  if (pkg.json['vfio'] === undefined) throw bad(`${pkg.name}: package.json has no "vfio" field`);
  const manifest = parseManifest(pkg.json['vfio']);
  if (!manifest.ok) throw bad(`${pkg.name}: ${manifest.message}`);

  const files: BuiltAliasFile[] = [];
  for (const [path, entries] of groupBy(manifest.drivers, (entry) => entry.alias)) {
    if (path === undefined) continue;
    const lines: { pattern: string; driver: string }[] = [];
    const warnings: string[] = [];
    for (const entry of entries) {
      const driver = await importDriver(pkg.directory, pkg.json, entry, options.conditions ?? NODE_CONDITIONS);
      const table = tableToAliases(driver.idTable);
      for (const { row, message } of table.warnings) warnings.push(`${entry.name}: row ${row}: ${message}`);
      if (table.aliases.length === 0) throw bad(`${pkg.name}: the id table of ${entry.name} gives no alias`);
      for (const pattern of table.aliases) lines.push({ pattern, driver: entry.name });
    }
    const content = formatModulesAlias(lines, [`Aliases of ${pkg.name}, made by vfio-alias from its id tables.`]);
    const changed = (await current(join(pkg.directory, path))) !== content;
    files.push({ path, content, drivers: entries.map(({ name }) => name), warnings, changed });
  }
  if (options.check !== true) {
    for (const { path, content, changed } of files) {
      if (!changed) continue;
      const target = join(pkg.directory, path);
      await mkdir(dirname(target), { recursive: true });
      // Made or there already, it must not be a link to elsewhere.
      await realPathInside(pkg.directory, dirname(path) === '.' ? 'package.json' : dirname(path));
      await replaceFile(target, content);
    }
  }
  return files;
}

async function current(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

async function importDriver(
  directory: string,
  json: Readonly<Record<string, unknown>>,
  entry: DriverManifest,
  conditions: readonly string[],
): Promise<PciDriver> {
  const target = resolveExport(json, entry.export, conditions);
  if (target === undefined) throw bad(`${entry.name}: package.json does not export "${entry.export}"`);
  let module: Readonly<Record<string, unknown>>;
  try {
    const file = await realPathInside(directory, target);
    module = (await import(pathToFileURL(file).href)) as Readonly<Record<string, unknown>>;
  } catch (error) {
    const reason = isMissing(error) ? `${target} is missing; build the package first` : messageOf(error);
    throw bad(`${entry.name}: "${entry.export}" could not be imported: ${reason}`, error);
  }
  const driver = module['driver'] as PciDriver | undefined;
  if (typeof driver !== 'object' || driver === null)
    throw bad(`${entry.name}: "${entry.export}" exports no object "driver"`);
  checkPciDriver(driver);
  if (driver.name !== entry.name)
    throw bad(`${entry.name}: the driver that "${entry.export}" exports calls itself "${driver.name}"`);
  return driver;
}
