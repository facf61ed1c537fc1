import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { OWN_VECTORS } from './config-space-recording.js';

/** The `vfio_pci:` lines of a kernel with its variant drivers, as text. */
export function recordedVariants(): string {
  return readFileSync(join(OWN_VECTORS, 'modules-alias', 'linux-7.3.4-variants.alias'), 'utf8');
}

/** Numbers that are the same in each run (xorshift32): `random(n)` is 0 to n - 1. */
export function repeatableRandom(seed: number): (below: number) => number {
  let state = seed >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % below;
  };
}

/**
 * The fields of an alias pattern or modalias as text, cut at the tags by position: written here again, so that what is
 * tested is not its own measure. Undefined for what is not made of the seven fields.
 */
export function aliasFields(text: string): { namespace: string; fields: string[] } | undefined {
  const match = /^(pci|vfio_pci):v([^a-z]*)d([^a-z]*)sv([^a-z]*)sd([^a-z]*)bc([^a-z]*)sc([^a-z]*)i([^a-z]*)$/.exec(
    text,
  );
  if (match === null) return undefined;
  const [, namespace = '', ...fields] = match;
  // The star that ends a full interface.
  fields[6] = (fields[6] ?? '').replace(/^([0-9A-F]{2})\*$/, '$1');
  return { namespace, fields };
}

const TAGS = ['v', 'd', 'sv', 'sd', 'bc', 'sc', 'i'] as const;
const DIGITS = [8, 8, 8, 8, 2, 2, 2] as const;

/** Makes modaliases by filling the wildcards of patterns, mostly with values that other lines have in that field. */
export class ModaliasMaker {
  readonly #pools: string[][] = TAGS.map(() => []);
  readonly #random: (below: number) => number;

  constructor(patterns: Iterable<string>, seed: number) {
    this.#random = repeatableRandom(seed);
    const seen = TAGS.map(() => new Set<string>());
    for (const pattern of patterns) {
      for (const [at, field] of (aliasFields(pattern)?.fields ?? []).entries()) {
        if (/^[0-9A-F]+$/.test(field)) seen[at]?.add(field);
      }
    }
    this.#pools = seen.map((values) => [...values].sort());
  }

  /** A modalias that the pattern matches; undefined for a pattern that is not made of seven fields. */
  fill(pattern: string, namespace?: string): string | undefined {
    const parts = aliasFields(pattern);
    if (parts === undefined || parts.fields.some((field) => field !== '*' && !/^[0-9A-F]+$/.test(field)))
      return undefined;
    return this.#join(namespace ?? parts.namespace, parts.fields);
  }

  /** A modalias of values that occur, put together at random. */
  mix(namespace: string): string {
    return this.#join(
      namespace,
      TAGS.map(() => '*'),
    );
  }

  #join(namespace: string, fields: readonly string[]): string {
    return `${namespace}:${TAGS.map((tag, at) => tag + (fields[at] === '*' ? this.#value(at) : fields[at])).join('')}`;
  }

  #value(at: number): string {
    const pool = this.#pools[at] ?? [];
    if (pool.length > 0 && this.#random(4) !== 0) return pool[this.#random(pool.length)] as string;
    const digits = DIGITS[at] ?? 8;
    return this.#random(digits === 2 ? 0x100 : 0x10000)
      .toString(16)
      .toUpperCase()
      .padStart(digits, '0');
  }
}
