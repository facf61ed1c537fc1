import type { NvmeCommand } from './command.js';
import { FEATURE, NSID_ALL } from './constants.js';
import { STATUS } from './status.js';

/** What {@link NvmeFeatures} needs of its controller. */
export interface FeatureHost {
  readonly vectors: number;
  readonly hasCache: boolean;
  readonly maxQueues: number;
  readonly hasQueues: boolean;
  readonly warningTemperature: number;
  /** Ids of the active namespaces. */
  readonly namespaceIds: Iterable<number>;
  isActive(nsid: number): boolean;
  /** A value changed that does something perhaps; the status, or a promise of it. */
  apply(feature: number, value: number): number | Promise<number>;
  /** Saved values as the drive keeps them without power. */
  readonly saved: Record<string, number>;
  save(): void;
}

/** Select field of Get Features. */
const SELECT = { CURRENT: 0, DEFAULT: 1, SAVED: 2, CAPABILITIES: 3 } as const;

const SAVEABLE = 1;
const NAMESPACE_SPECIFIC = 2;
const CHANGEABLE = 4;

/** What can be done with each feature. */
const CAPABILITIES: Readonly<Record<number, number>> = {
  [FEATURE.ARBITRATION]: SAVEABLE | CHANGEABLE,
  [FEATURE.POWER_MANAGEMENT]: CHANGEABLE,
  [FEATURE.TEMPERATURE_THRESHOLD]: SAVEABLE | CHANGEABLE,
  [FEATURE.ERROR_RECOVERY]: NAMESPACE_SPECIFIC | CHANGEABLE,
  [FEATURE.VOLATILE_WRITE_CACHE]: SAVEABLE | CHANGEABLE,
  [FEATURE.NUMBER_OF_QUEUES]: CHANGEABLE,
  [FEATURE.INTERRUPT_COALESCING]: SAVEABLE | CHANGEABLE,
  [FEATURE.INTERRUPT_VECTOR]: CHANGEABLE,
  [FEATURE.WRITE_ATOMICITY]: SAVEABLE | CHANGEABLE,
  [FEATURE.ASYNC_EVENT]: CHANGEABLE,
};

/** A vector, a namespace id, a kind of threshold. */
const MAX_SELECTOR = 0xffff;

/** Feature, which of its values, the value. */
export type FeatureEntry = readonly [feature: number, selector: number, value: number];

/** Get Features and Set Features (NVM Express 1.4, 5.12 and 5.21). */
export class NvmeFeatures {
  readonly #host: FeatureHost;
  #current = new Map<string, number>();

  constructor(host: FeatureHost) {
    this.#host = host;
  }

  /** A controller reset: what is not saved is as by default. */
  reset(): void {
    this.#current = new Map(Object.entries(this.#host.saved));
  }

  /** The value in force. */
  value(feature: number, selector = 0): number {
    return this.#current.get(key(feature, selector)) ?? this.#default(feature, selector);
  }

