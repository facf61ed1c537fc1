import { VfioError } from './errors.js';

/**
 * Fixed layouts over a `DataView`, with the byte order always said by the caller: vfio is in the byte order of the host
 * that made the bytes, and s390x is big-endian.
 *
 * A layout is written as in C, but nothing is padded silently: a field that is not naturally aligned, or a size that is not
 * a multiple of the largest alignment, is refused where the layout is defined.
 */

/** How one field is stored. */
export interface Field<T> {
  /** Size in bytes. */
  readonly size: number;
  /** Alignment in bytes: 1, 2, 4 or 8. */
  readonly align: number;
  /** Bytes that carry nothing: written as zeros, not read. */
  readonly reserved: boolean;
  /** Why `value` cannot be stored, or `undefined` where it can. */
  refuse(value: T): string | undefined;
  get(view: DataView, at: number, littleEndian: boolean): T;
  set(view: DataView, at: number, value: T, littleEndian: boolean): void;
}

/** A field that carries nothing. */
export type ReservedField = Field<never> & { readonly reserved: true };

function refuseInteger(min: number, max: number): (value: number) => string | undefined {
  return (value) =>
    Number.isInteger(value) && value >= min && value <= max
      ? undefined
      : `an integer from ${min} to ${max} is wanted, found ${String(value)}`;
}

/** Unsigned 8 bits. */
export const u8: Field<number> = {
  size: 1,
  align: 1,
  reserved: false,
  refuse: refuseInteger(0, 0xff),
  get: (view, at) => view.getUint8(at),
  set: (view, at, value) => view.setUint8(at, value),
};

/** Unsigned 16 bits. */
export const u16: Field<number> = {
  size: 2,
  align: 2,
  reserved: false,
  refuse: refuseInteger(0, 0xffff),
  get: (view, at, littleEndian) => view.getUint16(at, littleEndian),
  set: (view, at, value, littleEndian) => view.setUint16(at, value, littleEndian),
};

/** Unsigned 32 bits. */
export const u32: Field<number> = {
  size: 4,
  align: 4,
  reserved: false,
  refuse: refuseInteger(0, 0xffffffff),
  get: (view, at, littleEndian) => view.getUint32(at, littleEndian),
  set: (view, at, value, littleEndian) => view.setUint32(at, value, littleEndian),
};

/** Signed 32 bits (file descriptors). */
export const s32: Field<number> = {
  size: 4,
  align: 4,
  reserved: false,
  refuse: refuseInteger(-0x80000000, 0x7fffffff),
  get: (view, at, littleEndian) => view.getInt32(at, littleEndian),
  set: (view, at, value, littleEndian) => view.setInt32(at, value, littleEndian),
};

const U64_MAX = 0xffffffffffffffffn;

/** Unsigned 64 bits as a bigint: addresses, lengths of address space, data of any value. */
export const u64: Field<bigint> = {
  size: 8,
  align: 8,
  reserved: false,
  refuse: (value) =>
    typeof value === 'bigint' && value >= 0n && value <= U64_MAX
      ? undefined
      : `a bigint from 0 to 2^64-1 is wanted, found ${String(value)}`,
  get: (view, at, littleEndian) => view.getBigUint64(at, littleEndian),
  set: (view, at, value, littleEndian) => view.setBigUint64(at, value, littleEndian),
};

/**
 * Unsigned 64 bits as a number: region offsets and sizes, counts. A stored value above 2^53-1 is refused with EOVERFLOW.
 * Makes no bigint.
 */
