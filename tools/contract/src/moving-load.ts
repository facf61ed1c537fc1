import { type EventTrigger, isVfioError } from '@vfio/core';
import { CONNECTX_ENGINE as ENGINE } from '@vfio/emulated';
import { VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_MSIX_IRQ_INDEX } from '@vfio/uapi';
import type { VfioUserClient } from '@vfio/vfio-user';
import { putCopy, readEngine, startEngine, writeEngine } from './engine.js';

const VECTOR = 3;
const RING_LOG = 5;
const SLOTS = 1 << RING_LOG;
const PAGE = 4096;
/** Behind the ring: what is copied, and to where. */
const SOURCE = PAGE;

/** Counts its signals, from either side. */
class Interrupts implements EventTrigger {
  readonly fd = undefined;
  signals = 0;

  signal(): void {
    this.signals++;
  }

  watch(): () => void {
    return () => {};
  }

  release(): void {}
}

/** One server's device as the program that uses it has it. */
export interface LoadSide {
  readonly client: VfioUserClient;
  readonly iova: bigint;
  readonly bytes: Uint8Array;
}

/**
 * A program that has a ConnectX engine copy memory, descriptor after descriptor, and that goes on at another server when it is
 * told there that the device has moved. It believes nothing: each copy is compared, each completion and interrupt counted.
 */
export class MovingLoad {
  readonly #sides: readonly LoadSide[];
  readonly #random: () => number;
  readonly interrupts = new Interrupts();
  #at = 0;
  /** Descriptors that were handed over, and that have ended. */
  #produced = 0;
  #consumed = 0;
  #batches = 0;
  #isOver = false;

  constructor(sides: readonly LoadSide[], random: () => number) {
    this.#sides = sides;
    this.#random = random;
  }

  get completed(): number {
    return this.#consumed;
  }

  /** Each of them ends with an interrupt. */
  get batches(): number {
    return this.#batches;
  }

  /** At which side it is. */
  get side(): number {
    return this.#at;
  }

  /** Sets up what a device's user has to at either side; the engine at the first. */
  async start(): Promise<void> {
    for (const { client } of this.#sides) {
      await client.write(7, 4, Uint8Array.of(6, 0));
      await client.setIrqs({
        flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        index: VFIO_PCI_MSIX_IRQ_INDEX,
        start: 0,
        count: VECTOR + 1,
        triggers: [null, null, null, this.interrupts],
      });
    }
    const { client, iova } = this.#here;
    await startEngine(client, { iova, logSize: RING_LOG, vector: VECTOR });
  }

  /** Works until {@link stop}, then until everything that was handed over has ended. */
  async run(): Promise<void> {
    while (!this.#isOver) await this.#batch();
  }

  stop(): void {
    this.#isOver = true;
  }

  /** What the device has counted, itself. */
  async counters(): Promise<{ completed: number; failed: number; interrupts: number }> {
    return {
      completed: await this.#read(ENGINE.COMPLETED),
      failed: await this.#read(ENGINE.FAILED),
      interrupts: await this.#read(ENGINE.INTERRUPTS),
    };
  }

  get #here(): LoadSide {
    return this.#sides[this.#at]!;
  }

  async #batch(): Promise<void> {
    const count = 1 + Math.floor(this.#random() * (SLOTS - 1));
    const { length } = this.#here.bytes;
    const room = Math.floor((length - 2 * PAGE) / SLOTS);
    const jobs = Array.from({ length: count }, (_, n) => ({
      slot: (this.#produced + n) % SLOTS,
      isLast: n === count - 1,
      size: 1 + Math.floor(this.#random() * Math.min(room, PAGE)),
      to: 2 * PAGE + n * room,
    }));
    const seed = Math.floor(this.#random() * 256);
    // Where the device has moved before it was rung, all of it is done again there.
    await this.#resumed(async () => {
      const { bytes, iova } = this.#here;
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      for (let at = 0; at < PAGE; at++) bytes[SOURCE + at] = (at * 13 + seed) & 0xff;
      for (const { slot, isLast, size, to } of jobs) {
        const at = slot * ENGINE.DESCRIPTOR_BYTES;
        putCopy(view, at, { from: iova + BigInt(SOURCE), to: iova + BigInt(to), length: size, isLast });
        view.setUint32(at + 24, 0, true);
      }
      await this.#write(ENGINE.PRODUCER, (this.#produced + count) | 0);
    });
    this.#produced += count;
    while (((await this.#resumed(() => this.#read(ENGINE.CONSUMER))) | 0) !== (this.#produced | 0)) {
      if (((await this.#resumed(() => this.#read(ENGINE.STATUS))) & ENGINE.STATUS_ERROR) !== 0) {
        throw new Error('the engine stands still');
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    const { bytes } = this.#here;
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    for (const { slot, size, to } of jobs) {
      if (view.getUint32(slot * ENGINE.DESCRIPTOR_BYTES + 24, true) !== ENGINE.DONE)
        throw new Error('a completion is lost');
      const wanted = bytes.subarray(SOURCE, SOURCE + size);
      if (Buffer.compare(bytes.subarray(to, to + wanted.length), wanted) !== 0) throw new Error('a copy is wrong');
    }
    this.#consumed += count;
    this.#batches++;
    // Signals that come together are one: the next batch waits for this one's.
    while (this.interrupts.signals < this.#batches) await new Promise((resolve) => setTimeout(resolve, 1));
  }

  /** Does something at this side, or at the next where the device is there. */
  async #resumed<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!isVfioError(error) || error.errno !== 'ENODEV' || this.#at + 1 === this.#sides.length) throw error;
      this.#at++;
      return this.#resumed(work);
    }
  }

  #read(register: number): Promise<number> {
    return readEngine(this.#here.client, register);
  }

  #write(register: number, value: number): Promise<void> {
    return writeEngine(this.#here.client, register, value);
  }
}
