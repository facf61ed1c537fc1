import {
  errnoError,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STATUS_INTERRUPT,
} from '@vfio/uapi';
import type {
  AccessWidth,
  DmaSpace,
  FunctionResetMethod,
  MmapArea,
  PciFunction,
  PciHost,
  PciHostEvents,
  PciResource,
  PlatformToken,
  RawDmaBuf,
  RawErrorEvent,
  RawFunctionBase,
  RawResetScope,
  RawSriov,
  RegisterSpace,
  SharedMemory,
} from '../../src/index.js';
import { FakeConfig } from './fake-config.js';
import { FakeInterrupts } from './fake-interrupts.js';

/** Registers that are plain memory and keep a record of accesses. */
export class FakeRegisters implements RegisterSpace {
  readonly size: number;
  readonly bytes: Uint8Array;
  readonly log: string[] = [];
  mmapAreas: readonly MmapArea[] = [];
  readQword?: (offset: number, into: DataView, at: number) => void;
  writeQword?: (offset: number, from: DataView, at: number) => void;

  constructor(size: number) {
    this.size = size;
    this.bytes = new Uint8Array(size);
  }

  /** Gives it 8-byte accesses. */
  withQwords(): this {
    this.readQword = (offset, into, at) => {
      this.log.push(`r8@${offset.toString(16)}`);
      for (let i = 0; i < 8; i++) into.setUint8(at + i, this.bytes[offset + i]!);
    };
    this.writeQword = (offset, from, at) => {
      this.log.push(`w8@${offset.toString(16)}`);
      for (let i = 0; i < 8; i++) this.bytes[offset + i] = from.getUint8(at + i);
    };
    return this;
  }

  read(offset: number, width: AccessWidth): number {
    this.log.push(`r${width}@${offset.toString(16)}`);
    let value = 0;
    for (let i = 0; i < width; i++) value |= (this.bytes[offset + i] ?? 0xff) << (8 * i);
    return width === 4 ? value | 0 : value;
  }

  write(offset: number, width: AccessWidth, value: number): void {
    this.log.push(`w${width}@${offset.toString(16)}`);
    for (let i = 0; i < width; i++) this.bytes[offset + i] = value >> (8 * i);
  }
}

/** Memory of this process as a host shares it. */
export function memoryOf(bytes: Uint8Array, fd: number | undefined = undefined): SharedMemory {
  return { bytes, fd, fdOffset: 0 };
}

export interface FakeBar {
  readonly resource: PciResource;
  readonly space: FakeRegisters;
  /** Thrown when the BAR is opened. */
  readonly error?: 'EBUSY' | 'ENOMEM';
}

/** A memory BAR whose whole content may be mapped (`mmap`) or none of it. */
export function memoryBar(
  size: number,
  options: { start?: number; mmap?: boolean; is64Bit?: boolean; error?: 'EBUSY' | 'ENOMEM' } = {},
): FakeBar {
  const space = new FakeRegisters(size);
  if (options.mmap !== false) space.mmapAreas = [{ offset: 0, size, memory: memoryOf(space.bytes, 77) }];
  return {
    resource: {
      start: options.start ?? 0xfe00_0000,
      size,
      io: false,
      prefetchable: false,
      is64Bit: options.is64Bit === true,
    },
    space,
    ...(options.error === undefined ? {} : { error: options.error }),
  };
}

export function ioBar(size: number): FakeBar {
  return {
    resource: { start: 0xc000, size, io: true, prefetchable: false, is64Bit: false },
    space: new FakeRegisters(size),
  };
}

export interface FakeFunctionOptions {
  readonly address?: string;
  readonly vendor?: number;
  readonly device?: number;
  readonly class?: number;
  readonly headerType?: number;
  readonly bars?: Partial<Record<number, FakeBar>>;
  readonly rom?: Uint8Array;
  readonly romShadow?: boolean;
  readonly intxPin?: number;
  readonly msiVectors?: number;
  readonly msixVectors?: number;
  readonly msixBar?: number;
  readonly msixOffset?: number;
  readonly pm?: boolean | 'noSoftReset';
  readonly exp?: boolean;
  readonly vga?: boolean;
  readonly resetMethods?: readonly FunctionResetMethod[];
  readonly pci23?: boolean;
  readonly totalVfs?: number;
  readonly group?: number | null;
  readonly physfn?: FakeFunction;
  readonly nonMappableBars?: boolean;
}

export const PM_AT = 0x40;
export const MSI_AT = 0x50;
export const MSIX_AT = 0x70;
export const EXP_AT = 0x80;

/** A host of fake functions on which several can share a bus. */
export class FakeHost implements PciHost {
  readonly name = 'fake';
  readonly list: FakeFunction[] = [];
  readonly watchers = new Set<PciHostEvents>();

