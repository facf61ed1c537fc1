import { DirtyPages, type TrackedRange } from '../dirty-pages.js';
import type { TrackedDma } from '../tracked-dma.js';
import type { NvmeCommand } from './command.js';
import { MIGRATION_ADMIN } from './constants.js';
import {
  type ControllerState,
  decodeControllerState,
  encodeControllerState,
  partSizes,
  QUEUES_STATE_VERSION,
  VENDOR_STATE_UUID,
} from './controller-state.js';
import { type DataChange, type DataQueueHost, DataQueues } from './data-queues.js';
import type { NvmeFeatures } from './features.js';
import { IDENTIFY_SIZE, TRACKING } from './identify.js';
import type { Migratable } from './migratable.js';
import { BadState } from './state-codec.js';
import { STATUS } from './status.js';
import type { PrpTransfer } from './transfer.js';

/** A controller whose migration is managed. */
export interface ManagedController {
  readonly controllerId: number;
  /** Number of the virtual function, from 1. */
  readonly vfNumber: number;
  readonly migratable: Migratable;
  readonly features: NvmeFeatures;
  readonly dma: TrackedDma;
}

export interface ManagerHost extends DataQueueHost {
  readonly transfer: PrpTransfer;
  /** Most bytes of one transfer (MDTS). */
  readonly maxTransfer: number;
}

const GRAIN = 4096;
/** More state than any controller has. */
const MAX_STATE = 0x800000;

/** Indexes into the lists of formats. Both have one entry; 0 means none. */
const FORMATS = 1;

const SUSPEND_TYPE = { NOTIFICATION: 0, SUSPEND: 1 } as const;
const SEQUENCE_FIRST = 1;
const SEQUENCE_LAST = 2;

/** State that is being sent, and is not committed. */
interface Incoming {
  bytes: Uint8Array;
}

/** Executes the commands by which a controller manages the migration of others (NVM Express Base 2.1, 8.1.12). */
export class MigrationManager {
  readonly controllers = new Map<number, ManagedController>();
  readonly dataQueues: DataQueues;
  readonly #host: ManagerHost;
  readonly #incoming = new Map<number, Incoming>();
  readonly #tracked = new Map<number, DirtyPages>();

  constructor(host: ManagerHost) {
    this.#host = host;
    this.dataQueues = new DataQueues(host);
  }

