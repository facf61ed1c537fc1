import type { RawInterrupts, RegisterSpace } from '@vfio/core';
import {
  errnoError,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_DATA_32,
  PCI_MSI_DATA_64,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_FLAGS_QMASK,
  PCI_MSI_FLAGS_QSIZE,
  PCI_MSI_MASK_32,
  PCI_MSI_MASK_64,
  PCI_MSIX_ENTRY_CTRL_MASKBIT,
  PCI_MSIX_ENTRY_DATA,
  PCI_MSIX_ENTRY_LOWER_ADDR,
  PCI_MSIX_ENTRY_SIZE,
  PCI_MSIX_ENTRY_UPPER_ADDR,
  PCI_MSIX_ENTRY_VECTOR_CTRL,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
  PCI_MSIX_FLAGS_QSIZE,
  PCI_MSIX_TABLE,
} from '@vfio/uapi';
import type { ConfigSpace } from '../config/config-space.js';
import type { IrqController, LineRegistration } from '../irq/controller.js';
import type { FunctionInterrupts } from '../irq/function-interrupts.js';

/** What the host's interrupt services need of a function. */
export interface InterruptTarget {
  readonly address: string;
  readonly config: ConfigSpace;
  readonly interrupts: FunctionInterrupts;
  open(index: number): RegisterSpace;
}

/** How many vectors the host grants, as an interrupt domain of a real host limits them. */
export interface VectorLimits {
  /** Default 32; 1 is an x86 host without interrupt remapping. */
  readonly msi: number;
  /** Default 2048. */
  readonly msix: number;
}

interface Vector {
  readonly id: number;
  handler: (() => void) | undefined;
}

/**
 * The kernel's interrupt API over the function's real registers: everything it does is a config write or a store to the
 * MSI-X table, with what follows from that. With memory decoding off a store to the table is lost, as on hardware.
 */
export class HostInterrupts implements RawInterrupts {
  readonly dynamicMsix = true;
  readonly #fn: InterruptTarget;
  readonly #controller: IrqController;
  readonly #limits: VectorLimits;
  #registration: LineRegistration | undefined;
  #type: 'msi' | 'msix' | undefined;
  #vectors = new Map<number, Vector>();
  #msiBlock = 0;
  #msiCount = 0;

  constructor(fn: InterruptTarget, controller: IrqController, limits: VectorLimits) {
    this.#fn = fn;
    this.#controller = controller;
    this.#limits = limits;
  }

  get intxLine(): number | undefined {
    return this.#fn.interrupts.line?.number;
  }

