import type { AccessWidth } from '@vfio/core';
import type { FunctionContext } from '../../model.js';
import type { TrackedDma } from '../tracked-dma.js';
import { crc32c } from './crc32c.js';
import type { DeviceMemory } from './device-memory.js';

/**
 * Registers of the engine that a virtual function has in the place of a network port: little-endian dwords in a page of
 * its own of BAR 0. It is the model's invention; everything else about the function follows the manual.
 */
export const ENGINE = {
  /** Where the page lies in BAR 0. */
  BASE: 0x100000,
  ID: 0x00,
  CONTROL: 0x04,
  STATUS: 0x08,
  RING_LOW: 0x10,
  RING_HIGH: 0x14,
  /** log2 of the number of descriptors, 0 to 15. */
  RING_LOG_SIZE: 0x18,
  /** MSI-X vector of a completion. */
  VECTOR: 0x1c,
  /** Software's index behind the last descriptor, counting on and on: the doorbell. */
  PRODUCER: 0x20,
  /** The engine's index behind the last descriptor that has ended. */
  CONSUMER: 0x24,
  /** Bytes of the function's own memory. */
  MEMORY_SIZE: 0x28,
  COMPLETED: 0x30,
  BYTES_LOW: 0x34,
  BYTES_HIGH: 0x38,
  FAILED: 0x3c,
  INTERRUPTS: 0x40,
  /** Sixteen dwords that mean nothing. */
  SCRATCH: 0x80,
  END: 0xc0,

  ID_VALUE: 0x474e4558,
  CONTROL_ENABLE: 1,
  STATUS_BUSY: 1,
  /** A descriptor could not be read or written: the engine stands still until it is enabled again. */
  STATUS_ERROR: 2,

  /** A descriptor: opcode, length, source, destination, status, checksum; the last two are the engine's. */
  DESCRIPTOR_BYTES: 32,
  /** Memory to memory. */
  COPY: 1,
  /** Memory to the function's own memory. */
  STORE: 2,
  /** The function's own memory to memory. */
  FETCH: 3,
  /** Bit 31 of the opcode: interrupt when it has ended. */
  INTERRUPT: 0x80000000,
  DONE: 1,
  REFUSED: 2,
} as const;

/** More in one descriptor is refused. */
const MAX_LENGTH = 0x100000;

/** Registers that are kept as they were written. */
const WRITABLE: readonly number[] = [
  ENGINE.CONTROL,
  ENGINE.RING_LOW,
  ENGINE.RING_HIGH,
  ENGINE.RING_LOG_SIZE,
  ENGINE.VECTOR,
  ENGINE.PRODUCER,
];

/** Copies memory as descriptors say, so that a lost byte, interrupt or dirty page is seen by whoever uses it. */
export class Engine {
  readonly #ctx: FunctionContext;
  readonly #dma: TrackedDma;
  readonly #memory: DeviceMemory;
  /** The registers, by their dword. */
  readonly #registers = new Int32Array(ENGINE.END / 4);
  /** May it start something new, and may software change it. */
  #runs = true;
  #accepts = true;
  #epoch = 0;
  #working: Promise<void> | undefined;
  /** Changed since the last image was saved. */
  isDirty = false;

  constructor(ctx: FunctionContext, dma: TrackedDma, memory: DeviceMemory) {
    this.#ctx = ctx;
    this.#dma = dma;
    this.#memory = memory;
    this.#reset();
  }

  read(offset: number, width: AccessWidth): number {
    if (width !== 4 || offset >= ENGINE.END) return 0;
    return this.#registers[offset >> 2] ?? 0;
  }

  write(offset: number, width: AccessWidth, value: number): void {
    // Stopped as a responder: nobody may change it, as its state may be on its way already.
    if (width !== 4 || offset >= ENGINE.END || !this.#accepts) return;
    if (!WRITABLE.includes(offset) && offset < ENGINE.SCRATCH) return;
    this.isDirty = true;
    this.#set(offset, value);
    if (offset === ENGINE.CONTROL) this.#controlWritten(value);
    if (offset === ENGINE.PRODUCER) this.#kick();
  }

  /** Starts nothing new; resolves when what it had started has ended. */
  async suspendInitiator(): Promise<void> {
    this.#runs = false;
    await this.#working;
  }

  suspendResponder(): void {
    this.#accepts = false;
  }

  resumeResponder(): void {
    this.#accepts = true;
  }

  resumeInitiator(): void {
    this.#runs = true;
    this.#kick();
  }

  reset(): void {
    this.#epoch++;
    this.#working = undefined;
    this.#runs = true;
    this.#accepts = true;
    this.#reset();
  }

  /** The registers as bytes. */
  save(): Uint8Array {
    return new Uint8Array(this.#registers.buffer.slice(0));
  }

  static readonly SAVED_BYTES = ENGINE.END;

  load(bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let i = 0; i < this.#registers.length; i++) this.#registers[i] = view.getInt32(4 * i, true);
    this.#set(ENGINE.MEMORY_SIZE, this.#memory.size);
  }

  #reset(): void {
    this.#registers.fill(0);
    this.#set(ENGINE.ID, ENGINE.ID_VALUE);
    this.#set(ENGINE.MEMORY_SIZE, this.#memory.size);
    this.isDirty = true;
  }

  #get(offset: number): number {
    return (this.#registers[offset >> 2] ?? 0) >>> 0;
  }

  #set(offset: number, value: number): void {
    this.#registers[offset >> 2] = value;
  }

