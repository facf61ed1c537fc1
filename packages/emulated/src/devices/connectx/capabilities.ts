import { CommandError, SYNDROME } from './command.js';
import { CAP_TYPE, STATUS } from './constants.js';
import { type Field, getField, Layout, setField } from './fields.js';

/** Bytes of a capability structure in QUERY_HCA_CAP and SET_HCA_CAP. */
export const CAPABILITY_BYTES = 0x1000;

/** General capabilities that the model has or lets software set. */
const GENERAL = {
  hca_cap_2: [0x20, 1],
  dtor: [0x22, 1],
  vhca_id: [0x30, 16],
  log_max_qp_sz: [0x88, 8],
  log_max_qp: [0x9b, 5],
  log_max_cq_sz: [0xc8, 8],
  log_max_cq: [0xdb, 5],
  log_max_eq_sz: [0xe0, 8],
  log_max_mkey: [0xea, 6],
  log_max_eq: [0xfc, 4],
  log_max_mrw_sz: [0x109, 7],
  release_all_pages: [0x145, 1],
  gid_table_size: [0x170, 16],
  pkey_table_size: [0x190, 16],
  local_ca_ack_delay: [0x1ab, 5],
  port_type: [0x1b6, 2],
  num_ports: [0x1b8, 8],
  log_max_msg: [0x1c3, 5],
  cmdif_checksum: [0x210, 2],
  rc: [0x23f, 1],
  uar_sz: [0x24a, 6],
  log_pg_sz: [0x258, 8],
  bf: [0x260, 1],
  driver_version: [0x261, 1],
  log_bf_reg_size: [0x26b, 5],
  max_wqe_sz_sq: [0x290, 16],
  max_wqe_sz_rq: [0x2b0, 16],
  log_max_pd: [0x32b, 5],
  max_num_eqs: [0x470, 16],
  log_uar_page_sz: [0x490, 16],
  device_frequency_mhz: [0x4c0, 32],
  device_frequency_khz: [0x4e0, 32],
  num_of_uars_per_page: [0x520, 32],
  adv_virtualization: [0x579, 1],
  sw_owner_id: [0x61e, 1],
  migration: [0x68d, 1],
} as const satisfies Record<string, Field>;

const GENERAL_2 = {
  migratable: [0x80, 1],
  migration_multi_load: [0xc8, 1],
  migration_tracking_state: [0xc9, 1],
  migration_in_chunks: [0xd0, 1],
  migration_state: [0xd9, 1],
} as const satisfies Record<string, Field>;

const ADV_VIRTUALIZATION = {
  pg_track_log_max_num: [0x03, 5],
  pg_track_max_num_range: [0x08, 8],
  pg_track_log_min_addr_space: [0x10, 8],
  pg_track_log_max_addr_space: [0x18, 8],
  pg_track_log_min_msg_size: [0x23, 5],
  pg_track_log_max_msg_size: [0x2b, 5],
  pg_track_log_min_page_size: [0x33, 5],
  pg_track_log_max_page_size: [0x3b, 5],
} as const satisfies Record<string, Field>;

export type GeneralCap = keyof typeof GENERAL;
export type General2Cap = keyof typeof GENERAL_2;
export type AdvVirtualizationCap = keyof typeof ADV_VIRTUALIZATION;

/** A capability: as much as it can be, and what it is before software has set it where that is less. */
export type CapabilityValue = number | { readonly max: number; readonly current: number };

/** What a function can do. */
export interface CapabilityValues {
  readonly general: Partial<Record<GeneralCap, CapabilityValue>>;
  readonly general2: Partial<Record<General2Cap, CapabilityValue>>;
  readonly advVirtualization: Partial<Record<AdvVirtualizationCap, CapabilityValue>>;
}

/** General capabilities that software may lower, and only before INIT_HCA. */
const SETTABLE: readonly GeneralCap[] = [
  'log_max_qp',
  'release_all_pages',
  'cmdif_checksum',
  'log_uar_page_sz',
  'pkey_table_size',
];

/** Capabilities of another function that its physical function may set. */
const SETTABLE_OF_OTHER: readonly General2Cap[] = ['migratable'];

/** One kind of capabilities of a function: what it can have, and what it has now. */
class CapabilitySet {
  readonly #layout: Layout;
  readonly #settable: readonly string[];
  readonly max = new Uint8Array(CAPABILITY_BYTES);
  readonly current = new Uint8Array(CAPABILITY_BYTES);
  readonly #max = new DataView(this.max.buffer);
  readonly #current = new DataView(this.current.buffer);
  readonly #values: Readonly<Record<string, CapabilityValue | undefined>>;

  constructor(
    fields: Readonly<Record<string, Field>>,
    values: Readonly<Record<string, CapabilityValue | undefined>>,
    settable: readonly string[],
  ) {
    this.#layout = new Layout(CAPABILITY_BYTES, fields);
    this.#settable = settable;
    this.#values = values;
    this.reset();
  }