export const u64n: Field<number> = {
  size: 8,
  align: 8,
  reserved: false,
  refuse: refuseInteger(0, Number.MAX_SAFE_INTEGER),
  get: (view, at, littleEndian) => {
    const high = view.getUint32(littleEndian ? at + 4 : at, littleEndian);
    const low = view.getUint32(littleEndian ? at : at + 4, littleEndian);
    if (high > 0x1fffff) {
      throw new VfioError(
        'ERR_VFIO_INVALID_STRUCT',
        `a 64-bit field is 0x${high.toString(16)}${low.toString(16).padStart(8, '0')}, at most 2^53-1 is allowed`,
        { errno: 'EOVERFLOW' },
      );
    }
    return high * 0x100000000 + low;
  },
  set: (view, at, value, littleEndian) => {
    view.setUint32(littleEndian ? at + 4 : at, Math.floor(value / 0x100000000), littleEndian);
    view.setUint32(littleEndian ? at : at + 4, value % 0x100000000, littleEndian);
  },
};

/** `length` bytes, read as a copy; a value to write must have exactly that length. */
export function bytes(length: number): Field<Uint8Array> {
  return {
    size: length,
    align: 1,
    reserved: false,
    refuse: (value) =>
      value instanceof Uint8Array && value.length === length
        ? undefined
        : `${length} bytes are wanted, found ${value instanceof Uint8Array ? value.length : String(value)}`,
    get: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, length).slice(),
    set: (view, at, value) => new Uint8Array(view.buffer, view.byteOffset + at, length).set(value),
  };
}

/** `length` bytes that carry nothing, a multiple of `align` (1 unless said). */
export function reserved(length: number, align = 1): ReservedField {
  return {
    size: length,
    align,
    reserved: true,
    refuse: () => undefined,
    get: () => undefined as never,
    set: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, length).fill(0),
  };
}

/** A layout's fields, in the order in which they are stored. */
export type Fields = Readonly<Record<string, Field<never> | Field<number> | Field<bigint> | Field<Uint8Array>>>;

/** The value of a layout: its fields without the reserved ones. */
export type FieldValues<F extends Fields> = {
  -readonly [K in keyof F as F[K] extends ReservedField ? never : K]: F[K] extends Field<infer T> ? T : never;
};

/** Where a field lies in its struct. */
export interface FieldPlace {
  readonly offset: number;
  readonly size: number;
}

/** A fixed layout. */
export interface Struct<F extends Fields = Fields> {
  /** The kernel's name, used in messages. */
  readonly name: string;
  /** `sizeof` in bytes. */
  readonly size: number;
  /** `offsetof` and size of each field, the reserved ones included. */
  readonly fields: { readonly [K in keyof F]: FieldPlace };
  /** The layout itself, to build a longer one from: `struct(name, { ...header.layout, ... })`. */
  readonly layout: F;
  /**
   * The value stored at `at`.
   * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: the view ends before the struct does. EOVERFLOW: a `u64n` field is
   * above 2^53-1.
   */
  read(view: DataView, at: number, littleEndian: boolean): FieldValues<F>;
  /** As `read`, into an object that the caller keeps: nothing is allocated unless a field is a bigint or bytes. */
  readInto(target: FieldValues<F>, view: DataView, at: number, littleEndian: boolean): void;
  /**
   * Stores `value` at `at`; reserved bytes become zero.
   * @throws VfioError EINVAL: the view is too short (ERR_VFIO_INVALID_STRUCT), or a field's value does not fit
   * (ERR_VFIO_INVALID_ARGUMENT). Nothing was stored then.
   */
  write(view: DataView, at: number, value: Readonly<FieldValues<F>>, littleEndian: boolean): void;
  /** A new buffer with `value` and nothing else. */
  encode(value: Readonly<FieldValues<F>>, littleEndian: boolean): Uint8Array;
}

/** The value type of a struct. */
export type StructOf<S> = S extends Struct<infer F> ? FieldValues<F> : never;

/**
 * Refuses a view that has fewer than `size` bytes from `at`.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL.
 */
export function needBytes(view: DataView, at: number, size: number, what: string): void {
  if (!Number.isSafeInteger(at) || at < 0 || size > view.byteLength - at) {
    const have = Number.isSafeInteger(at) && at >= 0 ? Math.max(0, view.byteLength - at) : 0;
    throw new VfioError('ERR_VFIO_INVALID_STRUCT', `${what} needs ${size} bytes at offset ${at}, found ${have}`, {
      errno: 'EINVAL',
      details: { offset: at, needed: size, found: have },
    });
  }
}

