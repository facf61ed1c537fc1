import type { EventTrigger } from './triggers.js';

/** Most ioeventfds of one device: the kernel's limit against a user who asks for ever more. */
export const VFIO_PCI_IOEVENTFD_MAX = 1000;

/** A store that is done whenever a trigger is signalled. */
export interface Ioeventfd {
  readonly bar: number;
  readonly offset: number;
  readonly width: number;
  readonly data: bigint;
  readonly trigger: EventTrigger;
  readonly stop: () => void;
}

export class IoeventfdList {
  readonly #entries: Ioeventfd[] = [];

  get count(): number {
    return this.#entries.length;
  }

  find(bar: number, offset: number, width: number, data: bigint): Ioeventfd | undefined {
    return this.#entries.find((e) => e.bar === bar && e.offset === offset && e.width === width && e.data === data);
  }

  add(entry: Ioeventfd): void {
    this.#entries.push(entry);
  }

  remove(entry: Ioeventfd): void {
    const at = this.#entries.indexOf(entry);
    if (at < 0) return;
    this.#entries.splice(at, 1);
    entry.stop();
    entry.trigger.release();
  }

  clear(): void {
    for (const entry of [...this.#entries]) this.remove(entry);
  }
}