  /** The status, or a promise of it; undefined: the command is another's. */
  execute(command: NvmeCommand): number | Promise<number> | undefined {
    const select = command.dword(10) & 0xff;
    switch (command.opcode) {
      case MIGRATION_ADMIN.MIGRATION_SEND:
        if (select === 0) return this.#suspend(command);
        if (select === 1) return this.#resume(command);
        return select === 2 ? this.#setState(command) : command.fail(STATUS.INVALID_FIELD, 40);
      case MIGRATION_ADMIN.MIGRATION_RECEIVE:
        return select === 0 ? this.#getState(command) : command.fail(STATUS.INVALID_FIELD, 40);
      case MIGRATION_ADMIN.TRACK_SEND:
        if (select === 0) return this.dataQueues.track(command, (id) => this.#isSuspended(id));
        return select === 1 ? this.#trackMemory(command) : command.fail(STATUS.INVALID_FIELD, 40);
      case MIGRATION_ADMIN.TRACK_RECEIVE:
        return select === 0 ? this.#reportMemory(command) : command.fail(STATUS.INVALID_FIELD, 40);
      case MIGRATION_ADMIN.CONTROLLER_DATA_QUEUE:
        return this.dataQueues.execute(command, (id) => this.controllers.has(id));
      default:
        return undefined;
    }
  }

  /** A controller has changed data of a namespace. */
  changed(controllerId: number, change: DataChange): void {
    this.dataQueues.changed(controllerId, change);
  }

  /** Supported Controller State Formats (figure 329). */
  formats(): Uint8Array {
    const bytes = new Uint8Array(IDENTIFY_SIZE);
    bytes.set([FORMATS, FORMATS], 0);
    new DataView(bytes.buffer).setUint16(2, QUEUES_STATE_VERSION, true);
    bytes.set(VENDOR_STATE_UUID, 4);
    return bytes;
  }

  /** Secondary Controller List (figures 331 and 332): those from an id on. */
  secondaries(from: number): Uint8Array {
    const bytes = new Uint8Array(IDENTIFY_SIZE);
    const view = new DataView(bytes.buffer);
    const listed = [...this.controllers.values()]
      .filter(({ controllerId }) => controllerId >= from)
      .sort((a, b) => a.controllerId - b.controllerId);
    bytes[0] = listed.length;
    for (const [n, { controllerId, vfNumber }] of listed.entries()) {
      const at = 32 * (n + 1);
      view.setUint16(at, controllerId, true);
      view.setUint16(at + 2, this.#host.controllerId, true);
      view.setUint8(at + 4, 1); // online
      view.setUint16(at + 8, vfNumber, true);
    }
    return bytes;
  }

  /** A controller leaves, or is reset: what was being sent to it is worth nothing. */
  forget(controllerId: number): void {
    this.#incoming.delete(controllerId);
  }

  remove(controllerId: number): void {
    this.forget(controllerId);
    this.#untrack(controllerId);
    this.dataQueues.remove(controllerId);
    this.controllers.delete(controllerId);
  }

  /** The manager itself was reset: nothing is tracked any more, and who was suspended goes on (5.1.17.1.1, 8.1.12). */
  reset(): void {
    this.#incoming.clear();
    this.dataQueues.clear();
    for (const id of [...this.#tracked.keys()]) this.#untrack(id);
    for (const { migratable } of this.controllers.values()) if (migratable.isSuspended) migratable.resume();
  }

  #suspend(command: NvmeCommand): number | Promise<number> {
    const target = this.#target(command);
    if (target === undefined) return command.fail(STATUS.INVALID_CONTROLLER_ID, 44);
    const type = (command.dword(11) >>> 16) & 0xff;
    if (type === SUSPEND_TYPE.NOTIFICATION) return STATUS.SUCCESS;
    if (type !== SUSPEND_TYPE.SUSPEND) return command.fail(STATUS.INVALID_FIELD, 46);
    return this.#suspendTarget(target, command.dword(11) >>> 31 === 1);
  }

  async #suspendTarget({ controllerId, migratable }: ManagedController, deletesQueue: boolean): Promise<number> {
    const wasSuspended = migratable.isSuspended;
    const status = await migratable.suspend();
    if (!migratable.isSuspended) return STATUS.ABORT_REQUESTED;
    if (status !== STATUS.SUCCESS) {
      // Refused is not half done.
      if (!wasSuspended) migratable.resume();
      return status;
    }
    if (!wasSuspended || deletesQueue) await this.dataQueues.suspended(controllerId, deletesQueue);
    return STATUS.SUCCESS;
  }

  #resume(command: NvmeCommand): number {
    const target = this.#target(command);
    if (target === undefined) return command.fail(STATUS.INVALID_CONTROLLER_ID, 44);
    if (!target.migratable.isSuspended) return command.fail(STATUS.CONTROLLER_NOT_SUSPENDED, 44);
    if (this.#incoming.has(target.controllerId)) return STATUS.COMMAND_SEQUENCE;
    this.dataQueues.resumed(target.controllerId);
    target.migratable.resume();
    return STATUS.SUCCESS;
  }

  #getState(command: NvmeCommand): number | Promise<number> {
    const target = this.#target(command);
    if (target === undefined) return command.fail(STATUS.INVALID_CONTROLLER_ID, 44);
    const versionIndex = (command.dword(10) >>> 16) & 0xff;
    const uuidIndex = (command.dword(11) >>> 16) & 0xff;
    if (versionIndex > FORMATS) return command.fail(STATUS.INVALID_FIELD, 42);
    if (uuidIndex > FORMATS) return command.fail(STATUS.INVALID_FIELD, 46);
    const length = 4 * (command.dword(15) + 1);
    if (length > this.#host.maxTransfer) return command.fail(STATUS.INVALID_FIELD, 60);
    const { isSuspended } = target.migratable;
    const { queues, vendor } = target.migratable.capture();
    const state: ControllerState = {
      queues: versionIndex === 0 ? undefined : queues,
      vendor: uuidIndex === 0 ? undefined : vendor,
    };
    const bytes = encodeControllerState(state, isSuspended);
    const offset = command.quad(48);
    if (offset % 4 !== 0 || offset > bytes.length) return command.fail(STATUS.INVALID_FIELD, 48);
    const data = new Uint8Array(length);
    data.set(bytes.subarray(offset, offset + length));
    const moved = this.#host.transfer.run(command, data, 'to-host');
    const done = (status: number): number => {
      command.result = isSuspended && target.migratable.isSuspended ? 1 : 0;
      return status;
    };
    return typeof moved === 'number' ? done(moved) : moved.then(done);
  }

  #setState(command: NvmeCommand): number | Promise<number> {
    const target = this.#target(command);
    if (target === undefined) return command.fail(STATUS.INVALID_CONTROLLER_ID, 44);
    const { controllerId, migratable } = target;
    if (!migratable.isSuspended && !migratable.isEnabled) return command.fail(STATUS.INVALID_CONTROLLER_ID, 44);
    const sequence = (command.dword(10) >>> 16) & 3;
    const isFirst = (sequence & SEQUENCE_FIRST) !== 0;
    const isLast = (sequence & SEQUENCE_LAST) !== 0;
    const versionIndex = (command.dword(11) >>> 16) & 0xff;
    const uuidIndex = command.dword(11) >>> 24;
    if (versionIndex > FORMATS) return command.fail(STATUS.INVALID_FIELD, 46);
    if (uuidIndex > FORMATS) return command.fail(STATUS.INVALID_FIELD, 47);
    if (versionIndex === 0 && uuidIndex === 0) return command.fail(STATUS.INVALID_FIELD, 46);
    const length = 4 * command.dword(15);
    if ((length === 0 && (isFirst || !isLast)) || length > this.#host.maxTransfer)
      return command.fail(STATUS.INVALID_FIELD, 60);
    const before = isFirst ? undefined : this.#incoming.get(controllerId);
    if (!isFirst && before === undefined) return STATUS.COMMAND_SEQUENCE;
    const offset = command.quad(48);
    const have = before?.bytes.length ?? 0;
    if (offset % 4 !== 0 || offset > have || offset + length > MAX_STATE) return command.fail(STATUS.INVALID_FIELD, 48);
    // A new sequence discards the one before it, whatever becomes of it.
    const incoming = before ?? { bytes: new Uint8Array(0) };
    this.#incoming.set(controllerId, incoming);
    const data = new Uint8Array(length);
    const take = (status: number): number => {
      if (status !== STATUS.SUCCESS || this.#incoming.get(controllerId) !== incoming) return status;
      const bytes = new Uint8Array(Math.max(incoming.bytes.length, offset + length));
      bytes.set(incoming.bytes);
      bytes.set(data, offset);
      incoming.bytes = bytes;
      return isLast ? this.#commit(command, target, bytes, versionIndex, uuidIndex) : STATUS.SUCCESS;
    };
    if (length === 0) return take(STATUS.SUCCESS);
    const moved = this.#host.transfer.run(command, data, 'from-host');
    return typeof moved === 'number' ? take(moved) : moved.then(take);
  }

  /** Verifies the state and gives it to its controller (5.1.17.1.3). */
  #commit(
    command: NvmeCommand,
    { controllerId, migratable }: ManagedController,
    bytes: Uint8Array,
    versionIndex: number,
    uuidIndex: number,
  ): number {
    try {
      const sizes = partSizes(bytes);
      if (sizes === undefined) throw new BadState('the header is not whole');
      if ((versionIndex === 0 && sizes.queues > 0) || (uuidIndex === 0 && sizes.vendor > 0))
        throw new BadState('a part without its format');
      if (sizes.queues > 0 && migratable.hasIoQueues) throw new BadState('the controller has I/O queues');
      const state = decodeControllerState(bytes);
      migratable.check(state);
      this.#incoming.delete(controllerId);
      migratable.adopt(state);
      return STATUS.SUCCESS;
    } catch (error) {
      if (error instanceof BadState) return command.fail(STATUS.INVALID_FIELD, 24);
      throw error;
    }
  }

  #trackMemory(command: NvmeCommand): number | Promise<number> {
    const target = this.#target(command);
    if (target === undefined) return command.fail(STATUS.INVALID_CONTROLLER_ID, 44);
    if (target.migratable.isSuspended) return command.fail(STATUS.CONTROLLER_SUSPENDED, 44);
    const { controllerId } = target;
    if ((command.dword(10) & 0x10000) === 0) {
      this.#untrack(controllerId);
      return STATUS.SUCCESS;
    }
    if (this.#tracked.has(controllerId)) return command.fail(STATUS.INVALID_CONTROLLER_ID, 44);
    const header = new Uint8Array(8);
    return this.#fetch(command, header, () => {
      const view = new DataView(header.buffer);
      const granularity = view.getUint8(3);
      const count = view.getUint32(4, true);
      const inUse = [...this.#tracked.values()].reduce((sum, { ranges }) => sum + ranges.length, 0);
      if (
        view.getUint8(0) !== 0 ||
        granularity < TRACKING.MIN_GRANULARITY ||
        granularity > TRACKING.MAX_GRANULARITY ||
        count === 0 ||
        count + inUse > TRACKING.DESCRIPTORS
      )
        return command.fail(STATUS.INVALID_FIELD, 24);
      const bytes = new Uint8Array(8 + 12 * count);
      return this.#fetch(command, bytes, () => this.#track(command, target, bytes, GRAIN * 2 ** granularity));
    });
  }

  #track(command: NvmeCommand, { controllerId, dma }: ManagedController, bytes: Uint8Array, grain: number): number {
    const view = new DataView(bytes.buffer);
    const ranges: TrackedRange[] = [];
    for (let at = 8; at < bytes.length; at += 12) {
      const start = view.getUint32(at + 4, true) * 0x100000000 + view.getUint32(at, true);
      const length = grain * view.getUint32(at + 8, true);
      if (start % grain !== 0 || length === 0 || !Number.isSafeInteger(start + length))
        return command.fail(STATUS.INVALID_FIELD, 24);
      ranges.push({ start, length });
    }
    const pages = new DirtyPages(ranges, grain);
    this.#tracked.set(controllerId, pages);
    dma.observe(pages);
    return STATUS.SUCCESS;
  }

