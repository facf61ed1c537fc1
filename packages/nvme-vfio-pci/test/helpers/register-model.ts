import type { AccessWidth } from '@vfio/core';
import type { BarHandler, DeviceModel, FunctionContext } from '@vfio/emulated';

const CC = 0x14;
const CSTS = 0x1c;
const EN = 1;
const RDY = 1;
const CFS = 2;
const SHN = 0xc000;

/** How a controller behaves that is not well. */
export interface Ailment {
  /** Never becomes ready once it is enabled. */
  readonly neverReady?: boolean;
  /** Stays ready when it is told to become disabled. */
  readonly neverDisabled?: boolean;
  /** Stays in fatal state whatever is done to it. */
  readonly fatalForGood?: boolean;
  /** A shutdown begins and does not end. */
  readonly shutdownHangs?: boolean;
  /** A shutdown ends in fatal state this many times before it works. */
  readonly shutdownsThatFail?: number;
  /** Reads as all ones. */
  readonly gone?: boolean;
}

/**
 * The registers of an NVMe controller and nothing behind them, with no way to reset the function: its state stays as
 * somebody left it. It notes what the specification calls undefined.
 */
export class RegisterModel implements DeviceModel, BarHandler {
  ailment: Ailment = {};
  /** What no host may do (3.1.5, 7.6.2). */
  readonly violations: string[] = [];
  /** Power states to which the function was moved. */
  readonly powerStates: number[] = [];
  /** Values written to CC. */
  readonly written: number[] = [];
  /** CAP, in halves: time-out 500 ms; NVM command set, pages from 4 KiB. */
  cap: [number, number] = [1 << 24, 1 << 5];
  cc = 0;
  csts = 0;
  /** How long a change takes, in ms. */
  delayMs = 0;
  #failed = 0;

  constructor(ctx: FunctionContext) {
    ctx.identity({ vendor: 0x1b36, device: 0x0010, class: 0x010802 });
    ctx.bar(0, { size: 0x4000, is64Bit: true, handler: this });
    ctx.pm({ noSoftReset: true });
  }

  read(offset: number, width: AccessWidth): number {
    if (this.ailment.gone === true) return -1;
    if (width !== 4) return 0;
    switch (offset) {
      case 0:
      case 4:
        return this.cap[offset >> 2] ?? 0;
      case CC:
        return this.cc;
      case CSTS:
        return this.csts;
      default:
        return 0;
    }
  }

  write(offset: number, _width: AccessWidth, value: number): void {
    if (offset !== CC) return;
    const before = this.cc;
    this.cc = value;
    this.written.push(value >>> 0);
    const wasEnabled = (before & EN) !== 0;
    const isEnabled = (value & EN) !== 0;
    if (wasEnabled && !isEnabled) {
      if ((this.csts & (RDY | CFS)) === 0) this.violations.push('EN cleared before ready');
      this.#later(() => this.#disabled());
    } else if (!wasEnabled && isEnabled) {
      if ((this.csts & RDY) !== 0) this.violations.push('EN set while ready');
      this.#later(() => this.#enabled());
    }
    if ((value & SHN) !== 0 && (before & SHN) === 0) {
      if (!isEnabled || (this.csts & RDY) === 0) this.violations.push('shutdown notification while not ready');
      this.csts |= 4;
      this.#later(() => this.#shutDown());
    }
  }

  powerState(state: number): void {
    this.powerStates.push(state);
  }

  /** The state stays: this is what a function without a way to be reset keeps. */
  reset(): void {}

  /** Left enabled and ready by somebody. */
  leaveEnabled(): void {
    this.cc = 0x00460001;
    this.csts = RDY;
  }

  #enabled(): void {
    if (this.ailment.neverReady !== true) this.csts |= RDY;
  }

  #disabled(): void {
    if (this.ailment.neverDisabled === true) return;
    this.csts = this.ailment.fatalForGood === true ? CFS : 0;
  }

  #shutDown(): void {
    if (this.ailment.shutdownHangs === true) return;
    if (this.#failed < (this.ailment.shutdownsThatFail ?? 0)) {
      this.#failed += 1;
      this.csts |= CFS;
    } else this.csts = (this.csts & ~0xc) | 8;
  }

  #later(change: () => void): void {
    if (this.delayMs === 0) change();
    else setTimeout(change, this.delayMs);
  }
}
