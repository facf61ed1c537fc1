import type { MmapArea, PlatformToken } from '@vfio/core';
import {
  errnoError,
  hex,
  PCI_BASE_ADDRESS_0,
  PCI_COMMAND,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_SERR,
  PCI_DEVICE_ID,
  PCI_ERR_UNCOR_MASK,
  PCI_ERR_UNCOR_SEVER,
  PCI_ERR_UNCOR_STATUS,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_FERE,
  PCI_EXP_DEVCTL_NFERE,
  PCI_EXP_DEVSTA,
  PCI_EXP_DEVSTA_FED,
  PCI_EXP_DEVSTA_NFED,
  PCI_VENDOR_ID,
} from '@vfio/uapi';
import type { Clock } from '../clock.js';
import {
  addAf,
  addMsi,
  addMsix,
  addPm,
  addSsvid,
  addVendor,
  addVpd,
  type BarLocation,
  type MsiOptions,
  type MsixOptions,
  type PmOptions,
  type VpdOptions,
} from '../config/capabilities.js';
import type { ConfigSpace } from '../config/config-space.js';
import { addExpress, type ExpressOptions } from '../config/express.js';
import { addAcs, addAer, addAri, addDsn, addLtr, addSriov, addVendorExtended } from '../config/ext-capabilities.js';
import {
  defineBar,
  defineHeader,
  defineIdentity,
  definePin,
  defineRomBar,
  type FunctionIdentity,
} from '../config/header.js';
import type { FunctionInterrupts } from '../irq/function-interrupts.js';
import { MsixTable } from '../irq/msix-table.js';
import type { MemoryProvider } from '../memory.js';
import type { BarOptions, ErrorReport, FunctionContext, SriovOptions } from '../model.js';
import { BarSpace, emptyBar, MemoryBar, RomHandler } from './bar.js';
import type { FunctionDma } from './dma.js';
import { type EmulatedFunction, ROM_INDEX } from './function.js';
import { VirtualFunctions } from './sriov.js';

/** Builds a function while its model is made, and serves the model afterwards. */
export class EmulatedFunctionContext implements FunctionContext {
  readonly #fn: EmulatedFunction;

  constructor(fn: EmulatedFunction) {
    this.#fn = fn;
    if (fn.vf === undefined) defineHeader(fn.config, true);
    else {
      // A VF implements Bus Master Enable only; its ids read as all ones (PCIe Base 9.3.4.1).
      fn.config.define(PCI_COMMAND, 2, 0, { rw: PCI_COMMAND_MASTER });
      fn.config.define(PCI_VENDOR_ID, 2, 0xffff);
      fn.config.define(PCI_DEVICE_ID, 2, 0xffff);
      fn.irq.hasIntxStatus = false;
    }
  }

  get address(): string {
    return this.#fn.address;
  }

  get config(): ConfigSpace {
    return this.#fn.config;
  }

  get irq(): FunctionInterrupts {
    return this.#fn.irq;
  }

  get dma(): FunctionDma {
    return this.#fn.dma;
  }

  get clock(): Clock {
    return this.#fn.host.clock;
  }

  get memory(): MemoryProvider {
    return this.#fn.host.memory;
  }

  get vfIndex(): number | undefined {
    return this.#fn.vfIndex;
  }

  defer(work: () => void): void {
    this.#fn.host.deferred.defer(work);
  }

