import type { AccessWidth } from '@vfio/core';
import { PCI_VENDOR_ID_QEMU } from '@vfio/uapi';
import { allOnes, type BarHandler } from '../host/bar.js';
import type { DeviceModel, FunctionContext } from '../model.js';

/** Registers of BAR 0 (QEMU docs/specs/edu). */
export const EDU = {
  IDENTIFICATION: 0x00,
  LIVENESS: 0x04,
  FACTORIAL: 0x08,
  STATUS: 0x20,
  INTERRUPT_STATUS: 0x24,
  INTERRUPT_RAISE: 0x60,
  INTERRUPT_ACKNOWLEDGE: 0x64,
  DMA_SOURCE: 0x80,
  DMA_DESTINATION: 0x88,
  DMA_COUNT: 0x90,
  DMA_COMMAND: 0x98,
  /** Where the buffer lies in the device's own address space; only DMA reaches it. */
  BUFFER: 0x40000,
  BUFFER_SIZE: 4096,
  /** Version 1.0. */
  ID_VALUE: 0x010000ed,
  STATUS_COMPUTING: 0x01,
  STATUS_RAISE_AFTER_FACTORIAL: 0x80,
  /** What appears in the interrupt status. */
  IRQ_FACTORIAL: 0x001,
  IRQ_DMA: 0x100,
  DMA_START: 0x1,
  DMA_TO_MEMORY: 0x2,
  DMA_RAISE: 0x4,
  BAR_SIZE: 0x100000,
} as const;

/** What an {@link Edu} is like. */
export interface EduOptions {
  /** The addresses that its DMA engine can form: 28 bits by default, as documented. */
  readonly dmaMask?: number;
  /** How long a transfer takes. Default 0: it is done right after the access that started it was answered. */
  readonly dmaLatencyMs?: number;
  /** Device id, where the same registers are behind another one. Default 0x11e8. */
  readonly device?: number;
  /** A PCI Express function that can be reset alone (FLR), with PM. Default false: conventional, as documented. */
  readonly express?: boolean;
}

/** Registers that are 64 bits wide. */
const WIDE = [EDU.DMA_SOURCE, EDU.DMA_DESTINATION, EDU.DMA_COUNT, EDU.DMA_COMMAND] as const;

/**
 * QEMU's educational device: identification, liveness, factorial, interrupts, and a DMA engine with a buffer of 4096
 * bytes. Accesses below 0x80 are 4 bytes wide, above 4 or 8; others, and registers that do not exist, read as all ones
 * and are dropped.
 */
export class Edu implements DeviceModel, BarHandler {
  readonly #ctx: FunctionContext;
  readonly #dmaMask: number;
  readonly #latencyMs: number;
  readonly #buffer = new Uint8Array(EDU.BUFFER_SIZE);
  /** Low and high halves of the registers at 0x80 to 0x9f, in order. */
  readonly #wide = new Int32Array(2 * WIDE.length);
  #liveness = 0;
  #factorial = 0;
  #status = 0;
  #interruptStatus = 0;
  /** Counts resets: what was started before one ends without effect. */
  #epoch = 0;
  #cancelTimer: (() => void) | undefined;

  constructor(ctx: FunctionContext, options: EduOptions = {}) {
    this.#ctx = ctx;
    this.#dmaMask = options.dmaMask ?? 0x0fffffff;
    this.#latencyMs = options.dmaLatencyMs ?? 0;
    ctx.identity({
      vendor: PCI_VENDOR_ID_QEMU,
      device: options.device ?? 0x11e8,
      subvendor: 0x1af4,
      subdevice: 0x1100,
      class: 0x00ff00,
      revision: 0x10,
    });
    if (ctx.vfIndex === undefined) ctx.intx();
    ctx.bar(0, { size: EDU.BAR_SIZE, handler: this });
    ctx.msi({ vectors: 1, is64Bit: true });
    if (options.express === true) {
      ctx.express({ flr: true });
      ctx.pm();
    }
  }

  read(offset: number, width: AccessWidth): number {
    if (width !== 4) return allOnes(width);
    switch (offset) {
      case EDU.IDENTIFICATION:
        return EDU.ID_VALUE;
      case EDU.LIVENESS:
        return this.#liveness;
      case EDU.FACTORIAL:
        return this.#factorial;
      case EDU.STATUS:
        return this.#status;
      case EDU.INTERRUPT_STATUS:
        return this.#interruptStatus;
      case EDU.DMA_SOURCE:
      case EDU.DMA_DESTINATION:
      case EDU.DMA_COUNT:
      case EDU.DMA_COMMAND:
        return this.#wide[(offset - EDU.DMA_SOURCE) >> 2] ?? -1;
      default:
        return -1;
    }
  }

