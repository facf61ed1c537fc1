/**
 * What core needs Node for: finding the driver packages that are installed, and building their alias files.
 *
 * @packageDocumentation
 */
export type { InstalledDriver, PackageProblem } from './alias-cache.js';
export { type BuildAliasOptions, type BuiltAliasFile, buildAliasFiles } from './build-alias.js';
export { type DiscoverOptions, discoverDrivers, InstalledDrivers, type UnusedPackage } from './discovery.js';
export {
  type DriverManifest,
  type ManifestResult,
  type PackageProblemKind,
  parseManifest,
  VFIO_MANIFEST_API,
} from './manifest.js';
