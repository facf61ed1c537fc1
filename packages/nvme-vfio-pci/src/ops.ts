import { messageOf, type VfioDeviceOps, type VfioOpsFactory, type VfioPciCoreDevice } from '@vfio/core';
import {
  PCI_COMMAND_MASTER,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_STOP_COPY,
  VFIO_PCI_BAR0_REGION_INDEX,
} from '@vfio/uapi';
import { Config } from './config.js';
import { Controller } from './controller.js';
import { NvmeDirtyLog } from './dirty.js';
import { NvmeMigration } from './migration.js';
import { Support } from './support.js';

export interface NvmeOpsOptions {
  /** How long a controller may take to write its cache back, in ms. @default 5000, as Linux's nvme driver waits */
  readonly shutdownTimeoutMs?: number;
}

/** The table: the base's, with open and close of our own, and what the parent can do attached before registration. */
export function nvmeOps(
  { shutdownTimeoutMs = 5000 }: NvmeOpsOptions = {},
  support = new Support(undefined, undefined),
): VfioOpsFactory {
  let migration: NvmeMigration | undefined;
  let log: NvmeDirtyLog | undefined;
  return (core) => ({
    ...core,
    name: 'nvme-vfio-pci',

    init(dev) {
      core.init(dev);
      dev.whyNotMigratable = support.missing;
      if (support.migration === undefined) return;
      const { child } = support.migration;
      const tracking = child.parent.capabilities.tracksMemory ? new NvmeDirtyLog(child) : undefined;
      const made = new NvmeMigration(
        support.migration,
        () => controllerOf(core, dev).disable(),
        async () => tracking?.settle(),
      );
      migration = made;
      log = tracking;
      dev.migrationFlags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P;
      dev.migrationOps = made.ops;
      dev.resetDone.push((raced) => made.reset(raced));
      support.onGone(() => made.detach());
      if (tracking === undefined) return;
      dev.logOps = tracking.ops;
      support.onGone(() => tracking.detach());
    },

    openDevice: (dev) => openDevice(core, dev),

    async closeDevice(dev) {
      // What its user logged is nothing to the next one.
      await log?.ops.logStop(dev);
      // A suspended controller cannot be shut down in order: a reset lets it go on, and keeps the volatile write cache.
      if (migration?.isRunning === false) await resetForClose(core, dev);
      await closeDevice(core, dev, shutdownTimeoutMs);
    },
  });
}

function controllerOf(core: VfioDeviceOps, dev: VfioPciCoreDevice): Controller {
  return new Controller({
    address: dev.address,
    read: (register, into) => core.read(dev, VFIO_PCI_BAR0_REGION_INDEX, register, into),
    write: (register, from) => core.write(dev, VFIO_PCI_BAR0_REGION_INDEX, register, from),
  });
}

async function resetForClose(core: VfioDeviceOps, dev: VfioPciCoreDevice): Promise<void> {
  try {
    await core.reset(dev);
  } catch (error) {
    dev.warn(`left in the middle of a migration, and not reset: ${messageOf(error)}`);
  }
}

/**
 * A user finds a disabled controller, however its last one left it. A controller that will not be disabled fails the
 * open: its user could only find it hung.
 */
async function openDevice(core: VfioDeviceOps, dev: VfioPciCoreDevice): Promise<void> {
  await core.openDevice(dev);
  try {
    const config = new Config(dev, core);
    const { command } = config;
    await config.quiesce();
    await controllerOf(core, dev).disable();
    await config.setCommand(command & ~PCI_COMMAND_MASTER);
  } catch (error) {
    await core.closeDevice(dev);
    throw error;
  }
}

/**
 * Runs for a user that closed and for one that was killed. The function reset in core's close would be next; what the
 * user was told is written must be safe from it, and from the power that may go after it.
 */
async function closeDevice(core: VfioDeviceOps, dev: VfioPciCoreDevice, shutdownTimeoutMs: number): Promise<void> {
  try {
    await new Config(dev, core).quiesce();
    await controllerOf(core, dev).shutdown(shutdownTimeoutMs);
  } catch (error) {
    // A close cannot fail, and a controller that is broken is reset next; but somebody's data may be lost.
    dev.warn(`no orderly shutdown: ${messageOf(error)}`);
  }
  await core.closeDevice(dev);
}