  write(offset: number, width: AccessWidth, value: number): void {
    if (width !== 4) return;
    switch (offset) {
      case EDU.LIVENESS:
        this.#liveness = ~value;
        break;
      case EDU.FACTORIAL:
        // A computation that runs keeps its operand.
        if ((this.#status & EDU.STATUS_COMPUTING) === 0) this.#startFactorial(value);
        break;
      case EDU.STATUS:
        this.#status = (this.#status & EDU.STATUS_COMPUTING) | (value & EDU.STATUS_RAISE_AFTER_FACTORIAL);
        break;
      case EDU.INTERRUPT_RAISE:
        this.#raise(value);
        break;
      case EDU.INTERRUPT_ACKNOWLEDGE:
        this.#interruptStatus &= ~value;
        this.#ctx.irq.setIntx(this.#interruptStatus !== 0);
        break;
      case EDU.DMA_SOURCE:
      case EDU.DMA_DESTINATION:
      case EDU.DMA_COUNT:
      case EDU.DMA_COMMAND:
        this.#writeWide(offset, value, 0);
        break;
      default:
    }
  }

  readQword(offset: number, into: DataView, at: number): void {
    const index = offset >= EDU.DMA_SOURCE && offset <= EDU.DMA_COMMAND ? (offset - EDU.DMA_SOURCE) >> 2 : -1;
    into.setInt32(at, this.#wide[index] ?? -1, true);
    into.setInt32(at + 4, this.#wide[index + 1] ?? -1, true);
    if (index < 0) into.setInt32(at + 4, -1, true);
  }

  writeQword(offset: number, from: DataView, at: number): void {
    if (offset >= EDU.DMA_SOURCE && offset <= EDU.DMA_COMMAND)
      this.#writeWide(offset, from.getInt32(at, true), from.getInt32(at + 4, true));
  }

  reset(): void {
    this.#epoch += 1;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#buffer.fill(0);
    this.#wide.fill(0);
    this.#liveness = 0;
    this.#factorial = 0;
    this.#status = 0;
    this.#interruptStatus = 0;
  }

  removed(): void {
    this.reset();
  }

  #raise(bits: number): void {
    this.#interruptStatus |= bits;
    if (this.#interruptStatus === 0) return;
    // The pin follows the status also while MSI is on, so that it is right when software goes back to INTx.
    this.#ctx.irq.setIntx(true);
    this.#ctx.irq.send(0);
  }

  #startFactorial(operand: number): void {
    this.#factorial = operand;
    this.#status |= EDU.STATUS_COMPUTING;
    const epoch = this.#epoch;
    this.#ctx.defer(() => {
      if (epoch !== this.#epoch) return;
      this.#factorial = factorial(operand >>> 0);
      this.#status &= ~EDU.STATUS_COMPUTING;
      if ((this.#status & EDU.STATUS_RAISE_AFTER_FACTORIAL) !== 0) this.#raise(EDU.IRQ_FACTORIAL);
    });
  }

  #writeWide(offset: number, low: number, high: number): void {
    const running = ((this.#wide[6] ?? 0) & EDU.DMA_START) !== 0;
    if (running || (offset === EDU.DMA_COMMAND && (low & EDU.DMA_START) === 0)) return;
    const index = (offset - EDU.DMA_SOURCE) >> 2;
    this.#wide[index] = low;
    this.#wide[index + 1] = high;
    if (offset === EDU.DMA_COMMAND) this.#startDma();
  }

  #startDma(): void {
    const epoch = this.#epoch;
    const run = (): void => {
      if (epoch === this.#epoch) this.#transfer(epoch);
    };
    if (this.#latencyMs > 0) this.#cancelTimer = this.#ctx.clock.setTimer(this.#latencyMs, run);
    else this.#ctx.defer(run);
  }

  #transfer(epoch: number): void {
    const toMemory = ((this.#wide[6] ?? 0) & EDU.DMA_TO_MEMORY) !== 0;
    const source = this.#wideValue(0);
    const destination = this.#wideValue(2);
    const count = this.#wideValue(4);
    const at = (toMemory ? source : destination) - EDU.BUFFER;
    const done = (): void => this.#transferred(epoch);
    // Outside the buffer nothing moves; the command ends all the same.
    if (at < 0 || at + count > EDU.BUFFER_SIZE) {
      done();
      return;
    }
    const part = this.#buffer.subarray(at, at + count);
    const iova = this.#memoryAddress(toMemory ? 2 : 0);
    try {
      const { dma } = this.#ctx;
      const result = toMemory ? dma.write(iova, part) : dma.read(iova, part);
      if (result === undefined) done();
      else void result.then(done, done);
    } catch {
      // The device has no error register: a transfer that faults ends like one that worked.
      done();
    }
  }

  #transferred(epoch: number): void {
    if (epoch !== this.#epoch) return;
    const command = this.#wide[6] ?? 0;
    this.#wide[6] = command & ~EDU.DMA_START;
    if ((command & EDU.DMA_RAISE) !== 0) this.#raise(EDU.IRQ_DMA);
  }

  #wideValue(index: number): number {
    return ((this.#wide[index + 1] ?? 0) >>> 0) * 0x100000000 + ((this.#wide[index] ?? 0) >>> 0);
  }

  /** A memory address without the lines that the engine does not have. */
  #memoryAddress(index: number): number {
    const mask = this.#dmaMask;
    const low = ((this.#wide[index] ?? 0) & mask) >>> 0;
    const high = ((this.#wide[index + 1] ?? 0) & Math.floor(mask / 0x100000000)) >>> 0;
    return high * 0x100000000 + low;
  }
}

/** Factorial modulo 2^32. From 34 on every one is a multiple of 2^32. */
function factorial(operand: number): number {
  if (operand >= 34) return 0;
  let result = 1;
  for (let n = operand; n > 1; n--) result = Math.imul(result, n);
  return result;
}
