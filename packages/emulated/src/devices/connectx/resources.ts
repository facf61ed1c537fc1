import { CommandError, SYNDROME } from './command.js';
import { STATUS } from './constants.js';

/** Numbered resources of one kind. Numbers are used again as late as possible, so that a stale one is noticed. */
export class ResourceTable<T> {
  readonly #kind: string;
  readonly #first: number;
  readonly #limit: number;
  readonly #entries = new Map<number, T>();
  #next: number;

  /** Numbers from `first` to `limit` - 1. */
  constructor(kind: string, first: number, limit: number) {
    this.#kind = kind;
    this.#first = first;
    this.#limit = limit;
    this.#next = first;
  }

  get size(): number {
    return this.#entries.size;
  }

  entries(): Iterable<[number, T]> {
    return this.#entries;
  }

  /** Puts an entry at a number, as an image has it. */
  restore(number: number, entry: T): void {
    this.#entries.set(number, entry);
    if (number >= this.#next) {
      this.#next = number;
      this.#advance();
    }
  }

  values(): Iterable<T> {
    return this.#entries.values();
  }

  /** @throws CommandError (limit) where all numbers are taken. */
  add(make: (number: number) => T): number {
    if (this.#entries.size >= this.#limit - this.#first)
      throw new CommandError(
        STATUS.LIMIT,
        SYNDROME.EXHAUSTED,
        `no ${this.#kind} is left of ${this.#limit - this.#first}`,
      );
    while (this.#entries.has(this.#next)) this.#advance();
    const number = this.#next;
    this.#entries.set(number, make(number));
    this.#advance();
    return number;
  }

  find(number: number): T | undefined {
    return this.#entries.get(number);
  }

  /** @throws CommandError (bad resource) where there is none of this number. */
  get(number: number): T {
    const entry = this.#entries.get(number);
    if (entry === undefined)
      throw new CommandError(STATUS.BAD_RESOURCE, SYNDROME.UNKNOWN_RESOURCE, `there is no ${this.#kind} ${number}`);
    return entry;
  }

  remove(number: number): T {
    const entry = this.get(number);
    this.#entries.delete(number);
    return entry;
  }

  clear(): void {
    this.#entries.clear();
  }

  #advance(): void {
    this.#next++;
    if (this.#next >= this.#limit) this.#next = this.#first;
  }
}
