import type { FunctionContext } from '../../model.js';
import type { TrackedDma } from '../tracked-dma.js';
import { NvmeCommand } from './command.js';
import { ADMIN, CQE_SHIFT, EVENT, LOG, SQE_SHIFT } from './constants.js';
import type { AsyncEvents } from './events.js';
import type { ErrorLog } from './logs.js';
import { type Completion, CompletionQueue, type SubmissionQueue } from './queues.js';
import { HELD, MORE, STATUS } from './status.js';

/** What the engine serves. */
export interface EngineHost {
  readonly events: AsyncEvents;
  readonly errors: ErrorLog;
  /** Commands are fetched and completed: enabled, ready and not in fatal state. */
  readonly isRunning: boolean;
  /** Doorbells count: running, and no shutdown was asked for. */
  readonly isAccepting: boolean;
  execute(command: NvmeCommand, isAdmin: boolean): number | Promise<number>;
  /** Queue memory cannot be reached. */
  fatal(): void;
  /** Nothing of an earlier enabling is under way any more. */
  drained(): void;
}

/** Commands per turn, before other work of the thread has one. */
const BUDGET = 64;
/** Entries that one fetch takes. */
const BATCH = 16;
/** Commands of one queue that may wait for memory that is reached by messages. */
const IN_FLIGHT = 64;

/**
 * The queues of a controller: doorbells, fetching, completing, interrupts. A doorbell only notes its value; everything
 * that touches memory runs deferred.
 */
export class QueueEngine {
  readonly sqs: (SubmissionQueue | undefined)[];
  readonly cqs: (CompletionQueue | undefined)[];
  /** Interrupt mask (INTMS, INTMC). */
  mask = 0;
  readonly #ctx: FunctionContext;
  readonly #dma: TrackedDma;
  readonly #host: EngineHost;
  #epoch = 0;
  /** Nothing is fetched. */
  #isSuspended = false;
  /** Nothing is posted either: what was fetched before has ended. */
  #isStill = false;
  #onStill: (() => void)[] = [];
  #scheduled = false;
  /** Commands and transfers that wait for promises, of this enabling or an earlier one. */
  #outstanding = 0;
  #nextQueue = 1;
  readonly #stock: NvmeCommand[] = [];
  readonly #batch = new Uint8Array(BATCH << SQE_SHIFT);
  readonly #entry = new Uint8Array(1 << CQE_SHIFT);
  readonly #entryView = new DataView(this.#entry.buffer);
  /** The memory that completions were posted to last, as words: made once, not for each. */
  #words: Int32Array<ArrayBufferLike> = new Int32Array(0);

  constructor(ctx: FunctionContext, dma: TrackedDma, host: EngineHost, queues: number) {
    this.#ctx = ctx;
    this.#dma = dma;
    this.#host = host;
    this.sqs = new Array<SubmissionQueue | undefined>(queues).fill(undefined);
    this.cqs = new Array<CompletionQueue | undefined>(queues).fill(undefined);
  }

  /** Whether something of this enabling or an earlier one still waits for memory. */
  get isBusy(): boolean {
    return this.#outstanding > 0;
  }

  get isSuspended(): boolean {
    return this.#isSuspended;
  }

