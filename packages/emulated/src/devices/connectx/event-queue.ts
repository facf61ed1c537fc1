import type { FunctionInterrupts } from '../../irq/function-interrupts.js';
import type { TrackedDma } from '../tracked-dma.js';
import { EVENT } from './constants.js';
import { addressAt, type PageList } from './page-list.js';

/** Bytes of an event. */
export const EVENT_SIZE = 64;

const EQE = { TYPE: 1, SUB_TYPE: 3, DATA: 0x20, OWNER: 0x3f } as const;

/** States of a queue that software sees in its context. */
export const EQ_STATE = { ARMED: 0x9, FIRED: 0xa } as const;

/** What CREATE_EQ says of a queue. */
export interface EventQueueShape extends PageList {
  readonly number: number;
  readonly logSize: number;
  /** Where the first event lies in the first page. */
  readonly pageOffset: number;
  readonly vector: number;
  readonly uar: number;
  /** Bit n: events of type n. None: completions only. */
  readonly events: bigint;
  readonly ignoresOverrun: boolean;
}

/** A queue in an image of its function. */
export interface EventQueueState {
  readonly shape: Omit<EventQueueShape, 'events'> & { readonly events: string };
  readonly producer: number;
  readonly consumer: number;
  readonly armed: boolean;
  readonly failed: boolean;
}

/** A ring of events in software's memory, with an interrupt for the first event after it was armed. */
export class EventQueue {
  readonly shape: EventQueueShape;
  readonly #dma: TrackedDma;
  readonly #irq: FunctionInterrupts;
  #producer = 0;
  #consumer = 0;
  #armed = false;
  /** Overrun or its memory did not answer: no more events. */
  #failed = false;
  #writes: Promise<void> = Promise.resolve();

  constructor(dma: TrackedDma, irq: FunctionInterrupts, shape: EventQueueShape) {
    this.#dma = dma;
    this.#irq = irq;
    this.shape = shape;
  }

  get producer(): number {
    return this.#producer;
  }

  get consumer(): number {
    return this.#consumer;
  }

  get state(): number {
    return this.#armed ? EQ_STATE.ARMED : EQ_STATE.FIRED;
  }

  get hasFailed(): boolean {
    return this.#failed;
  }

  /** What must go with the function when it moves. */
  save(): EventQueueState {
    const { shape } = this;
    return {
      shape: { ...shape, events: shape.events.toString(16) },
      producer: this.#producer,
      consumer: this.#consumer,
      armed: this.#armed,
      failed: this.#failed,
    };
  }

  /** A queue as it was saved. */
  static restore(dma: TrackedDma, irq: FunctionInterrupts, state: EventQueueState): EventQueue {
    const queue = new EventQueue(dma, irq, { ...state.shape, events: BigInt(`0x${state.shape.events}`) });
    queue.#producer = state.producer;
    queue.#consumer = state.consumer;
    queue.#armed = state.armed;
    queue.#failed = state.failed;
    return queue;
  }

  takes(type: number): boolean {
    return type === EVENT.COMPLETION ? this.shape.events === 0n : ((this.shape.events >> BigInt(type)) & 1n) === 1n;
  }

  /** Software has taken events up to `index`, and wants an interrupt for the next where it arms. */
  doorbell(index: number, arm: boolean): void {
    this.#consumer = index & 0xffffff;
    if (!arm) return;
    this.#armed = true;
    if (this.#consumer !== (this.#producer & 0xffffff)) this.#fire();
  }

  /** Puts an event at the end. `fill` writes its data. Order is kept; resolves when software can see it. */
  post(type: number, subType: number, fill: (data: DataView) => void): Promise<void> {
    const event = new Uint8Array(EVENT_SIZE);
    event[EQE.TYPE] = type;
    event[EQE.SUB_TYPE] = subType;
    fill(new DataView(event.buffer, EQE.DATA, 28));
    this.#writes = this.#writes
      .then(() => this.#write(event))
      .catch(() => {
        this.#failed = true;
      });
    return this.#writes;
  }

  async #write(event: Uint8Array): Promise<void> {
    const size = 2 ** this.shape.logSize;
    const waiting = (this.#producer - this.#consumer) & 0xffffff;
    if (this.#failed || (waiting >= size && !this.shape.ignoresOverrun)) {
      this.#failed = true;
      return;
    }
    const index = this.#producer % size;
    const address = addressAt(this.shape, this.shape.pageOffset + index * EVENT_SIZE);
    // The owner bit changes with every pass; it comes last, when the rest can be read.
    event[EQE.OWNER] = Math.floor(this.#producer / size) & 1;
    await this.#dma.write(address, event.subarray(0, EQE.OWNER));
    await this.#dma.write(address + EQE.OWNER, event.subarray(EQE.OWNER));
    this.#producer++;
    if (this.#armed) this.#fire();
  }

  #fire(): void {
    this.#armed = false;
    this.#irq.send(this.shape.vector);
  }
}
