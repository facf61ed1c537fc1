import { VFIO_USER_REGION_READ, VFIO_USER_REGION_WRITE, VFIO_USER_REGION_WRITE_MULTI } from '@vfio/uapi';
import { PULSE } from './service-loop.js';
import { commandName } from './trace.js';

/** What a loop is doing, for people: `REGION_WRITE of region 0, offset 0x98`. */
export function describePulse(pulse: Int32Array): string {
  const command = pulse[PULSE.COMMAND]!;
  const name = commandName(command);
  const isAccess =
    command === VFIO_USER_REGION_READ || command === VFIO_USER_REGION_WRITE || command === VFIO_USER_REGION_WRITE_MULTI;
  if (!isAccess) return name;
  return `${name} of region ${pulse[PULSE.REGION]}, offset 0x${(pulse[PULSE.OFFSET]! >>> 0).toString(16)}`;
}

/** Where a loop shows what it does, in memory that a watcher in another thread can look at. */
export function makePulse(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(PULSE.WORDS * Int32Array.BYTES_PER_ELEMENT));
}

/** Calls back when a loop of another thread has been in one handler for too long. */
export class PulseWatcher {
  readonly #pulse: Int32Array;
  readonly #timer: NodeJS.Timeout;
  readonly #onBlocked: (what: string, socket: number, milliseconds: number) => void;
  #count = 0;
  #since = 0;
  #told = false;

  /** @param pulse of {@link makePulse}, which the loop writes */
  constructor(
    pulse: Int32Array,
    limitMs: number,
    onBlocked: (what: string, socket: number, milliseconds: number) => void,
  ) {
    this.#pulse = pulse;
    this.#onBlocked = onBlocked;
    this.#timer = setInterval(() => this.#look(limitMs), Math.max(10, Math.floor(limitMs / 2)));
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(limitMs: number): void {
    const count = Atomics.load(this.#pulse, PULSE.COUNT);
    const now = performance.now();
    if (count !== this.#count || (count & 1) === 0) {
      this.#count = count;
      this.#since = now;
      this.#told = false;
      return;
    }
    const milliseconds = Math.round(now - this.#since);
    if (this.#told || milliseconds < limitMs) return;
    this.#told = true;
    this.#onBlocked(describePulse(this.#pulse), this.#pulse[PULSE.SOURCE]!, milliseconds);
  }
}
