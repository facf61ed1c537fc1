import { randomFillSync } from 'node:crypto';
import type { VfioDeviceClient } from '@vfio/core';
import { connectxChecksum, CONNECTX_ENGINE as ENGINE } from '@vfio/emulated';
import type { InterruptLatch } from './interrupt-latch.js';
import { Registers } from './registers.js';

const PAGE = 4096;
/** Pages of data that go round. */
const PAGES = 32;
/** In each pass a page gets other data, so that a page which was left behind shows. */
const PASSES = 4;
/** Of each page, in one turn. */
const STEPS = 4;
const DESCRIPTORS = PASSES * PAGES * STEPS;
const LOG_DESCRIPTORS = Math.log2(DESCRIPTORS);

/** Where what is, in pages of the program's memory. */
const LAYOUT = { ring: 0, source: 4, copies: 36, fetched: 68, again: 100 } as const;

/** Bytes of memory that the program needs. */
export const ENGINE_MEMORY = 256 * PAGE;

/** The MSI-X vector that a turn ends with. */
export const ENGINE_VECTOR = 1;

/** A device with the memory that it reaches: one of the two places where the function lives. */
export interface EnginePlace {
  readonly device: VfioDeviceClient;
  readonly memory: Uint8Array;
}

/** What the engine says that it has done. */
export interface EngineCounters {
  readonly descriptors: number;
  readonly bytes: number;
  readonly failed: number;
  readonly interrupts: number;
}

/**
 * Keeps a ConnectX function's engine at work, turn after turn, each of which ends with an interrupt: a page is copied in
 * memory, what the pass before had stored in the function is fetched from it, the page is stored there, and what was
 * fetched is copied once more. All of it stands in a ring that was written before the first turn, so that nobody but the
 * device writes to memory.
 */
export class EngineProgram {
  /** Turns that have ended. */
  turns = 0;
  readonly #iova: number;
  readonly #latch: InterruptLatch;
  #place: EnginePlace;

  constructor(place: EnginePlace, iova: number, latch: InterruptLatch) {
    this.#place = place;
    this.#iova = iova;
    this.#latch = latch;
  }

  async start(): Promise<void> {
    const { memory, device } = this.#place;
    randomFillSync(memory.subarray(LAYOUT.source * PAGE, (LAYOUT.source + PAGES) * PAGE));
    for (let turn = 0; turn < PASSES * PAGES; turn++) this.#writeTurn(turn);
    const engine = new Registers(device, 0);
    await engine.write32(ENGINE.BASE + ENGINE.CONTROL, 0);
    await engine.write64(ENGINE.BASE + ENGINE.RING_LOW, this.#iova + LAYOUT.ring * PAGE);
    await engine.write32(ENGINE.BASE + ENGINE.RING_LOG_SIZE, LOG_DESCRIPTORS);
    await engine.write32(ENGINE.BASE + ENGINE.VECTOR, ENGINE_VECTOR);
    await engine.write32(ENGINE.BASE + ENGINE.CONTROL, ENGINE.CONTROL_ENABLE);
  }

  #writeTurn(turn: number): void {
    const page = turn % PAGES;
    const at = (area: keyof typeof LAYOUT, index: number) => this.#iova + (LAYOUT[area] + index) * PAGE;
    const source = at('source', sourceOf(turn));
    this.#writeDescriptor(turn, 0, ENGINE.COPY, source, at('copies', page));
    this.#writeDescriptor(turn, 1, ENGINE.FETCH, page * PAGE, at('fetched', page));
    this.#writeDescriptor(turn, 2, ENGINE.STORE, source, page * PAGE);
    this.#writeDescriptor(turn, 3, (ENGINE.COPY | ENGINE.INTERRUPT) >>> 0, at('fetched', page), at('again', page));
  }

