import { VfioError } from '@vfio/uapi';
import type { AliasExplanation } from './alias-explain.js';
import { type AliasCondition, type AliasEntry, AliasIndex } from './alias-index.js';
import type { DriverSource } from './bus.js';
import type { PciDriver } from './driver.js';
import { tableToAliases } from './file2alias.js';
import type { PciFunction } from './function.js';

/** Conditions that a driver's `requires` may name, and how each is found out. */
export type FunctionConditions = Readonly<Record<string, (fn: PciFunction) => boolean>>;

export interface AliasDriverSourceOptions {
  readonly index: AliasIndex;
  /** Gets the driver of a name that the index gave. */
  readonly load: (name: string) => PciDriver | Promise<PciDriver>;
  /** Default: no condition holds. */
  readonly conditions?: FunctionConditions;
}

/** A {@link DriverSource} that looks in an alias index: what `bus.bindBest` takes. */
export class AliasDriverSource implements DriverSource {
  readonly index: AliasIndex;
  readonly #load: (name: string) => PciDriver | Promise<PciDriver>;
  readonly #conditions: FunctionConditions;

  constructor(options: AliasDriverSourceOptions) {
    this.index = options.index;
    this.#load = options.load;
    this.#conditions = options.conditions ?? {};
  }

  best(fn: PciFunction): AliasEntry | undefined {
    return this.index.best(fn, this.#condition(fn));
  }

  load(name: string): PciDriver | Promise<PciDriver> {
    return this.#load(name);
  }

  /** Why {@link best} gives what it gives. */
  explain(fn: PciFunction, options: { readonly mismatches?: boolean } = {}): AliasExplanation {
    return this.index.explain(fn, { condition: this.#condition(fn), ...options });
  }

  #condition(fn: PciFunction): AliasCondition {
    // Own properties only: a package may name any word, `constructor` too.
    return (name) => Object.hasOwn(this.#conditions, name) && this.#conditions[name]?.(fn) === true;
  }
}

/** The error of a name that no driver has. */
export function noSuchDriver(name: string, known: Iterable<string>): VfioError {
  const list = [...known].sort();
  const rest = list.length === 0 ? 'there is no driver at all' : `there are ${list.join(', ')}`;
  return new VfioError('ERR_VFIO_NO_DRIVER', `no driver is called "${name}"; ${rest}`, {
    errno: 'ENODEV',
    op: 'load',
    details: { driver: name, known: list },
  });
}

/**
 * A source of drivers that are at hand already, their aliases made from their id tables. For programs that do without
 * discovery: in a browser, in tests.
 */
export function driverSourceOf(
  drivers: readonly PciDriver[],
  options: {
    readonly conditions?: FunctionConditions;
    readonly requires?: Readonly<Record<string, readonly string[]>>;
  } = {},
): AliasDriverSource {
  const byName = new Map(drivers.map((driver) => [driver.name, driver]));
  const lines = drivers.flatMap((driver) =>
    tableToAliases(driver.idTable).aliases.map((pattern) => ({ pattern, driver: driver.name })),
  );
  const { requires = {} } = options;
  const index = new AliasIndex(lines, {
    drivers: drivers.map(({ name }) => ({
      name,
      requires: Object.hasOwn(requires, name) ? (requires[name] ?? []) : [],
    })),
  });
  const load = (name: string): PciDriver => {
    const driver = byName.get(name);
    if (driver === undefined) throw noSuchDriver(name, byName.keys());
    return driver;
  };
  return new AliasDriverSource({
    index,
    load,
    ...(options.conditions === undefined ? {} : { conditions: options.conditions }),
  });
}
