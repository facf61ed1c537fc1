import { type CompiledPattern, compilePattern, isPattern } from './fnmatch.js';
import type { PciIdentity } from './function.js';
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

/** One combination of exact and wildcard fields in a namespace; the masks are 0 where the field is a wildcard. */
interface Shape {
  readonly id: number;
  readonly wildcards: number;
  readonly vendor: number;
  readonly device: number;
  readonly subvendor: number;
  readonly subdevice: number;
  readonly class: number;
}

interface OddPattern {
  readonly entry: AliasEntry;
  readonly order: number;
  readonly matches: CompiledPattern;
}

const NO_CONDITION: AliasCondition = () => false;
const NONE: readonly string[] = Object.freeze([]);
/** 32-bit words of a key: shape, vendor, device, subvendor, subdevice, class. */
const KEY_WORDS = 6;

function hashKey(shape: number, v: number, d: number, sv: number, sd: number, c: number): number {
  let h = Math.imul(v ^ Math.imul(shape, 0x9e3779b1), 0x85ebca6b);
  h = Math.imul((h ^ (h >>> 15)) + d, 0xc2b2ae35);
  h = Math.imul((h ^ (h >>> 13)) + sv, 0x27d4eb2f);
  h = Math.imul((h ^ (h >>> 15)) + sd, 0x165667b1);
  h = Math.imul((h ^ (h >>> 13)) + c, 0x85ebca6b);
  return h ^ (h >>> 16);
}

/**
 * Finds the aliases that match a function, and the best of them. Immutable; made once from all alias lines there are.
 *
 * A lookup is one hash probe for each combination of wildcard fields that occurs (at most 128 a namespace, some twenty in
 * real files), however many lines there are. Patterns in another form than file2alias writes are matched one by one, as
 * `fnmatch` does; real files have none.
 *
 * Order of matches, best first: fewest wildcard fields; then more conditions that hold (one that does not excludes the
 * alias); then the driver's name, then the pattern. It never depends on the order of lines.
 */
export class AliasIndex {
  /** Every alias once, best first: what does not depend on the function is decided here. */
  readonly entries: readonly AliasEntry[];
  readonly #drivers = new Map<string, AliasDriver>();
  readonly #shapes: Record<AliasNamespace, Shape[]> = { pci: [], vfio_pci: [] };
  /** Open addressing: index of a group plus 1, or 0. */
  readonly #table: Int32Array;
  readonly #keys: Int32Array;
  /** Positions in `entries`, ascending, of the aliases that share a key. */
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

