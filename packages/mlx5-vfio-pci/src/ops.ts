import type { VfioOpsFactory } from '@vfio/core';
import { VFIO_MIGRATION_P2P, VFIO_MIGRATION_PRE_COPY, VFIO_MIGRATION_STOP_COPY } from '@vfio/uapi';
import { Mlx5DirtyLog } from './dirty.js';
import { Mlx5Migration } from './migration.js';
import type { Support } from './support.js';

/** The table: core's, with what the firmware can do attached before registration. */
export function mlx5Ops(support: Support): VfioOpsFactory {
  let log: Mlx5DirtyLog | undefined;
  let migration: Mlx5Migration | undefined;
  return (core) => ({
    ...core,
    name: 'mlx5-vfio-pci',

    init(dev) {
      core.init(dev);
      dev.whyNotMigratable = support.missing;
      if (support.migration === undefined) return;
      const moving = new Mlx5Migration(support.migration);
      migration = moving;
      dev.migrationFlags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;
      dev.migrationOps = moving.ops;
      dev.resetDone.push((raced) => moving.reset(raced));
      support.onGone(() => moving.detach());
      support.beforeRelease(() => moving.released);
      const { hca } = support.migration.vhca;
      if (hca.trackerCaps === undefined) return;
      const tracking = new Mlx5DirtyLog(support.migration.vhca, hca.trackerCaps);
      log = tracking;
      dev.logOps = tracking.ops;
      support.onGone(() => tracking.detach());
    },

    async closeDevice(dev) {
      // What its user logged and moved is nothing to the next one, and back with the firmware when it is closed.
      await log?.ops.logStop(dev);
      await migration?.close();
      await core.closeDevice(dev);
    },
  });
}
