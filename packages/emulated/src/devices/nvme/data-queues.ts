import type { TrackedDma } from '../tracked-dma.js';
import type { NvmeCommand } from './command.js';
import { QUEUE_LIMITS } from './identify.js';
import { STATUS } from './status.js';

const ENTRY = 32;

/** Entry Sequence Attribute of an entry: which one of a log it is. */
const SEQUENCE = { MIDDLE: 0, FIRST: 1, LAST_STOPPED: 2, LAST_SUSPENDED: 3, LAST_FULL: 7 } as const;

/** LBA Change Information Attribute: what an entry tells of. */
const CHANGE = { RANGE: 0, ALL: 1, NOTHING: 2 } as const;

/** Blocks of a namespace that a controller has changed; without a range all of them. */
export interface DataChange {
  readonly nsid: number;
  readonly range?: { readonly start: number; readonly blocks: number; readonly isDeallocated: boolean };
}

/** What posts to the host's memory. */
export interface DataQueueHost {
  readonly controllerId: number;
  readonly dma: TrackedDma;
  readonly transfer: { readonly pageSize: number };
  /** Memory cannot be reached. */
  fatal(): void;
}

/**
 * A queue in the host's memory to which changes of namespaces by one controller are posted: an LBA Migration Queue with entries
 * of type 0 (NVM Command Set 1.1, 5.6).
 */
class LbaMigrationQueue {
  /** Whose changes. */
  readonly controllerId: number;
  readonly size: number;
  isLogging = false;
  head = 0;
  #tail = 0;
  /** The phase tag of the next entry; all are 0 before the first round (Base 2.1, 8.1.6.2). */
  #phase = 1;
  #isFirst = true;
  readonly #base: number;
  readonly #host: DataQueueHost;
  /** Entries reach memory in their order. */
  #last: Promise<void> | undefined;

  constructor(host: DataQueueHost, controllerId: number, base: number, size: number) {
    this.#host = host;
    this.controllerId = controllerId;
    this.#base = base;
    this.size = size;
  }

  get tail(): number {
    return this.#tail;
  }

  /** Settles when what was posted is in memory. */
  get settled(): Promise<void> | undefined {
    return this.#last;
  }

  start(): void {
    this.isLogging = true;
    this.#isFirst = true;
  }

  /** The controller goes on after a suspension: its next entry is a first one. */
  resumed(): void {
    this.#isFirst = true;
  }

  /** Logging ends, which is the last entry. */
  stop(isSuspended: boolean): void {
    if (!this.isLogging) return;
    this.#post(undefined, isSuspended ? SEQUENCE.LAST_SUSPENDED : SEQUENCE.LAST_STOPPED);
    if (!isSuspended) this.isLogging = false;
  }

  log(change: DataChange): void {
    if (!this.isLogging) return;
    this.#post(change, this.#isFirst ? SEQUENCE.FIRST : SEQUENCE.MIDDLE);
    this.#isFirst = false;
  }

