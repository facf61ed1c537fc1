/**
 * The generator of variant drivers: one renderer, and the Nx generator that writes what it gives.
 *
 * @packageDocumentation
 */

export { planOnDisk, writeFiles } from './disk.js';
export { GeneratorError } from './error.js';
export { type GeneratorTree, type VariantDriverSchema, variantDriverGenerator } from './generator.js';
export { type Names, namesOf } from './name.js';
export { checkOptions, type Driver, type DriverOptions, FEATURE_TEXTS, FEATURES, type Feature } from './options.js';
export { checkDirectory } from './place.js';
export { type KeptFile, type Plan, planMore, planNew, type ReadFile } from './plan.js';
export { renderChangeset, renderVariantDriver, type Setting, type WorkspaceAbout } from './render.js';
export { describeMissing } from './report.js';
export { version } from './version.js';
