import {
  type FeatureResult,
  isVfioError,
  type MaybePromise,
  migrationStateName,
  type VfioPciCoreDevice,
} from '@vfio/core';

const GET = 0x10000;
const FEATURE_MIGRATION = 1;
const FEATURE_MIG_DEVICE_STATE = 2;
const FLAG_NAMES = ['STOP_COPY', 'P2P', 'PRE_COPY'];

/** The features of migration, asked for as a user asks. Undefined where the device has none. */
async function feature<T>(device: VfioPciCoreDevice, index: number): Promise<T | undefined> {
  try {
    const result: MaybePromise<FeatureResult> = device.ops.deviceFeature(device, { flags: GET | index });
    return (await result) as T;
  } catch (error) {
    if (isVfioError(error) && (error.errno === 'ENOTTY' || error.errno === 'ENODEV')) return undefined;
    throw error;
  }
}

/** VFIO_MIGRATION_* of a device, by name; empty where it cannot be migrated. */
export async function migrationFlags(device: VfioPciCoreDevice): Promise<readonly string[]> {
  const flags = (await feature<{ flags: number }>(device, FEATURE_MIGRATION))?.flags ?? 0;
  return FLAG_NAMES.filter((_, bit) => (flags >>> bit) & 1);
}

/** Name of a device's migration state; null where it has none. */
export async function migrationState(device: VfioPciCoreDevice): Promise<string | null> {
  const state = (await feature<{ state: number }>(device, FEATURE_MIG_DEVICE_STATE))?.state;
  return state === undefined ? null : migrationStateName(state);
}
