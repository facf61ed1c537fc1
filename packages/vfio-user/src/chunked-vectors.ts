import type { EventTrigger, SetIrqsRequest, VfioDevice } from '@vfio/core';
import { VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_NONE } from '@vfio/uapi';

const DISABLE = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;

/** A trigger that two hold: the device, which may be given it anew, and this side. */
class SharedTrigger {
  readonly #trigger: EventTrigger;
  #holders = 1;

  constructor(trigger: EventTrigger) {
    this.#trigger = trigger;
  }

  /** The device's hold of it. */
  hold(): EventTrigger {
    const trigger = this.#trigger;
    this.#holders++;
    let isHeld = true;
    return {
      fd: trigger.fd,
      signal: () => trigger.signal(),
      watch: (handler) => trigger.watch(handler),
      release: () => {
        if (isHeld) this.release();
        isHeld = false;
      },
    };
  }

  /** Ends one hold; the last one closes the descriptor. */
  release(): void {
    if (--this.#holders === 0) this.#trigger.release();
  }
}

type Vectors = readonly (SharedTrigger | undefined)[];

/**
 * The vectors of an index that a device allocates all at once when it is enabled (NORESIZE: MSI, and MSI-X on older
 * kernels). A client sends as many descriptors in a message as the server takes, or as there are before a gap, and the rest
 * in further ones, which such a device refuses: it would have to be disabled and enabled with all of them. This does so,
 * and keeps the triggers of the messages before for it. A message that does not go on from the one before is the device's
 * to refuse.
 */
export class ChunkedVectors {
  readonly #maxFds: number;
  #vectors: Vectors = [];
  /** Where the last message ended, and how many descriptors it had. */
  #end = 0;
  #fds = 0;

  /** @param maxFds descriptors that the client may put into one message */
  constructor(maxFds: number) {
    this.#maxFds = maxFds;
  }

  /** SET_IRQS of triggers. @returns what the device returns @throws what it throws, with its vectors as before */
  set(device: VfioDevice, request: SetIrqsRequest, triggers: readonly (EventTrigger | null)[]): number {
    const { start, count } = request;
    const before = this.#vectors;
    const given = triggers.map((trigger) => (trigger === null ? undefined : new SharedTrigger(trigger)));
    const after = Array.from({ length: Math.max(before.length, start + count) }, (_, vector) =>
      vector >= start && vector < start + count ? given[vector - start] : before[vector],
    );
    const fds = given.filter((trigger) => trigger !== undefined).length;
    const grows = before.length > 0 && after.length > before.length && this.#goesOn(start, fds);
    let short = 1;
    try {
      short = grows
        ? this.#enableAgain(device, request, after)
        : device.setIrqs({ ...request, triggers: given.map(hold) });
    } finally {
      // Not taken: fewer vectors than asked for, or an error.
      if (short > 0) releaseAll(given);
    }
    if (short > 0) return short;
    this.#vectors = after;
    this.#end = start + count;
    this.#fds = fds;
    releaseAll(before.slice(start, start + count));
    return 0;
  }

  /** Whether a message is the next part of what a client has cut: the last one was full, or one of both is a gap. */
  #goesOn(start: number, fds: number): boolean {
    return start === this.#end && (this.#fds >= this.#maxFds || this.#fds === 0 || fds === 0);
  }

  #enableAgain(device: VfioDevice, request: SetIrqsRequest, after: Vectors): number {
    const enable = (vectors: Vectors) =>
      device.setIrqs({ ...request, start: 0, count: vectors.length, triggers: vectors.map(hold) });
    device.setIrqs({ flags: DISABLE, index: request.index, start: 0, count: 0 });
    let short = 1;
    try {
      short = enable(after);
    } finally {
      if (short > 0) enable(this.#vectors);
    }
    return short;
  }

  /** Where the client's last message ended, and how many descriptors it had: what tells whether the next one goes on from it. */
  get last(): { readonly end: number; readonly fds: number } {
    return { end: this.#end, fds: this.#fds };
  }

  /**
   * Goes on with the vectors that another process had. @param last as {@link last} was there
   * @returns the device's hold of each, to arm it with
   */
  adopt(triggers: readonly (EventTrigger | null)[], last: ChunkedVectors['last']): (EventTrigger | null)[] {
    this.#vectors = triggers.map((trigger) => (trigger === null ? undefined : new SharedTrigger(trigger)));
    this.#end = last.end;
    this.#fds = last.fds;
    return this.#vectors.map(hold);
  }

  /** The index was disabled, or the client is gone. */
  clear(): void {
    releaseAll(this.#vectors);
    this.#vectors = [];
  }
}

function hold(trigger: SharedTrigger | undefined): EventTrigger | null {
  return trigger?.hold() ?? null;
}

function releaseAll(vectors: Vectors): void {
  for (const trigger of vectors) trigger?.release();
}