  /** Every value that is not as by default: feature, selector, value. */
  get entries(): FeatureEntry[] {
    return [...this.#current].map(([name, value]) => {
      const [feature = 0, selector = 0] = name.split(':').map(Number);
      return [feature, selector, value];
    });
  }

  knows(entries: readonly FeatureEntry[]): boolean {
    return entries.every(([feature, selector]) => CAPABILITIES[feature] !== undefined && selector <= MAX_SELECTOR);
  }

  /** Takes another controller's values, all of them known, in the place of its own. */
  adopt(entries: readonly FeatureEntry[]): void {
    this.#current = new Map(entries.map(([feature, selector, value]) => [key(feature, selector), value]));
  }

  get(command: NvmeCommand): number {
    const feature = command.dword(10) & 0xff;
    const select = (command.dword(10) >>> 8) & 7;
    const capabilities = CAPABILITIES[feature];
    if (capabilities === undefined || (feature === FEATURE.VOLATILE_WRITE_CACHE && !this.#host.hasCache))
      return command.fail(STATUS.INVALID_FIELD, 40);
    const selector = this.#selector(command, feature, false);
    if (selector < 0) return command.fail(-selector, 44);
    switch (select) {
      case SELECT.CURRENT:
        command.result = this.value(feature, selector);
        return STATUS.SUCCESS;
      case SELECT.DEFAULT:
        command.result = this.#default(feature, selector);
        return STATUS.SUCCESS;
      case SELECT.SAVED:
        command.result = this.#host.saved[key(feature, selector)] ?? this.#default(feature, selector);
        return STATUS.SUCCESS;
      case SELECT.CAPABILITIES:
        command.result = capabilities;
        return STATUS.SUCCESS;
      default:
        return command.fail(STATUS.INVALID_FIELD, 41);
    }
  }

  set(command: NvmeCommand): number | Promise<number> {
    const feature = command.dword(10) & 0xff;
    const save = command.dword(10) >>> 31 === 1;
    const capabilities = CAPABILITIES[feature];
    if (capabilities === undefined || (feature === FEATURE.VOLATILE_WRITE_CACHE && !this.#host.hasCache))
      return command.fail(STATUS.INVALID_FIELD, 40);
    if (save && (capabilities & SAVEABLE) === 0) return command.fail(STATUS.FEATURE_NOT_SAVEABLE, 43);
    if ((capabilities & NAMESPACE_SPECIFIC) === 0 && command.nsid !== 0 && command.nsid !== NSID_ALL)
      return command.fail(STATUS.FEATURE_NOT_NAMESPACE_SPECIFIC, 4);
    const selector = this.#selector(command, feature, true);
    if (selector < 0) return command.fail(-selector, 44);
    const value = this.#check(command, feature);
    if (value < 0) return -value;
    this.#store(feature, selector, value, save);
    return this.#host.apply(feature, value);
  }

  #store(feature: number, selector: number, value: number, save: boolean): void {
    if (feature === FEATURE.ERROR_RECOVERY && selector === 0)
      for (const nsid of this.#host.namespaceIds) this.#current.set(key(feature, nsid), value);
    // One threshold command may name all sensors; there is one, so it is that one's.
    this.#current.set(key(feature, selector), value);
    if (!save) return;
    this.#host.saved[key(feature, selector)] = value;
    this.#host.save();
  }

  /** Which of a feature's values is meant: a threshold, a vector, a namespace. Negative: a status. */
  #selector(command: NvmeCommand, feature: number, isSet: boolean): number {
    const dword11 = command.dword(11);
    switch (feature) {
      case FEATURE.TEMPERATURE_THRESHOLD: {
        const sensor = (dword11 >>> 16) & 0xf;
        const over = (dword11 >>> 20) & 3;
        const isKnown = sensor === 0 || (isSet && sensor === 0xf);
        return isKnown && over < 2 ? over : -STATUS.INVALID_FIELD;
      }
      case FEATURE.INTERRUPT_VECTOR:
        return (dword11 & 0xffff) < this.#host.vectors ? dword11 & 0xffff : -STATUS.INVALID_FIELD;
      case FEATURE.ERROR_RECOVERY:
        if (command.nsid === NSID_ALL && isSet) return 0;
        return this.#host.isActive(command.nsid) ? command.nsid : -STATUS.INVALID_NAMESPACE;
      default:
        return 0;
    }
  }

  /** The value to keep, or the negative of a status. */
  #check(command: NvmeCommand, feature: number): number {
    const dword11 = command.dword(11);
    switch (feature) {
      case FEATURE.ARBITRATION:
        return dword11;
      case FEATURE.POWER_MANAGEMENT:
        // One power state only.
        return (dword11 & 0x1f) === 0 ? dword11 & 0xff : -command.fail(STATUS.INVALID_FIELD, 44);
      case FEATURE.TEMPERATURE_THRESHOLD:
        return dword11 & 0xffff;
      case FEATURE.ERROR_RECOVERY:
        // Errors on deallocated blocks are not supported (NSFEAT bit 2).
        return (dword11 & 0x10000) === 0 ? dword11 & 0xffff : -command.fail(STATUS.INVALID_FIELD, 46);
      case FEATURE.VOLATILE_WRITE_CACHE:
        return dword11 & 1;
      case FEATURE.NUMBER_OF_QUEUES: {
        if (this.#host.hasQueues) return -STATUS.COMMAND_SEQUENCE;
        const submission = dword11 & 0xffff;
        const completion = dword11 >>> 16;
        if (submission === 0xffff || completion === 0xffff) return -command.fail(STATUS.INVALID_FIELD, 44);
        const most = this.#host.maxQueues - 1;
        const allocated = Math.min(submission, most) | (Math.min(completion, most) << 16);
        command.result = allocated;
        return allocated;
      }
      case FEATURE.INTERRUPT_COALESCING:
        return dword11 & 0xffff;
      case FEATURE.INTERRUPT_VECTOR:
        return dword11 & 0x1ffff;
      case FEATURE.WRITE_ATOMICITY:
        return dword11 & 1;
      default:
        // Asynchronous events: SMART warnings, and the namespace notices of OAES.
        return dword11 & 0x11f;
    }
  }

  #default(feature: number, selector: number): number {
    const most = this.#host.maxQueues - 1;
    switch (feature) {
      case FEATURE.ARBITRATION:
        return 3;
      case FEATURE.TEMPERATURE_THRESHOLD:
        return selector === 0 ? this.#host.warningTemperature : 0;
      case FEATURE.VOLATILE_WRITE_CACHE:
        return 1;
      case FEATURE.NUMBER_OF_QUEUES:
        return most | (most << 16);
      case FEATURE.INTERRUPT_VECTOR:
        // The admin queue's vector is never coalesced.
        return selector | (selector === 0 ? 0x10000 : 0);
      default:
        return 0;
    }
  }
}

function key(feature: number, selector: number): string {
  return `${feature}:${selector}`;
}