  requestIntx(handler: () => void, exclusive: boolean): void {
    const { line } = this.#fn.interrupts;
    if (line === undefined) throw this.#error('ENODEV', 'INTx is not connected');
    if (this.#registration !== undefined) throw this.#error('EBUSY', 'INTx is requested already');
    this.#registration = line.request(handler, exclusive);
  }

  freeIntx(): void {
    if (this.#registration !== undefined) this.#fn.interrupts.line?.free(this.#registration);
    this.#registration = undefined;
  }

  setIntxLineEnabled(enabled: boolean): void {
    if (this.#registration !== undefined) this.#fn.interrupts.line?.setEnabled(this.#registration, enabled);
  }

  allocVectors(type: 'msi' | 'msix', count: number): number {
    if (!Number.isInteger(count) || count < 1) throw this.#error('EINVAL', `${count} vectors: at least 1 is allowed`);
    if (this.#type !== undefined) throw this.#error('EINVAL', `${this.#type} vectors are allocated already`);
    const { interrupts, config } = this.#fn;
    const offset = type === 'msi' ? interrupts.msiOffset : interrupts.msixOffset;
    if (offset === 0) throw this.#error('ENOSPC', `the function has no ${type === 'msi' ? 'MSI' : 'MSI-X'} capability`);
    const flags = config.read(offset + PCI_MSI_FLAGS, 2);
    const has = type === 'msi' ? 1 << ((flags & PCI_MSI_FLAGS_QMASK) >> 1) : (flags & PCI_MSIX_FLAGS_QSIZE) + 1;
    const available = Math.min(has, this.#limits[type]);
    if (available < count) return available;
    if (type === 'msi') this.#enableMsi(offset, count);
    else this.#enableMsix(offset, count);
    this.#type = type;
    this.#setIntxDisable(true);
    return count;
  }

  allocMsixAt(vector: number): void {
    if (this.#type !== 'msix') throw this.#error('EINVAL', 'MSI-X is not enabled');
    const size = (this.#fn.config.read(this.#fn.interrupts.msixOffset + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_QSIZE) + 1;
    if (!Number.isInteger(vector) || vector < 0 || vector >= size)
      throw this.#error('EINVAL', `MSI-X vector ${vector}: the table has ${size}`);
    if (this.#vectors.has(vector)) throw this.#error('EINVAL', `MSI-X vector ${vector} is allocated already`);
    if (this.#vectors.size >= this.#limits.msix) throw this.#error('ENOSPC', 'the host has no more vectors');
    this.#vectors.set(vector, { id: this.#controller.allocate(1), handler: undefined });
    this.rewriteMessage(vector);
  }

  freeVectors(): void {
    const { interrupts, config } = this.#fn;
    if (this.#type === 'msi') {
      this.#writeMsiMask(0xffffffff, 0);
      const at = interrupts.msiOffset + PCI_MSI_FLAGS;
      config.write(at, 2, config.read(at, 2) & ~(PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE));
      this.#controller.release(this.#msiBlock, this.#msiCount);
    } else if (this.#type === 'msix') {
      for (const vector of this.#vectors.keys())
        this.#writeEntry(vector, PCI_MSIX_ENTRY_VECTOR_CTRL, PCI_MSIX_ENTRY_CTRL_MASKBIT);
      const at = interrupts.msixOffset + PCI_MSIX_FLAGS;
      config.write(at, 2, config.read(at, 2) & ~(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL));
      for (const { id } of this.#vectors.values()) this.#controller.release(id, 1);
    } else return;
    this.#type = undefined;
    this.#vectors = new Map();
    this.#setIntxDisable(false);
  }

  setVectorHandler(vector: number, handler: (() => void) | undefined): void {
    const entry = this.#vectors.get(vector);
    if (entry === undefined) throw this.#error('EINVAL', `vector ${vector} is not allocated`);
    // A handler goes before the mask opens and after it has closed, so that no message meets nobody.
    if (handler !== undefined) this.#controller.setTarget(entry.id, handler);
    entry.handler = handler;
    this.#writeMask(vector, handler === undefined);
    if (handler === undefined) this.#controller.setTarget(entry.id, undefined);
  }

  rewriteMessage(vector: number): void {
    const entry = this.#vectors.get(vector);
    if (entry === undefined) throw this.#error('EINVAL', `vector ${vector} is not allocated`);
    if (this.#type === 'msi') {
      this.#writeMsiMessage();
    } else {
      const message = this.#controller.message(entry.id);
      // The vector must be masked while its message changes (PCI Local Bus 3.0, 6.8.3.5).
      this.#writeEntry(vector, PCI_MSIX_ENTRY_VECTOR_CTRL, PCI_MSIX_ENTRY_CTRL_MASKBIT);
      this.#writeEntry(vector, PCI_MSIX_ENTRY_LOWER_ADDR, message.address);
      this.#writeEntry(vector, PCI_MSIX_ENTRY_UPPER_ADDR, message.addressHigh);
      this.#writeEntry(vector, PCI_MSIX_ENTRY_DATA, message.data);
    }
    this.#writeMask(vector, entry.handler === undefined);
  }

  /** Programs everything again after a reset that the host itself did, with config space restored. */
  restore(): void {
    if (this.#type === undefined) return;
    const { config, interrupts } = this.#fn;
    for (const vector of this.#vectors.keys()) this.rewriteMessage(vector);
    if (this.#type === 'msix') {
      const at = interrupts.msixOffset + PCI_MSIX_FLAGS;
      config.write(at, 2, (config.read(at, 2) | PCI_MSIX_FLAGS_ENABLE) & ~PCI_MSIX_FLAGS_MASKALL);
    } else this.#enableMsiFlags();
  }

  /** The function is gone: lines and vectors are given back. */
  dispose(): void {
    this.freeVectors();
    this.freeIntx();
  }

  #enableMsi(offset: number, count: number): void {
    this.#msiBlock = this.#controller.allocate(count);
    this.#msiCount = count;
    for (let i = 0; i < count; i++) this.#vectors.set(i, { id: this.#msiBlock + i, handler: undefined });
    this.#fn.config.write(
      offset + PCI_MSI_FLAGS,
      2,
      this.#fn.config.read(offset + PCI_MSI_FLAGS, 2) & ~PCI_MSI_FLAGS_ENABLE,
    );
    this.#type = 'msi';
    this.#writeMsiMessage();
    this.#writeMsiMask(0xffffffff, 0);
    this.#enableMsiFlags();
  }

  #enableMsiFlags(): void {
    const at = this.#fn.interrupts.msiOffset + PCI_MSI_FLAGS;
    const log = Math.ceil(Math.log2(this.#msiCount));
    this.#fn.config.write(
      at,
      2,
      (this.#fn.config.read(at, 2) & ~PCI_MSI_FLAGS_QSIZE) | (log << 4) | PCI_MSI_FLAGS_ENABLE,
    );
  }

  #enableMsix(offset: number, count: number): void {
    const { config } = this.#fn;
    const flags = config.read(offset + PCI_MSIX_FLAGS, 2);
    // All masked while the table is filled, then the function mask opens on vectors that are masked one by one.
    config.write(offset + PCI_MSIX_FLAGS, 2, flags | PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    this.#type = 'msix';
    for (let i = 0; i < count; i++) {
      this.#vectors.set(i, { id: this.#controller.allocate(1), handler: undefined });
      this.rewriteMessage(i);
    }
    const size = (flags & PCI_MSIX_FLAGS_QSIZE) + 1;
    for (let i = count; i < size; i++) this.#writeEntry(i, PCI_MSIX_ENTRY_VECTOR_CTRL, PCI_MSIX_ENTRY_CTRL_MASKBIT);
    config.write(offset + PCI_MSIX_FLAGS, 2, (flags | PCI_MSIX_FLAGS_ENABLE) & ~PCI_MSIX_FLAGS_MASKALL);
  }

  #writeMsiMessage(): void {
    const { config, interrupts } = this.#fn;
    const at = interrupts.msiOffset;
    const message = this.#controller.message(this.#msiBlock);
    const is64Bit = (config.read(at + PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_64BIT) !== 0;
    config.write(at + PCI_MSI_ADDRESS_LO, 4, message.address);
    if (is64Bit) config.write(at + PCI_MSI_ADDRESS_HI, 4, message.addressHigh);
    config.write(at + (is64Bit ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 2, message.data);
  }

  #writeMask(vector: number, masked: boolean): void {
    if (this.#type === 'msi') this.#writeMsiMask(masked ? 1 << vector : 0, masked ? 0 : 1 << vector);
    else this.#writeEntry(vector, PCI_MSIX_ENTRY_VECTOR_CTRL, masked ? PCI_MSIX_ENTRY_CTRL_MASKBIT : 0);
  }

  #writeMsiMask(set: number, clear: number): void {
    const { config, interrupts } = this.#fn;
    const flags = config.read(interrupts.msiOffset + PCI_MSI_FLAGS, 2);
    if ((flags & PCI_MSI_FLAGS_MASKBIT) === 0) return;
    const at = interrupts.msiOffset + ((flags & PCI_MSI_FLAGS_64BIT) !== 0 ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32);
    config.write(at, 4, (config.read(at, 4) | set) & ~clear);
  }

  #writeEntry(vector: number, register: number, value: number): void {
    // Gone: there is no table any more, nor anything that says where it was.
    if (!this.#fn.config.present) return;
    const location = this.#fn.config.read(this.#fn.interrupts.msixOffset + PCI_MSIX_TABLE, 4);
    const space = this.#fn.open(location & 7);
    space.write((location & ~7) + vector * PCI_MSIX_ENTRY_SIZE + register, 4, value | 0);
  }

  #setIntxDisable(disabled: boolean): void {
    const command = this.#fn.config.read(PCI_COMMAND, 2);
    this.#fn.config.write(
      PCI_COMMAND,
      2,
      disabled ? command | PCI_COMMAND_INTX_DISABLE : command & ~PCI_COMMAND_INTX_DISABLE,
    );
  }

  #error(errno: 'EINVAL' | 'ENODEV' | 'EBUSY' | 'ENOSPC', message: string): Error {
    return errnoError(errno, message, { op: 'interrupts', device: this.#fn.address });
  }
}
