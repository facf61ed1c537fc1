import type { DmaBuffer } from '@vfio/core';

/** Types of events. */
export const EVENT = { COMPLETION: 0x00, INTERNAL_ERROR: 0x08, COMMAND: 0x0a, PAGE_REQUEST: 0x0b } as const;

const EVENT_SIZE = 64;

/** One event: its type and its data. */
export type EventHandler = (type: number, data: DataView) => void;

/** An event queue in this driver's memory. The device sets an event's owner bit last. */
export class EventQueue {
  readonly buffer: DmaBuffer;
  readonly logSize: number;
  number = 0;
  readonly #handler: EventHandler;
  #consumer = 0;

  constructor(buffer: DmaBuffer, handler: EventHandler) {
    this.buffer = buffer;
    this.#handler = handler;
    this.logSize = Math.log2(buffer.bytes.length / EVENT_SIZE);
    // Owned by the device until it has written: in the first pass the bit that it sets is 0.
    for (let at = 0; at < buffer.bytes.length; at += EVENT_SIZE) buffer.bytes[at + EVENT_SIZE - 1] = 1;
  }

  /** Value of the doorbell: the queue and how far it was read. */
  get doorbell(): number {
    return ((this.number << 24) | (this.#consumer & 0xffffff)) >>> 0;
  }

  /** Hands out what has come. Returns whether there was anything. */
  poll(): boolean {
    const size = 2 ** this.logSize;
    const { bytes } = this.buffer;
    const before = this.#consumer;
    for (;;) {
      const at = (this.#consumer % size) * EVENT_SIZE;
      const owner = (bytes[at + EVENT_SIZE - 1] ?? 0) & 1;
      if (owner !== (Math.floor(this.#consumer / size) & 1)) return this.#consumer !== before;
      this.#consumer++;
      this.#handler(bytes[at + 1] ?? 0, new DataView(bytes.buffer, bytes.byteOffset + at + 0x20, 28));
    }
  }
}
