import { VFIO_DEVICE_STATE_RESUMING, VFIO_MIGRATION_STOP_COPY } from '@vfio/uapi';
import type { VfioPciCoreDevice } from './core-device.js';
import { chain, isPromise, type MaybePromise } from './maybe-promise.js';
import { isSavingState, migrationStateName, vfioMigGetNextState } from './migration-fsm.js';
import { MigrationSession } from './migration-session.js';
import type { MigrationData, VfioMigrationOps } from './migration-types.js';
import { missingLogOps, missingMigrationOps } from './optional-ops.js';

/** Registration's checks of what `init` attached. @throws EINVAL */
export function checkMigration(dev: VfioPciCoreDevice): void {
  if (dev.migrationOps !== undefined) {
    const missing = missingMigrationOps(dev.migrationOps);
    if (missing.length > 0)
      throw dev.error('EINVAL', 'register', `migration ops are all or nothing; missing: ${missing.join(', ')}`);
    if ((dev.migrationFlags & VFIO_MIGRATION_STOP_COPY) === 0) {
      throw dev.error('EINVAL', 'register', 'a migratable device must have VFIO_MIGRATION_STOP_COPY');
    }
  }
  if (dev.logOps !== undefined) {
    const missing = missingLogOps(dev.logOps);
    if (missing.length > 0)
      throw dev.error('EINVAL', 'register', `log ops are all or nothing; missing: ${missing.join(', ')}`);
  }
}

function ops(dev: VfioPciCoreDevice): VfioMigrationOps<VfioPciCoreDevice> {
  if (dev.migrationOps === undefined) throw dev.error('ENOTTY', 'MIGRATION', 'the device cannot be migrated');
  return dev.migrationOps;
}

/** Ends the data stream that is open, if any. */
export function endSession(dev: VfioPciCoreDevice): void {
  const { session } = dev;
  dev.session = undefined;
  session?.end();
}

/** The state that the device is in now, after a step that runs. */
export function getMigrationState(dev: VfioPciCoreDevice): MaybePromise<number> {
  const table = ops(dev);
  return dev.stateLock.run(() => table.getState(dev));
}

/**
 * Brings the device to a state, arc by arc. Returns the data stream where the last arc opened one. At an error the device
 * stays where it got to, which {@link getMigrationState} tells.
 *
 * @throws EINVAL (no such state or way, or a driver opens a stream on the way), what an arc threw.
 */
export function setMigrationState(dev: VfioPciCoreDevice, wanted: number): MaybePromise<MigrationData | undefined> {
  const table = ops(dev);
  return dev.stateLock.run(() => walk(dev, table, wanted, undefined));
}

function walk(
  dev: VfioPciCoreDevice,
  table: VfioMigrationOps<VfioPciCoreDevice>,
  wanted: number,
  opened: MigrationSession | undefined,
): MaybePromise<MigrationData | undefined> {
  let session = opened;
  for (let current = table.getState(dev); current !== wanted; ) {
    const next = vfioMigGetNextState(dev.migrationFlags, current, wanted);
    const result = table.setState(dev, next);
    if (isPromise(result)) {
      return result.then((data) => walk(dev, table, wanted, arrive(dev, next, wanted, data)));
    }
    session = arrive(dev, next, wanted, result);
    current = next;
  }
  return session;
}

/** An arc has ended: the streams follow. */
function arrive(
  dev: VfioPciCoreDevice,
  state: number,
  wanted: number,
  data: MigrationData | undefined,
): MigrationSession | undefined {
  if (data !== undefined) {
    if (state !== wanted) {
      // A stream that nobody would get: the driver is wrong, not the user.
      data.close();
      throw dev.error(
        'EINVAL',
        'MIG_DEVICE_STATE',
        `the driver opened a stream in ${migrationStateName(state)}, on the way to ${migrationStateName(wanted)}`,
      );
    }
    endSession(dev);
    dev.session = new MigrationSession(dev, data);
    return dev.session;
  }
  if (!isSavingState(state) && state !== VFIO_DEVICE_STATE_RESUMING) endSession(dev);
  return undefined;
}

/** Upper estimate of what STOP_COPY will give, in bytes. */
export function getMigrationDataSize(dev: VfioPciCoreDevice): MaybePromise<bigint> {
  const table = ops(dev);
  return chain(
    dev.stateLock.run(() => table.getDataSize(dev)),
    (size) => size,
  );
}
