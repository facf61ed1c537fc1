/** Time as device models see it. Injected, so that tests move it by hand. */
export interface Clock {
  /** Milliseconds since some fixed point; never goes back. */
  now(): number;
  /** Calls back once after `delayMs`; the result cancels and may be called twice. */
  setTimer(delayMs: number, callback: () => void): () => void;
}

/** The process's own time. A pending timer keeps no process alive: a device model is not a reason to stay. */
export const systemClock: Clock = {
  now: () => performance.now(),
  setTimer(delayMs, callback) {
    const timer: unknown = setTimeout(callback, delayMs);
    if (typeof timer === 'object' && timer !== null && 'unref' in timer && typeof timer.unref === 'function')
      timer.unref();
    return () => clearTimeout(timer as ReturnType<typeof setTimeout>); // narrowed above to reach unref
  },
};

/** A clock that stands still until {@link ManualClock.advance} moves it. */
export class ManualClock implements Clock {
  #now = 0;
  #sequence = 0;
  readonly #timers = new Map<number, { readonly due: number; readonly callback: () => void }>();

  now(): number {
    return this.#now;
  }

  setTimer(delayMs: number, callback: () => void): () => void {
    const id = this.#sequence++;
    this.#timers.set(id, { due: this.#now + Math.max(0, delayMs), callback });
    return () => {
      this.#timers.delete(id);
    };
  }

  /** Number of timers that have not run. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Moves time on and runs what becomes due, in order, timers set by timers included. */
  advance(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      let next: number | undefined;
      for (const [id, timer] of this.#timers) {
        const best = next === undefined ? undefined : this.#timers.get(next);
        if (timer.due <= end && (best === undefined || timer.due < best.due)) next = id;
      }
      const timer = next === undefined ? undefined : this.#timers.get(next);
      if (next === undefined || timer === undefined) break;
      this.#timers.delete(next);
      this.#now = Math.max(this.#now, timer.due);
      timer.callback();
    }
    this.#now = end;
  }
}
