import { ADMIN, IO, MIGRATION_ADMIN } from './constants.js';
import type { NvmeHealth } from './health.js';

/** What an entry of the error log tells. */
export interface ErrorEntry {
  readonly sqId: number;
  readonly cid: number;
  readonly status: number;
  /** Byte of the command in which the error lies; 0xffff: none. */
  readonly at: number;
  readonly lba: number;
  readonly nsid: number;
}

/** An entry with its number: errors are counted over the life of a controller. */
export interface CountedError extends ErrorEntry {
  readonly count: number;
}

/** The newest errors (figure 193), lost with a controller reset or not: here they stay until power goes. */
export class ErrorLog {
  readonly size: number;
  readonly #health: NvmeHealth;
  #entries: CountedError[] = [];

  constructor(size: number, health: NvmeHealth) {
    this.size = size;
    this.#health = health;
  }

  add(entry: ErrorEntry): void {
    this.#health.errorLogEntries += 1;
    this.#entries.unshift({ ...entry, count: this.#health.errorLogEntries });
    if (this.#entries.length > this.size) this.#entries.length = this.size;
  }

  clear(): void {
    this.#entries = [];
  }

  /** Newest first. */
  get entries(): readonly CountedError[] {
    return this.#entries;
  }

  /** Takes another controller's log in the place of its own. */
  adopt(entries: readonly CountedError[]): void {
    this.#entries = entries.slice(0, this.size);
  }

  page(): Uint8Array {
    const bytes = new Uint8Array(64 * this.size);
    const view = new DataView(bytes.buffer);
    for (const [index, entry] of this.#entries.entries()) {
      const at = 64 * index;
      view.setBigUint64(at, BigInt(entry.count), true);
      view.setUint16(at + 8, entry.sqId, true);
      view.setUint16(at + 10, entry.cid, true);
      view.setUint16(at + 12, entry.status << 1, true);
      view.setUint16(at + 14, entry.at, true);
      view.setBigUint64(at + 16, BigInt(entry.lba), true);
      view.setUint32(at + 24, entry.nsid, true);
    }
    return bytes;
  }
}

/** SMART / Health Information (figure 194). */
export function smartPage(health: NvmeHealth, criticalWarning: number, powerOnHours: number): Uint8Array {
  const bytes = new Uint8Array(512);
  const view = new DataView(bytes.buffer);
  // 128-bit counters of which these are the low halves.
  const counter = (at: number, value: number): void => view.setBigUint64(at, BigInt(value), true);
  view.setUint8(0, criticalWarning);
  view.setUint16(1, health.temperature, true);
  view.setUint8(3, 100);
  view.setUint8(4, 10);
  counter(32, Math.ceil(health.blocksRead / 1000));
  counter(48, Math.ceil(health.blocksWritten / 1000));
  counter(64, health.readCommands);
  counter(80, health.writeCommands);
  counter(112, health.powerCycles);
  counter(128, powerOnHours);
  counter(144, health.unsafeShutdowns);
  counter(160, health.mediaErrors);
  counter(176, health.errorLogEntries);
  return bytes;
}

/** Firmware Slot Information (figure 195): one slot, active. */
export function firmwarePage(revision: string): Uint8Array {
  const bytes = new Uint8Array(512);
  bytes[0] = 1;
  for (let i = 0; i < 8; i++) bytes[8 + i] = i < revision.length ? revision.charCodeAt(i) & 0x7f : 0x20;
  return bytes;
}

/** Changed Namespace List (figure 196). */
export function changedNamespacesPage(changed: ReadonlySet<number>): Uint8Array {
  const bytes = new Uint8Array(4096);
  const view = new DataView(bytes.buffer);
  if (changed.size > 1024) view.setUint32(0, 0xffffffff, true);
  else for (const [index, nsid] of [...changed].sort((a, b) => a - b).entries()) view.setUint32(4 * index, nsid, true);
  return bytes;
}

const SUPPORTED = 0x1;
const CHANGES_BLOCKS = 0x2;
/** Identify Namespace may differ afterwards. */
const CHANGES_NAMESPACE = 0x4;
/** Only alone in its namespace. */
const ALONE_IN_NAMESPACE = 0x1 << 16;

/** Commands Supported and Effects (figure 197). */
export function commandsPage(isManager: boolean): Uint8Array {
  const bytes = new Uint8Array(4096);
  const view = new DataView(bytes.buffer);
  for (const opcode of Object.values(ADMIN)) view.setUint32(4 * opcode, SUPPORTED, true);
  if (isManager) for (const opcode of Object.values(MIGRATION_ADMIN)) view.setUint32(4 * opcode, SUPPORTED, true);
  view.setUint32(4 * ADMIN.FORMAT_NVM, SUPPORTED | CHANGES_BLOCKS | CHANGES_NAMESPACE | ALONE_IN_NAMESPACE, true);
  for (const opcode of Object.values(IO)) view.setUint32(1024 + 4 * opcode, SUPPORTED, true);
  for (const opcode of [IO.WRITE, IO.WRITE_ZEROES, IO.DATASET_MANAGEMENT])
    view.setUint32(1024 + 4 * opcode, SUPPORTED | CHANGES_BLOCKS, true);
  return bytes;
}
