import {
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_MASTER,
  PCI_INTERRUPT_PIN,
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_DATA_32,
  PCI_MSI_DATA_64,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_FLAGS_QSIZE,
  PCI_MSI_MASK_32,
  PCI_MSI_MASK_64,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
  PCI_STATUS,
  PCI_STATUS_INTERRUPT,
} from '@vfio/uapi';
import type { ConfigSpace } from '../config/config-space.js';
import type { IntxLine, IrqController } from './controller.js';
import type { MsixTable } from './msix-table.js';

/** How a function signals now, as its capabilities are programmed. */
export type InterruptMode = 'intx' | 'msi' | 'msix';

/**
 * The interrupt logic of a function: what it wants to signal, against what its registers let it signal. Messages are
 * memory writes, so nothing is sent without bus mastering or outside D0.
 */
export class FunctionInterrupts {
  readonly #config: ConfigSpace;
  readonly #controller: IrqController;
  readonly #isPowered: () => boolean;
  readonly #isForwarded: () => boolean;
  /** Offset of the MSI and MSI-X capabilities, 0 where there is none. */
  msiOffset = 0;
  msixOffset = 0;
  table: MsixTable | undefined;
  /** Whether STATUS.INTERRUPT and DisINTx are implemented (PCI 2.3). */
  hasIntxStatus = true;
  #line: IntxLine | undefined;
  #level = false;
  #driving = false;
  #msi = false;
  #msix = false;
  /** MSI-X was enabled since the last reset. */
  #wasMsix = false;
  #functionMask = false;

  /** @param isForwarded the bridge above passes requests up */
  constructor(config: ConfigSpace, controller: IrqController, isPowered: () => boolean, isForwarded: () => boolean) {
    this.#config = config;
    this.#controller = controller;
    this.#isPowered = isPowered;
    this.#isForwarded = isForwarded;
  }

  /** How the function signals now. */
  get mode(): InterruptMode {
    return this.#msix ? 'msix' : this.#msi ? 'msi' : 'intx';
  }

