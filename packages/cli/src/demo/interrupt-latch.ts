/** How long a demo waits for an interrupt before it says that it did not come. */
const INTERRUPT_TIMEOUT_MS = 4000;

/** Counts interrupts, and lets a program wait for the next. */
export class InterruptLatch {
  /** How many came so far. */
  count = 0;
  #pending = 0;
  #wake: (() => void) | undefined;

  readonly signal = (): void => {
    this.count++;
    this.#pending++;
    this.#wake?.();
  };

  async wait(): Promise<void> {
    if (this.#pending === 0) {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error('the interrupt did not come')), INTERRUPT_TIMEOUT_MS);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#wake = undefined;
    }
    this.#pending--;
  }
}
