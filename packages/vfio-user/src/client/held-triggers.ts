import type { EventTrigger } from '@vfio/core';
import { closeFd, eventfdCreate, tryEventfdWrite } from '@vfio/native';
import { VFIO_IRQ_SET_ACTION_TYPE_MASK, VFIO_IRQ_SET_ACTION_UNMASK } from '@vfio/uapi';
import type { LoopSource, ServiceLoop } from '../service-loop.js';

/** A trigger that the server signals or watches, and the descriptor by which it does. */
export class HeldTrigger implements LoopSource {
  readonly #trigger: EventTrigger;
  readonly #loop: ServiceLoop;
  /** An eventfd of ours, for a trigger of this process that has none. */
  #own: number | undefined;
  #source: number | undefined;
  #unwatch: () => void = () => {};

  /** @param isUnmask the user signals it and the server watches, in place of the other way round */
  constructor(loop: ServiceLoop, trigger: EventTrigger, isUnmask: boolean) {
    this.#loop = loop;
    this.#trigger = trigger;
    if (trigger.fd !== undefined) return;
    const own = eventfdCreate();
    this.#own = own;
    if (isUnmask) {
      this.#unwatch = trigger.watch(() => tryEventfdWrite(own));
      return;
    }
    this.#source = loop.messages.addEventFd(own);
    loop.attach(this.#source, this);
  }

  /** What the server is given. */
  get fd(): number {
    return this.#trigger.fd ?? this.#own!;
  }

  onSignal(): void {
    this.#trigger.signal();
  }

  /** The server is done with it. */
  release(): void {
    this.#unwatch();
    if (this.#source !== undefined) this.#loop.remove(this.#source);
    else if (this.#own !== undefined) closeFd(this.#own);
    this.#source = undefined;
    this.#own = undefined;
    this.#trigger.release();
  }
}

/** The triggers that a client has given to its server, by what they are for. */
export class HeldTriggers {
  readonly #held = new Map<string, HeldTrigger>();

  #key(flags: number, index: number, vector: number): string {
    const isUnmask = (flags & VFIO_IRQ_SET_ACTION_TYPE_MASK) === VFIO_IRQ_SET_ACTION_UNMASK;
    return `${isUnmask ? 'unmask' : 'trigger'} ${index} ${vector}`;
  }

  get(flags: number, index: number, vector: number): HeldTrigger | undefined {
    return this.#held.get(this.#key(flags, index, vector));
  }

  /** Replaces what is held for a vector; the one before is released. */
  set(flags: number, index: number, vector: number, trigger: HeldTrigger | undefined): void {
    const key = this.#key(flags, index, vector);
    const before = this.#held.get(key);
    if (trigger === undefined) this.#held.delete(key);
    else this.#held.set(key, trigger);
    before?.release();
  }

  /** Releases everything of an index: it was disabled. */
  clearIndex(index: number): void {
    for (const [key, trigger] of [...this.#held]) {
      if (key.split(' ')[1] !== String(index)) continue;
      this.#held.delete(key);
      trigger.release();
    }
  }

  clear(): void {
    for (const trigger of this.#held.values()) trigger.release();
    this.#held.clear();
  }
}