  #add(low: number, amount: number): void {
    this.#set(low, (this.#get(low) + amount) | 0);
  }

  #controlWritten(value: number): void {
    this.#set(ENGINE.STATUS, this.#get(ENGINE.STATUS) & ~ENGINE.STATUS_ERROR);
    if ((value & ENGINE.CONTROL_ENABLE) !== 0) {
      this.#kick();
      return;
    }
    // Disabled: the ring starts anew.
    this.#set(ENGINE.PRODUCER, 0);
    this.#set(ENGINE.CONSUMER, 0);
  }

  #kick(): void {
    if (this.#working !== undefined || !this.#canRun()) return;
    const epoch = this.#epoch;
    this.#set(ENGINE.STATUS, this.#get(ENGINE.STATUS) | ENGINE.STATUS_BUSY);
    // After the access has been answered: DMA by message is not served before.
    const working = new Promise<void>((resolve) => this.#ctx.defer(resolve)).then(() => this.#work(epoch));
    this.#working = working;
    void working.finally(() => {
      if (this.#working !== working) return;
      this.#working = undefined;
      this.#set(ENGINE.STATUS, this.#get(ENGINE.STATUS) & ~ENGINE.STATUS_BUSY);
      this.#kick();
    });
  }

  #canRun(): boolean {
    const enabled = (this.#get(ENGINE.CONTROL) & ENGINE.CONTROL_ENABLE) !== 0;
    const failed = (this.#get(ENGINE.STATUS) & ENGINE.STATUS_ERROR) !== 0;
    return this.#runs && enabled && !failed && this.#get(ENGINE.PRODUCER) !== this.#get(ENGINE.CONSUMER);
  }

  async #work(epoch: number): Promise<void> {
    while (epoch === this.#epoch && this.#canRun()) {
      try {
        await this.#one(epoch);
      } catch {
        if (epoch !== this.#epoch) return;
        this.isDirty = true;
        this.#set(ENGINE.STATUS, this.#get(ENGINE.STATUS) | ENGINE.STATUS_ERROR);
      }
    }
  }

  async #one(epoch: number): Promise<void> {
    const consumer = this.#get(ENGINE.CONSUMER);
    const slots = 2 ** Math.min(15, this.#get(ENGINE.RING_LOG_SIZE));
    const ring = this.#get(ENGINE.RING_HIGH) * 0x100000000 + this.#get(ENGINE.RING_LOW);
    const at = ring + (consumer % slots) * ENGINE.DESCRIPTOR_BYTES;
    const descriptor = new Uint8Array(ENGINE.DESCRIPTOR_BYTES);
    await this.#dma.read(at, descriptor);
    const view = new DataView(descriptor.buffer);
    const opcode = view.getUint32(0, true);
    const length = view.getUint32(4, true);
    const data = await this.#move(
      opcode & ~ENGINE.INTERRUPT,
      length,
      Number(view.getBigUint64(8, true)),
      Number(view.getBigUint64(16, true)),
    );
    if (epoch !== this.#epoch) return;
    view.setUint32(24, data === undefined ? ENGINE.REFUSED : ENGINE.DONE, true);
    view.setUint32(28, data === undefined ? 0 : crc32c(data), true);
    await this.#dma.write(at + 24, descriptor.subarray(24));
    if (epoch !== this.#epoch) return;
    this.isDirty = true;
    this.#set(ENGINE.CONSUMER, (consumer + 1) | 0);
    this.#add(data === undefined ? ENGINE.FAILED : ENGINE.COMPLETED, 1);
    if (data !== undefined) {
      const before = this.#get(ENGINE.BYTES_LOW);
      this.#add(ENGINE.BYTES_LOW, length);
      if (before + length >= 0x100000000) this.#add(ENGINE.BYTES_HIGH, 1);
    }
    if (opcode >= ENGINE.INTERRUPT) {
      this.#add(ENGINE.INTERRUPTS, 1);
      this.#ctx.irq.send(this.#get(ENGINE.VECTOR));
    }
  }

  /** Carries out a descriptor. Undefined where it makes no sense. */
  async #move(opcode: number, length: number, source: number, destination: number): Promise<Uint8Array | undefined> {
    if (length === 0 || length > MAX_LENGTH) return undefined;
    if (opcode !== ENGINE.COPY && opcode !== ENGINE.STORE && opcode !== ENGINE.FETCH) return undefined;
    const inside = opcode === ENGINE.STORE ? destination : opcode === ENGINE.FETCH ? source : undefined;
    if (inside !== undefined && inside + length > this.#memory.size) return undefined;
    const data = new Uint8Array(length);
    if (opcode === ENGINE.FETCH) this.#memory.read(source, data);
    else await this.#dma.read(source, data);
    if (opcode === ENGINE.STORE) this.#memory.write(destination, data);
    else await this.#dma.write(destination, data);
    return data;
  }
}
