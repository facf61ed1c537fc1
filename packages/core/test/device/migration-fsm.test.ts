import { describe, expect, test } from 'vitest';
import { hasMigrationState, vfioMigGetNextState } from '../../src/index.js';
import { errnoOf } from './helpers.js';

const STATES = ['ERROR', 'STOP', 'RUNNING', 'STOP_COPY', 'RESUMING', 'RUN_P2P', 'PRE_COPY', 'PRE_P2P'] as const;
type State = (typeof STATES)[number];
const FLAG = { STOP_COPY: 1, P2P: 2, PRE_COPY: 4 };
const ALL = FLAG.STOP_COPY | FLAG.P2P | FLAG.PRE_COPY;
const FLAG_SETS = [FLAG.STOP_COPY, FLAG.STOP_COPY | FLAG.P2P, FLAG.STOP_COPY | FLAG.PRE_COPY, ALL];

/** The arcs that a driver implements, straight from the uAPI's list. */
const ARCS: readonly (readonly [State, State])[] = [
  ['RUN_P2P', 'STOP'],
  ['STOP_COPY', 'STOP'],
  ['RESUMING', 'STOP'],
  ['PRE_COPY', 'RUNNING'],
  ['RUN_P2P', 'RUNNING'],
  ['PRE_P2P', 'RUN_P2P'],
  ['RUNNING', 'RUN_P2P'],
  ['STOP', 'RUN_P2P'],
  ['RUNNING', 'PRE_COPY'],
  ['RUN_P2P', 'PRE_P2P'],
  ['STOP', 'STOP_COPY'],
  ['PRE_COPY', 'PRE_P2P'],
  ['PRE_P2P', 'PRE_COPY'],
  ['PRE_P2P', 'STOP_COPY'],
  ['STOP', 'RESUMING'],
];

const SAVING: readonly State[] = ['STOP_COPY', 'PRE_COPY', 'PRE_P2P'];
const isSaving = (state: State) => SAVING.includes(state);

/**
 * The shortest path over the arcs. A saving state is never passed through: a save session begins and ends where it was
 * asked for, so between two saving states the path stays inside of the group.
 */
function path(from: State, to: State): State[] | undefined {
  const inside = isSaving(from) && isSaving(to);
  const seen = new Set<State>([from]);
  let front: State[][] = [[from]];
  while (front.length > 0) {
    const hit = front.find((way) => way.at(-1) === to);
    if (hit !== undefined) return hit;
    const next: State[][] = [];
    for (const way of front) {
      const at = way.at(-1)!;
      for (const [start, end] of ARCS) {
        if (start !== at || seen.has(end)) continue;
        if (end !== to && isSaving(end) !== inside) continue;
        if (inside && !isSaving(end)) continue;
        next.push([...way, end]);
      }
    }
    for (const way of next) seen.add(way.at(-1)!);
    front = next;
  }
  return undefined;
}

function supports(flags: number, state: State): boolean {
  if (state === 'ERROR') return false;
  const needs = { RUN_P2P: FLAG.P2P, PRE_COPY: FLAG.PRE_COPY, PRE_P2P: FLAG.P2P | FLAG.PRE_COPY }[state as string] ?? 0;
  return ((needs | FLAG.STOP_COPY) & flags) === (needs | FLAG.STOP_COPY);
}

/** What the model gives: the first state of the path that the device has. */
function modelNext(flags: number, from: State, to: State): State | 'EINVAL' {
  if (!supports(flags, from) || !supports(flags, to)) return 'EINVAL';
  if (from === to) return to;
  return (
    path(from, to)
      ?.slice(1)
      .find((state) => supports(flags, state)) ?? 'EINVAL'
  );
}

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
