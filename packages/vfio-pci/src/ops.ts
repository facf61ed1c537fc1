import type { VfioOpsFactory } from '@vfio/core';

/** The base's table under our name: the generic driver changes nothing. */
export const vfioPciOps: VfioOpsFactory = (core) => ({ ...core, name: 'vfio-pci' });
