import type { DmaBuffer, DmaPool } from '@vfio/core';
import { messageOf } from '@vfio/core';
import type { Controller } from '../controller.js';
import { lost, refused } from './errors.js';

/** Entries of each queue: a page of commands. */
export const ADMIN_ENTRIES = 64;

const COMMAND_BYTES = 64;
const COMPLETION_BYTES = 16;
const DOORBELLS = 0x1000;
/** Status code and type: without phase, retry hint, More and Do Not Retry. */
const STATUS_MASK = 0x7ff;

/** Looks at the queue without a pause before it is looked at now and then. */
const EAGER_LOOKS = 100;
const POLL_MS = 1;

/** A command; fields that are not given are 0. */
export interface AdminCommand {
  readonly opcode: number;
  /** Command dwords 10 to 15. */
  readonly dwords: readonly number[];
  readonly prp1?: number;
  readonly prp2?: number;
}

/** The admin queue pair of a controller: one command at a time, its completion looked for in memory. */
export class AdminQueue {
  readonly #address: string;
  readonly #controller: Controller;
  readonly #sq: DmaBuffer;
  readonly #cq: DmaBuffer;
  readonly #stride: number;
  readonly #timeoutMs: number;
  #tail = 0;
  #head = 0;
  #phase = 1;
  #nextId = 1;
  /** Why the controller is not asked any more. */
  #lost: string | undefined;

  private constructor(
    address: string,
    controller: Controller,
    queues: readonly [DmaBuffer, DmaBuffer],
    stride: number,
    timeoutMs: number,
  ) {
    this.#address = address;
    this.#controller = controller;
    [this.#sq, this.#cq] = queues;
    this.#stride = stride;
    this.#timeoutMs = timeoutMs;
  }

  /** Enables a controller with a new queue pair. @throws EIO */
  static async start(address: string, controller: Controller, pool: DmaPool, timeoutMs: number): Promise<AdminQueue> {
    const queues = [pool.page(), pool.page()] as const;
    await controller.disable();
    await controller.enable({ asq: queues[0].iova, acq: queues[1].iova, entries: ADMIN_ENTRIES });
    return new AdminQueue(address, controller, queues, await controller.doorbellStride(), timeoutMs);
  }

  /** Gives up: every command from now on fails at once. */
  abandon(why: string): void {
    this.#lost ??= why;
  }

  /**
   * Executes a command, which the caller sends one by one; gives dword 0 of its completion.
   *
   * @throws what the controller answered; ETIMEDOUT, ENOLINK where it does not answer, now and ever after.
   */
  async execute(name: string, command: AdminCommand): Promise<number> {
    if (this.#lost !== undefined) throw lost(name, 'ENOLINK', this.#lost, this.#address);
    const id = this.#put(command);
    try {
      await this.#controller.ring(DOORBELLS, this.#tail);
      const entry = await this.#completion(name);
      const found = entry.getUint16(12, true);
      if (found !== id) throw this.#lose(name, 'ENOLINK', `it completed command ${found}, ${id} was sent`);
      const result = entry.getUint32(0, true);
      const status = (entry.getUint16(14, true) >>> 1) & STATUS_MASK;
      this.#head += 1;
      if (this.#head === ADMIN_ENTRIES) {
        this.#head = 0;
        this.#phase ^= 1;
      }
      await this.#controller.ring(DOORBELLS + this.#stride, this.#head);
      if (status !== 0) throw refused(name, status, this.#address);
      return result;
    } catch (error) {
      // The registers are out of reach: EIO of the controller that is gone.
      if ((error as { readonly details?: object }).details === undefined)
        throw this.#lose(name, 'ENOLINK', messageOf(error));
      throw error;
    }
  }

  #put({ opcode, dwords, prp1 = 0, prp2 = 0 }: AdminCommand): number {
    const at = this.#tail * COMMAND_BYTES;
    const id = this.#nextId;
    this.#nextId = (this.#nextId % 0xffff) + 1;
    this.#sq.bytes.fill(0, at, at + COMMAND_BYTES);
    const { view } = this.#sq;
    view.setUint32(at, opcode | (id << 16), true);
    view.setBigUint64(at + 24, BigInt(prp1), true);
    view.setBigUint64(at + 32, BigInt(prp2), true);
    for (const [n, value] of dwords.entries()) view.setUint32(at + 40 + 4 * n, value >>> 0, true);
    this.#tail = (this.#tail + 1) % ADMIN_ENTRIES;
    return id;
  }

  async #completion(name: string): Promise<DataView> {
    const end = performance.now() + this.#timeoutMs;
    const at = this.#head * COMPLETION_BYTES;
    const { bytes } = this.#cq;
    for (let looks = 0; ; looks++) {
      const entry = new DataView(bytes.buffer, bytes.byteOffset + at, COMPLETION_BYTES);
      if ((entry.getUint16(14, true) & 1) === this.#phase) return entry;
      if (this.#lost !== undefined) throw lost(name, 'ENOLINK', this.#lost, this.#address);
      const isLate = performance.now() >= end;
      if (isLate || looks % EAGER_LOOKS === EAGER_LOOKS - 1) {
        const ailment = await this.#controller.ailment();
        if (ailment !== undefined) throw this.#lose(name, 'ENOLINK', ailment);
      }
      if (isLate) throw this.#lose(name, 'ETIMEDOUT', `no answer within ${this.#timeoutMs} ms`);
      await new Promise((resolve) => (looks < EAGER_LOOKS ? setImmediate(resolve) : setTimeout(resolve, POLL_MS)));
    }
  }

  #lose(name: string, errno: 'ETIMEDOUT' | 'ENOLINK', why: string): Error {
    this.#lost = `the controller is not asked any more: ${why}`;
    return lost(name, errno, why, this.#address);
  }
}