  /**
   * Fetches no more commands. Settles when those that were fetched have ended, but for requests that wait for an event:
   * from then on the engine touches no memory and signals nothing. Doorbells are still noted.
   */
  suspend(): void | Promise<void> {
    this.#isSuspended = true;
    if (this.#outstanding === 0) this.#isStill = true;
    if (this.#isStill) return;
    return new Promise((resolve) => {
      this.#onStill.push(resolve);
    });
  }

  /** Goes on. Whoever has not consumed a completion is told of it again: its interrupt may have gone to another host. */
  resume(): void {
    this.#leaveSuspension();
    for (const cq of this.cqs) if (cq !== undefined && cq.visible > 0) cq.posted = true;
    this.schedule();
  }

  #leaveSuspension(): void {
    this.#isSuspended = false;
    this.#isStill = false;
    for (const done of this.#onStill.splice(0)) done();
  }

  /** Takes a request that waits for an event, as one was that another controller had fetched. */
  adopt(sq: SubmissionQueue, cid: number): void {
    const command = this.#stock.pop() ?? new NvmeCommand();
    command.bytes.fill(0);
    command.bytes[0] = ADMIN.ASYNC_EVENT;
    command.bytes[2] = cid & 0xff;
    command.bytes[3] = cid >>> 8;
    command.begin(sq, this.#epoch);
    command.isHeld = true;
    this.#host.events.hold(command);
  }

  /** Everything stops where it is: queues are gone, commands are forgotten, the pin is quiet. */
  stop(): void {
    this.#epoch += 1;
    this.#leaveSuspension();
    this.#stock.push(...this.#host.events.reset());
    this.sqs.fill(undefined);
    this.cqs.fill(undefined);
    this.#words = new Int32Array(0);
    this.#ctx.irq.setIntx(false);
  }

  /** Doorbell `index` was written: even ones are submission queue tails, odd ones completion queue heads. */
  ring(index: number, value: number): void {
    if (!this.#host.isAccepting) return;
    const id = index >> 1;
    const isCompletion = (index & 1) !== 0;
    const queue = isCompletion ? this.cqs[id] : this.sqs[id];
    if (queue === undefined) {
      this.#doorbellError(EVENT.ERROR_INVALID_DOORBELL);
      return;
    }
    const entry = value >>> 0;
    const from = isCompletion ? queue.head : queue.tail;
    const moved = entry >= from ? entry - from : entry + queue.size - from;
    // The value must be a new one; not more than was posted can be consumed, and not more added than there is room for.
    const most = queue instanceof CompletionQueue ? queue.unread : queue.size - 1 - queue.waiting;
    if (entry >= queue.size || moved === 0 || moved > most) {
      this.#doorbellError(EVENT.ERROR_INVALID_DOORBELL_VALUE);
      return;
    }
    if (isCompletion) {
      queue.head = entry;
      this.updateIntx();
    } else queue.tail = entry;
    this.schedule();
  }

  #doorbellError(info: number): void {
    // Told by an event, whose completion is posted later: a register access does no DMA.
    const epoch = this.#epoch;
    this.#ctx.defer(() => {
      if (epoch !== this.#epoch) return;
      // No command is to blame: its fields are all ones (figure 193).
      this.#host.errors.add({ sqId: 0xffff, cid: 0xffff, status: 0, at: 0xffff, lba: 0, nsid: 0 });
      this.#host.events.raise(EVENT.TYPE_ERROR, info, LOG.ERROR);
      this.signalAll();
    });
  }

  /** There may be work. */
  schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#ctx.defer(this.#run);
  }

  readonly #run = (): void => {
    this.#scheduled = false;
    if (!this.#host.isRunning || !this.#dma.enabled) return;
    for (let id = 0; id < this.cqs.length; id++) {
      const cq = this.cqs[id];
      if (cq !== undefined && cq.backlog.length > 0) this.#drain(cq);
    }
    let budget = BUDGET;
    // The admin queue first, then each I/O queue in turn (round robin, 4.13.1).
    budget -= this.#serve(this.sqs[0]);
    const count = this.sqs.length - 1;
    for (let idle = 0; idle < count && budget > 0; ) {
      const served = this.#serve(this.sqs[this.#nextQueue]);
      this.#nextQueue = this.#nextQueue >= count ? 1 : this.#nextQueue + 1;
      budget -= served;
      idle = served === 0 ? idle + 1 : 0;
    }
    this.signalAll();
    if (budget <= 0) this.schedule();
  };

  /** Fetches and executes a batch of one queue; how many commands. */
  #serve(sq: SubmissionQueue | undefined): number {
    if (sq === undefined || this.#isSuspended || sq.deleting || sq.isFetching || sq.waiting === 0) return 0;
    if (sq.inFlight >= IN_FLIGHT || sq.cq.backlog.length > 0) return 0;
    const straight = sq.tail > sq.head ? sq.tail - sq.head : sq.size - sq.head;
    const count = Math.min(straight, BATCH);
    const from = sq.base + (sq.head << SQE_SHIFT);
    const length = count << SQE_SHIFT;
    const epoch = this.#epoch;
    try {
      const local = this.#dma.view(from, length, false);
      if (local !== undefined) {
        this.#batch.set(local);
        this.#executeBatch(sq, this.#batch, count);
        return count;
      }
      const buffer = new Uint8Array(length);
      const wait = this.#dma.read(from, buffer);
      if (wait === undefined) {
        this.#executeBatch(sq, buffer, count);
        return count;
      }
      sq.isFetching = true;
      this.#outstanding += 1;
      wait
        .then(
          () => {
            sq.isFetching = false;
            if (epoch === this.#epoch) this.#executeBatch(sq, buffer, count);
          },
          () => {
            sq.isFetching = false;
            if (epoch === this.#epoch) this.#host.fatal();
          },
        )
        .finally(() => {
          if (sq.deleting && sq.isIdle) sq.onIdle?.();
          this.#ended();
        });
    } catch {
      this.#host.fatal();
    }
    return 0;
  }

  #executeBatch(sq: SubmissionQueue, entries: Uint8Array, count: number): void {
    const epoch = this.#epoch;
    for (let i = 0; i < count && epoch === this.#epoch && !sq.deleting; i++) {
      const command = this.#stock.pop() ?? new NvmeCommand();
      const at = i << SQE_SHIFT;
      for (let b = 0; b < 1 << SQE_SHIFT; b++) command.bytes[b] = entries[at + b] ?? 0;
      command.begin(sq, epoch);
      sq.head = sq.head + 1 === sq.size ? 0 : sq.head + 1;
      sq.inFlight += 1;
      const status = this.#host.execute(command, sq.id === 0);
      if (typeof status === 'number') {
        if (status !== HELD) {
          this.finish(command, status);
          continue;
        }
        command.isHeld = true;
        sq.inFlight -= 1;
        this.#host.events.deliver();
        continue;
      }
      this.#outstanding += 1;
      status
        .catch(() => STATUS.INTERNAL_ERROR)
        .then((result) => {
          if (command.epoch !== this.#epoch) this.#stock.push(command);
          else if (result !== HELD) this.finish(command, result);
          this.#ended();
        });
    }
  }

  /** Something that waited has ended. */
  #ended(): void {
    this.#outstanding -= 1;
    if (this.#outstanding === 0) this.#host.drained();
    this.signalAll();
    if (this.#outstanding === 0 && this.#isSuspended) {
      this.#isStill = true;
      for (const done of this.#onStill.splice(0)) done();
    }
    this.schedule();
  }

  /** A command is done: its completion is posted, or waits for room. */
  finish(command: NvmeCommand, status: number): void {
    const { sq } = command;
    if (sq === undefined) return;
    let field = status;
    if (status !== STATUS.SUCCESS && status !== STATUS.ABORT_REQUESTED) {
      this.#host.errors.add({
        sqId: sq.id,
        cid: command.cid,
        status,
        at: command.errorAt,
        lba: command.errorLba,
        nsid: command.nsid,
      });
      field |= MORE;
    }
    if (!command.isHeld) sq.inFlight -= 1;
    this.#post(sq.cq, {
      result: command.result,
      sqId: sq.id,
      sqHead: sq.head,
      cid: command.cid,
      status: field,
    });
    this.#stock.push(command);
    if (sq.deleting && sq.isIdle) sq.onIdle?.();
  }