  #reportMemory(command: NvmeCommand): number | Promise<number> {
    const target = this.#target(command);
    const pages = target === undefined ? undefined : this.#tracked.get(target.controllerId);
    if (target === undefined || pages === undefined) return command.fail(STATUS.INVALID_CONTROLLER_ID, 44);
    const length = 4 * (command.dword(12) + 1);
    if (length > this.#host.maxTransfer) return command.fail(STATUS.INVALID_FIELD, 48);
    const data = new Uint8Array(length);
    const view = new DataView(data.buffer);
    const room = Math.max(0, Math.floor((length - 16) / 16));
    const told: number[] = [];
    let count = 0;
    let isMore = false;
    for (const page of pages.sorted()) {
      const at = 16 * count;
      if (count > 0 && told.at(-1) === page - 1) view.setUint32(at + 8, view.getUint32(at + 8, true) + 1, true);
      else if (count < room) {
        count++;
        view.setBigUint64(16 * count, BigInt(page * pages.pageSize), true);
        view.setUint32(16 * count + 8, 1, true);
      } else {
        isMore = count > 0;
        break;
      }
      told.push(page);
    }
    const header = new Uint8Array(16);
    const fields = new DataView(header.buffer);
    fields.setUint8(1, (isMore ? 1 : 0) | (target.migratable.isSuspended ? 2 : 0));
    fields.setUint16(2, target.controllerId, true);
    fields.setUint32(4, count, true);
    fields.setUint16(8, Math.log2(pages.pageSize / GRAIN), true);
    data.set(header.subarray(0, length));
    // What is written while the report is on its way is for the next one.
    for (const page of told) pages.clean(page);
    const moved = this.#host.transfer.run(command, data, 'to-host');
    const done = (status: number): number => {
      if (status !== STATUS.SUCCESS) for (const page of told) pages.written(page * pages.pageSize, 1);
      return status;
    };
    return typeof moved === 'number' ? done(moved) : moved.then(done);
  }

  #untrack(controllerId: number): void {
    const pages = this.#tracked.get(controllerId);
    if (pages === undefined) return;
    this.#tracked.delete(controllerId);
    this.controllers.get(controllerId)?.dma.unobserve(pages);
  }

  #isSuspended(controllerId: number): boolean {
    return this.controllers.get(controllerId)?.migratable.isSuspended === true;
  }

  /** The controller that a command is about; undefined: there is none, or it is the manager itself. */
  #target(command: NvmeCommand): ManagedController | undefined {
    return this.controllers.get(command.dword(11) & 0xffff);
  }

  #fetch(command: NvmeCommand, into: Uint8Array, then: () => number | Promise<number>): number | Promise<number> {
    const moved = this.#host.transfer.run(command, into, 'from-host');
    if (typeof moved === 'number') return moved === STATUS.SUCCESS ? then() : moved;
    return moved.then((status) => (status === STATUS.SUCCESS ? then() : status));
  }
}
