/**
 * The physical function of an NVMe drive: enables its controller and talks to it by the admin queue. The role of `nvme` in the
 * kernel.
 *
 * @packageDocumentation
 */
import { nvmeDriver } from './driver.js';

export { NVME, type NvmeCore, type NvmeDriverOptions, nvmeDriver } from './driver.js';
export {
  NvmeParent,
  type NvmeParentOptions,
  type ParentCapabilities,
  type StateFormats,
  type TrackingLimits,
} from './parent.js';

/** The driver as it is installed, found by its name only: nothing takes a physical function by itself. */
export const driver = nvmeDriver();
