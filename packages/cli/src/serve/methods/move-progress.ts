import { migrationStateName } from '@vfio/core';
import type { MoveProgress } from '@vfio/vfio-user';

/** How far a move is, in JSON. */
export interface MoveProgressReport extends Omit<MoveProgress, 'state'> {
  /** Of VFIO_DEVICE_STATE_*: the device at its source. */
  readonly state: string;
}

export const moveProgressReport = ({ state, ...progress }: MoveProgress): MoveProgressReport => ({
  ...progress,
  state: migrationStateName(state),
});
