import type { VfioDeviceOps } from './ops.js';

/**
 * A function that is a VFIO device already: the kernel's /dev/vfio, a vfio-user peer, another device of ours. Its work
 * is done there, and doing it twice would be wrong (two owners of DisINTx, double automask), so it brings the table
 * that takes the place of core's, and variants override on top of it exactly as on a raw function.
 */
export interface VfioFunctionBase {
  readonly kind: 'vfio';
  readonly ops: VfioDeviceOps;
}
