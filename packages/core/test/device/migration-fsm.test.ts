import { describe, expect, test } from 'vitest';
import { hasMigrationState, vfioMigGetNextState } from '../../src/index.js';
import { errnoOf } from './helpers.js';
import { ALL, FLAG, FLAG_SETS, modelNext, STATES, type State } from './migration-model.js';

function next(flags: number, from: State, to: State): State | string {
  let result = -1;
  const errno = errnoOf(() => {
    result = vfioMigGetNextState(flags, STATES.indexOf(from), STATES.indexOf(to));
  });
  return errno === 'none' ? STATES[result]! : errno;
}

describe('next state of a migration', () => {
  test.each(FLAG_SETS)('is the shortest path over the arcs with unsupported states left out, for flags %i', (flags) => {
    for (const from of STATES) {
      for (const to of STATES) expect(next(flags, from, to), `${from} to ${to}`).toBe(modelNext(flags, from, to));
    }
  });

  // Columns: STOP RUNNING STOP_COPY RESUMING RUN_P2P PRE_COPY PRE_P2P; the row for a device that has all states.
  test.each([
    ['STOP', 'STOP RUN_P2P STOP_COPY RESUMING RUN_P2P RUN_P2P RUN_P2P'],
    ['RUNNING', 'RUN_P2P RUNNING RUN_P2P RUN_P2P RUN_P2P PRE_COPY RUN_P2P'],
    ['STOP_COPY', 'STOP STOP STOP_COPY STOP STOP EINVAL EINVAL'],
    ['RESUMING', 'STOP STOP STOP RESUMING STOP STOP STOP'],
    ['RUN_P2P', 'STOP RUNNING STOP STOP RUN_P2P RUNNING PRE_P2P'],
    ['PRE_COPY', 'RUNNING RUNNING PRE_P2P RUNNING RUNNING PRE_COPY PRE_P2P'],
    ['PRE_P2P', 'RUN_P2P RUN_P2P STOP_COPY RUN_P2P RUN_P2P PRE_COPY PRE_P2P'],
    ['ERROR', 'EINVAL EINVAL EINVAL EINVAL EINVAL EINVAL EINVAL'],
  ] as const)('from %s follows its row of the table', (from, row) => {
    expect(
      STATES.slice(1)
        .map((to) => next(ALL, from, to))
        .join(' '),
    ).toBe(row);
  });

  test('steps over P2P on a device without it: RUNNING to STOP and PRE_COPY to STOP_COPY are one arc', () => {
    expect(next(FLAG.STOP_COPY | FLAG.PRE_COPY, 'RUNNING', 'STOP')).toBe('STOP');
    expect(next(FLAG.STOP_COPY | FLAG.PRE_COPY, 'STOP', 'RUNNING')).toBe('RUNNING');
    expect(next(FLAG.STOP_COPY | FLAG.PRE_COPY, 'PRE_COPY', 'STOP_COPY')).toBe('STOP_COPY');
  });

  test.each(FLAG_SETS)('reaches the wanted state in at most six steps, for flags %i', (flags) => {
    for (const from of STATES) {
      for (const to of STATES) {
        if (next(flags, from, to) === 'EINVAL') continue;
        let at: State = from;
        let steps = 0;
        while (at !== to && steps < 7) {
          at = next(flags, at, to) as State;
          steps++;
        }
        expect(at, `${from} to ${to}`).toBe(to);
      }
    }
  });

  test('of no state is EINVAL: a number outside of the table, or a device without any', () => {
    for (const bad of [-1, 8, 255, 1.5, Number.NaN]) {
      expect(errnoOf(() => vfioMigGetNextState(ALL, 2, bad))).toBe('EINVAL');
      expect(errnoOf(() => vfioMigGetNextState(ALL, bad, 2))).toBe('EINVAL');
    }
    expect(errnoOf(() => vfioMigGetNextState(0, 2, 1))).toBe('EINVAL');
    expect(hasMigrationState(ALL, 0)).toBe(false);
  });
});