  /** How many vectors the current mode has: MSI-X table size, granted MSI messages, or 1. */
  get vectors(): number {
    if (this.#msix) return this.table?.vectors ?? 0;
    return this.#msi ? 1 << ((this.#config.get(this.msiOffset + PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_QSIZE) >> 4) : 1;
  }

  /** Whether the function's INTx pin is asserted on its line now. */
  get isDriving(): boolean {
    return this.#driving;
  }

  /** Connects the pin to a line of the host; undefined leaves it open. */
  connect(line: IntxLine | undefined): void {
    if (this.#driving) this.#line?.drive(false);
    this.#driving = false;
    this.#line = line;
    this.update();
  }

  get line(): IntxLine | undefined {
    return this.#line;
  }

  /** The level that the function wants on its INTx pin. Kept while it signals by messages, and not shown then. */
  setIntx(level: boolean): void {
    this.#level = level;
    this.#updatePin();
  }

  /**
   * Signals vector `vector` by MSI or MSI-X, or marks it pending where it is masked. Nothing in INTx mode, but that a
   * function which used MSI-X remembers what comes while it is off: QEMU takes all vectors down to arm one more. A vector
   * beyond the granted MSI messages shares the last of them, as the specification lets a function do.
   */
  send(vector: number): void {
    if (this.#msix) this.#sendMsix(vector);
    else if (this.#msi) this.#sendMsi(vector);
    else if (this.#wasMsix && this.table !== undefined && vector < this.table.vectors)
      this.table.setPending(vector, true);
  }

  /** Reads the capabilities and COMMAND again: after software wrote one, and after a reset. */
  update(): void {
    const config = this.#config;
    const wasOpen = this.#msix && !this.#functionMask;
    const msi = this.msiOffset === 0 ? 0 : config.get(this.msiOffset + PCI_MSI_FLAGS, 2);
    const msix = this.msixOffset === 0 ? 0 : config.get(this.msixOffset + PCI_MSIX_FLAGS, 2);
    this.#msi = (msi & PCI_MSI_FLAGS_ENABLE) !== 0;
    this.#msix = (msix & PCI_MSIX_FLAGS_ENABLE) !== 0;
    if (this.#msix) this.#wasMsix = true;
    this.#functionMask = (msix & PCI_MSIX_FLAGS_MASKALL) !== 0;
    this.#updatePin();
    const table = this.table;
    if (table !== undefined && this.#msix && !this.#functionMask && !wasOpen)
      for (let v = 0; v < table.vectors; v++) this.#release(table, v);
  }

  /** A vector's mask bit was cleared: what came meanwhile is sent now. */
  vectorUnmasked(vector: number): void {
    if (this.table !== undefined) this.#release(this.table, vector);
  }

  /** Software wrote the MSI mask register: what came meanwhile is sent now. */
  msiMaskWritten(): void {
    const at = this.#msiMaskOffset();
    if (at === 0 || !this.#msi) return;
    const due = this.#config.get(at + 4, 4) & ~this.#config.get(at, 4);
    for (let v = 0; due !== 0 && v < 32; v++) {
      if ((due & (1 << v)) === 0) continue;
      this.#config.change(at + 4, 4, 0, 1 << v);
      this.#postMsi(v);
    }
  }

  /** The function was reset: nothing is pending, the pin is quiet. */
  reset(): void {
    this.#level = false;
    this.#wasMsix = false;
    this.table?.reset();
    this.update();
  }

  #updatePin(): void {
    const config = this.#config;
    const shown = this.#level && !this.#msi && !this.#msix && config.get(PCI_INTERRUPT_PIN, 1) !== 0;
    if (this.hasIntxStatus)
      config.change(PCI_STATUS, 2, shown ? PCI_STATUS_INTERRUPT : 0, shown ? 0 : PCI_STATUS_INTERRUPT);
    const driving =
      shown && config.present && (config.get(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE) === 0 && this.#isPowered();
    if (driving === this.#driving || this.#line === undefined) return;
    this.#driving = driving;
    this.#line.drive(driving);
  }

  #sendMsix(vector: number): void {
    const table = this.table;
    if (table === undefined || vector >= table.vectors) return;
    if (this.#functionMask || table.isMasked(vector)) table.setPending(vector, true);
    else this.#post(table.address(vector), table.addressHigh(vector), table.data(vector));
  }

  #release(table: MsixTable, vector: number): void {
    if (!this.#msix || this.#functionMask || table.isMasked(vector) || !table.isPending(vector)) return;
    table.setPending(vector, false);
    this.#post(table.address(vector), table.addressHigh(vector), table.data(vector));
  }

  #sendMsi(vector: number): void {
    const v = Math.min(vector, this.vectors - 1);
    const mask = this.#msiMaskOffset();
    if (mask !== 0 && (this.#config.get(mask, 4) & (1 << v)) !== 0) this.#config.change(mask + 4, 4, 1 << v, 0);
    else this.#postMsi(v);
  }

  #postMsi(vector: number): void {
    const at = this.msiOffset;
    const is64Bit = (this.#config.get(at + PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_64BIT) !== 0;
    const data = this.#config.get(at + (is64Bit ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 2);
    this.#post(
      this.#config.get(at + PCI_MSI_ADDRESS_LO, 4),
      is64Bit ? this.#config.get(at + PCI_MSI_ADDRESS_HI, 4) : 0,
      (data & ~(this.vectors - 1)) | vector,
    );
  }

  #msiMaskOffset(): number {
    if (this.msiOffset === 0) return 0;
    const flags = this.#config.get(this.msiOffset + PCI_MSI_FLAGS, 2);
    if ((flags & PCI_MSI_FLAGS_MASKBIT) === 0) return 0;
    return this.msiOffset + ((flags & PCI_MSI_FLAGS_64BIT) !== 0 ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32);
  }

  #post(address: number, addressHigh: number, data: number): void {
    if (!this.#config.present || !this.#isPowered()) return;
    if ((this.#config.get(PCI_COMMAND, 2) & PCI_COMMAND_MASTER) === 0 || !this.#isForwarded()) return;
    this.#controller.deliver(address, addressHigh, data);
  }
}
