import {
  type FeatureRequest,
  type FeatureResult,
  isVfioError,
  type MaybePromise,
  migrationStateName,
} from '@vfio/core';
import { migrationFlagNames } from '@vfio/vfio-user';

const GET = 0x10000;
const FEATURE_MIGRATION = 1;
const FEATURE_MIG_DEVICE_STATE = 2;

/** Whatever answers features: a device that is open, here or far away, or one that somebody else has open. */
export interface FeatureSource {
  deviceFeature(request: FeatureRequest): MaybePromise<FeatureResult>;
}

/** What a feature says; undefined where the device does not have it. */
async function feature<T>(device: FeatureSource, index: number): Promise<T | undefined> {
  try {
    return (await device.deviceFeature({ flags: GET | index })) as T;
  } catch (error) {
    if (isVfioError(error) && (error.errno === 'ENOTTY' || error.errno === 'EOPNOTSUPP')) return undefined;
    throw error;
  }
}

/** VFIO_MIGRATION_* of a device, by name; empty where it cannot be migrated. */
export async function migrationFlags(device: FeatureSource): Promise<readonly string[]> {
  return migrationFlagNames((await feature<{ flags: number }>(device, FEATURE_MIGRATION))?.flags ?? 0);
}

/** Name of a device's migration state; null where it has none. */
export async function migrationState(device: FeatureSource): Promise<string | null> {
  const state = (await feature<{ state: number }>(device, FEATURE_MIG_DEVICE_STATE))?.state;
  return state === undefined ? null : migrationStateName(state);
}
