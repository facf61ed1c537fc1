import { readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { isVfioError, messageOf, VfioError } from '@vfio/uapi';
import type { DriverSource } from '../pci/bus.js';
import { checkPciDriver, type PciDriver } from '../pci/driver.js';
import { AliasDriverSource, type FunctionConditions, noSuchDriver } from '../pci/driver-source.js';
import type { PciFunction } from '../pci/function.js';
import { type AliasEntry, type AliasExplanation, AliasIndex } from '../pci/index.js';
import { type AliasLine, formatModulesAlias, ModulesAliasParser, parseModulesAlias } from '../pci/modules-alias.js';
import {
  AliasCache,
  type Catalog,
  defaultCacheDirectory,
  type FileStamp,
  type InstalledDriver,
  type PackageProblem,
  stampOf,
} from './alias-cache.js';
import { findPackages, type PackageSearch, packagesIn } from './find-packages.js';
import { type DriverManifest, groupBy, parseManifest } from './manifest.js';
import { NODE_CONDITIONS, resolveExport } from './package-exports.js';
import { isMissing, type PackageJson, readPackageJson, realPathInside } from './package-files.js';

/** Largest alias file that is read. */
const MAX_ALIAS_FILE = 32 * 1024 * 1024;

export interface DiscoverOptions {
  /** The directory whose nearest package.json says what is considered. Default: the working directory. */
  readonly from?: string | URL;
  /**
   * A file of the program that asks, where it is a command: `process.argv[1]`. If it is installed globally, its own siblings
   * and dependencies are considered and the working directory's package is not.
   */
  readonly cli?: string | URL;
  /** Where merged indexes are kept. Default: `$XDG_CACHE_HOME/vfio` or `~/.cache/vfio`; false: nowhere. */
  readonly cacheDirectory?: string | false;
  /** Make the index anew, whatever is kept. Default: only where something has changed. */
  readonly rebuild?: boolean;
  /** Conditions that drivers may require. Default: none holds. */
  readonly conditions?: FunctionConditions;
  /** Conditions of `exports` that are active when a driver is loaded. Default: those of Node's `import`. */
  readonly exportConditions?: readonly string[];
}

/** A package with drivers that lies where it could be seen but is nobody's direct dependency. */
export interface UnusedPackage {
  readonly package: string;
  readonly directory: string;
  /** Names of its drivers; empty where its `vfio` field cannot be read. */
  readonly drivers: readonly string[];
}

/**
 * The drivers that are installed, and which of them is a function's best: what `bus.bindBest` takes. No package's code has
 * run to learn its ids; only the driver that is loaded is imported.
 */
export class InstalledDrivers implements DriverSource {
  /** Every driver that can be used, by name. */
  readonly drivers: readonly InstalledDriver[];
  /** What was found wrong, package by package. */
  readonly problems: readonly PackageProblem[];
  readonly index: AliasIndex;
  /** Whether the index came from the cache. */
  readonly fromCache: boolean;
  /** The folder in which the merged index is kept; undefined where it is kept nowhere. */
  readonly indexDirectory: string | undefined;
  readonly #source: AliasDriverSource;
  readonly #search: PackageSearch;
  readonly #exportConditions: readonly string[];
  readonly #loaded = new Map<string, Promise<PciDriver>>();

  constructor(
    catalog: Catalog,
    search: PackageSearch,
    options: DiscoverOptions,
    kept: { readonly fromCache: boolean; readonly directory: string | undefined },
  ) {
    this.drivers = catalog.drivers;
    this.problems = catalog.problems;
    this.fromCache = kept.fromCache;
    this.indexDirectory = kept.directory;
    this.index = new AliasIndex(parseModulesAlias(catalog.aliases).aliases, { drivers: catalog.drivers });
    this.#search = search;
    this.#exportConditions = options.exportConditions ?? NODE_CONDITIONS;
    const { conditions } = options;
    this.#source = new AliasDriverSource({
      index: this.index,
      load: (name) => this.load(name),
      ...(conditions === undefined ? {} : { conditions }),
    });
  }

  best(fn: PciFunction): AliasEntry | undefined {
    return this.#source.best(fn);
  }

  /** Why {@link best} gives what it gives: every alias that matches, field by field. */
  explain(fn: PciFunction, options: { readonly mismatches?: boolean } = {}): AliasExplanation {
    return this.#source.explain(fn, options);
  }

  /** What is installed under that name, or undefined. */
  driver(name: string): InstalledDriver | undefined {
    return this.drivers.find((driver) => driver.name === name);
  }

  /**
   * Imports a driver: the module behind its `export`, and from that the export `driver`. The same object each time.
   *
   * @throws `ERR_VFIO_NO_DRIVER` (ENODEV) where there is none of that name; `ERR_VFIO_BAD_DRIVER` where its package cannot be
   *   imported or does not hold what it declares.
   */
  load(name: string): Promise<PciDriver> {
    const driver = this.driver(name);
    if (driver === undefined)
      return Promise.reject(
        noSuchDriver(
          name,
          this.drivers.map((known) => known.name),
        ),
      );
    let loading = this.#loaded.get(name);
    if (loading === undefined) {
      loading = loadDriver(driver, this.#exportConditions);
      this.#loaded.set(name, loading);
      // A failure is not kept: what was wrong may be put right while we run.
      loading.catch(() => this.#loaded.delete(name));
    }
    return loading;
  }

  /**
   * Packages with drivers that are installed where this search could see them but are not considered, because nothing
   * depends on them directly. Reads every package's package.json: for a person who wonders, not for each start.
   */
  async notConsidered(): Promise<UnusedPackage[]> {
    const considered = new Set(this.#search.directories);
    const unused = new Map<string, UnusedPackage>();
    for (const modules of this.#search.searched) {
      for (const path of await packagesIn(modules)) {
        const pkg = await readPackageJson(path).catch(() => undefined);
        if (pkg?.json['vfio'] === undefined || considered.has(pkg.directory) || unused.has(pkg.directory)) continue;
        const manifest = parseManifest(pkg.json['vfio']);
        const drivers = manifest.ok ? manifest.drivers.map((driver) => driver.name) : [];
        unused.set(pkg.directory, { package: pkg.name, directory: pkg.directory, drivers });
      }
    }
    return [...unused.values()].sort((a, b) => (a.package < b.package ? -1 : 1));
  }
}

/**
 * Finds the drivers that are installed: reads the `vfio` field and alias file of every considered package (see
 * {@link DiscoverOptions.from}) and merges them into one index. A package that breaks the rules is reported by name and
 * left out; it never keeps the others from being found.
 *
 * @throws the system's error where `from` cannot be looked at.
 */
export async function discoverDrivers(options: DiscoverOptions = {}): Promise<InstalledDrivers> {
  const path = (value: string | URL): string => (value instanceof URL ? fileURLToPath(value) : resolve(value));
  const search = await findPackages({
    from: path(options.from ?? process.cwd()),
    cli: options.cli === undefined ? undefined : path(options.cli),
  });
  const packageFiles = search.directories.map((directory) => join(directory, 'package.json'));
  const root = options.cacheDirectory ?? defaultCacheDirectory() ?? false;
  const cache = root === false ? undefined : new AliasCache(root, search.directories);
  // A package.json that could not be read hides what it depends on: not a state to be kept.
  const mayKeep = search.broken.length === 0 ? cache : undefined;
  const kept = options.rebuild === true ? undefined : await mayKeep?.read(packageFiles);
  if (kept !== undefined)
    return new InstalledDrivers(kept, search, options, { fromCache: true, directory: cache?.directory });

  const { catalog, files } = await buildCatalog(search);
  const isKept = (await mayKeep?.write(catalog, files)) === true;
  const directory = isKept ? cache?.directory : undefined;
  return new InstalledDrivers(catalog, search, options, { fromCache: false, directory });
}

/** Reads every package; nothing that one of them holds can make it throw. */
async function buildCatalog(search: PackageSearch): Promise<{ catalog: Catalog; files: FileStamp[] }> {
  const problems: PackageProblem[] = search.broken.map(({ directory, cause }) => ({
    package: directory,
    directory,
    kind: 'broken',
    message: messageOf(cause),
  }));
  const files: FileStamp[] = [];
  const found: { driver: InstalledDriver; lines: AliasLine[] }[] = [];
  // By directory, so that what is found does not depend on the order in which packages are named.
  for (const directory of [...search.directories].sort()) {
    // The stamp is taken before the file is read: a change in between shows as one.
    files.push(await stampOf(join(directory, 'package.json')));
    let pkg: PackageJson;
    try {
      pkg = await readPackageJson(directory);
    } catch (error) {
      if (!search.broken.some((other) => other.directory === directory)) {
        problems.push({ package: directory, directory, kind: 'broken', message: messageOf(error) });
      }
      continue;
    }
    const field = pkg.json['vfio'];
    if (field === undefined) continue;
    const manifest = parseManifest(field);
    if (!manifest.ok) {
      problems.push({ package: pkg.name, directory, kind: manifest.kind, message: manifest.message });
      continue;
    }
    for (const driver of manifest.drivers) {
      if (driver.alias !== undefined) files.push(await stampOf(join(directory, driver.alias)));
      const report = (kind: 'broken' | 'warning', message: string): void => {
        problems.push({ package: pkg.name, directory, kind, driver: driver.name, message });
      };
      const lines = await readAliases(pkg, driver, manifest.drivers, report);
      if (lines !== undefined) found.push({ driver: { ...driver, package: pkg.name, directory }, lines });
    }
  }
  const byName = groupBy(found, ({ driver }) => driver.name);
  const good: typeof found = [];
  for (const [name, same] of byName) {
    if (same.length === 1) {
      good.push(...same);
      continue;
    }
    for (const { driver } of same) {
      const others = same.filter((other) => other.driver !== driver).map((other) => other.driver.package);
      problems.push({
        package: driver.package,
        directory: driver.directory,
        kind: 'duplicate',
        driver: name,
        message: `driver ${name} is also in ${others.join(' and ')}; none of them is used until only one is installed`,
      });
    }
  }
  good.sort((a, b) => (a.driver.name < b.driver.name ? -1 : 1));
  const aliases = formatModulesAlias(
    good.flatMap(({ lines }) => lines),
    ['Aliases of the installed VFIO drivers, merged from their packages.'],
  );
  return { catalog: { drivers: good.map(({ driver }) => driver), problems, aliases }, files };
}

/** The alias lines of one driver; undefined where it cannot be used, which has been reported then. */
async function readAliases(
  pkg: PackageJson,
  driver: DriverManifest,
  siblings: readonly DriverManifest[],
  report: (kind: 'broken' | 'warning', message: string) => void,
): Promise<AliasLine[] | undefined> {
  if (driver.alias === undefined) return [];
  let content: Uint8Array;
  try {
    const path = await realPathInside(pkg.directory, driver.alias);
    const { size } = await stat(path);
    if (size > MAX_ALIAS_FILE) {
      report('broken', `alias file ${driver.alias} has ${size} bytes; at most ${MAX_ALIAS_FILE} are read`);
      return undefined;
    }
    content = await readFile(path);
  } catch (error) {
    const hint = isMissing(error) ? 'is missing; the package is not built (vfio-alias writes it)' : messageOf(error);
    report('broken', `alias file ${driver.alias} ${hint}`);
    return undefined;
  }
  const parser = new ModulesAliasParser();
  parser.push(content);
  const { aliases, others, warnings, skipped } = parser.end();
  for (const { message } of warnings) report('warning', `${driver.alias}: ${message}`);
  if (skipped > warnings.length) report('warning', `${driver.alias}: ${skipped - warnings.length} more lines skipped`);
  if (others > 0) report('warning', `${driver.alias}: ${others} aliases of other buses than PCI passed over`);
  const lines: AliasLine[] = [];
  for (const line of aliases) {
    if (line.driver === driver.name) lines.push(line);
    else if (!siblings.some((other) => other.name === line.driver)) {
      // A package speaks for its own drivers only.
      report(
        'warning',
        `${driver.alias}: line ${line.line}: is for ${line.driver}, which the package does not declare; skipped`,
      );
    }
  }
  if (lines.length === 0)
    report('warning', `${driver.alias} has no alias for ${driver.name}: it is found by its name only`);
  return lines;
}

/** Imports one driver, checking again what the package says now: the cache only says where to look. */
async function loadDriver(driver: InstalledDriver, conditions: readonly string[]): Promise<PciDriver> {
  const bad = (problem: string, cause?: unknown): VfioError =>
    new VfioError('ERR_VFIO_BAD_DRIVER', `package ${driver.package}, driver ${driver.name}: ${problem}`, {
      errno: 'EINVAL',
      op: 'load',
      details: { package: driver.package, driver: driver.name },
      ...(cause === undefined ? {} : { cause }),
    });
  let file: string;
  try {
    const pkg = await readPackageJson(driver.directory);
    const target = resolveExport(pkg.json, driver.export, conditions);
    if (target === undefined) throw bad(`package.json does not export "${driver.export}"`);
    file = await realPathInside(pkg.directory, target);
  } catch (error) {
    if (isVfioError(error)) throw error;
    const hint = isMissing(error)
      ? `"${driver.export}" leads to a file that is missing; is the package built?`
      : messageOf(error);
    throw bad(hint, error);
  }
  let module: Readonly<Record<string, unknown>>;
  try {
    module = (await import(pathToFileURL(file).href)) as Readonly<Record<string, unknown>>;
  } catch (error) {
    throw bad(`importing "${driver.export}" failed: ${messageOf(error)}`, error);
  }
  const loaded = module['driver'];
  if (typeof loaded !== 'object' || loaded === null) throw bad(`"${driver.export}" exports no object "driver"`);
  try {
    // Checked below, field by field.
    checkPciDriver(loaded as PciDriver);
  } catch (error) {
    throw bad(messageOf(error), error);
  }
  if ((loaded as PciDriver).name !== driver.name) {
    throw bad(`the driver that "${driver.export}" exports calls itself "${(loaded as PciDriver).name}"`);
  }
  return loaded as PciDriver;
}