  reset(): void {
    for (const [name, value] of Object.entries(this.#values)) {
      if (value === undefined) continue;
      const { max, current } = typeof value === 'number' ? { max: value, current: value } : value;
      setField(this.#max, this.#field(name), max);
      setField(this.#current, this.#field(name), current);
    }
  }

  get(name: string): number {
    return getField(this.#current, this.#field(name));
  }

  setCurrent(name: string, value: number): void {
    setField(this.#current, this.#field(name), value);
  }

  /** Takes what software wants. @throws CommandError where it is not allowed; nothing has changed then. */
  set(wanted: Uint8Array): void {
    const reserved = this.#layout.firstReserved(wanted);
    if (reserved >= 0)
      throw new CommandError(STATUS.BAD_PARAM, SYNDROME.RESERVED_BIT, `reserved bit in capability byte ${reserved}`);
    const view = new DataView(wanted.buffer, wanted.byteOffset, wanted.byteLength);
    for (const [name, field] of Object.entries(this.#layout.fields)) {
      const value = getField(view, field);
      if (value === getField(this.#current, field)) continue;
      const max = getField(this.#max, field);
      if (!this.#settable.includes(name) || (value > max && name !== 'pkey_table_size'))
        throw new CommandError(
          STATUS.BAD_PARAM,
          SYNDROME.BAD_VALUE,
          `${name} ${value}: at most ${max}, or not settable`,
        );
    }
    this.current.set(wanted.subarray(0, CAPABILITY_BYTES));
  }

  #field(name: string): Field {
    const field = this.#layout.fields[name];
    if (field === undefined) throw new RangeError(`capability ${name}`);
    return field;
  }
}

/** All capabilities of a function. */
export class Capabilities {
  readonly #general: CapabilitySet;
  readonly #general2: CapabilitySet;
  readonly #advVirtualization: CapabilitySet;

  constructor(values: CapabilityValues) {
    this.#general = new CapabilitySet(GENERAL, values.general, SETTABLE);
    this.#general2 = new CapabilitySet(GENERAL_2, values.general2, []);
    this.#advVirtualization = new CapabilitySet(ADV_VIRTUALIZATION, values.advVirtualization, []);
  }

  general(name: GeneralCap): number {
    return this.#general.get(name);
  }

  general2(name: General2Cap): number {
    return this.#general2.get(name);
  }

  advVirtualization(name: AdvVirtualizationCap): number {
    return this.#advVirtualization.get(name);
  }

  /** The structure of a kind. @throws CommandError for a kind that there is not. */
  read(type: number, which: 'max' | 'current'): Uint8Array {
    return this.#set(type)[which];
  }

  /** SET_HCA_CAP by the function itself. */
  set(type: number, wanted: Uint8Array): void {
    this.#set(type).set(wanted);
  }

  /** SET_HCA_CAP by the physical function: of a virtual one only what is its own to give. */
  setByOwner(type: number, wanted: Uint8Array): void {
    if (type !== CAP_TYPE.GENERAL_2)
      throw new CommandError(STATUS.BAD_PARAM, SYNDROME.NOT_ALLOWED, `capabilities ${type} of another function`);
    const view = new DataView(wanted.buffer, wanted.byteOffset, wanted.byteLength);
    const kept = new Uint8Array(wanted);
    const keptView = new DataView(kept.buffer);
    for (const name of SETTABLE_OF_OTHER) setField(keptView, GENERAL_2[name], this.#general2.get(name));
    // Whatever else is in it must be as it was.
    this.#general2.set(kept);
    for (const name of SETTABLE_OF_OTHER) this.#general2.setCurrent(name, getField(view, GENERAL_2[name]));
  }

  /** What software has set, as an image carries it. */
  save(): string[] {
    return SETTABLE.map((name) => `${name}=${this.#general.get(name)}`);
  }

  load(saved: readonly string[]): void {
    for (const name of SETTABLE) {
      const value = saved.find((text) => text.startsWith(`${name}=`))?.slice(name.length + 1);
      if (value !== undefined) this.#general.setCurrent(name, Number(value));
    }
  }

  /** A reset of the function: what its physical function gave it stays. */
  reset(): void {
    const migratable = this.#general2.get('migratable');
    for (const set of [this.#general, this.#general2, this.#advVirtualization]) set.reset();
    this.#general2.setCurrent('migratable', migratable);
  }

  #set(type: number): CapabilitySet {
    if (type === CAP_TYPE.GENERAL) return this.#general;
    if (type === CAP_TYPE.GENERAL_2 && this.general('hca_cap_2') === 1) return this.#general2;
    if (type === CAP_TYPE.ADV_VIRTUALIZATION && this.general('adv_virtualization') === 1)
      return this.#advVirtualization;
    throw new CommandError(STATUS.BAD_PARAM, SYNDROME.BAD_VALUE, `there are no capabilities of type ${type}`);
  }
}
