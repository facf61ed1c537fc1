import { checkFeature, checkFeatureFlags } from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';
import { nameDevice } from './name-device.js';

/** Bytes of the struct that carries every feature; what is typed is always long enough. */
const ENOUGH = 8;

/**
 * `vfio_check_feature`: whether a call of a feature with these operations goes on to its data (true) or was a probe. For
 * drivers that add features.
 *
 * @param supported VFIO_DEVICE_FEATURE_GET and SET, as far as the feature has them.
 * @throws EINVAL: an operation that the feature does not have, or neither GET, SET nor PROBE.
 */
export function vfioCheckFeature(dev: VfioPciCoreDevice, flags: number, supported: number): boolean {
  return nameDevice(dev, () => checkFeature(flags, 0, supported, 0));
}

/** Rules for the flags of every call. @throws EINVAL: unknown bits, or GET and SET together without PROBE. */
export function vfioCheckFeatureFlags(dev: VfioPciCoreDevice, flags: number): void {
  if (!Number.isInteger(flags)) throw dev.error('EINVAL', 'deviceFeature', `flags ${flags}: must be a whole number`);
  nameDevice(dev, () => checkFeatureFlags(ENOUGH, flags));
}
