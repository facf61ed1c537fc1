import type { AliasCondition, AliasEntry, AliasIndex } from './alias-index.js';
import type { PciIdentity } from './function.js';
import { ALIAS_FIELDS, type AliasFieldName, type AliasNamespace, aliasFieldOf, formatModalias } from './modalias.js';

/** One field of one alias beside the function's. */
export interface AliasFieldMatch {
  readonly name: AliasFieldName;
  /** `v`, `d`, `sv`, ... as in the alias. */
  readonly tag: string;
  /** The function's value as the alias format shows it. */
  readonly value: string;
  /** The alias's: a number in the same form, or `*`. */
  readonly pattern: string;
  readonly wildcard: boolean;
  readonly matches: boolean;
}

/** What became of one alias, and why. */
export interface AliasCandidate {
  readonly driver: string;
  readonly package: string | undefined;
  readonly pattern: string;
  /** Line in its file, 0 where there was none. */
  readonly line: number;
  /**
   * `won`: the driver to bind. `lost`: it matches, another is better. `excluded`: it matches, a condition does not hold.
   * `mismatch`: it does not match the function.
   */
  readonly outcome: 'won' | 'lost' | 'excluded' | 'mismatch';
  /** Place among those that match and whose conditions hold, from 1; undefined for the others. */
  readonly place: number | undefined;
  /** The score: fields that match anything. Fewer is better. */
  readonly wildcards: number;
  readonly requires: readonly { readonly name: string; readonly holds: boolean }[];
  /** Empty for an alias that is not in the form of seven fields. */
  readonly fields: readonly AliasFieldMatch[];
  /** One sentence. */
  readonly why: string;
}

/** A match laid open. */
export interface AliasExplanation {
  /** What was looked up. */
  readonly modalias: string;
  /** The driver to bind, or undefined. */
  readonly winner: AliasCandidate | undefined;
  /** The winner first, then by place, then the excluded ones, then the mismatches. */
  readonly candidates: readonly AliasCandidate[];
}

export interface ExplainOptions {
  readonly namespace?: AliasNamespace;
  /** Whether a named condition holds for the function; default: none does. */
  readonly condition?: AliasCondition;
  /**
   * For each driver none of whose aliases match, also tell of its closest one. Goes through the whole index. Default false.
   */
  readonly mismatches?: boolean;
}

/** What {@link AliasIndex.explain} gives. */
export function explainMatch(index: AliasIndex, id: PciIdentity, options: ExplainOptions): AliasExplanation {
  const { namespace = 'vfio_pci', condition = () => false } = options;
  const matching = index.lookup(id, namespace);
  // Each condition is asked once, so that one answer goes through the whole explanation.
  const answers = new Map<string, boolean>();
  const holds = (name: string): boolean => {
    const known = answers.get(name) ?? condition(name);
    answers.set(name, known);
    return known;
  };
  const running = matching.filter((entry) => entry.requires.every(holds));
  const excluded = matching.filter((entry) => !entry.requires.every(holds));
  const winner = running[0];

  const candidate = (entry: AliasEntry, outcome: AliasCandidate['outcome'], why: string): AliasCandidate => ({
    driver: entry.driver,
    package: entry.package,
    pattern: entry.pattern,
    line: entry.line,
    outcome,
    place: outcome === 'won' || outcome === 'lost' ? running.indexOf(entry) + 1 : undefined,
    wildcards: entry.wildcards,
    requires: entry.requires.map((name) => ({ name, holds: holds(name) })),
    fields: fieldMatches(entry, id),
    why,
  });

  const candidates = [
    ...running.map((entry) =>
      entry === winner || winner === undefined
        ? candidate(entry, 'won', whyWon(entry, running[1]))
        : candidate(entry, 'lost', whyLost(entry, winner)),
    ),
    ...excluded.map((entry) => {
      const missing = entry.requires.filter((name) => !holds(name));
      const conditions = missing.length === 1 ? 'the condition' : 'the conditions';
      return candidate(
        entry,
        'excluded',
        `matches, but ${conditions} ${missing.join(', ')} do${missing.length === 1 ? 'es' : ''} not hold here`,
      );
    }),
    ...(options.mismatches === true ? closest(index, id, namespace, matching) : []).map((entry) =>
      candidate(entry, 'mismatch', whyMismatch(entry, id, namespace)),
    ),
  ];
  return {
    modalias: formatModalias(id, namespace),
    winner: candidates[0]?.outcome === 'won' ? candidates[0] : undefined,
    candidates,
  };
}