  #post(cq: CompletionQueue, completion: Completion): void {
    cq.backlog.push(completion);
    this.#drain(cq);
  }

  /** Posts what waits, as far as there is room. The phase bit is stored last. */
  #drain(cq: CompletionQueue): void {
    while (cq.backlog.length > 0 && !cq.isFull && !cq.posting && !this.#isStill && this.#host.isRunning) {
      const completion = cq.backlog.shift();
      if (completion === undefined) return;
      const at = cq.base + (cq.tail << CQE_SHIFT);
      const last = completion.cid | (((completion.status << 1) | cq.phase) << 16) | 0;
      cq.tail += 1;
      if (cq.tail === cq.size) {
        cq.tail = 0;
        cq.phase ^= 1;
      }
      const view = this.#entryView;
      view.setUint32(0, completion.result, true);
      view.setUint32(4, 0, true);
      view.setUint32(8, (completion.sqHead | (completion.sqId << 16)) >>> 0, true);
      view.setInt32(12, last, true);
      try {
        const local = this.#dma.view(at, 1 << CQE_SHIFT, true);
        if (local !== undefined) {
          for (let i = 0; i < 12; i++) local[i] = this.#entry[i] ?? 0;
          this.#storeLast(local, last);
          cq.posted = true;
          continue;
        }
        const epoch = this.#epoch;
        const wait = this.#dma.write(at, this.#entry.slice());
        if (wait === undefined) {
          cq.posted = true;
          continue;
        }
        cq.posting = true;
        this.#outstanding += 1;
        wait
          .then(
            () => {
              cq.posting = false;
              cq.posted = true;
              if (epoch === this.#epoch) this.#drain(cq);
            },
            () => {
              cq.posting = false;
              if (epoch === this.#epoch) this.#host.fatal();
            },
          )
          .finally(() => this.#ended());
      } catch {
        this.#host.fatal();
      }
    }
  }

  /** One interrupt for each queue that was posted to since the last time. */
  signalAll(): void {
    if (this.#isStill) return;
    for (let id = 0; id < this.cqs.length; id++) {
      const cq = this.cqs[id];
      if (cq === undefined || !cq.posted) continue;
      cq.posted = false;
      if (cq.interrupts) this.#ctx.irq.send(cq.vector);
    }
    this.updateIntx();
  }

  /** The pin is asserted while a queue holds what the host has not consumed, and is not masked (INTMS). */
  updateIntx(): void {
    let level = false;
    for (let id = 0; id < this.cqs.length && !level; id++) {
      const cq = this.cqs[id];
      // With pin-based interrupts all queues share the one line, and its mask is bit 0.
      level = cq?.interrupts === true && cq.visible > 0 && (this.mask & 1) === 0;
    }
    this.#ctx.irq.setIntx(level);
  }

  /** Stores the dword with the phase bit so that nobody who sees it misses what was stored before. */
  #storeLast(entry: Uint8Array, value: number): void {
    const { buffer } = entry;
    const at = entry.byteOffset + 12;
    if ((at & 3) !== 0) {
      // Queues are aligned to pages; only a mapping that is not even to dwords comes here.
      new DataView(buffer, at, 4).setInt32(0, value, true);
      return;
    }
    if (this.#words.buffer !== buffer) this.#words = new Int32Array(buffer, 0, buffer.byteLength >> 2);
    Atomics.store(this.#words, at >> 2, isLittleEndian ? value : swap(value));
  }
}

const isLittleEndian = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;

function swap(value: number): number {
  return ((value & 0xff) << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | ((value >>> 24) & 0xff);
}
