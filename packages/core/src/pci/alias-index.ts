import { type AliasExplanation, type ExplainOptions, explainMatch } from './alias-explain.js';
import { type CompiledPattern, compilePattern, isPattern } from './fnmatch.js';
import type { PciIdentity } from './function.js';
import { IntKeyTable } from './int-key-table.js';
import {
  ALIAS_FIELDS,
  type AliasNamespace,
  formatModalias,
  type PciAliasPattern,
  parseAliasPattern,
  parseModalias,
} from './modalias.js';
import type { AliasLine } from './modules-alias.js';

/** What an index knows of a driver beside its aliases. */
export interface AliasDriver {
  /** Driver name, the third column of its alias lines. */
  readonly name: string;
  /** Names of conditions that must hold where the driver is used, such as `zpci`. */
  readonly requires?: readonly string[];
  /** The package that it comes from. */
  readonly package?: string;
}

/** One alias of one driver, as the index keeps it. */
export interface AliasEntry {
  readonly pattern: string;
  readonly driver: string;
  /** Line in the file that it was read from, 0 where there was none. */
  readonly line: number;
  /** How many of the seven fields match anything: the fewer, the better. */
  readonly wildcards: number;
  readonly requires: readonly string[];
  /** Name of the driver's package, where it has one. */
  readonly package: string | undefined;
  /** The fields; undefined for a pattern that is not in the form that file2alias writes and is matched as a whole. */
  readonly fields: PciAliasPattern | undefined;
}

/** Whether a named condition holds for the function in question. An unknown name does not. */
export type AliasCondition = (name: string) => boolean;

export interface AliasIndexOptions {
  /** Conditions and packages of drivers, by what the third column says. */
  readonly drivers?: Iterable<AliasDriver>;
}

interface OddPattern {
  readonly order: number;
  /** The characters before the first special one. */
  readonly prefix: string;
  readonly matches: CompiledPattern;
}

const NO_CONDITION: AliasCondition = () => false;
const NONE: readonly string[] = Object.freeze([]);
/** In which namespace and whether vendor and device are exact: a head of an alias. The number is `namespace * 4 + kind`. */
const NAMESPACE_HEAD: Readonly<Record<AliasNamespace, number>> = { pci: 0, vfio_pci: 4 };
/** Kinds of heads with their masks, fewest wildcards first. */
const HEAD_KINDS = [
  { kind: 3, vendor: -1, device: -1, wildcards: 0 },
  { kind: 1, vendor: -1, device: 0, wildcards: 1 },
  { kind: 2, vendor: 0, device: -1, wildcards: 1 },
  { kind: 0, vendor: 0, device: 0, wildcards: 2 },
] as const;

/** Which of the five other fields are exact: the shape of an alias's tail, one of 32. Masks by shape. */
const TAIL_SHAPES = 32;
const TAIL_SUBVENDOR = new Int32Array(TAIL_SHAPES);
const TAIL_SUBDEVICE = new Int32Array(TAIL_SHAPES);
const TAIL_CLASS = new Int32Array(TAIL_SHAPES);
const TAIL_WILDCARDS = new Int32Array(TAIL_SHAPES);
for (let shape = 0; shape < TAIL_SHAPES; shape++) {
  const masks = [-1, -1, 0xff0000, 0xff00, 0xff].map((ones, bit) => (shape & (1 << bit) ? ones : 0));
  TAIL_SUBVENDOR[shape] = masks[0] as number;
  TAIL_SUBDEVICE[shape] = masks[1] as number;
  TAIL_CLASS[shape] = (masks[2] as number) | (masks[3] as number) | (masks[4] as number);
  TAIL_WILDCARDS[shape] = masks.filter((mask) => mask === 0).length;
}

/**
 * Finds the aliases that match a function, and the best of them. Immutable; made once from all alias lines there are.
 *
 * A lookup is a handful of hash probes, however many lines there are: one for each way in which vendor and device can be
 * exact or not, then one for each combination of the other fields that occurs with that vendor and device (four times 32
 * in a file made to be slow; some ten in real ones). Patterns in another form than file2alias writes are matched one by
 * one, as `fnmatch` does; real files have none.
 *
 * Order of matches, best first: fewest wildcard fields; then more conditions that hold (one that does not excludes the
 * alias); then the driver's name, then the pattern. It never depends on the order of lines.
 */
export class AliasIndex {
  /** Every alias once, best first: what does not depend on the function is decided here. */
  readonly entries: readonly AliasEntry[];
  readonly #drivers = new Map<string, AliasDriver>();
  /** Numbers the heads: kind, vendor, device. */
  readonly #heads = new IntKeyTable();
  /** The shapes of the tails of each head, fewest wildcards first. */
  readonly #shapes: number[][] = [];
  /** Numbers whole aliases: head and shape, subvendor, subdevice, class. */
  readonly #tails = new IntKeyTable();
  /** Positions in `entries`, ascending, of the aliases of each tail. */
  readonly #groups: number[][] = [];
  readonly #odd: OddPattern[] = [];

