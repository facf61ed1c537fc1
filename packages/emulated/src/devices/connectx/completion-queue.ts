import type { TrackedDma } from '../tracked-dma.js';
import type { EventQueue } from './event-queue.js';
import { addressAt, type PageList } from './page-list.js';

const CQE_BYTES = 64;
const CQE = { IMMEDIATE: 0x24, BYTES: 0x2c, QPN: 0x38, WQE_COUNTER: 0x3c, OPCODE_OWNER: 0x3f } as const;

/** What a completion is about, in bits 7:4 of its last byte. */
export const COMPLETION = { RECEIVED_SEND_IMMEDIATE: 3, RESPONDER_ERROR: 14 } as const;

export interface CompletionQueueShape extends PageList {
  readonly number: number;
  readonly logSize: number;
  readonly pageOffset: number;
  /** Software's counter of what it has taken. */
  readonly doorbellRecord: number;
  readonly uar: number;
  readonly eventQueue: EventQueue;
}

/** A queue in an image of its function. */
export interface CompletionQueueState {
  readonly shape: Omit<CompletionQueueShape, 'eventQueue'> & { readonly eventQueue: number };
  readonly producer: number;
  readonly armed: boolean;
  readonly failed: boolean;
}

/** One completion. */
export interface Completion {
  readonly opcode: number;
  readonly qpn: number;
  readonly bytes: number;
  readonly immediate: number;
  readonly wqeCounter: number;
}

/** A ring of completions in software's memory, with an event for the first one after it was armed. */
export class CompletionQueue {
  readonly shape: CompletionQueueShape;
  readonly #dma: TrackedDma;
  #producer = 0;
  #armed = false;
  /** It was full, or its memory did not answer. */
  #failed = false;

  constructor(dma: TrackedDma, shape: CompletionQueueShape) {
    this.#dma = dma;
    this.shape = shape;
  }

  save(): CompletionQueueState {
    const { shape } = this;
    return {
      shape: { ...shape, eventQueue: shape.eventQueue.shape.number },
      producer: this.#producer,
      armed: this.#armed,
      failed: this.#failed,
    };
  }

  static restore(dma: TrackedDma, eventQueue: EventQueue, state: CompletionQueueState): CompletionQueue {
    const queue = new CompletionQueue(dma, { ...state.shape, eventQueue });
    queue.#producer = state.producer;
    queue.#armed = state.armed;
    queue.#failed = state.failed;
    return queue;
  }

  get hasFailed(): boolean {
    return this.#failed;
  }

  /** Software wants an event for the next completion after `index`. */
  arm(index: number): void {
    this.#armed = true;
    if ((index & 0xffffff) !== (this.#producer & 0xffffff)) this.#notify();
  }

  /** Puts a completion at the end. False where the queue takes no more. */
  async post(completion: Completion): Promise<boolean> {
    const { shape } = this;
    const size = 2 ** shape.logSize;
    const record = new Uint8Array(4);
    try {
      await this.#dma.read(shape.doorbellRecord, record);
      const consumer = new DataView(record.buffer).getUint32(0) & 0xffffff;
      if (this.#failed || ((this.#producer - consumer) & 0xffffff) >= size) {
        this.#failed = true;
        return false;
      }
      const entry = new Uint8Array(CQE_BYTES);
      const view = new DataView(entry.buffer);
      view.setUint32(CQE.IMMEDIATE, completion.immediate);
      view.setUint32(CQE.BYTES, completion.bytes);
      view.setUint32(CQE.QPN, completion.qpn);
      view.setUint16(CQE.WQE_COUNTER, completion.wqeCounter & 0xffff);
      entry[CQE.OPCODE_OWNER] = (completion.opcode << 4) | (Math.floor(this.#producer / size) & 1);
      const address = addressAt(shape, shape.pageOffset + (this.#producer % size) * CQE_BYTES);
      await this.#dma.write(address, entry.subarray(0, CQE.OPCODE_OWNER));
      await this.#dma.write(address + CQE.OPCODE_OWNER, entry.subarray(CQE.OPCODE_OWNER));
    } catch {
      this.#failed = true;
      return false;
    }
    this.#producer++;
    if (this.#armed) this.#notify();
    return true;
  }

  #notify(): void {
    this.#armed = false;
    void this.shape.eventQueue.post(0, 0, (data) => data.setUint32(0x18, this.shape.number));
  }
}
