/**
 * `npm create @vfio/variant-driver` as a function.
 *
 * @packageDocumentation
 */
export { type CreateIo, main } from './main.js';
export type { Prompts } from './prompts.js';