  constructor(lines: Iterable<AliasLine | Pick<AliasLine, 'pattern' | 'driver'>>, options: AliasIndexOptions = {}) {
    for (const driver of options.drivers ?? []) this.#drivers.set(driver.name, driver);
    const unique = new Map<string, AliasEntry>();
    for (const line of lines) {
      const key = `${line.pattern} ${line.driver}`;
      if (!unique.has(key)) unique.set(key, this.#entry(line));
    }
    this.entries = [...unique.values()].sort(compareEntries);

    for (const [order, entry] of this.entries.entries()) {
      if (entry.fields === undefined) {
        this.#odd.push({ order, prefix: literalPrefix(entry.pattern), matches: compilePattern(entry.pattern) });
      } else {
        this.#insert(entry.fields, order);
      }
    }
    for (const shapes of this.#shapes) {
      shapes.sort((a, b) => (TAIL_WILDCARDS[a] as number) - (TAIL_WILDCARDS[b] as number));
    }
  }

  /** Number of aliases. */
  get size(): number {
    return this.entries.length;
  }

  /** What the index was told of a driver. */
  driver(name: string): AliasDriver | undefined {
    return this.#drivers.get(name);
  }

  /** Every alias that matches, best first, conditions left aside: what `modprobe --resolve-alias` finds. */
  lookup(id: PciIdentity, namespace: AliasNamespace = 'vfio_pci'): AliasEntry[] {
    const found: number[] = [];
    const { vendor, device, subvendor, subdevice, class: deviceClass } = id;
    const base = NAMESPACE_HEAD[namespace];
    for (const kind of HEAD_KINDS) {
      const head = this.#heads.find(base + kind.kind, vendor & kind.vendor, device & kind.device, 0);
      if (head === -1) continue;
      const shapes = this.#shapes[head] as number[];
      for (let i = 0; i < shapes.length; i++) {
        const tail = this.#findTail(head, shapes[i] as number, subvendor, subdevice, deviceClass);
        if (tail !== -1) for (const order of this.#groups[tail] as number[]) insertSorted(found, order);
      }
    }
    if (this.#odd.length > 0) {
      const modalias = formatModalias(id, namespace);
      for (const odd of this.#odd) if (matchesOdd(odd, modalias)) insertSorted(found, odd.order);
    }
    // Positions in `entries`, so each is there.
    return found.map((order) => this.entries[order] as AliasEntry);
  }

  /** As {@link lookup}, for a modalias with its prefix. @throws EINVAL (`ERR_VFIO_INVALID_ALIAS`). */
  lookupModalias(modalias: string): AliasEntry[] {
    const id = parseModalias(modalias);
    return this.lookup(id, id.namespace);
  }

  /** The best alias that matches and whose conditions hold; undefined where there is none. */
  best(
    id: PciIdentity,
    condition: AliasCondition = NO_CONDITION,
    namespace: AliasNamespace = 'vfio_pci',
  ): AliasEntry | undefined {
    let best = this.entries.length;
    let wildcards = ALIAS_FIELDS.length + 1;
    // Read once: they may be getters.
    const { vendor, device, subvendor, subdevice, class: deviceClass } = id;
    const base = NAMESPACE_HEAD[namespace];
    for (const kind of HEAD_KINDS) {
      // Heads and shapes come with few wildcards first: what follows cannot be better.
      if (kind.wildcards > wildcards) break;
      const head = this.#heads.find(base + kind.kind, vendor & kind.vendor, device & kind.device, 0);
      if (head === -1) continue;
      const shapes = this.#shapes[head] as number[];
      for (let i = 0; i < shapes.length; i++) {
        const shape = shapes[i] as number;
        const score = kind.wildcards + (TAIL_WILDCARDS[shape] as number);
        if (score > wildcards) break;
        const tail = this.#findTail(head, shape, subvendor, subdevice, deviceClass);
        if (tail === -1) continue;
        for (const order of this.#groups[tail] as number[]) {
          if (order >= best) break;
          if (!this.#holds(order, condition)) continue;
          best = order;
          wildcards = score;
          break;
        }
      }
    }
    if (this.#odd.length > 0) {
      const modalias = formatModalias(id, namespace);
      for (const odd of this.#odd) {
        if (odd.order >= best) break;
        if (matchesOdd(odd, modalias) && this.#holds(odd.order, condition)) best = odd.order;
      }
    }
    return this.entries[best];
  }

  /** As {@link best}, for a modalias with its prefix. @throws EINVAL (`ERR_VFIO_INVALID_ALIAS`). */
  bestModalias(modalias: string, condition?: AliasCondition): AliasEntry | undefined {
    const id = parseModalias(modalias);
    return this.best(id, condition, id.namespace);
  }

  /** Says of every alias that matches a function how it fared: its score, field by field, and why it won or lost. */
  explain(id: PciIdentity, options: ExplainOptions = {}): AliasExplanation {
    return explainMatch(this, id, options);
  }

  #holds(order: number, condition: AliasCondition): boolean {
    const { requires } = this.entries[order] as AliasEntry;
    for (let i = 0; i < requires.length; i++) if (!condition(requires[i] as string)) return false;
    return true;
  }

  #findTail(head: number, shape: number, subvendor: number, subdevice: number, deviceClass: number): number {
    return this.#tails.find(
      head * TAIL_SHAPES + shape,
      subvendor & (TAIL_SUBVENDOR[shape] as number),
      subdevice & (TAIL_SUBDEVICE[shape] as number),
      deviceClass & (TAIL_CLASS[shape] as number),
    );
  }

  #entry(line: AliasLine | Pick<AliasLine, 'pattern' | 'driver'>): AliasEntry {
    const fields = parseAliasPattern(line.pattern);
    const driver = this.#drivers.get(line.driver);
    return Object.freeze({
      pattern: line.pattern,
      driver: line.driver,
      line: 'line' in line ? line.line : 0,
      wildcards: fields === undefined ? oddWildcards(line.pattern) : fieldWildcards(fields),
      requires: driver?.requires ?? NONE,
      package: driver?.package,
      fields,
    });
  }

  #insert(fields: PciAliasPattern, order: number): void {
    const { namespace, vendor, device, subvendor, subdevice, baseClass, subclass, interface: progInterface } = fields;
    const kind = NAMESPACE_HEAD[namespace] + (vendor === undefined ? 0 : 1) + (device === undefined ? 0 : 2);
    // `| 0` gives the same signed word that `&` gives when looking up.
    const head = this.#heads.add(kind, (vendor ?? 0) | 0, (device ?? 0) | 0, 0);
    const tailFields = [subvendor, subdevice, baseClass, subclass, progInterface];
    const shape = tailFields.reduce<number>((bits, value, bit) => (value === undefined ? bits : bits | (1 << bit)), 0);
    this.#shapes[head] ??= [];
    if (!this.#shapes[head].includes(shape)) this.#shapes[head].push(shape);
    const deviceClass = ((baseClass ?? 0) << 16) | ((subclass ?? 0) << 8) | (progInterface ?? 0);
    const tail = this.#tails.add(head * TAIL_SHAPES + shape, (subvendor ?? 0) | 0, (subdevice ?? 0) | 0, deviceClass);
    // Entries are inserted best first, so a group stays in order.
    this.#groups[tail] ??= [];
    this.#groups[tail].push(order);
  }
}

function literalPrefix(pattern: string): string {
  const special = pattern.search(/[*?[\\]/);
  return special === -1 ? pattern : pattern.slice(0, special);
}

function matchesOdd(odd: OddPattern, modalias: string): boolean {
  return modalias.startsWith(odd.prefix) && odd.matches(modalias);
}

/** Few match one function, and they come nearly in order. */
function insertSorted(list: number[], value: number): void {
  let at = list.length;
  list.push(value);
  while (at > 0 && (list[at - 1] as number) > value) {
    list[at] = list[at - 1] as number;
    at--;
  }
  list[at] = value;
}

function fieldWildcards(fields: PciAliasPattern): number {
  let count = 0;
  for (const { name } of ALIAS_FIELDS) if (fields[name] === undefined) count++;
  return count;
}

const ODD_FIELDS = new RegExp(`^(?:vfio_)?pci:${ALIAS_FIELDS.map(({ tag }) => `${tag}([^a-z]*?)`).join('')}\\*?$`);

/** Wildcard fields of a pattern in another form: those with a special character; all where the fields cannot be told apart. */
function oddWildcards(pattern: string): number {
  const match = ODD_FIELDS.exec(pattern);
  return match === null
    ? ALIAS_FIELDS.length
    : match.slice(1).filter((field) => isPattern(field) || field === '').length;
}

/** The part of the order that does not depend on the function. */
function compareEntries(a: AliasEntry, b: AliasEntry): number {
  return (
    a.wildcards - b.wildcards ||
    b.requires.length - a.requires.length ||
    compareText(a.driver, b.driver) ||
    compareText(a.pattern, b.pattern)
  );
}

/** By code units: the same on every system, whatever its locale. */
function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
