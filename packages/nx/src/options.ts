import { GeneratorError } from './error.js';
import { describeRows, distinctRows, type MatchRow, parseClass, parseId } from './match.js';
import { type Names, namesOf } from './name.js';

/** What a driver may have beyond its three files, in the order in which it is listed. */
export const FEATURES = ['migration', 'dirty-tracking', 'regions', 'caps'] as const;
export type Feature = (typeof FEATURES)[number];

/** What each feature is, for help and prompts. */
export const FEATURE_TEXTS: Readonly<Record<Feature, string>> = {
  migration: 'moves the state of a running function: cmd.ts, migration.ts, stream.ts',
  'dirty-tracking': 'tells which pages the function wrote: cmd.ts, dirty.ts',
  regions: 'a region beyond those of every PCI device: regions.ts',
  caps: 'a capability of GET_INFO: caps.ts',
};

/** A driver as its author asks for it. */
export interface DriverOptions {
  /** `hisi-acc`, with or without `-vfio-pci`. */
  readonly name: string;
  /** Of the package: `@acme`. */
  readonly scope?: string | undefined;
  /** `19e5:a251`, or with a subsystem `19e5:a251:19e5:0001`. */
  readonly ids?: readonly string[] | undefined;
  /** `0108`: class codes of 1 to 3 bytes. */
  readonly classes?: readonly string[] | undefined;
  readonly features?: readonly string[] | undefined;
  /** Conditions that must hold where the driver is used, such as `zpci`. */
  readonly requires?: readonly string[] | undefined;
  /** One sentence for package.json and the README. */
  readonly description?: string | undefined;
}

/** The same, checked. */
export interface Driver extends Names {
  readonly rows: readonly MatchRow[];
  readonly features: ReadonlySet<Feature>;
  readonly requires: readonly string[];
  readonly description: string;
}

/** As the `vfio` field of package.json takes it. */
const CONDITION = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
/** One line of print: letters, marks, numbers, punctuation, symbols and plain spaces, of any script. */
const SENTENCE = /^[\p{L}\p{M}\p{N}\p{P}\p{S} ]+$/u;
const MAX_DESCRIPTION = 200;

export const isCondition = (value: unknown): value is string => typeof value === 'string' && CONDITION.test(value);
export const isDescription = (value: unknown): value is string =>
  typeof value === 'string' && SENTENCE.test(value) && value.length <= MAX_DESCRIPTION;

/**
 * Checks what was asked for, all of it before anything is rendered.
 *
 * @throws GeneratorError
 */
export function checkOptions(options: DriverOptions): Driver {
  const driver = checkDriver(options);
  if (driver.rows.length === 0)
    throw new GeneratorError(
      'say which functions the driver is for: --id 19e5:a251 or --class 0108, each as often as needed',
    );
  return driver;
}

/** The same of a driver that is there, whose table may be its author's own. @throws GeneratorError */
export function checkDriver(options: DriverOptions): Driver {
  const names = namesOf(options.name, options.scope);
  const rows = distinctRows([...(options.ids ?? []).map(parseId), ...(options.classes ?? []).map(parseClass)]);
  const requires = [...new Set(options.requires ?? [])];
  for (const condition of requires) {
    if (!isCondition(condition))
      throw new GeneratorError(
        `the condition ${JSON.stringify(condition)} must be 1 to 64 of A-Z a-z 0-9 _ . - and begin with a letter or digit`,
      );
  }
  const description = options.description?.trim() ?? defaultDescription(rows);
  if (!isDescription(description))
    throw new GeneratorError('the description must be one line of 1 to 200 printable characters');
  return { ...names, rows, features: checkFeatures(options.features ?? []), requires, description };
}

/** What is said of a driver whose author said nothing. */
export const defaultDescription = (rows: readonly MatchRow[]): string =>
  `VFIO variant driver for ${describeRows(rows)}`.slice(0, MAX_DESCRIPTION);

function checkFeatures(given: readonly string[]): ReadonlySet<Feature> {
  for (const feature of given) {
    if (!FEATURES.some((known) => known === feature))
      throw new GeneratorError(`there is no feature ${JSON.stringify(feature)}; there are ${FEATURES.join(', ')}`);
  }
  // In the order in which they are listed: the same driver is rendered the same.
  return new Set(FEATURES.filter((known) => given.includes(known)));
}