  #post(change: DataChange | undefined, sequence: number): void {
    const used = (this.#tail - this.head + this.size) % this.size;
    // What follows has no room any more: this is the last entry, and no change after it is told.
    const isFull = used === this.size - 2;
    if (isFull) this.isLogging = false;
    const bytes = new Uint8Array(ENTRY);
    const view = new DataView(bytes.buffer);
    const range = change?.range;
    let kind: number = CHANGE.NOTHING;
    if (change !== undefined) {
      kind = range === undefined ? CHANGE.ALL : CHANGE.RANGE;
      view.setUint32(0, change.nsid, true);
    }
    if (range !== undefined) {
      view.setUint32(4, range.blocks - 1, true);
      view.setBigUint64(8, BigInt(range.start), true);
    }
    const esa = isFull ? SEQUENCE.LAST_FULL : sequence;
    bytes[31] = this.#phase | (esa << 1) | (range?.isDeallocated === true ? 0x20 : 0) | (kind << 6);
    this.#write(this.#base + this.#tail * ENTRY, bytes);
    this.#tail += 1;
    if (this.#tail < this.size) return;
    this.#tail = 0;
    this.#phase ^= 1;
  }

  #write(at: number, bytes: Uint8Array): void {
    const before = this.#last;
    const write = (): void | Promise<void> => this.#host.dma.write(at, bytes);
    try {
      const wait = before === undefined ? write() : before.then(write);
      if (wait === undefined) return;
      const last: Promise<void> = wait
        .catch(() => this.#host.fatal())
        .then(() => {
          if (this.#last === last) this.#last = undefined;
        });
      this.#last = last;
    } catch {
      this.#host.fatal();
    }
  }
}

/** The Controller Data Queues of a controller that manages migration (NVM Express Base 2.1, 5.1.4 and 8.1.6). */
export class DataQueues {
  readonly #host: DataQueueHost;
  readonly #queues = new Map<number, LbaMigrationQueue>();

  constructor(host: DataQueueHost) {
    this.#host = host;
  }

  /** Controller Data Queue. `exists`: whether a controller is managed. */
  execute(command: NvmeCommand, exists: (controllerId: number) => boolean): number {
    const select = command.dword(10) & 0xff;
    if (select === 0) return this.#create(command, exists);
    if (select !== 1) return command.fail(STATUS.INVALID_FIELD, 40);
    return this.#queues.delete(command.dword(11) & 0xffff)
      ? STATUS.SUCCESS
      : command.fail(STATUS.INVALID_CONTROLLER_DATA_QUEUE, 44);
  }

  /** Log User Data Changes of Track Send. */
  track(command: NvmeCommand, isSuspended: (controllerId: number) => boolean): number | Promise<number> {
    const queue = this.#queues.get(command.dword(11) & 0xffff);
    if (queue === undefined) return command.fail(STATUS.INVALID_CONTROLLER_DATA_QUEUE, 44);
    const action = (command.dword(10) >>> 16) & 0xf;
    if (action > 1) return command.fail(STATUS.INVALID_FIELD, 42);
    if (isSuspended(queue.controllerId)) return command.fail(STATUS.CONTROLLER_SUSPENDED, 44);
    if (action === 1) {
      if (queue.isLogging) return command.fail(STATUS.INVALID_CONTROLLER_DATA_QUEUE, 44);
      queue.start();
      return STATUS.SUCCESS;
    }
    queue.stop(false);
    return queue.settled?.then(() => STATUS.SUCCESS) ?? STATUS.SUCCESS;
  }

  /** Set Features, Controller Data Queue (5.1.25.1.23): the host has consumed entries. */
  setHead(command: NvmeCommand): number {
    const queue = this.#queues.get(command.dword(11) & 0xffff);
    if (queue === undefined) return command.fail(STATUS.INVALID_CONTROLLER_DATA_QUEUE, 44);
    // Events of a queue are not sent.
    if (command.dword(11) >>> 31 === 1) return command.fail(STATUS.INVALID_FIELD, 47);
    const head = command.dword(12);
    const posted = (queue.tail - queue.head + queue.size) % queue.size;
    const consumed = (head - queue.head + queue.size) % queue.size;
    if (head >= queue.size || consumed > posted) return command.fail(STATUS.INVALID_FIELD, 48);
    queue.head = head;
    return STATUS.SUCCESS;
  }

  /** The head of the queue that Get Features names; undefined: there is none. */
  headOf(command: NvmeCommand): number | undefined {
    return this.#queues.get(command.dword(11) & 0xffff)?.head;
  }

  /** A controller has changed data. */
  changed(controllerId: number, change: DataChange): void {
    this.#of(controllerId)?.log(change);
  }

  /** A controller is suspended; settles when that has been told. */
  async suspended(controllerId: number, isDeleted: boolean): Promise<void> {
    const queue = this.#of(controllerId);
    queue?.stop(true);
    await queue?.settled;
    if (isDeleted) this.remove(controllerId);
  }

  resumed(controllerId: number): void {
    this.#of(controllerId)?.resumed();
  }

  remove(controllerId: number): void {
    for (const [id, queue] of this.#queues) if (queue.controllerId === controllerId) this.#queues.delete(id);
  }

  clear(): void {
    this.#queues.clear();
  }

  #create(command: NvmeCommand, exists: (controllerId: number) => boolean): number {
    const controllerId = command.dword(11) >>> 16;
    const bytes = 4 * command.dword(12);
    // User Data Migration Queues only, in one piece (MCDQPC is 0).
    if (((command.dword(10) >>> 16) & 0xff) !== 0) return command.fail(STATUS.INVALID_FIELD, 42);
    if ((command.dword(11) & 1) === 0) return command.fail(STATUS.INVALID_FIELD, 44);
    if (command.prp1 % this.#host.transfer.pageSize !== 0) return command.fail(STATUS.PRP_OFFSET_INVALID, 24);
    if (bytes % ENTRY !== 0 || bytes < 2 * ENTRY) return command.fail(STATUS.INVALID_FIELD, 48);
    if (!exists(controllerId)) return command.fail(STATUS.INVALID_CONTROLLER_ID, 46);
    if (this.#of(controllerId) !== undefined) return command.fail(STATUS.INVALID_FIELD, 46);
    if (this.#queues.size === QUEUE_LIMITS.QUEUES) return STATUS.NOT_ENOUGH_RESOURCES;
    let id = 1;
    while (this.#queues.has(id)) id++;
    this.#queues.set(id, new LbaMigrationQueue(this.#host, controllerId, command.prp1, bytes / ENTRY));
    command.result = id;
    return STATUS.SUCCESS;
  }

  #of(controllerId: number): LbaMigrationQueue | undefined {
    for (const queue of this.#queues.values()) if (queue.controllerId === controllerId) return queue;
    return undefined;
  }
}
