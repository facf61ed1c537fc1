import { readFileSync } from 'node:fs';
import { type AliasCondition, AliasIndex, type PciIdentity } from '@vfio/core';
import type { InstalledDrivers } from '@vfio/core/node';

/** A driver that there is, installed or not. */
export interface KnownDriver {
  readonly name: string;
  readonly package: string;
  readonly requires: readonly string[];
  readonly aliases: readonly string[];
}

/** Drivers that are released with this command: a table that its build makes (scripts/known-drivers.js). */
export function knownDrivers(): readonly KnownDriver[] {
  const table = readFileSync(new URL('../dist/known-drivers.json', import.meta.url), 'utf8');
  // Made by our own build, and part of the package.
  return JSON.parse(table) as KnownDriver[];
}

/** The driver that would take a function if all that there are were installed; undefined where that one is. */
export function betterDriver(
  id: PciIdentity,
  holds: AliasCondition,
  installed: InstalledDrivers,
  known: readonly KnownDriver[] = knownDrivers(),
): KnownDriver | undefined {
  // A package that is there and cannot be used is not brought into order by installing it.
  const isThere = (driver: KnownDriver): boolean =>
    installed.driver(driver.name) !== undefined ||
    installed.problems.some((problem) => problem.package === driver.package);
  const missing = known.filter((driver) => !isThere(driver));
  const lines = missing.flatMap(({ name, aliases }) => aliases.map((pattern) => ({ pattern, driver: name })));
  const all = new AliasIndex([...installed.index.entries, ...lines], { drivers: [...installed.drivers, ...missing] });
  const best = all.best(id, holds)?.driver;
  return missing.find(({ name }) => name === best);
}