function fieldMatches(entry: AliasEntry, id: PciIdentity): AliasFieldMatch[] {
  const { fields } = entry;
  if (fields === undefined) return [];
  return ALIAS_FIELDS.map(({ name, tag, digits }) => {
    const own = aliasFieldOf(id, name);
    const wanted = fields[name];
    const show = (value: number): string => value.toString(16).toUpperCase().padStart(digits, '0');
    return {
      name,
      tag,
      value: show(own),
      pattern: wanted === undefined ? '*' : show(wanted),
      wildcard: wanted === undefined,
      matches: wanted === undefined || wanted === own,
    };
  });
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

function whyWon(entry: AliasEntry, second: AliasEntry | undefined): string {
  const score = `matches with ${count(entry.wildcards, 'wildcard field')}`;
  if (second === undefined) return `${score}, the only one`;
  if (entry.wildcards < second.wildcards) return `${score}, the fewest`;
  if (entry.requires.length > second.requires.length)
    return `${score}, and more conditions that hold than ${second.driver}`;
  if (entry.driver === second.driver) return `${score}, as another alias of the same driver does`;
  return `${score}, as ${second.driver} does, and comes first by name`;
}

function whyLost(entry: AliasEntry, winner: AliasEntry): string {
  const score = `matches with ${count(entry.wildcards, 'wildcard field')}`;
  const by = winner.driver === entry.driver ? 'a better alias of the same driver' : winner.driver;
  if (winner.wildcards < entry.wildcards) return `${score}; ${by} has ${winner.wildcards}`;
  if (winner.requires.length > entry.requires.length) {
    return `${score}, as ${by} does; conditions that hold: ${winner.requires.length} there, ${entry.requires.length} here`;
  }
  if (winner.driver === entry.driver) return `${score}, as another alias of the same driver does`;
  return `${score}, as ${by} does; that comes first by name`;
}

function mismatchCount(entry: AliasEntry, id: PciIdentity): number {
  return fieldMatches(entry, id).filter((field) => !field.matches).length;
}

function whyMismatch(entry: AliasEntry, id: PciIdentity, namespace: AliasNamespace): string {
  if (entry.fields === undefined) return 'the pattern does not match';
  if (entry.fields.namespace !== namespace) {
    return `is an alias for "${entry.fields.namespace}:", looked for is "${namespace}:"`;
  }
  const wrong = fieldMatches(entry, id).filter((field) => !field.matches);
  return `does not match: ${wrong.map(({ name, pattern, value }) => `${name} is ${value}, not ${pattern}`).join('; ')}`;
}

/** For each driver without a match, the alias that differs in the fewest fields. */
function closest(
  index: AliasIndex,
  id: PciIdentity,
  namespace: AliasNamespace,
  matching: readonly AliasEntry[],
): AliasEntry[] {
  const matched = new Set(matching.map(({ driver }) => driver));
  const best = new Map<string, { entry: AliasEntry; distance: number }>();
  for (const entry of index.entries) {
    if (matched.has(entry.driver)) continue;
    const otherNamespace = entry.fields !== undefined && entry.fields.namespace !== namespace;
    const distance = entry.fields === undefined || otherNamespace ? ALIAS_FIELDS.length + 1 : mismatchCount(entry, id);
    const known = best.get(entry.driver);
    if (known === undefined || distance < known.distance) best.set(entry.driver, { entry, distance });
  }
  return [...best.values()].sort((a, b) => a.distance - b.distance).map(({ entry }) => entry);
}
