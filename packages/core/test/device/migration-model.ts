/**
 * The migration states as the uAPI describes them: arcs, and which path a request takes. Made from its list of arcs and its
 * two rules, not from the table that core has.
 */

/** In the order of VFIO_DEVICE_STATE_*. */
export const STATES = ['ERROR', 'STOP', 'RUNNING', 'STOP_COPY', 'RESUMING', 'RUN_P2P', 'PRE_COPY', 'PRE_P2P'] as const;
export type State = (typeof STATES)[number];
export const FLAG = { STOP_COPY: 1, P2P: 2, PRE_COPY: 4 };
export const ALL = FLAG.STOP_COPY | FLAG.P2P | FLAG.PRE_COPY;
export const FLAG_SETS = [FLAG.STOP_COPY, FLAG.STOP_COPY | FLAG.P2P, FLAG.STOP_COPY | FLAG.PRE_COPY, ALL];

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
export const isSaving = (state: State) => SAVING.includes(state);

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

export function supports(flags: number, state: State): boolean {
  if (state === 'ERROR') return false;
  const needs = { RUN_P2P: FLAG.P2P, PRE_COPY: FLAG.PRE_COPY, PRE_P2P: FLAG.P2P | FLAG.PRE_COPY }[state as string] ?? 0;
  return ((needs | FLAG.STOP_COPY) & flags) === (needs | FLAG.STOP_COPY);
}

/** What the model gives: the first state of the path that the device has. */
export function modelNext(flags: number, from: State, to: State): State | 'EINVAL' {
  if (!supports(flags, from) || !supports(flags, to)) return 'EINVAL';
  if (from === to) return to;
  return (
    path(from, to)
      ?.slice(1)
      .find((state) => supports(flags, state)) ?? 'EINVAL'
  );
}

/** The states that a request goes through, its end included; EINVAL where it is refused at the start. */
export function modelWalk(flags: number, from: State, to: State): State[] | 'EINVAL' {
  // Where it is already there is no way to go, so none that could be wrong.
  if (from === to) return [];
  const steps: State[] = [];
  for (let at = from; at !== to; ) {
    const step = modelNext(flags, at, to);
    if (step === 'EINVAL') return 'EINVAL';
    steps.push(step);
    at = step;
  }
  return steps;
}