  functions(): readonly PciFunction[] {
    return this.list;
  }

  find(address: string): PciFunction | undefined {
    return this.list.find((fn) => fn.address === address);
  }

  watch(events: PciHostEvents): () => void {
    this.watchers.add(events);
    return () => {
      this.watchers.delete(events);
    };
  }

  async add(fn: FakeFunction): Promise<void> {
    this.list.push(fn);
    for (const watcher of this.watchers) watcher.added?.(fn);
  }

  async remove(fn: FakeFunction): Promise<void> {
    for (const watcher of this.watchers) await watcher.removing?.(fn);
    this.list.splice(this.list.indexOf(fn), 1);
  }
}

/** A raw function that a test can look into and provoke. */
export class FakeFunction implements PciFunction, RawFunctionBase {
  readonly kind = 'raw';
  readonly address: string;
  readonly vendor: number;
  readonly device: number;
  readonly subvendor = 0x1af4;
  readonly subdevice = 0x1100;
  readonly class: number;
  readonly revision = 1;
  readonly headerType: number;
  readonly host: FakeHost;
  readonly iommuGroup: number | undefined;
  readonly physfn: PciFunction | undefined;
  readonly vfIndex: number | undefined;
  readonly config: FakeConfig;
  readonly interrupts: FakeInterrupts;
  readonly bars: Partial<Record<number, FakeBar>>;
  readonly romSpace: FakeRegisters | undefined;
  readonly resources: (PciResource | undefined)[] = [];
  resetMethods: readonly FunctionResetMethod[];
  readonly vga: RegisterSpace | undefined;
  readonly nonMappableBars: boolean;
  resetScope: RawResetScope | undefined = undefined;
  sriov: (RawSriov & { numVfs: number }) | undefined = undefined;
  exportDmaBuf?: (
    region: number,
    ranges: readonly { offset: number; length: number }[],
    openFlags: number,
  ) => RawDmaBuf;
  /** What attachDma was given last. */
  dma: DmaSpace | undefined = undefined;
  resets = 0;
  power: number[] = [];
  /** Makes the next resets and power changes take time or fail. */
  resetError: 'EAGAIN' | 'ENOTTY' | undefined;
  slowReset: Promise<void> | undefined;
  slowPower: Promise<void> | undefined;
  /** Runs inside a reset, after the registers were lost. */
  onReset: (() => void) | undefined;
  readonly errorHandlers = new Set<(event: RawErrorEvent) => void>();
  #asserted = false;

  constructor(host: FakeHost, options: FakeFunctionOptions = {}) {
    this.host = host;
    this.address = options.address ?? '0000:01:00.0';
    this.vendor = options.vendor ?? 0x1234;
    this.device = options.device ?? 0x11e8;
    this.class = options.class ?? 0x00ff00;
    this.headerType = options.headerType ?? 0;
    this.iommuGroup = options.group === null ? undefined : (options.group ?? 7);
    this.physfn = options.physfn;
    this.vfIndex = options.physfn === undefined ? undefined : 0;
    this.bars = options.bars ?? { 0: memoryBar(0x4000) };
    this.resetMethods = options.resetMethods ?? ['flr'];
    this.nonMappableBars = options.nonMappableBars === true;
    this.interrupts = new FakeInterrupts(options.msixVectors ?? 0);
    this.vga = options.vga === true ? new FakeRegisters(0xc0000) : undefined;
    for (let i = 0; i < 6; i++) this.resources[i] = this.bars[i]?.resource;
    if (options.rom !== undefined) {
      this.romSpace = new FakeRegisters(options.rom.length);
      this.romSpace.bytes.set(options.rom);
      this.resources[6] = {
        start: options.romShadow === true ? 0 : 0xfeb0_0000,
        size: options.romShadow === true ? 0 : options.rom.length,
        io: false,
        prefetchable: false,
        is64Bit: false,
        ...(options.romShadow === true ? { shadowLength: options.rom.length } : {}),
      };
    }
    this.config = new FakeConfig(options.exp === true ? 4096 : 256);
    this.#layOutConfig(options);
    this.config.seal();
    this.config.onWrite = () => this.#deliver();
  }

  get base(): RawFunctionBase {
    return this;
  }

  platform<T>(_token: PlatformToken<T>): T | undefined {
    return undefined;
  }

