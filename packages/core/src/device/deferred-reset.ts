import { chain, isPromise, type MaybePromise, tracked } from './maybe-promise.js';

/**
 * The lock over a device's migration state, with the rule that every migratable driver needs: a reset that comes while a
 * step runs must not touch the state under it; it is remembered and applied before the lock is given back.
 */
export class DeferredReset {
  readonly #apply: (raced: boolean) => MaybePromise<void>;
  /** Settles (never rejects) when the step that runs, and all that wait, have ended. */
  #tail: Promise<void> | undefined;
  #busy = false;
  #deferred = false;

  /**
   * @param apply brings the state back to RUNNING and ends data streams; must not throw. `raced`: a step was under way,
   *   which may have gone on after the reset; what it did is undone under the lock. Otherwise nothing may wait.
   */
  constructor(apply: (raced: boolean) => MaybePromise<void>) {
    this.#apply = apply;
  }

  /** Whether a step runs. */
  get isBusy(): boolean {
    return this.#busy;
  }

  /** Runs a step under the lock, after those before it; at once where the lock is free. */
  run<T>(step: () => MaybePromise<T>): MaybePromise<T> {
    const before = this.#tail;
    if (before !== undefined) return this.#track(before.then(() => this.#locked(step)));
    const result = this.#locked(step);
    return isPromise(result) ? this.#track(result) : result;
  }

  /** The function was reset: applied now, or at the end of the step that runs. */
  resetDone(): void {
    if (this.#busy) this.#deferred = true;
    else void this.#apply(false);
  }

  #locked<T>(step: () => MaybePromise<T>): MaybePromise<T> {
    this.#busy = true;
    let result: MaybePromise<T>;
    try {
      result = step();
    } catch (error) {
      return chain(this.#unlock(), () => {
        throw error;
      });
    }
    if (isPromise(result)) return result.finally(() => this.#unlock());
    const value = result;
    return chain(this.#unlock(), () => value);
  }

  #unlock(): MaybePromise<void> {
    if (this.#deferred) {
      this.#deferred = false;
      return chain(this.#apply(true), () => this.#unlock());
    }
    this.#busy = false;
    return undefined;
  }

  #track<T>(result: Promise<T>): Promise<T> {
    const { returned, settled } = tracked(result, () => {
      if (this.#tail === settled) this.#tail = undefined;
    });
    this.#tail = settled;
    return returned;
  }
}
