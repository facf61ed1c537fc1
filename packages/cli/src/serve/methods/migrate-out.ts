import { messageOf } from '@vfio/core';
import { isUndecided, type MovePurpose, type MoveReport } from '@vfio/vfio-user';
import { defineMethod } from './method.js';
import { type MoveProgressReport, moveProgressReport } from './move-progress.js';

export interface MigrateOutParams {
  /** Where the other side waits: what `migrate-in` said. */
  readonly path: string;
  /** `move`: it ends here. `save`: it goes on here. `check`: the other side is asked whether it could. */
  readonly purpose: MovePurpose;
  /** Without the client's memory. */
  readonly deviceOnly: boolean;
  /** The client writes nothing into its memory itself: what the device logs is all that changes. */
  readonly trustLog: boolean;
  readonly maxDowntimeMs: number | undefined;
  readonly maxRounds: number | undefined;
  /** Bytes a second while the device runs. */
  readonly bandwidth: number | undefined;
}

/** `undecided`: the other side was told to run the device and did not answer. Here it is stopped, until `migrate-take-back`. */
export type MigrateOutResult =
  | ({ readonly outcome: 'done' } & MoveReport)
  | { readonly outcome: 'undecided'; readonly message: string };

const MAX_MS = 3_600_000;

export const migrateOut = defineMethod<MigrateOutParams, MigrateOutResult, MoveProgressReport>({
  params: (given) => ({
    path: given.path('path'),
    purpose: given.oneOf('purpose', ['move', 'save', 'check']),
    deviceOnly: given.boolean('deviceOnly'),
    trustLog: given.boolean('trustLog'),
    maxDowntimeMs: given.optionalInteger('maxDowntimeMs', 0, MAX_MS),
    maxRounds: given.optionalInteger('maxRounds', 0, 1_000_000),
    bandwidth: given.optionalInteger('bandwidth', 1, Number.MAX_SAFE_INTEGER),
  }),
  run: async ({ server, driverVersion }, params, { progress, signal }) => {
    const { path, purpose, deviceOnly, trustLog, maxDowntimeMs, maxRounds, bandwidth } = params;
    try {
      const report = await server.moveOut(path, {
        purpose,
        deviceOnly,
        trustLog,
        ...(maxDowntimeMs === undefined ? {} : { maxDowntimeMs }),
        ...(maxRounds === undefined ? {} : { maxRounds }),
        ...(bandwidth === undefined ? {} : { bandwidth }),
        ...(driverVersion === undefined ? {} : { driverVersion }),
        signal,
        onProgress: (value) => progress(moveProgressReport(value)),
      });
      return { outcome: 'done', ...report };
    } catch (error) {
      if (!isUndecided(error)) throw error;
      return { outcome: 'undecided', message: messageOf(error) };
    }
  },
});