  #layOutConfig(options: FakeFunctionOptions): void {
    const c = this.config;
    const isVf = options.physfn !== undefined;
    c.put(0x00, 2, isVf ? 0xffff : this.vendor);
    c.put(0x02, 2, isVf ? 0xffff : this.device);
    c.put(PCI_COMMAND, 2, 0, options.pci23 === false ? 0x0147 : 0x0547);
    c.put(0x08, 4, (this.class << 8) | this.revision);
    c.put(0x0c, 1, 0, 0xff);
    c.put(0x0e, 1, this.headerType);
    for (let i = 0; i < 6; i++) {
      const resource = this.bars[i]?.resource;
      if (resource === undefined || isVf) continue;
      const flags = resource.io ? 1 : resource.is64Bit ? 4 : 0;
      c.put(0x10 + i * 4, 4, (resource.start & ~(resource.size - 1)) | flags, ~(resource.size - 1) & ~0xf);
    }
    c.put(0x2c, 2, this.subvendor);
    c.put(0x2e, 2, this.subdevice);
    c.put(0x3c, 1, 0, 0xff);
    c.put(0x3d, 1, options.intxPin ?? 1);
    this.#layOutCaps(options);
  }

  #layOutCaps(options: FakeFunctionOptions): void {
    const c = this.config;
    let link = 0x34;
    const add = (id: number, at: number) => {
      c.put(PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
      c.put(link, 1, at);
      c.put(at, 1, id);
      link = at + 1;
    };
    if (options.pm !== undefined && options.pm !== false) {
      add(0x01, PM_AT);
      c.put(PM_AT + 2, 2, 0x0003);
      c.put(PM_AT + 4, 2, options.pm === 'noSoftReset' ? 0x0008 : 0, 0x0003);
    }
    if (options.msiVectors !== undefined) {
      add(0x05, MSI_AT);
      c.put(MSI_AT + 2, 2, 0x0080 | (Math.log2(options.msiVectors) << 1), 0x0071);
      c.put(MSI_AT + 4, 4, 0, ~3);
      c.put(MSI_AT + 8, 4, 0, -1);
      c.put(MSI_AT + 0xc, 2, 0, 0xffff);
    }
    if (options.msixVectors !== undefined) {
      add(0x11, MSIX_AT);
      c.put(MSIX_AT + 2, 2, options.msixVectors - 1, 0xc000);
      c.put(MSIX_AT + 4, 4, (options.msixOffset ?? 0x2000) | (options.msixBar ?? 0));
      c.put(MSIX_AT + 8, 4, 0x3000 | (options.msixBar ?? 0));
    }
    if (options.exp === true) {
      add(0x10, EXP_AT);
      c.put(EXP_AT + 2, 2, 0x0002);
      c.put(EXP_AT + 4, 4, 0x1000_8000);
      c.put(EXP_AT + 8, 2, 0x2810, 0x7fff);
    }
  }

  open(index: number): RegisterSpace {
    if (index === 6) {
      if (this.romSpace === undefined) throw errnoError('ENODEV', 'no ROM');
      return this.romSpace;
    }
    const bar = this.bars[index];
    if (bar === undefined) throw errnoError('ENODEV', 'no BAR');
    if (bar.error !== undefined) throw errnoError(bar.error, `BAR ${index}: ${bar.error}`);
    return bar.space;
  }

  tryResetFunction(): void | Promise<void> {
    if (this.resetError !== undefined) throw errnoError(this.resetError, 'fake reset');
    const slow = this.slowReset;
    if (slow !== undefined) return slow.then(() => this.hardReset());
    return this.hardReset();
  }

  /** What a reset does to the registers. */
  hardReset(): void {
    this.resets++;
    this.config.reset();
    this.onReset?.();
  }

  setPowerState(state: 0 | 1 | 2 | 3): void | Promise<void> {
    const slow = this.slowPower;
    if (slow !== undefined) return slow.then(() => this.#power(state));
    return this.#power(state);
  }

  #power(state: number): void {
    const pmcsr = this.config.read(PM_AT + 4, 2);
    const losesState = (pmcsr & 3) === 3 && state === 0 && (pmcsr & 8) === 0;
    if (losesState) this.config.reset();
    this.config.put(PM_AT + 4, 2, (pmcsr & ~3) | state, 0x0003);
    this.power.push(state);
  }

  attachDma(space: DmaSpace | undefined): void {
    this.dma = space;
  }

  onError(handler: (event: RawErrorEvent) => void): () => void {
    this.errorHandlers.add(handler);
    return () => {
      this.errorHandlers.delete(handler);
    };
  }

  /** Drives the INTx line. */
  setIntx(asserted: boolean): void {
    this.#asserted = asserted;
    const status = this.config.read(PCI_STATUS, 2) & ~PCI_STATUS_INTERRUPT;
    this.config.put(PCI_STATUS, 2, asserted ? status | PCI_STATUS_INTERRUPT : status);
    this.#deliver();
  }

  #deliver(): void {
    if (!this.#asserted || !this.interrupts.lineEnabled) return;
    if ((this.config.bytes[PCI_COMMAND + 1]! & (PCI_COMMAND_INTX_DISABLE >> 8)) !== 0) return;
    this.interrupts.intx?.();
  }
}
