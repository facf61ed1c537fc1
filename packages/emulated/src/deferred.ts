/** Arranges that `run` is called soon, never before the current call stack has ended. */
export type Schedule = (run: () => void) => void;

/**
 * `setImmediate` where there is one: it comes after the I/O callback that is running, so a server has sent its reply
 * by then. A microtask would be too early: it may run before the bytes have left.
 */
export const defaultSchedule: Schedule = (run) => {
  const immediate: unknown = Reflect.get(globalThis, 'setImmediate');
  if (typeof immediate === 'function') immediate(run);
  else setTimeout(run, 0);
};

/**
 * Work that device models put off until the access that caused it has been answered. A register access never does DMA
 * itself: over vfio-user, DMA by message is served by the VMM only after the reply.
 *
 * A server that has just replied may call {@link DeferredQueue.run} at once instead of waiting for the schedule.
 */
export class DeferredQueue {
  readonly #schedule: Schedule;
  #queue: (() => void)[] = [];
  #spare: (() => void)[] = [];
  #scheduled = false;
  #running = false;
  /** Receives what a piece of work throws; without it the error surfaces in the schedule's callback. */
  onError: ((error: unknown) => void) | undefined;

  constructor(schedule: Schedule = defaultSchedule) {
    this.#schedule = schedule;
  }

  readonly #scheduledRun = (): void => {
    this.#scheduled = false;
    this.run();
  };

  /** Number of pieces of work that wait. */
  get pending(): number {
    return this.#queue.length;
  }

  /** Runs `work` later. The same function put in twice runs twice. */
  defer(work: () => void): void {
    this.#queue.push(work);
    if (!this.#scheduled) {
      this.#scheduled = true;
      this.#schedule(this.#scheduledRun);
    }
  }

  /**
   * Runs what waits now; work that it defers in turn waits for the next run. Returns how many pieces ran; none where it
   * is called from inside a piece of work.
   */
  run(): number {
    if (this.#running || this.#queue.length === 0) return 0;
    // Two arrays take turns, so that a busy device does not make garbage.
    const work = this.#queue;
    this.#queue = this.#spare;
    this.#spare = work;
    const count = work.length;
    let done = 0;
    this.#running = true;
    try {
      while (done < count) {
        try {
          work[done++]?.();
        } catch (error) {
          if (this.onError === undefined) throw error;
          this.onError(error);
        }
      }
    } finally {
      this.#running = false;
      // What was not reached must not be lost because of one model's mistake.
      for (let i = done; i < count; i++) this.defer(work[i] as () => void); // i < count = work.length
      work.length = 0;
    }
    return count;
  }
}
