import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
} from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';

const GET = VFIO_DEVICE_FEATURE_GET;
const SET = VFIO_DEVICE_FEATURE_SET;
const KNOWN_FLAGS = VFIO_DEVICE_FEATURE_MASK | GET | SET | VFIO_DEVICE_FEATURE_PROBE;

/**
 * `vfio_check_feature`: whether a call of a feature with these operations goes on to its data (true) or was a probe.
 *
 * @throws EINVAL: an operation that the feature does not have, or neither GET, SET nor PROBE.
 */
export function checkFeature(dev: VfioPciCoreDevice, flags: number, supported: number): boolean {
  const wanted = flags & (GET | SET);
  if ((wanted & ~supported) !== 0) {
    throw dev.error(
      'EINVAL',
      'deviceFeature',
      `feature ${flags & VFIO_DEVICE_FEATURE_MASK} does not have ${wanted & ~supported & GET ? 'GET' : 'SET'}`,
    );
  }
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) return false;
  if (wanted === 0) {
    throw dev.error(
      'EINVAL',
      'deviceFeature',
      `feature ${flags & VFIO_DEVICE_FEATURE_MASK}: none of GET, SET and PROBE is asked for`,
    );
  }
  return true;
}

/** Rules for the flags of every call. @throws EINVAL: unknown bits, or GET and SET together without PROBE. */
export function checkFeatureFlags(dev: VfioPciCoreDevice, flags: number): void {
  if (!Number.isInteger(flags) || (flags & ~KNOWN_FLAGS) !== 0) {
    throw dev.error('EINVAL', 'deviceFeature', `flags 0x${flags.toString(16)}: unknown bits`);
  }
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) === 0 && (flags & GET) !== 0 && (flags & SET) !== 0) {
    throw dev.error(
      'EINVAL',
      'deviceFeature',
      `flags 0x${flags.toString(16)}: GET and SET exclude each other without PROBE`,
    );
  }
}
