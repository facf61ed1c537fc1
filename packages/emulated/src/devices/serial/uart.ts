import type { Clock } from '../../clock.js';
import { PORT_STATE, UART, UART_CLOCK_HZ } from './constants.js';

const ERRORS = UART.LSR_PE | UART.LSR_FE | UART.LSR_BI;
const CHANGES = UART.MSR_DCTS | UART.MSR_DDSR | UART.MSR_TERI | UART.MSR_DDCD;
const LINES = UART.MSR_CTS | UART.MSR_DSR | UART.MSR_RI | UART.MSR_DCD;
const TRIGGER_LEVELS = [1, 4, 8, 14] as const;
/** Times of a character after which one that nobody has read is asked about. */
const TIMEOUT_CHARACTERS = 4;

/** What is at the other end of a {@link Uart}. */
export interface UartEnds {
  readonly clock: Clock;
  /** The interrupt pin. */
  interrupt(level: boolean): void;
}

/** Characters in the order in which they came. */
class Fifo {
  readonly #bytes = new Uint8Array(UART.FIFO_SIZE);
  #first = 0;
  count = 0;

  push(byte: number): void {
    this.#bytes[(this.#first + this.count) % UART.FIFO_SIZE] = byte;
    this.count += 1;
  }

  shift(): number {
    const byte = this.at(0);
    this.#first = (this.#first + 1) % UART.FIFO_SIZE;
    this.count -= 1;
    return byte;
  }

  at(index: number): number {
    return this.#bytes[(this.#first + index) % UART.FIFO_SIZE] ?? 0;
  }

  setAt(index: number, byte: number): void {
    this.#bytes[(this.#first + index) % UART.FIFO_SIZE] = byte;
  }

  clear(): void {
    this.count = 0;
  }
}

/**
 * A 16550 (PC16550D data sheet, section 8). Characters take the time that the baud rate, the word length and the stop
 * bits give them; with a divisor of 0 the baud generator stands still.
 */
