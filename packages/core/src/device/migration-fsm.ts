import {
  errnoError,
  VFIO_DEVICE_STATE_ERROR,
  VFIO_DEVICE_STATE_NR,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '@vfio/uapi';

const ERROR = VFIO_DEVICE_STATE_ERROR;
const STOP = VFIO_DEVICE_STATE_STOP;
const RUNNING = VFIO_DEVICE_STATE_RUNNING;
const STOP_COPY = VFIO_DEVICE_STATE_STOP_COPY;
const RESUMING = VFIO_DEVICE_STATE_RESUMING;
const RUN_P2P = VFIO_DEVICE_STATE_RUNNING_P2P;
const PRE_COPY = VFIO_DEVICE_STATE_PRE_COPY;
const PRE_P2P = VFIO_DEVICE_STATE_PRE_COPY_P2P;

/**
 * The next arc from a state (row) on the way to another (column), both in the order of VFIO_DEVICE_STATE_*. Paths are the
 * shortest, and states of the saving group are never passed through on the way to somewhere else.
 */
// biome-ignore format: a table
const NEXT: readonly (readonly number[])[] = [
  // want:       ERROR  STOP     RUNNING  STOP_COPY  RESUMING  RUN_P2P  PRE_COPY  PRE_P2P
  /* ERROR     */ [ERROR, ERROR,   ERROR,   ERROR,     ERROR,    ERROR,   ERROR,    ERROR],
  /* STOP      */ [ERROR, STOP,    RUN_P2P, STOP_COPY, RESUMING, RUN_P2P, RUN_P2P,  RUN_P2P],
  /* RUNNING   */ [ERROR, RUN_P2P, RUNNING, RUN_P2P,   RUN_P2P,  RUN_P2P, PRE_COPY, RUN_P2P],
  /* STOP_COPY */ [ERROR, STOP,    STOP,    STOP_COPY, STOP,     STOP,    ERROR,    ERROR],
  /* RESUMING  */ [ERROR, STOP,    STOP,    STOP,      RESUMING, STOP,    STOP,     STOP],
  /* RUN_P2P   */ [ERROR, STOP,    RUNNING, STOP,      STOP,     RUN_P2P, RUNNING,  PRE_P2P],
  /* PRE_COPY  */ [ERROR, RUNNING, RUNNING, PRE_P2P,   RUNNING,  RUNNING, PRE_COPY, PRE_P2P],
  /* PRE_P2P   */ [ERROR, RUN_P2P, RUN_P2P, STOP_COPY, RUN_P2P,  RUN_P2P, PRE_COPY, PRE_P2P],
];

/** VFIO_MIGRATION_* that a device must have for a state; ERROR cannot be asked for by anybody. */
// biome-ignore format: a table
const NEEDS: readonly number[] = [
  /* ERROR     */ -1,
  /* STOP      */ VFIO_MIGRATION_STOP_COPY,
  /* RUNNING   */ VFIO_MIGRATION_STOP_COPY,
  /* STOP_COPY */ VFIO_MIGRATION_STOP_COPY,
  /* RESUMING  */ VFIO_MIGRATION_STOP_COPY,
  /* RUN_P2P   */ VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P,
  /* PRE_COPY  */ VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY,
  /* PRE_P2P   */ VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY,
];

const NAMES = ['ERROR', 'STOP', 'RUNNING', 'STOP_COPY', 'RESUMING', 'RUNNING_P2P', 'PRE_COPY', 'PRE_COPY_P2P'];

/** Name of a VFIO_DEVICE_STATE_*, for messages. */
export function migrationStateName(state: number): string {
  return NAMES[state] ?? `state ${state}`;
}

/** Whether a device with these VFIO_MIGRATION_* flags has a state. ERROR is none that can be asked for. */
export function hasMigrationState(flags: number, state: number): boolean {
  const needs = NEEDS[state];
  return needs !== undefined && needs !== -1 && (needs & flags) === needs;
}

/**
 * The state to which a driver steps next on the way from `current` to `wanted`: `vfio_mig_get_next_state`. Optional
 * states that the device lacks are stepped over, so the answer is always an arc that it implements.
 *
 * @throws EINVAL: a state that does not exist or the device does not have, ERROR on either side, or no way there
 *   (STOP_COPY to PRE_COPY).
 */
export function vfioMigGetNextState(flags: number, current: number, wanted: number): number {
  const problem = (message: string) =>
    errnoError('EINVAL', `migration from ${migrationStateName(current)} to ${migrationStateName(wanted)}: ${message}`, {
      op: 'MIG_DEVICE_STATE',
    });
  if (!isState(current) || !hasMigrationState(flags, current))
    throw problem('the device is in a state that only a reset leaves');
  if (!isState(wanted) || !hasMigrationState(flags, wanted)) throw problem('the device does not have that state');
  let next = NEXT[current]![wanted]!;
  while (next !== ERROR && !hasMigrationState(flags, next)) next = NEXT[next]![wanted]!;
  if (next === ERROR) throw problem('there is no way');
  return next;
}

function isState(state: number): boolean {
  return Number.isInteger(state) && state >= 0 && state < VFIO_DEVICE_STATE_NR;
}

/** Whether a state belongs to the saving group, in which one data stream lasts. */
export function isSavingState(state: number): boolean {
  return state === STOP_COPY || state === PRE_COPY || state === PRE_P2P;
}
