import { migrationState } from '../../migration-features.js';
import { type ClientReport, clientReport } from './client-report.js';
import { defineMethod, featuresOf } from './method.js';

/** What a function does now. */
export interface ServedState {
  readonly address: string;
  /** Somebody has the device open. */
  readonly inUse: boolean;
  readonly client: ClientReport | null;
  /** Of VFIO_DEVICE_STATE_*; null where it cannot be migrated. */
  readonly migration: string | null;
  /** A stream of device state is open. */
  readonly streaming: boolean;
  /** PCI power state. */
  readonly power: string;
  /** The guest has let it go to low power. */
  readonly lowPower: boolean;
}

export const state = defineMethod({
  params: () => ({}),
  run: async ({ address, device, server }): Promise<ServedState> => ({
    address,
    inUse: device.openCount > 0,
    client: clientReport(server),
    migration: await migrationState(featuresOf(device)),
    streaming: device.session !== undefined,
    power: device.power.asleep ? 'suspended' : `D${device.power.state}${device.power.state === 3 ? 'hot' : ''}`,
    lowPower: device.power.engaged,
  }),
});