export class Uart {
  /** Takes what leaves the serial output. In loopback nothing does. */
  onTransmit: ((byte: number) => void) | undefined = undefined;
  readonly #ends: UartEnds;
  readonly #received = new Fifo();
  /** LSR bits of each received character. */
  readonly #errors = new Fifo();
  readonly #waiting = new Fifo();
  #ier = 0;
  #fcr = 0;
  #lcr = 0;
  #mcr = 0;
  #scr = 0;
  #divisor = 0;
  #overrun = false;
  #lines = 0;
  #changes = 0;
  /** The modem lines outside. */
  #outside = 0;
  #threPending = false;
  #timedOut = false;
  #isShifting = false;
  #shifted = 0;
  /** How long a character takes; Infinity while the baud generator stands still. */
  #characterMs = Number.POSITIVE_INFINITY;
  /** When the character in the shift register will have been sent. */
  #sentAt = 0;
  /** When the receiver will have waited for too long. */
  #timeoutAt = 0;
  #isHeld = false;
  /** When the timer runs; it may come too early, never too late. */
  #timerAt = Number.POSITIVE_INFINITY;
  #cancelTimer: (() => void) | undefined = undefined;
  readonly #onTimer = (): void => {
    this.#timerAt = Number.POSITIVE_INFINITY;
    this.#advance();
    this.#update();
  };

  constructor(ends: UartEnds) {
    this.#ends = ends;
  }

  read(register: number): number {
    this.#advance();
    const value = this.#read(register);
    this.#update();
    return value;
  }

  write(register: number, value: number): void {
    this.#advance();
    this.#write(register, value & 0xff);
    this.#update();
  }

  /** How many characters it can receive before one is lost: for a cable that can wait. */
  get room(): number {
    return (this.#hasFifos() ? UART.FIFO_SIZE : 1) - this.#received.count;
  }

  /** A character arrives at the serial input. @param errors LSR.PE, FE and BI. In loopback it is not connected. */
  receive(byte: number, errors = 0): void {
    this.#advance();
    if ((this.#mcr & UART.MCR_LOOP) === 0) this.#take(byte, errors & ERRORS, this.#ends.clock.now());
    this.#update();
  }

  /** The modem lines, as bits of MSR: CTS, DSR, RI and DCD. */
  setModemLines(lines: number): void {
    this.#outside = lines & LINES;
    this.#followLines();
    this.#update();
  }

  /** Stands still, or goes on: a character that was on its way is then sent from its first bit. */
  hold(isHeld: boolean): void {
    if (isHeld === this.#isHeld) return;
    this.#advance();
    this.#isHeld = isHeld;
    this.#restart();
    this.#update();
  }

  /**
   * Master reset. The data sheet leaves the scratch register and the divisor alone; here they are cleared too, since a
   * reset is what stands between two users.
   */
  reset(): void {
    this.#ier = 0;
    this.#fcr = 0;
    this.#lcr = 0;
    this.#mcr = 0;
    this.#scr = 0;
    this.#divisor = 0;
    this.#overrun = false;
    this.#threPending = false;
    this.#isShifting = false;
    this.#clearReceiver();
    this.#waiting.clear();
    this.#followLines();
    this.#changes = 0;
    this.#isHeld = false;
    this.#setRate();
    this.#update();
  }

  /** Writes what the port is: {@link PORT_STATE}. */
  save(into: Uint8Array): void {
    this.#advance();
    into.fill(0, 0, PORT_STATE.BYTES);
    into[PORT_STATE.IER] = this.#ier;
    into[PORT_STATE.FCR] = this.#fcr;
    into[PORT_STATE.LCR] = this.#lcr;
    into[PORT_STATE.MCR] = this.#mcr;
    into[PORT_STATE.LSR] = this.#overrun ? UART.LSR_OE : 0;
    into[PORT_STATE.MSR] = this.#lines | this.#changes;
    into[PORT_STATE.SCR] = this.#scr;
    into[PORT_STATE.FLAGS] =
      (this.#threPending ? PORT_STATE.FLAG_THRE : 0) |
      (this.#timedOut ? PORT_STATE.FLAG_TIMEOUT : 0) |
      (this.#isShifting ? PORT_STATE.FLAG_SHIFTING : 0);
    into[PORT_STATE.DIVISOR] = this.#divisor & 0xff;
    into[PORT_STATE.DIVISOR + 1] = this.#divisor >> 8;
    into[PORT_STATE.RECEIVED] = this.#received.count;
    into[PORT_STATE.WAITING] = this.#waiting.count;
    into[PORT_STATE.SHIFTED] = this.#isShifting ? this.#shifted : 0;
    for (let i = 0; i < this.#received.count; i++) {
      into[PORT_STATE.RECEIVER_FIFO + i] = this.#received.at(i);
      into[PORT_STATE.RECEIVER_ERRORS + i] = this.#errors.at(i);
    }
    for (let i = 0; i < this.#waiting.count; i++) into[PORT_STATE.TRANSMITTER_FIFO + i] = this.#waiting.at(i);
  }

  /** Becomes what {@link save} has written. A modem line that is another here has changed. Not checked: {@link isPort}. */
  load(from: Uint8Array): void {
    const byte = (at: number): number => from[at] ?? 0;
    this.#ier = byte(PORT_STATE.IER);
    this.#fcr = byte(PORT_STATE.FCR);
    this.#lcr = byte(PORT_STATE.LCR);
    this.#mcr = byte(PORT_STATE.MCR);
    this.#scr = byte(PORT_STATE.SCR);
    this.#divisor = byte(PORT_STATE.DIVISOR) | (byte(PORT_STATE.DIVISOR + 1) << 8);
    this.#overrun = byte(PORT_STATE.LSR) !== 0;
    const flags = byte(PORT_STATE.FLAGS);
    this.#threPending = (flags & PORT_STATE.FLAG_THRE) !== 0;
    this.#isShifting = (flags & PORT_STATE.FLAG_SHIFTING) !== 0;
    this.#shifted = byte(PORT_STATE.SHIFTED);
    this.#clearReceiver();
    this.#waiting.clear();
    for (let i = 0; i < byte(PORT_STATE.RECEIVED); i++) {
      this.#received.push(byte(PORT_STATE.RECEIVER_FIFO + i));
      this.#errors.push(byte(PORT_STATE.RECEIVER_ERRORS + i));
    }
    for (let i = 0; i < byte(PORT_STATE.WAITING); i++) this.#waiting.push(byte(PORT_STATE.TRANSMITTER_FIFO + i));
    this.#timedOut = (flags & PORT_STATE.FLAG_TIMEOUT) !== 0;
    this.#lines = byte(PORT_STATE.MSR) & LINES;
    this.#changes = byte(PORT_STATE.MSR) & CHANGES;
    this.#followLines();
    this.#setRate();
    this.#restart();
    this.#update();
  }

  #read(register: number): number {
    const hasDivisor = (this.#lcr & UART.LCR_DLAB) !== 0;
    switch (register) {
      case UART.RBR:
        return hasDivisor ? this.#divisor & 0xff : this.#readCharacter();
      case UART.IER:
        return hasDivisor ? this.#divisor >> 8 : this.#ier;
      case UART.IIR: {
        const id = this.#interruptId();
        if (id === UART.IIR_THRE) this.#threPending = false;
        return id | (this.#hasFifos() ? UART.IIR_FIFOS : 0);
      }
      case UART.LCR:
        return this.#lcr;
      case UART.MCR:
        return this.#mcr;
      case UART.LSR: {
        const status = this.#lineStatus();
        this.#overrun = false;
        if (this.#received.count > 0) this.#errors.setAt(0, 0);
        return status;
      }
      case UART.MSR: {
        const status = this.#lines | this.#changes;
        this.#changes = 0;
        return status;
      }
      default:
        return this.#scr;
    }
  }

  #write(register: number, value: number): void {
    const hasDivisor = (this.#lcr & UART.LCR_DLAB) !== 0;
    switch (register) {
      case UART.THR:
        if (hasDivisor) this.#setDivisor((this.#divisor & 0xff00) | value);
        else this.#writeCharacter(value);
        break;
      case UART.IER:
        if (hasDivisor) this.#setDivisor((this.#divisor & 0xff) | (value << 8));
        else this.#writeEnables(value & 0x0f);
        break;
      case UART.FCR:
        this.#writeFifoControl(value);
        break;
      case UART.LCR:
        this.#lcr = value;
        this.#setRate();
        break;
      case UART.MCR:
        this.#mcr = value & 0x1f;
        this.#followLines();
        break;
      case UART.SCR:
        this.#scr = value;
        break;
      default: // LSR and MSR: what software writes there is for tests in a factory
    }
  }

  #hasFifos(): boolean {
    return (this.#fcr & UART.FCR_ENABLE) !== 0;
  }

  #readCharacter(): number {
    this.#timedOut = false;
    this.#timeoutAt = this.#ends.clock.now() + TIMEOUT_CHARACTERS * this.#characterMs;
    if (this.#received.count === 0) return 0;
    this.#errors.shift();
    return this.#received.shift();
  }

  #writeCharacter(byte: number): void {
    this.#threPending = false;
    // The pin falls, so that the next empty register is an interrupt of its own.
    this.#update();
    const room = this.#hasFifos() ? UART.FIFO_SIZE : 1;
    if (this.#waiting.count === room) {
      // Software did not look at LSR.THRE: the holding register takes the newer one, the FIFO keeps what it has.
      if (room === 1) this.#waiting.setAt(0, byte);
      return;
    }
    this.#waiting.push(byte);
    if (!this.#isShifting) this.#shiftNext(this.#ends.clock.now());
  }

  #writeEnables(value: number): void {
    const wasEnabled = (this.#ier & UART.IER_THRE) !== 0;
    this.#ier = value;
    if (!wasEnabled && (value & UART.IER_THRE) !== 0 && this.#waiting.count === 0) this.#threPending = true;
  }

  #writeFifoControl(value: number): void {
    // Bit 0 must be set for the others to be written, and a change of it clears both FIFOs.
    const isEnabled = (value & UART.FCR_ENABLE) !== 0;
    const isSwitched = isEnabled !== this.#hasFifos();
    this.#fcr = isEnabled ? value & (UART.FCR_ENABLE | UART.FCR_DMA_MODE | UART.FCR_TRIGGER) : 0;
    if (isSwitched || (isEnabled && (value & UART.FCR_CLEAR_RECEIVER) !== 0)) this.#clearReceiver();
    if (isSwitched || (isEnabled && (value & UART.FCR_CLEAR_TRANSMITTER) !== 0)) {
      if (this.#waiting.count > 0) this.#threPending = true;
      this.#waiting.clear();
    }
  }

  #setDivisor(divisor: number): void {
    this.#divisor = divisor;
    this.#setRate();
  }

  /** A start bit, the word, parity, and stop bits: 1, 2, or 1.5 for words of 5 bits. */
  #setRate(): void {
    const word = 5 + (this.#lcr & UART.LCR_WORD_LENGTH);
    const stop = (this.#lcr & UART.LCR_STOP) === 0 ? 1 : word === 5 ? 1.5 : 2;
    const bits = 1 + word + ((this.#lcr & UART.LCR_PARITY) === 0 ? 0 : 1) + stop;
    const characterMs =
      this.#divisor === 0 ? Number.POSITIVE_INFINITY : (bits * 16 * this.#divisor * 1000) / UART_CLOCK_HZ;
    if (characterMs === this.#characterMs) return;
    this.#characterMs = characterMs;
    this.#restart();
  }

  /** Time counts from now on. */
  #restart(): void {
    const now = this.#ends.clock.now();
    this.#sentAt = now + this.#characterMs;
    this.#timeoutAt = now + TIMEOUT_CHARACTERS * this.#characterMs;
  }

  #clearReceiver(): void {
    this.#received.clear();
    this.#errors.clear();
    this.#timedOut = false;
  }

  /** Does what is due by now. */
  #advance(): void {
    if (this.#isHeld) return;
    const now = this.#ends.clock.now();
    while (this.#isShifting && this.#sentAt <= now) this.#characterSent(this.#sentAt);
    if (this.#waitsForReader() && this.#timeoutAt <= now) this.#timedOut = true;
  }

  #waitsForReader(): boolean {
    return this.#hasFifos() && this.#received.count > 0 && !this.#timedOut;
  }

  #characterSent(now: number): void {
    const byte = this.#shifted;
    this.#isShifting = false;
    if (this.#waiting.count > 0) this.#shiftNext(now);
    // Words shorter than a byte leave out its high bits.
    const word = byte & (0xff >> (3 - (this.#lcr & UART.LCR_WORD_LENGTH)));
    if ((this.#mcr & UART.MCR_LOOP) !== 0) this.#take(word, 0, now);
    else this.onTransmit?.(word);
  }

  #shiftNext(now: number): void {
    this.#shifted = this.#waiting.shift();
    this.#isShifting = true;
    this.#sentAt = now + this.#characterMs;
    if (this.#waiting.count === 0) this.#threPending = true;
  }

  /** A character has been received. */
  #take(byte: number, errors: number, now: number): void {
    this.#timeoutAt = now + TIMEOUT_CHARACTERS * this.#characterMs;
    const room = this.#hasFifos() ? UART.FIFO_SIZE : 1;
    if (this.#received.count < room) {
      this.#received.push(byte);
      this.#errors.push(errors);
      return;
    }
    this.#overrun = true;
    // The FIFO keeps what it has; the holding register is overwritten.
    if (room > 1) return;
    this.#received.setAt(0, byte);
    this.#errors.setAt(0, errors);
  }

  #followLines(): void {
    const lines = (this.#mcr & UART.MCR_LOOP) === 0 ? this.#outside : loopedLines(this.#mcr);
    const changed = lines ^ this.#lines;
    if ((changed & UART.MSR_CTS) !== 0) this.#changes |= UART.MSR_DCTS;
    if ((changed & UART.MSR_DSR) !== 0) this.#changes |= UART.MSR_DDSR;
    if ((changed & UART.MSR_DCD) !== 0) this.#changes |= UART.MSR_DDCD;
    // Of the ring indicator only the end is told.
    if ((changed & this.#lines & UART.MSR_RI) !== 0) this.#changes |= UART.MSR_TERI;
    this.#lines = lines;
  }

  #lineStatus(): number {
    let status = this.#overrun ? UART.LSR_OE : 0;
    if (this.#received.count > 0) status |= UART.LSR_DR | this.#errors.at(0);
    if (this.#waiting.count === 0) status |= this.#isShifting ? UART.LSR_THRE : UART.LSR_THRE | UART.LSR_TEMT;
    if (this.#hasFifos() && this.#hasError()) status |= UART.LSR_FIFO_ERROR;
    return status;
  }

  #hasError(): boolean {
    for (let i = 0; i < this.#received.count; i++) if (this.#errors.at(i) !== 0) return true;
    return false;
  }

  /** The most urgent source, by the data sheet's table IV. */
  #interruptId(): number {
    const enabled = this.#ier;
    const count = this.#received.count;
    if ((enabled & UART.IER_LINE_STATUS) !== 0 && (this.#overrun || (count > 0 && this.#errors.at(0) !== 0)))
      return UART.IIR_LINE_STATUS;
    if ((enabled & UART.IER_RDA) !== 0) {
      if (count >= (this.#hasFifos() ? (TRIGGER_LEVELS[this.#fcr >> 6] ?? 1) : 1)) return UART.IIR_RDA;
      if (this.#timedOut) return UART.IIR_TIMEOUT;
    }
    if ((enabled & UART.IER_THRE) !== 0 && this.#threPending) return UART.IIR_THRE;
    if ((enabled & UART.IER_MODEM_STATUS) !== 0 && this.#changes !== 0) return UART.IIR_MODEM_STATUS;
    return UART.IIR_NONE;
  }

  /** The pin and the timer follow. */
  #update(): void {
    this.#ends.interrupt(this.#interruptId() !== UART.IIR_NONE);
    let due = Number.POSITIVE_INFINITY;
    if (this.#isShifting) due = this.#sentAt;
    if (this.#waitsForReader()) due = Math.min(due, this.#timeoutAt);
    if (this.#isHeld || due === Number.POSITIVE_INFINITY) {
      if (this.#timerAt !== Number.POSITIVE_INFINITY) this.#cancelTimer?.();
      this.#timerAt = Number.POSITIVE_INFINITY;
    } else if (due < this.#timerAt) {
      if (this.#timerAt !== Number.POSITIVE_INFINITY) this.#cancelTimer?.();
      const { clock } = this.#ends;
      this.#cancelTimer = clock.setTimer(Math.max(0, due - clock.now()), this.#onTimer);
      this.#timerAt = due;
    }
  }
}

/** In loopback the four outputs are the four inputs (data sheet, 8.7). */
function loopedLines(mcr: number): number {
  return (
    ((mcr & UART.MCR_RTS) === 0 ? 0 : UART.MSR_CTS) |
    ((mcr & UART.MCR_DTR) === 0 ? 0 : UART.MSR_DSR) |
    ((mcr & UART.MCR_OUT1) === 0 ? 0 : UART.MSR_RI) |
    ((mcr & UART.MCR_OUT2) === 0 ? 0 : UART.MSR_DCD)
  );
}

/** Whether bytes are what a port can be. */
export function isPort(state: Uint8Array): boolean {
  const byte = (at: number): number => state[at] ?? 0;
  const isClear = (from: number, to: number): boolean => state.subarray(from, to).every((value) => value === 0);
  const fcr = byte(PORT_STATE.FCR);
  const hasFifos = (fcr & UART.FCR_ENABLE) !== 0;
  const room = hasFifos ? UART.FIFO_SIZE : 1;
  const received = byte(PORT_STATE.RECEIVED);
  const waiting = byte(PORT_STATE.WAITING);
  const flags = byte(PORT_STATE.FLAGS);
  const has = (flag: number): boolean => (flags & flag) !== 0;
  const errors = state.subarray(PORT_STATE.RECEIVER_ERRORS, PORT_STATE.RECEIVER_ERRORS + received);
  return (
    state.length === PORT_STATE.BYTES &&
    (byte(PORT_STATE.IER) & ~0x0f) === 0 &&
    (hasFifos ? (fcr & ~(UART.FCR_ENABLE | UART.FCR_DMA_MODE | UART.FCR_TRIGGER)) === 0 : fcr === 0) &&
    (byte(PORT_STATE.MCR) & ~0x1f) === 0 &&
    (byte(PORT_STATE.LSR) & ~UART.LSR_OE) === 0 &&
    (flags & ~(PORT_STATE.FLAG_THRE | PORT_STATE.FLAG_TIMEOUT | PORT_STATE.FLAG_SHIFTING)) === 0 &&
    received <= room &&
    waiting <= room &&
    // A character waits only while another is being sent, and nothing is asked about where nothing waits.
    (waiting === 0 || has(PORT_STATE.FLAG_SHIFTING)) &&
    (has(PORT_STATE.FLAG_SHIFTING) || byte(PORT_STATE.SHIFTED) === 0) &&
    (!has(PORT_STATE.FLAG_THRE) || waiting === 0) &&
    (!has(PORT_STATE.FLAG_TIMEOUT) || (hasFifos && received > 0)) &&
    errors.every((bits) => (bits & ~ERRORS) === 0) &&
    isClear(PORT_STATE.SHIFTED + 1, PORT_STATE.RECEIVER_FIFO) &&
    isClear(PORT_STATE.RECEIVER_FIFO + received, PORT_STATE.RECEIVER_ERRORS) &&
    isClear(PORT_STATE.RECEIVER_ERRORS + received, PORT_STATE.TRANSMITTER_FIFO) &&
    isClear(PORT_STATE.TRANSMITTER_FIFO + waiting, PORT_STATE.BYTES)
  );
}
