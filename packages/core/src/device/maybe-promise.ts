/** A value now, or later: what an op returns that waits only where its host does. */
export type MaybePromise<T> = T | Promise<T>;

export function isPromise<T>(value: MaybePromise<T>): value is Promise<T> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function';
}

/** Goes on with a value, at once where it is there. */
export function chain<T, R>(value: MaybePromise<T>, next: (value: T) => MaybePromise<R>): MaybePromise<R> {
  return isPromise(value) ? value.then(next) : next(value);
}

/** Runs `work`, then `cleanup` whatever came of it, at once where nothing waits. */
export function withCleanup<T>(work: () => MaybePromise<T>, cleanup: () => void): MaybePromise<T> {
  let result: MaybePromise<T>;
  try {
    result = work();
  } catch (error) {
    cleanup();
    throw error;
  }
  if (isPromise(result)) return result.finally(cleanup);
  cleanup();
  return result;
}

/** Runs `work`; `recover` gets its error, thrown or rejected. */
export function withRecovery<T>(
  work: () => MaybePromise<T>,
  recover: (error: unknown) => MaybePromise<T>,
): MaybePromise<T> {
  try {
    const result = work();
    return isPromise(result) ? result.catch(recover) : result;
  } catch (error) {
    return recover(error);
  }
}

/**
 * Follows work that takes time: `ended` runs before whoever waits for `returned` goes on, and `settled` ends after that,
 * without an error.
 */
export function tracked<T>(work: Promise<T>, ended: () => void): { returned: Promise<T>; settled: Promise<void> } {
  const returned = work.finally(ended);
  const settled = returned.then(
    () => {},
    () => {},
  );
  return { returned, settled };
}

/** A lock that is taken in turns. In one thread it matters only across promises. */
export class AsyncMutex {
  #tail: Promise<void> | undefined;

  get isLocked(): boolean {
    return this.#tail !== undefined;
  }

  /** Waits for its turn; the result gives the lock back and must be called once. */
  async acquire(): Promise<() => void> {
    const before = this.#tail;
    const unlock = this.#enqueue(before);
    if (before !== undefined) await before;
    return unlock;
  }

  /** Runs `work` under the lock: at once where it is free, else in its turn. */
  run<T>(work: () => MaybePromise<T>): MaybePromise<T> {
    const before = this.#tail;
    const unlock = this.#enqueue(before);
    if (before === undefined) return withCleanup(work, unlock);
    return before.then(() => withCleanup(work, unlock));
  }

  #enqueue(before: Promise<void> | undefined): () => void {
    let release = () => {};
    const mine = new Promise<void>((resolve) => {
      release = resolve;
    });
    const tail = before === undefined ? mine : before.then(() => mine);
    this.#tail = tail;
    return () => {
      if (this.#tail === tail) this.#tail = undefined;
      release();
    };
  }
}
