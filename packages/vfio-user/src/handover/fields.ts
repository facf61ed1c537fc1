import { errnoError, type VfioError } from '@vfio/uapi';

/** An object out of another process: each field is asked for with what it may be. @throws EINVAL naming the field */
export class Fields {
  readonly #values: Readonly<Record<string, unknown>>;
  readonly #name: string;

  constructor(name: string, value: unknown) {
    this.#name = name;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad(name, value, 'an object');
    // A JSON object; what is in it is checked field by field.
    this.#values = value as Readonly<Record<string, unknown>>;
  }

  /** The object of a JSON text. */
  static parse(name: string, bytes: Uint8Array): Fields {
    let value: unknown;
    try {
      value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    } catch {
      throw bad(name, undefined, 'JSON');
    }
    return new Fields(name, value);
  }

  #at(key: string): { readonly name: string; readonly value: unknown } {
    return { name: `${this.#name}.${key}`, value: Object.hasOwn(this.#values, key) ? this.#values[key] : undefined };
  }

  whole(key: string, min: number, max: number): number {
    const { name, value } = this.#at(key);
    return wholeNumber(name, value, min, max);
  }

  wholeOrNull(key: string, min: number, max: number): number | null {
    const { name, value } = this.#at(key);
    return value === null ? null : wholeNumber(name, value, min, max);
  }

  flag(key: string): boolean {
    const { name, value } = this.#at(key);
    if (typeof value !== 'boolean') throw bad(name, value, 'true or false');
    return value;
  }

  flagOrNull(key: string): boolean | null {
    return this.#at(key).value === null ? null : this.flag(key);
  }

  text(key: string, maxLength: number): string {
    const { name, value } = this.#at(key);
    if (typeof value !== 'string' || value.length > maxLength) {
      throw bad(name, value, `a text of at most ${maxLength} characters`);
    }
    return value;
  }

  /** Bytes, as base64. */
  bytes(key: string, maxLength: number): Uint8Array {
    const text = this.text(key, Math.ceil(maxLength / 3) * 4);
    const bytes = Buffer.from(text, 'base64');
    if (bytes.toString('base64') !== text) throw bad(this.#at(key).name, text, 'base64');
    return new Uint8Array(bytes);
  }

  object(key: string): Fields {
    const { name, value } = this.#at(key);
    return new Fields(name, value);
  }

  objectOrNull(key: string): Fields | null {
    return this.#at(key).value === null ? null : this.object(key);
  }

  list<T>(key: string, maxLength: number, item: (name: string, value: unknown) => T): T[] {
    const { name, value } = this.#at(key);
    if (!Array.isArray(value) || value.length > maxLength) throw bad(name, value, `a list of at most ${maxLength}`);
    return value.map((one: unknown, index) => item(`${name}[${index}]`, one));
  }
}

/** @throws EINVAL */
export function wholeNumber(name: string, value: unknown, min: number, max: number): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max) return value;
  throw bad(name, value, `a whole number from ${min} to ${max}`);
}

function bad(name: string, value: unknown, wanted: string): VfioError {
  const shown = value === undefined ? 'missing' : (JSON.stringify(value) ?? String(value)).slice(0, 40);
  return errnoError('EINVAL', `${name} is ${shown}: ${wanted} is wanted`, { op: 'handover' });
}
