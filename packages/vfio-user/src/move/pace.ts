/** How fast bytes go, and the waits that keep them from going faster. */
export class Pace {
  readonly #limit: number | undefined;
  readonly #started = performance.now();
  #bytes = 0;
  #breath = performance.now();
  #windowStart = performance.now();
  #windowBytes = 0;
  #rate = 0;

  /** @param limit bytes a second */
  constructor(limit: number | undefined) {
    this.#limit = limit;
  }

  /** Bytes so far. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Bytes a second, of late. */
  get rate(): number {
    const elapsed = performance.now() - this.#started;
    return this.#rate > 0 ? this.#rate : (this.#bytes * 1000) / Math.max(elapsed, 1);
  }

  count(bytes: number): void {
    this.#bytes += bytes;
    this.#windowBytes += bytes;
    const elapsed = performance.now() - this.#windowStart;
    if (elapsed < RATE_MS) return;
    this.#rate = (this.#windowBytes * 1000) / elapsed;
    this.#windowStart = performance.now();
    this.#windowBytes = 0;
  }

  /** Gives the thread back where it was held for long, and waits where too much has gone already. */
  async breathe(isLimited: boolean): Promise<void> {
    const ahead = isLimited && this.#limit !== undefined ? (this.#bytes * 1000) / this.#limit - this.#elapsed : 0;
    if (ahead > 1) await new Promise((resolve) => setTimeout(resolve, Math.min(ahead, MAX_WAIT_MS)));
    else if (performance.now() - this.#breath > BREATH_MS) await new Promise((resolve) => setImmediate(resolve));
    else return;
    this.#breath = performance.now();
  }

  get #elapsed(): number {
    return performance.now() - this.#started;
  }
}

/** Time over which the rate is taken. */
const RATE_MS = 100;
/** Longest time without a turn of the event loop: what the message loop takes at most, too. */
const BREATH_MS = 1;
/** Longest single wait, so that an end is heard of. */
const MAX_WAIT_MS = 100;