  #writeDescriptor(turn: number, step: number, opcode: number, source: number, destination: number): void {
    const view = this.#descriptor(turn, step);
    view.setUint32(0, opcode, true);
    view.setUint32(4, PAGE, true);
    view.setBigUint64(8, BigInt(source), true);
    view.setBigUint64(16, BigInt(destination), true);
  }

  #descriptor(turn: number, step: number): DataView {
    const { memory } = this.#place;
    const index = (turn * STEPS + step) % DESCRIPTORS;
    const at = LAYOUT.ring * PAGE + index * ENGINE.DESCRIPTOR_BYTES;
    return new DataView(memory.buffer, memory.byteOffset + at, ENGINE.DESCRIPTOR_BYTES);
  }

  /** Turns until `until` says that it is enough. `moved` gives the new place where the function is no longer at this one. */
  async run(until: () => boolean, moved: (refusal: unknown) => Promise<EnginePlace>): Promise<void> {
    while (!until()) {
      try {
        await this.#ring();
      } catch (refusal) {
        // Nothing was done there.
        this.#place = await moved(refusal);
        await this.#ring();
      }
      try {
        await this.#latch.wait();
      } catch (error) {
        // Where the server is gone, that is what there is to say.
        await this.counters();
        throw error;
      }
      this.turns++;
    }
  }

  /** The doorbell of one more turn. */
  #ring(): Promise<void> {
    return new Registers(this.#place.device, 0).write32(ENGINE.BASE + ENGINE.PRODUCER, (this.turns + 1) * STEPS);
  }

  async counters(): Promise<EngineCounters> {
    const engine = new Registers(this.#place.device, 0);
    const read = (register: number) => engine.read32(ENGINE.BASE + register);
    return {
      descriptors: await read(ENGINE.COMPLETED),
      bytes: (await read(ENGINE.BYTES_HIGH)) * 2 ** 32 + (await read(ENGINE.BYTES_LOW)),
      failed: await read(ENGINE.FAILED),
      interrupts: await read(ENGINE.INTERRUPTS),
    };
  }

  /** What the counters must be after the turns that have ended. */
  expected(): EngineCounters {
    const descriptors = this.turns * STEPS;
    return { descriptors, bytes: descriptors * PAGE, failed: 0, interrupts: this.turns };
  }

  /** Every page that is not what the turns so far have made of it, and every checksum of the engine that is not its data's. */
  wrong(): number {
    const page = (area: keyof typeof LAYOUT, index: number) => {
      const at = (LAYOUT[area] + index) * PAGE;
      return this.#place.memory.subarray(at, at + PAGE);
    };
    const zeros = new Uint8Array(PAGE);
    let wrong = 0;
    for (let index = 0; index < PAGES; index++) {
      const last = this.#lastTurn(index);
      const before = last - PAGES;
      const now = last < 0 ? zeros : page('source', sourceOf(last));
      // The function's memory is empty at first.
      const earlier = before < 0 ? zeros : page('source', sourceOf(before));
      for (const [area, data] of [
        ['copies', now],
        ['fetched', earlier],
        ['again', earlier],
      ] as const) {
        if (Buffer.compare(page(area, index), data) !== 0) wrong++;
      }
      if (last < 0) continue;
      for (const [step, data] of [now, earlier, now, earlier].entries()) {
        const descriptor = this.#descriptor(last, step);
        const isDone = descriptor.getUint32(24, true) === ENGINE.DONE;
        if (!isDone || descriptor.getUint32(28, true) !== connectxChecksum(data)) wrong++;
      }
    }
    return wrong;
  }

  /** The last turn of a page that has ended; below 0: none has. */
  #lastTurn(page: number): number {
    const last = this.turns - 1;
    return last - ((((last - page) % PAGES) + PAGES) % PAGES);
  }
}

/** Which page of data a turn works on: every pass moves them by one. */
const sourceOf = (turn: number): number => (turn + Math.floor((turn % (PASSES * PAGES)) / PAGES)) % PAGES;
