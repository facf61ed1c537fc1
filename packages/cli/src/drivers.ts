import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PLATFORM_CONDITIONS } from '@vfio/core';
import { discoverDrivers, type InstalledDrivers } from '@vfio/core/node';

export interface DriversOptions {
  /** The folder whose project says what is installed. */
  readonly cwd: string;
  /** The file of the command, where it is one. */
  readonly script: string | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Make the index anew, whatever is kept. */
  readonly rebuild?: boolean;
  /** Told of packages that cannot be used. */
  readonly warn: (message: string) => void;
}

/**
 * Finds the drivers of the project that the command runs in; those beside the command where it is installed globally.
 * `VFIO_CACHE` names another place for the merged index.
 */
export async function installedDrivers(options: DriversOptions): Promise<InstalledDrivers> {
  const { cwd, script, env, rebuild = false, warn } = options;
  const drivers = await discoverDrivers({
    from: cwd,
    conditions: PLATFORM_CONDITIONS,
    rebuild,
    ...(script === undefined ? {} : { cli: script }),
    ...(env['VFIO_CACHE'] === undefined ? {} : { cacheDirectory: env['VFIO_CACHE'] }),
  });
  for (const problem of drivers.problems) warn(`${problem.package}: ${problem.message}`);
  return drivers;
}

/** Version of the package that a driver is from; undefined where that does not say. */
export function driverVersion(drivers: InstalledDrivers, name: string): string | undefined {
  const driver = drivers.driver(name);
  if (driver === undefined) return undefined;
  try {
    const json: unknown = JSON.parse(readFileSync(join(driver.directory, 'package.json'), 'utf8'));
    const version = (json as { version?: unknown } | null)?.version;
    return typeof version === 'string' ? version : undefined;
  } catch {
    // It was there when the driver was found; what runs is in memory all the same.
    return undefined;
  }
}
