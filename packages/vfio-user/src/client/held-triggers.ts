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
    try {
      this.#source = loop.messages.addEventFd(own);
    } catch (error) {
      closeFd(own);
      throw error;
    }
    loop.attach(this.#source, this);
  }

  /** Holds triggers; where one cannot be held, all are released. */
  static all(loop: ServiceLoop, triggers: readonly (EventTrigger | null)[], isUnmask: boolean) {
    const held: (HeldTrigger | undefined)[] = [];
    try {
      for (const trigger of triggers)
        held.push(trigger === null ? undefined : new HeldTrigger(loop, trigger, isUnmask));
      return held;
    } catch (error) {
      for (const trigger of held) trigger?.release();
      for (const trigger of triggers.slice(held.length)) trigger?.release();
      throw error;
    }
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
  readonly #active = new Set<number>();

  #key(flags: number, index: number, vector: number): string {
    const isUnmask = isUnmasking(flags);
    return `${isUnmask ? 'unmask' : 'trigger'} ${index} ${vector}`;
  }

  /** Whether triggers were given for an index since it was last disabled. */
  isActive(index: number): boolean {
    return this.#active.has(index);
  }

  get(flags: number, index: number, vector: number): HeldTrigger | undefined {
    return this.#held.get(this.#key(flags, index, vector));
  }

  /** Replaces what is held for a vector; the one before is released. */
  set(flags: number, index: number, vector: number, trigger: HeldTrigger | undefined): void {
    if (!isUnmasking(flags)) this.#active.add(index);
    const key = this.#key(flags, index, vector);
    const before = this.#held.get(key);
    if (trigger === undefined) this.#held.delete(key);
    else this.#held.set(key, trigger);
    before?.release();
  }

  /** Releases everything of an index: it was disabled. */
  clearIndex(index: number): void {
    this.#active.delete(index);
    for (const [key, trigger] of [...this.#held]) {
      if (key.split(' ')[1] !== String(index)) continue;
      this.#held.delete(key);
      trigger.release();
    }
  }

  clear(): void {
    for (const trigger of this.#held.values()) trigger.release();
    this.#held.clear();
    this.#active.clear();
  }
}

/** Whether the user signals the triggers of a request, in place of the device. */
export function isUnmasking(flags: number): boolean {
  return (flags & VFIO_IRQ_SET_ACTION_TYPE_MASK) === VFIO_IRQ_SET_ACTION_UNMASK;
}
