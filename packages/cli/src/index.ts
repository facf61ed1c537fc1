/**
 * The `vfio` command as a function: for tests and for programs that embed it. Everything else is the packages below it.
 *
 * @packageDocumentation
 */
export type { Io } from './io.js';
export { main } from './main.js';
