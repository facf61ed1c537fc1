import { errnoError } from '@vfio/core';

/** Takes a call's parameters one by one, each checked; what nobody took is a mistake of the caller. */
export class ParamReader {
  readonly #method: string;
  readonly #given: Readonly<Record<string, unknown>>;
  readonly #taken = new Set<string>();

  /** @throws EINVAL where the parameters are no object */
  constructor(method: string, given: unknown) {
    this.#method = method;
    if (typeof given !== 'object' || given === null || Array.isArray(given)) {
      throw this.#error('parameters go by name, in an object');
    }
    this.#given = given as Readonly<Record<string, unknown>>;
  }

  optionalString(name: string): string | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    // Most are paths, which no system call takes with a NUL or longer than this.
    if (typeof value !== 'string' || value === '' || value.length > 4096 || value.includes('\0')) {
      throw this.#error(`${name} is ${show(value)}: a string of 1 to 4096 characters without NUL is wanted`);
    }
    return value;
  }

  string(name: string): string {
    return this.optionalString(name) ?? this.#missing(name);
  }

  /** An absolute path: the two processes need not work in one folder. */
  optionalPath(name: string): string | undefined {
    const value = this.optionalString(name);
    if (value !== undefined && !value.startsWith('/')) throw this.#error(`${name} is ${show(value)}: not absolute`);
    return value;
  }

  path(name: string): string {
    return this.optionalPath(name) ?? this.#missing(name);
  }

  boolean(name: string, byDefault = false): boolean {
    const value = this.#take(name) ?? byDefault;
    if (typeof value !== 'boolean') throw this.#error(`${name} is ${show(value)}: true or false is wanted`);
    return value;
  }

  optionalInteger(name: string, min: number, max: number): number | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    if (!Number.isInteger(value) || Number(value) < min || Number(value) > max) {
      throw this.#error(`${name} is ${show(value)}: a whole number from ${min} to ${max} is wanted`);
    }
    return Number(value);
  }

  integer(name: string, min: number, max: number): number {
    return this.optionalInteger(name, min, max) ?? this.#missing(name);
  }

  oneOf<T extends string>(name: string, values: readonly T[]): T {
    const value = this.#take(name);
    const found = values.find((known) => known === value);
    if (found === undefined) throw this.#error(`${name} is ${show(value)}: one of ${values.join(', ')} is wanted`);
    return found;
  }

  /** @throws EINVAL naming what the method does not know */
  end(): void {
    const unknown = Object.keys(this.#given).filter((name) => !this.#taken.has(name));
    if (unknown.length === 0) return;
    const known = this.#taken.size === 0 ? 'it takes none' : `it takes ${[...this.#taken].join(', ')}`;
    throw this.#error(`no parameter is called ${unknown.map((name) => show(name)).join(', ')}; ${known}`);
  }

  #take(name: string): unknown {
    this.#taken.add(name);
    return Object.hasOwn(this.#given, name) ? this.#given[name] : undefined;
  }

  #missing(name: string): never {
    throw this.#error(`${name} is missing`);
  }

  #error(message: string): Error {
    return errnoError('EINVAL', `${this.#method}: ${message}`, { op: this.#method });
  }
}

const show = (value: unknown): string => (JSON.stringify(value) ?? String(value)).slice(0, 80);