    this.#table = new Int32Array(tableSize(this.entries.length));
    const keys: number[] = [];
    const shapes = new Map<string, Shape>();
    for (const [order, entry] of this.entries.entries()) {
      if (entry.fields === undefined) {
        this.#odd.push({ entry, order, matches: compilePattern(entry.pattern) });
      } else {
        this.#insert(entry.fields, order, shapes, keys);
      }
    }
    this.#keys = Int32Array.from(keys);
    for (const list of Object.values(this.#shapes)) list.sort((a, b) => a.wildcards - b.wildcards);
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
    for (const shape of this.#shapes[namespace]) {
      const group = this.#find(shape, vendor, device, subvendor, subdevice, deviceClass);
      if (group !== undefined) found.push(...group);
    }
    if (this.#odd.length > 0) {
      const modalias = formatModalias(id, namespace);
      for (const odd of this.#odd) if (odd.matches(modalias)) found.push(odd.order);
    }
    found.sort((a, b) => a - b);
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
    for (const shape of this.#shapes[namespace]) {
      // Shapes come with few wildcards first: what follows cannot be better.
      if (shape.wildcards > wildcards) break;
      const group = this.#find(shape, vendor, device, subvendor, subdevice, deviceClass);
      if (group === undefined) continue;
      for (const order of group) {
        if (order >= best) break;
        if (!this.#holds(order, condition)) continue;
        best = order;
        wildcards = shape.wildcards;
        break;
      }
    }
    if (this.#odd.length > 0) {
      const modalias = formatModalias(id, namespace);
      for (const odd of this.#odd) {
        if (odd.order >= best) break;
        if (odd.matches(modalias) && this.#holds(odd.order, condition)) best = odd.order;
      }
    }
    return this.entries[best];
  }

  /** As {@link best}, for a modalias with its prefix. @throws EINVAL (`ERR_VFIO_INVALID_ALIAS`). */
  bestModalias(modalias: string, condition?: AliasCondition): AliasEntry | undefined {
    const id = parseModalias(modalias);
    return this.best(id, condition, id.namespace);
  }

  #holds(order: number, condition: AliasCondition): boolean {
    const { requires } = this.entries[order] as AliasEntry;
    for (let i = 0; i < requires.length; i++) if (!condition(requires[i] as string)) return false;
    return true;
  }

  #find(
    shape: Shape,
    vendor: number,
    device: number,
    subvendor: number,
    subdevice: number,
    deviceClass: number,
  ): number[] | undefined {
    const v = vendor & shape.vendor;
    const d = device & shape.device;
    const sv = subvendor & shape.subvendor;
    const sd = subdevice & shape.subdevice;
    const c = deviceClass & shape.class;
    const table = this.#table;
    const keys = this.#keys;
    const last = table.length - 1;
    for (let at = hashKey(shape.id, v, d, sv, sd, c) & last; ; at = (at + 1) & last) {
      const group = (table[at] as number) - 1;
      if (group < 0) return undefined;
      const key = group * KEY_WORDS;
      if (
        keys[key] === shape.id &&
        keys[key + 1] === v &&
        keys[key + 2] === d &&
        keys[key + 3] === sv &&
        keys[key + 4] === sd &&
        keys[key + 5] === c
      ) {
        return this.#groups[group];
      }
    }
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

  #insert(fields: PciAliasPattern, order: number, shapes: Map<string, Shape>, keys: number[]): void {
    const mask = ALIAS_FIELDS.map(({ name }) => (fields[name] === undefined ? '0' : '1')).join('');
    const name = `${fields.namespace} ${mask}`;
    let shape = shapes.get(name);
    if (shape === undefined) {
      const all = (value: number | undefined, ones: number): number => (value === undefined ? 0 : ones);
      shape = {
        id: shapes.size,
        wildcards: fieldWildcards(fields),
        vendor: all(fields.vendor, -1),
        device: all(fields.device, -1),
        subvendor: all(fields.subvendor, -1),
        subdevice: all(fields.subdevice, -1),
        class: all(fields.baseClass, 0xff0000) | all(fields.subclass, 0xff00) | all(fields.interface, 0xff),
      };
      shapes.set(name, shape);
      this.#shapes[fields.namespace].push(shape);
    }
    // `| 0` gives the same signed word that `&` gives when looking up.
    const key = [
      shape.id,
      (fields.vendor ?? 0) | 0,
      (fields.device ?? 0) | 0,
      (fields.subvendor ?? 0) | 0,
      (fields.subdevice ?? 0) | 0,
      ((fields.baseClass ?? 0) << 16) | ((fields.subclass ?? 0) << 8) | (fields.interface ?? 0),
    ] as const;
    const last = this.#table.length - 1;
    for (let at = hashKey(...key) & last; ; at = (at + 1) & last) {
      const group = (this.#table[at] as number) - 1;
      if (group < 0) {
        this.#groups.push([order]);
        this.#table[at] = this.#groups.length;
        keys.push(...key);
        return;
      }
      if (key.every((word, i) => keys[group * KEY_WORDS + i] === word)) {
        // Entries are inserted best first, so a group stays in order.
        this.#groups[group]?.push(order);
        return;
      }
    }
  }
}

/** A power of two with at least half of the places free. */
function tableSize(entries: number): number {
  let size = 16;
  while (size < entries * 2) size *= 2;
  return size;
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
