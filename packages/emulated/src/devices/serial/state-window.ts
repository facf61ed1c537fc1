import type { ConfigSpace } from '../../config/config-space.js';
import type { FunctionContext } from '../../model.js';
import { PORT_STATE, STATE_WINDOW } from './constants.js';
import { isPort, type Uart } from './uart.js';

const { CONTROL, CONTROL_HOLD, CONTROL_LOAD, CONTROL_SAVE, STATE, STATUS, STATUS_REFUSED } = STATE_WINDOW;
const VERSION = 1;
/** Id, next pointer and length, which every vendor-specific capability has. */
const HEADER = 3;

/** The state window of a serial card: see {@link STATE_WINDOW}. */
export class StateWindow {
  readonly #config: ConfigSpace;
  readonly #ports: readonly Uart[];
  readonly #changed: () => void;
  readonly #at: number;
  readonly #image: Uint8Array;
  isHeld = false;

  /** @param changed the card stands still now, or goes on, or has become another */
  constructor(ctx: FunctionContext, ports: readonly Uart[], changed: () => void) {
    this.#config = ctx.config;
    this.#ports = ports;
    this.#changed = changed;
    this.#image = new Uint8Array(ports.length * PORT_STATE.BYTES);
    const body = new Uint8Array(STATE - HEADER + this.#image.length);
    body[STATE_WINDOW.VERSION - HEADER] = VERSION;
    body[STATE_WINDOW.PORTS - HEADER] = ports.length;
    body[STATE_WINDOW.PORT_BYTES - HEADER] = PORT_STATE.BYTES;
    const writable = new Uint8Array(body.length).fill(0xff, STATE - HEADER);
    writable[CONTROL - HEADER] = CONTROL_HOLD | CONTROL_SAVE | CONTROL_LOAD;
    this.#at = ctx.vendor(body, writable);
    this.#config.onWrite(this.#at + CONTROL, () => this.#controlWritten());
  }

  /** The card was reset, its config space too. */
  reset(): void {
    this.isHeld = false;
  }

  #controlWritten(): void {
    const config = this.#config;
    const control = config.get(this.#at + CONTROL, 1);
    config.set(this.#at + CONTROL, 1, control & CONTROL_HOLD);
    const isHeld = (control & CONTROL_HOLD) !== 0;
    if (isHeld !== this.isHeld) {
      this.isHeld = isHeld;
      for (const port of this.#ports) port.hold(isHeld);
      this.#changed();
    }
    if ((control & CONTROL_SAVE) !== 0) this.#save();
    if ((control & CONTROL_LOAD) !== 0) config.set(this.#at + STATUS, 1, this.#load() ? 0 : STATUS_REFUSED);
  }

  #save(): void {
    for (const [index, port] of this.#ports.entries()) port.save(this.#stateOf(index));
    for (let i = 0; i < this.#image.length; i++) this.#config.set(this.#at + STATE + i, 1, this.#image[i] ?? 0);
  }

  #load(): boolean {
    if (!this.isHeld) return false;
    for (let i = 0; i < this.#image.length; i++) this.#image[i] = this.#config.get(this.#at + STATE + i, 1);
    if (!this.#ports.every((_, index) => isPort(this.#stateOf(index)))) return false;
    for (const [index, port] of this.#ports.entries()) port.load(this.#stateOf(index));
    return true;
  }

  #stateOf(index: number): Uint8Array {
    return this.#image.subarray(index * PORT_STATE.BYTES, (index + 1) * PORT_STATE.BYTES);
  }
}
