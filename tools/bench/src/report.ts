import type { Measurement } from './programs.js';
import { median, ratios } from './statistics.js';

/** Which number of a measurement counts: how long one takes, or (where many are under way) the time for each. */
export type Measure = 'p50' | 'each';

/** A server's number of every round, by server. */
export type Costs = Readonly<Record<string, readonly number[]>>;

/** What is promised of a row. */
export interface Bound {
  /** Ours over the floor, at most. */
  readonly ratio?: number;
  /** Ours over the peer, at most, where there is one. */
  readonly toPeer?: number;
  /** Ours, at most. */
  readonly value?: number;
}

/** One line of the report. */
export interface Row {
  readonly name: string;
  readonly unit: string;
  /** The middle of the rounds, by server. */
  readonly values: Readonly<Record<string, number>>;
  /** The middle of the rounds' ratios of ours over the other server. */
  readonly ratios: Readonly<Record<string, number>>;
  readonly bound?: Bound;
  /** Whether the bound is kept; `undefined` without one. */
  readonly isMet?: boolean;
}

/** The costs of each server in the rounds of an interleaved measurement. */
export function costs(
  names: readonly string[],
  rounds: readonly Readonly<Record<string, Record<string, Measurement>>>[],
  result: string,
  measure: Measure,
): Costs {
  const of = (measurements: Record<string, Measurement> | undefined): number => {
    const found = measurements?.[result];
    if (found === undefined) throw new Error(`no "${result}" in the client's answer`);
    return measure === 'p50' ? found.p50 : 1e6 / found.perSecond;
  };
  return Object.fromEntries(names.map((name) => [name, rounds.map((round) => of(round[name]))]));
}

/** A row of costs, or of single numbers. */
export function row(name: string, unit: string, numbers: Costs | Readonly<Record<string, number>>, bound?: Bound): Row {
  const rounds = Object.entries(numbers).map(([server, value]) => [server, [value].flat()] as const);
  const ours = rounds.find(([server]) => server === 'ours')?.[1] ?? [];
  const values = Object.fromEntries(rounds.map(([server, list]) => [server, median(list)]));
  const others = rounds.filter(([server]) => server !== 'ours');
  const toOthers = Object.fromEntries(others.map(([server, list]) => [server, median(ratios(ours, list))]));
  const result = { name, unit, values, ratios: toOthers };
  if (bound === undefined) return result;
  const isBelow = (value: number | undefined, most: number | undefined): boolean =>
    value === undefined || most === undefined || value <= most;
  const isMet =
    isBelow(toOthers['floor'], bound.ratio) &&
    isBelow(toOthers['peer'], bound.toPeer) &&
    isBelow(values['ours'], bound.value);
  return { ...result, bound, isMet };
}

function digits(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(2);
}

/** The row as a person reads it. */
export function toText({ name, unit, values, ratios: toOthers, bound, isMet }: Row): string {
  const numbers = Object.entries(values).map(([server, value]) => {
    const ratio = toOthers[server];
    return `${server} ${digits(value)} ${unit}`.trimEnd() + (ratio === undefined ? '' : ` (ours ${ratio.toFixed(2)}x)`);
  });
  const promises = [
    bound?.ratio === undefined ? '' : `${bound.ratio.toFixed(2)}x the floor`,
    bound?.toPeer === undefined || toOthers['peer'] === undefined ? '' : `${bound.toPeer.toFixed(2)}x the peer`,
    bound?.value === undefined ? '' : `${bound.value} ${unit}`.trimEnd(),
  ].filter((promise) => promise !== '');
  const verdict = isMet === undefined ? '' : `   at most ${promises.join(', ')}: ${isMet ? 'kept' : 'MISSED'}`;
  return `${name.padEnd(44)}${numbers.join('   ')}${verdict}`;
}