/**
 * Defines a layout.
 * @throws Error where a field is not naturally aligned, or the size is not a multiple of the largest alignment: a mistake
 * in the definition, found when the module is loaded.
 */
export function struct<const F extends Fields>(name: string, layout: F): Struct<F> {
  const fields: Record<string, FieldPlace> = {};
  const members: { key: string; offset: number; field: Field<unknown> }[] = [];
  let size = 0;
  let align = 1;
  for (const [key, member] of Object.entries(layout)) {
    const field = member as unknown as Field<unknown>;
    if (size % field.align !== 0) {
      throw new Error(`${name}.${key} lies at ${size}, which is not a multiple of ${field.align}: pad it`);
    }
    fields[key] = { offset: size, size: field.size };
    members.push({ key, offset: size, field });
    size += field.size;
    align = Math.max(align, field.align);
  }
  if (size % align !== 0) {
    throw new Error(`${name} has ${size} bytes, which is not a multiple of ${align}: pad its end`);
  }
  const stored = members.filter((member) => !member.field.reserved);

  const readInto = (target: Record<string, unknown>, view: DataView, at: number, littleEndian: boolean): void => {
    needBytes(view, at, size, name);
    for (const member of stored) {
      target[member.key] = member.field.get(view, at + member.offset, littleEndian);
    }
  };
  const write = (view: DataView, at: number, value: Readonly<Record<string, unknown>>, littleEndian: boolean): void => {
    needBytes(view, at, size, name);
    for (const { key, field } of stored) {
      const reason = field.refuse(value[key]);
      if (reason !== undefined) {
        throw new VfioError('ERR_VFIO_INVALID_ARGUMENT', `${name}.${key}: ${reason}`, { errno: 'EINVAL' });
      }
    }
    for (const member of members) {
      member.field.set(view, at + member.offset, value[member.key], littleEndian);
    }
  };

  return {
    name,
    size,
    fields: fields as Struct<F>['fields'],
    layout,
    read: (view, at, littleEndian) => {
      const target: Record<string, unknown> = {};
      readInto(target, view, at, littleEndian);
      return target as FieldValues<F>;
    },
    readInto: (target, view, at, littleEndian) => readInto(target, view, at, littleEndian),
    write: (view, at, value, littleEndian) => write(view, at, value, littleEndian),
    encode: (value, littleEndian) => {
      const out = new Uint8Array(size);
      write(viewOf(out), 0, value, littleEndian);
      return out;
    },
  };
}

/** A view of exactly the bytes of `data`. */
export function viewOf(data: Uint8Array): DataView {
  return new DataView(data.buffer, data.byteOffset, data.byteLength);
}

/**
 * `count` structs that follow each other from `at`.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: the view ends before them; checked before anything is allocated.
 */
export function readArray<F extends Fields>(
  layout: Struct<F>,
  view: DataView,
  at: number,
  count: number,
  littleEndian: boolean,
): FieldValues<F>[] {
  needBytes(view, at, count * layout.size, `${count} x ${layout.name}`);
  const out: FieldValues<F>[] = [];
  for (let index = 0; index < count; index++) {
    out.push(layout.read(view, at + index * layout.size, littleEndian));
  }
  return out;
}

/**
 * Stores structs one after the other from `at`.
 * @throws VfioError as {@link Struct.write}; those before the refused one are stored.
 */
export function writeArray<F extends Fields>(
  layout: Struct<F>,
  view: DataView,
  at: number,
  values: readonly Readonly<FieldValues<F>>[],
  littleEndian: boolean,
): void {
  needBytes(view, at, values.length * layout.size, `${values.length} x ${layout.name}`);
  for (const [index, value] of values.entries()) {
    layout.write(view, at + index * layout.size, value, littleEndian);
  }
}
