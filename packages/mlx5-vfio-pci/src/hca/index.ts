/**
 * The physical function of a ConnectX: boots it and talks to its firmware. The role of `mlx5_core` in the kernel.
 *
 * @packageDocumentation
 */
import { mlx5CoreDriver } from './driver.js';

export type { General2Caps, GeneralCaps, TrackerCaps } from './capabilities.js';
export { MLX5_CORE, type Mlx5Core, type Mlx5CoreOptions, mlx5CoreDriver } from './driver.js';
export { Hca, type HcaOptions } from './hca.js';

/** The driver as it is installed, found by its name only: nothing takes a physical function by itself. */
export const driver = mlx5CoreDriver();
