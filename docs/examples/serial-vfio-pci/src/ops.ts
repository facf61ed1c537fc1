import { chain, type VfioOpsFactory } from '@vfio/core';
import {
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '@vfio/uapi';
import { DirtyLog } from './dirty.js';
import { SerialMigration } from './migration.js';
import { MINOR, type StreamMinor } from './stream.js';
import { StateWindow } from './window.js';

export interface SerialOpsOptions {
  /** The minor version of the streams that are written: an older one for a destination whose driver is older. Read are all. */
  readonly minor?: StreamMinor;
}

/** The table: the base's, with what migrates the card, and its state window hidden from users. */
export function serialOps({ minor = MINOR }: SerialOpsOptions = {}): VfioOpsFactory {
  return (core) => {
    const migration = new SerialMigration(minor);
    const log = new DirtyLog();
    let window: StateWindow | undefined;
    return {
      ...core,
      name: 'serial-vfio-pci',

      init(dev) {
        core.init(dev);
        dev.migrationFlags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;
        dev.migrationOps = migration.ops;
        dev.logOps = log.ops;
        dev.resetDone.push((raced) => migration.reset(raced));
      },

      async openDevice(dev) {
        await core.openDevice(dev);
        try {
          window = StateWindow.find(dev, core);
          await window.hold(false);
        } catch (error) {
          window = undefined;
          await core.closeDevice(dev);
          throw error;
        }
        migration.open(window);
      },

      async closeDevice(dev) {
        // Nothing of this user is left to the next one, whatever state it stopped in.
        log.stop();
        migration.close();
        window = undefined;
        await core.closeDevice(dev);
      },

      read(dev, region, offset, data) {
        const done = core.read(dev, region, offset, data);
        if (region === VFIO_PCI_CONFIG_REGION_INDEX) window?.hide(offset, data);
        return done;
      },

      write(dev, region, offset, data) {
        if (region !== VFIO_PCI_CONFIG_REGION_INDEX || window?.overlaps(offset, data.length) !== true)
          return core.write(dev, region, offset, data);
        // What lies before the window and behind it is written, what is for the window is dropped.
        const { start, end } = window;
        const before = data.subarray(0, Math.max(0, start - offset));
        const behind = data.subarray(Math.min(data.length, Math.max(0, end - offset)));
        const first = before.length === 0 ? 0 : core.write(dev, region, offset, before);
        return chain(first, () =>
          chain(behind.length === 0 ? 0 : core.write(dev, region, end, behind), () => data.length),
        );
      },
    };
  };
}
