import { addedLines } from './added-lines.js';
import { GeneratorError } from './error.js';
import { type MatchRow, readRows } from './match.js';
import { namesOf } from './name.js';
import {
  checkDriver,
  checkOptions,
  type Driver,
  type DriverOptions,
  defaultDescription,
  FEATURES,
  type Feature,
  isCondition,
  isDescription,
} from './options.js';
import { renderVariantDriver, type Setting } from './render.js';

/** Reads a file of the package that is there; undefined where it has no such file. */
export type ReadFile = (path: string) => string | undefined;

/** A file that its author has changed, and that is left as it is. */
export interface KeptFile {
  readonly path: string;
  /** Lines that a feature would have added. */
  readonly lines: readonly string[];
}

/** What is to be written, by path within the package. */
export interface Plan {
  readonly driver: Driver;
  /** The package was not there before. */
  readonly isNew: boolean;
  readonly created: ReadonlyMap<string, string>;
  readonly updated: ReadonlyMap<string, string>;
  readonly kept: readonly KeptFile[];
}

/** The file without which a driver does not have a feature. */
const FEATURE_FILE: Readonly<Record<Feature, string>> = {
  migration: 'src/migration.ts',
  'dirty-tracking': 'src/dirty.ts',
  regions: 'src/regions.ts',
  caps: 'src/caps.ts',
};

/** A package where nothing is yet. @throws GeneratorError */
export function planNew(options: DriverOptions, setting: Setting): Plan {
  const driver = checkOptions(options);
  return { driver, isNew: true, created: renderVariantDriver(driver, setting), updated: new Map(), kept: [] };
}

/**
 * What is added to a package that is there. A file is written again only where it is byte for byte what the generator made
 * of the package as it stands; one that was removed stays away.
 *
 * @throws GeneratorError where the package is not this driver.
 */
export function planMore(options: DriverOptions, setting: Setting, read: ReadFile): Plan {
  const { driver: name } = namesOf(options.name);
  const manifest = readManifest(read('package.json'));
  if (manifest?.driver !== name)
    throw new GeneratorError(
      `the folder is there, and is not the driver ${name}: ` +
        (manifest === undefined
          ? 'it has no package.json with a "vfio" field'
          : `its package.json names ${manifest.driver}`),
    );
  if (options.scope !== undefined && options.scope !== manifest.scope)
    throw new GeneratorError(
      `the folder is there, and its package is ${manifest.name}: the scope ${options.scope} is another`,
    );
  const { scope, description, requires, version } = manifest;
  const had = FEATURES.filter((feature) => read(FEATURE_FILE[feature]) !== undefined);
  const rows = readRows(read('src/ids.ts') ?? '');
  const given = { name: options.name, scope, description, requires };
  const before = checkDriver({ ...given, ...texts(rows), features: had });
  const driver = checkDriver({
    ...given,
    description: options.description ?? (description === defaultDescription(rows) ? undefined : description),
    requires: [...requires, ...(options.requires ?? [])],
    ids: [...texts(rows).ids, ...(options.ids ?? [])],
    classes: [...texts(rows).classes, ...(options.classes ?? [])],
    features: [...had, ...(options.features ?? [])],
  });
  const setAs = { ...setting, version: version ?? setting.version };
  return compare(driver, renderVariantDriver(before, setAs), renderVariantDriver(driver, setAs), read);
}

function compare(
  driver: Driver,
  before: ReadonlyMap<string, string>,
  after: ReadonlyMap<string, string>,
  read: ReadFile,
): Plan {
  const created = new Map<string, string>();
  const updated = new Map<string, string>();
  const kept: KeptFile[] = [];
  for (const [path, wanted] of after) {
    const [found, made] = [read(path), before.get(path)];
    if (found === undefined) {
      if (made === undefined) created.set(path, wanted);
    } else if (found === made) {
      if (made !== wanted) updated.set(path, wanted);
    } else if (found !== wanted) {
      const lines = addedLines(made ?? '', wanted);
      if (lines.length > 0) kept.push({ path, lines });
    }
  }
  return { driver, isNew: false, created, updated, kept };
}

/** Rows as they are asked for. */
const texts = (rows: readonly MatchRow[]) => ({
  ids: rows.flatMap((row) => (row.kind === 'id' ? [row.ids.join(':')] : [])),
  classes: rows.flatMap((row) => (row.kind === 'class' ? [row.code] : [])),
});

/** What of a package.json the generator once wrote; undefined where it is not that of a driver. */
function readManifest(text: string | undefined) {
  let json: unknown;
  try {
    json = JSON.parse(text ?? '');
  } catch {
    return undefined;
  }
  const { name, description, dependencies, vfio } = (json ?? {}) as Record<string, unknown>;
  const [first] = ((vfio as Record<string, unknown> | undefined)?.['drivers'] ?? []) as Record<string, unknown>[];
  if (typeof name !== 'string' || typeof first?.['name'] !== 'string') return undefined;
  const requires = first['requires'];
  const range = (dependencies as Record<string, unknown> | undefined)?.['@vfio/core'];
  return {
    name,
    driver: first['name'],
    scope: name.startsWith('@') ? name.split('/')[0] : undefined,
    // What its author made of them may be more than the generator gives.
    description: isDescription(description) ? description : undefined,
    requires: Array.isArray(requires) ? requires.filter(isCondition) : [],
    version: typeof range === 'string' && range.startsWith('^') ? range.slice(1) : undefined,
  };
}