  identity(id: FunctionIdentity): void {
    defineIdentity(this.config, id);
    if (this.#fn.vf === undefined) return;
    this.config.define(PCI_VENDOR_ID, 2, 0xffff);
    this.config.define(PCI_DEVICE_ID, 2, 0xffff);
  }

  intx(pin: 1 | 2 | 3 | 4 = 1): void {
    if (this.#fn.vf !== undefined) throw this.#error('a virtual function has no INTx');
    definePin(this.config, pin);
  }

  bar(index: number, options: BarOptions): readonly MmapArea[] {
    const { config } = this;
    if (this.#fn.spaces[index] !== undefined || this.#isUpperHalf(index))
      throw errnoError('EEXIST', `BAR ${index} is declared already`, { device: this.address });
    const vfShape = this.#fn.vf?.pf.virtual?.shape.bars?.[index];
    if (this.#fn.vf === undefined) defineBar(config, index, options);
    else if (vfShape === undefined || vfShape.size !== options.size)
      throw this.#error(
        `BAR ${index} of ${hex(options.size)} bytes: the physical function declares ${hex(vfShape?.size ?? 0)}`,
      );
    const handler =
      options.handler ??
      (options.memory === true
        ? new MemoryBar(this.memory.allocate(options.size, { shared: true, name: `${this.address} BAR ${index}` }))
        : emptyBar);
    this.#fn.resources[index] = {
      start: 0,
      size: options.size,
      io: options.io === true,
      prefetchable: options.prefetchable === true,
      is64Bit: options.is64Bit === true,
    };
    const space = new BarSpace(options.size, handler);
    this.#fn.spaces[index] = space;
    const register = PCI_BASE_ADDRESS_0 + 4 * index;
    const changed = (): void => this.#fn.updateDecode();
    config.onWrite(register, changed);
    if (options.is64Bit === true) config.onWrite(register + 4, changed);
    return space.mmapAreas;
  }

  rom(image: Uint8Array): void {
    const size = Math.max(2048, 2 ** Math.ceil(Math.log2(image.length)));
    if (image.length === 0 || size > 0x1000000)
      throw this.#error(`ROM of ${image.length} bytes: 1 byte to 16 MiB are allowed`);
    defineRomBar(this.config, size);
    this.#fn.resources[ROM_INDEX] = { start: 0, size, io: false, prefetchable: false, is64Bit: false };
    this.#fn.spaces[ROM_INDEX] = new BarSpace(size, new RomHandler(image));
    this.config.onWrite(0x30, () => this.#fn.updateDecode());
  }

  pm(options: PmOptions = {}): void {
    this.#fn.offsets.pm = addPm(this.config, options, (from, to) => this.#fn.powerChanged(from, to));
  }

  msi(options: MsiOptions = {}): void {
    const { irq } = this;
    irq.msiOffset = addMsi(
      this.config,
      options,
      () => irq.update(),
      () => irq.msiMaskWritten(),
    );
  }

  msix(options: MsixOptions): void {
    const { irq } = this;
    const table = new MsixTable(options.vectors);
    const tableSpace = this.#msixSpace(options.table, table.tableSize);
    const pendingSpace = this.#msixSpace(options.pba, table.pendingSize);
    if (
      options.table.bar === options.pba.bar &&
      options.table.offset < options.pba.offset + table.pendingSize &&
      options.pba.offset < options.table.offset + table.tableSize
    )
      throw this.#error('MSI-X table and pending bits overlap');
    irq.msixOffset = addMsix(this.config, options, () => irq.update());
    irq.table = table;
    table.onMaskChange = (vector, masked) => {
      if (!masked) irq.vectorUnmasked(vector);
    };
    tableSpace.overlayTable(table, options.table.offset);
    pendingSpace.overlayPending(table, options.pba.offset);
  }

  express(options: ExpressOptions = {}): void {
    this.#fn.offsets.express = addExpress(
      this.config,
      // On a root bus there is no link, so an endpoint is part of the root complex.
      this.#fn.parent === undefined ? { type: 'rc-integrated', ...options } : options,
      () => this.#fn.reset('flr'),
    );
    this.#fn.hasFlr = options.flr === true;
  }

  af(): void {
    this.#fn.offsets.af = addAf(this.config, () => this.#fn.reset('flr'));
  }

  vpd(options: VpdOptions): void {
    this.#fn.offsets.vpd = addVpd(this.config, options);
  }

  vendor(body: Uint8Array, writable?: Uint8Array): number {
    return addVendor(this.config, body, writable);
  }

  ssvid(subvendor: number, subdevice: number): void {
    addSsvid(this.config, subvendor, subdevice);
  }

  aer(): void {
    this.#fn.offsets.aer = addAer(this.config);
  }

  dsn(serial: bigint): void {
    addDsn(this.config, serial);
  }

  ari(nextFunction = 0): void {
    addAri(this.config, nextFunction);
  }

  ltr(): void {
    addLtr(this.config);
  }

  acs(): void {
    addAcs(this.config);
  }

  vendorExtended(id: number, revision: number, body: Uint8Array): number {
    return addVendorExtended(this.config, id, revision, body);
  }

  sriov(options: SriovOptions): void {
    if (this.#fn.vf !== undefined) throw this.#error('a virtual function has no SR-IOV');
    const fn = this.#fn;
    const at = addSriov(this.config, options, () => fn.virtual?.controlChanged());
    fn.virtual = new VirtualFunctions(fn, options, at);
  }

  beforePci23(): void {
    defineHeader(this.config, false);
    this.#fn.irq.hasIntxStatus = false;
  }

  nonMappableBars(): void {
    this.#fn.nonMappableBars = true;
  }

  platformFact<T>(token: PlatformToken<T>, value: T): void {
    this.#fn.facts.set(token, value);
  }

  reportError(report: ErrorReport): void {
    const { aer, express } = this.#fn.offsets;
    const { config } = this;
    if (aer === 0 || !config.present) return;
    config.change(aer + PCI_ERR_UNCOR_STATUS, 4, report.status, 0);
    if ((config.get(aer + PCI_ERR_UNCOR_MASK, 4) & report.status) !== 0) return;
    const fatal = (config.get(aer + PCI_ERR_UNCOR_SEVER, 4) & report.status) !== 0;
    if (express !== 0) config.change(express + PCI_EXP_DEVSTA, 2, fatal ? PCI_EXP_DEVSTA_FED : PCI_EXP_DEVSTA_NFED, 0);
    const enable = express === 0 ? 0 : config.get(express + PCI_EXP_DEVCTL, 2);
    const reported =
      (enable & (fatal ? PCI_EXP_DEVCTL_FERE : PCI_EXP_DEVCTL_NFERE)) !== 0 ||
      (config.get(PCI_COMMAND, 2) & PCI_COMMAND_SERR) !== 0;
    if (reported) this.#fn.notifyError('error-detected');
  }

  #msixSpace(where: BarLocation, size: number): BarSpace {
    const space = this.#fn.spaces[where.bar];
    if (space === undefined || where.offset + size > space.size)
      throw this.#error(
        `MSI-X structure of ${hex(size)} bytes at BAR ${where.bar}+${hex(where.offset)}: outside the BAR, which has ${hex(space?.size ?? 0)}`,
      );
    for (const area of space.mmapAreas)
      if (area.offset < where.offset + size && where.offset < area.offset + area.size)
        throw this.#error(
          `MSI-X structure at BAR ${where.bar}+${hex(where.offset)}: lies in memory that may be mapped`,
        );
    return space;
  }

  #isUpperHalf(index: number): boolean {
    return index > 0 && this.#fn.resources[index - 1]?.is64Bit === true;
  }

  #error(message: string): Error {
    return errnoError('EINVAL', message, { device: this.address });
  }
}
