import { CommandError, SYNDROME } from './command.js';
import { COMPLETION, type CompletionQueue } from './completion-queue.js';
import { STATUS } from './constants.js';
import type { HcaFunction } from './hca.js';
import { addressAt, type PageList } from './page-list.js';

/** States of a queue pair, as the manual numbers them. */
export const QP_STATE = { RESET: 0, INIT: 1, RTR: 2, RTS: 3, ERROR: 6 } as const;

/** A receive work queue element: where a message goes. */
const WQE_BYTES = 16;

/** How long a sender waits before it tries again where no receive is posted. */
const RECEIVER_NOT_READY_MS = 1;

/** Where a queue pair receives. */
export interface ReceiveQueueShape extends PageList {
  readonly logSize: number;
  /** log2 of the bytes from one element to the next. */
  readonly logStride: number;
  readonly doorbellRecord: number;
  readonly completions: CompletionQueue;
}

export interface QueuePairShape {
  readonly number: number;
  readonly pd: number;
  readonly uar: number;
  /** Undefined: it receives nothing. */
  readonly receive: ReceiveQueueShape | undefined;
}

/** A queue pair in an image of its function. */
export interface QueuePairState {
  readonly shape: QueuePairShape;
  readonly receive: (Omit<ReceiveQueueShape, 'completions'> & { readonly completions: number }) | null;
  readonly state: number;
  readonly remote: number;
  readonly taken: number;
}

/** A reliable connected queue pair: enough of one to be reported to. */
export class QueuePair {
  readonly shape: QueuePairShape;
  readonly #fn: HcaFunction;
  state: number = QP_STATE.RESET;
  /** The queue pair at the other end, of the same function: the connection is a loop. */
  remote = 0;
  #taken = 0;

  constructor(fn: HcaFunction, shape: QueuePairShape) {
    this.#fn = fn;
    this.shape = shape;
  }

  save(): QueuePairState {
    const { receive } = this.shape;
    return {
      shape: { ...this.shape, receive: undefined },
      receive: receive === undefined ? null : { ...receive, completions: receive.completions.shape.number },
      state: this.state,
      remote: this.remote,
      taken: this.#taken,
    };
  }

  static restore(fn: HcaFunction, saved: QueuePairState): QueuePair {
    const { receive } = saved;
    const pair = new QueuePair(fn, {
      ...saved.shape,
      receive: receive === null ? undefined : { ...receive, completions: fn.completionQueues.get(receive.completions) },
    });
    pair.state = saved.state;
    pair.remote = saved.remote;
    pair.#taken = saved.taken;
    return pair;
  }

  /** @throws CommandError where a transition does not start here. */
  move(from: number, to: number): void {
    if (this.state !== from)
      throw new CommandError(STATUS.BAD_QP_STATE, SYNDROME.WRONG_STATE, `the queue pair is in state ${this.state}`);
    this.state = to;
  }

  /**
   * Sends a message with immediate data to the other end, and waits for a receive to be posted there.
   * Returns false where the connection is or gets broken.
   */
  async send(data: Uint8Array, immediate: number): Promise<boolean> {
    const peer = this.#fn.queuePairs.find(this.remote);
    if (this.state !== QP_STATE.RTS || peer === undefined) return false;
    const epoch = this.#fn.epoch;
    for (;;) {
      const result = await peer.#receive(data, immediate);
      if (result !== 'not-ready') {
        if (result === 'failed') this.state = QP_STATE.ERROR;
        return result === 'done';
      }
      await new Promise<void>((resolve) => this.#fn.ctx.clock.setTimer(RECEIVER_NOT_READY_MS, resolve));
      if (epoch !== this.#fn.epoch || this.state !== QP_STATE.RTS || this.#fn.queuePairs.find(this.remote) !== peer)
        return false;
    }
  }

  async #receive(data: Uint8Array, immediate: number): Promise<'done' | 'not-ready' | 'failed'> {
    const { receive } = this.shape;
    if (receive === undefined || (this.state !== QP_STATE.RTR && this.state !== QP_STATE.RTS)) return 'failed';
    const { dma } = this.#fn;
    const four = new Uint8Array(4);
    try {
      await dma.read(receive.doorbellRecord, four);
      const posted = new DataView(four.buffer).getUint32(0) & 0xffff;
      if (((posted - this.#taken) & 0xffff) === 0) return 'not-ready';
      const index = this.#taken % 2 ** receive.logSize;
      const element = new Uint8Array(WQE_BYTES);
      await dma.read(addressAt(receive, index * 2 ** receive.logStride), element);
      const view = new DataView(element.buffer);
      const room = view.getUint32(0);
      const key = this.#fn.memoryKey(view.getUint32(4), this.shape.pd);
      if (room < data.length) return await this.#fail(receive.completions, index);
      if (data.length > 0) await key.write(dma, Number(view.getBigUint64(8)), data);
      const wqeCounter = this.#taken++;
      const completion = {
        opcode: COMPLETION.RECEIVED_SEND_IMMEDIATE,
        qpn: this.shape.number,
        bytes: data.length,
        immediate,
        wqeCounter,
      };
      return (await receive.completions.post(completion)) ? 'done' : 'failed';
    } catch {
      return this.#fail(receive.completions, this.#taken);
    }
  }

  async #fail(completions: CompletionQueue, wqeCounter: number): Promise<'failed'> {
    this.state = QP_STATE.ERROR;
    const { number: qpn } = this.shape;
    await completions.post({ opcode: COMPLETION.RESPONDER_ERROR, qpn, bytes: 0, immediate: 0, wqeCounter });
    return 'failed';
  }
}
