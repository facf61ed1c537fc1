/**
 * A VFIO variant driver for ConnectX virtual functions: live migration and dirty tracking through firmware commands of the
 * physical function.
 *
 * @packageDocumentation
 */
export * from './device.js';
export { MLX5_CORE, type Mlx5Core, type Mlx5CoreOptions, mlx5CoreDriver } from './hca/driver.js';
export * from './ids.js';
