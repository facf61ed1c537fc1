import type { PciHost, PciHostEvents, PlatformToken } from '@vfio/core';
import {
  errnoError,
  hex,
  PCI_BASE_ADDRESS_0,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_COMMAND_MEMORY,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_CERE,
  PCI_EXP_DEVCTL_FERE,
  PCI_EXP_DEVCTL_NFERE,
  PCI_EXP_DEVCTL_URRE,
  PCI_HEADER_TYPE,
  PCI_HEADER_TYPE_MFD,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_ROM_ADDRESS,
} from '@vfio/uapi';
import { type Clock, systemClock } from '../clock.js';
import { DeferredQueue } from '../deferred.js';
import { IrqController } from '../irq/controller.js';
import { arrayBufferMemory, type MemoryProvider } from '../memory.js';
import type { DeviceModel, ModelFactory } from '../model.js';
import { compareAddresses, formatAddress, type PciAddress, parseAddress } from './address.js';
import { RangeAllocator } from './allocator.js';
import { EmulatedFunctionContext } from './context.js';
import { EmulatedFunction, ROM_INDEX } from './function.js';
import type { VectorLimits } from './raw-interrupts.js';
import { RootPort, type RootPortOptions } from './root-port.js';

/** What a host is made of. */
export interface EmulatedPciHostOptions {
  /** Where BAR memory comes from. Default: private memory of this process. */
  readonly memory?: MemoryProvider;
  readonly clock?: Clock;
  /** Runs what models defer. A server that shares its queue here may run it right after each reply. */
  readonly deferred?: DeferredQueue;
  /** Whether functions are in IOMMU groups. Default true. */
  readonly iommu?: boolean;
  readonly vectorLimits?: Partial<VectorLimits>;
}

/** A function to be put into the host. */
export interface AddOptions<M extends DeviceModel> {
  /** `dddd:bb:dd.f`. Bus 0 of each domain is there; others are below a root port. */
  readonly address: string;
  readonly model: ModelFactory<M>;
  /** Overrides the group that topology gives. */
  readonly iommuGroup?: number;
  readonly platform?: readonly (readonly [PlatformToken<unknown>, unknown])[];
}

const MIB = 0x100000;
const GIB = 0x40000000;

/**
 * A PCI host in software: buses, root ports and functions with real registers. It does what firmware and the kernel's
 * PCI core do on a real machine: bus numbers, BAR addresses, bridge windows, interrupt lines, IOMMU groups.
 */
export class EmulatedPciHost implements PciHost {
  readonly name = 'emulated';
  readonly memory: MemoryProvider;
  readonly clock: Clock;
  readonly deferred: DeferredQueue;
  readonly irqs = new IrqController();
  readonly vectorLimits: VectorLimits;
  /** Address space of the host's buses. */
  readonly windows = {
    memory: new RangeAllocator('32-bit memory', 0xc0000000, 0xfe000000),
    prefetchable: new RangeAllocator('64-bit memory', 256 * GIB, 64 * 1024 * GIB),
    io: new RangeAllocator('I/O ports', 0x1000, 0x10000),
  };
  readonly #iommu: boolean;
  readonly #functions = new Map<string, EmulatedFunction>();
  readonly #ports = new Map<string, RootPort>();
  readonly #watchers = new Set<PciHostEvents>();
  readonly #groups = new Map<string, number>();
  #nextGroup = 0;
  #list: readonly EmulatedFunction[] | undefined;

  constructor(options: EmulatedPciHostOptions = {}) {
    this.memory = options.memory ?? arrayBufferMemory;
    this.clock = options.clock ?? systemClock;
    this.deferred = options.deferred ?? new DeferredQueue();
    this.vectorLimits = { msi: options.vectorLimits?.msi ?? 32, msix: options.vectorLimits?.msix ?? 2048 };
    this.#iommu = options.iommu ?? true;
  }

  functions(): readonly EmulatedFunction[] {
    this.#list ??= [...this.#functions.values()]
      .flatMap((fn) => [fn, ...(fn.virtual?.announced ?? [])])
      .sort((a, b) => compareAddresses(a.place, b.place));
    return this.#list;
  }

  find(address: string): EmulatedFunction | undefined {
    const found = this.#functions.get(address);
    return found ?? this.functions().find((fn) => fn.address === address);
  }

  watch(events: PciHostEvents): () => void {
    this.#watchers.add(events);
    return () => {
      this.#watchers.delete(events);
    };
  }

  /**
   * Puts a function in, also while the host is in use (hot plug).
   * @throws EINVAL for an address that is malformed or where nothing can be; EEXIST where something is; ENOSPC without
   * room for its BARs. What the model throws goes through. Nothing has changed then.
   */
  add<M extends DeviceModel>(options: AddOptions<M>): EmulatedFunction<M> {
    const fn = this.#insert(options);
    this.announce(fn);
    return fn;
  }

  /** Puts in a root port with an empty bus below it. @throws as for {@link EmulatedPciHost.add}. */
  addRootPort(options: RootPortOptions): EmulatedFunction<RootPort> {
    const place = parseAddress(options.address);
    const key = busKey(place.domain, options.secondaryBus);
    if (!Number.isInteger(options.secondaryBus) || options.secondaryBus < 1 || options.secondaryBus > 0xff)
      throw errnoError('EINVAL', `bus ${options.secondaryBus} below ${options.address}: 1 to 255 are allowed`);
    if (place.bus !== 0) throw errnoError('EINVAL', `root port at ${options.address}: root ports are on bus 0`);
    if (this.#ports.has(key))
      throw errnoError('EEXIST', `bus ${hex(options.secondaryBus)} below ${options.address}: there is one already`);
    const fn = this.#insert({
      address: options.address,
      model: (ctx) => new RootPort(ctx, this, options),
    });
    this.#ports.set(key, fn.model);
    this.announce(fn);
    return fn;
  }

  /**
   * Takes a function out, its VFs first. Whoever watches lets go of it before; a promise where one of them takes time.
   * @throws ENODEV where there is none, EBUSY for a VF (its PF disables it) and for a port with functions below.
   */
  remove(address: string): void | Promise<void> {
    const fn = this.#removable(address);
    const virtual = fn.virtual?.disable();
    const rest = (): void | Promise<void> => {
      const result = this.leaving(fn);
      if (result === undefined) this.#take(fn);
      else return result.then(() => this.#take(fn));
    };
    return virtual === undefined ? rest() : virtual.then(rest);
  }

  /** Pulls a function out: it stops answering first, and whoever watches hears of it afterwards. @throws as for remove. */
  surpriseRemove(address: string): void | Promise<void> {
    const fn = this.#removable(address);
    for (const vf of fn.virtual?.announced ?? []) vf.config.present = false;
    fn.isPulled = true;
    fn.config.present = false;
    fn.updateDecode();
    fn.irq.update();
    return this.remove(address);
  }

  /** Tells watchers of a new function. */
  announce(fn: EmulatedFunction): void {
    this.changed();
    for (const watcher of [...this.#watchers]) watcher.added?.(fn);
  }

  /** Tells watchers that a function is about to go; they may need time. */
  leaving(fn: EmulatedFunction): void | Promise<void> {
    const waits: Promise<void>[] = [];
    for (const watcher of [...this.#watchers]) {
      const result = watcher.removing?.(fn);
      if (result !== undefined) waits.push(result);
    }
    if (waits.length > 0) return Promise.all(waits).then(() => undefined);
  }

  /** The list of functions is no longer what it was. */
  changed(): void {
    this.#list = undefined;
  }

  /** Makes the device of a function and finds its group and interrupt line. */
  build<M extends DeviceModel>(fn: EmulatedFunction<M>, model: ModelFactory<M>, iommuGroup?: number): void {
    fn.setModel(model(new EmulatedFunctionContext(fn)));
    if (fn.offsets.express === 0) fn.config.makeConventional();
    fn.iommuGroup = this.#iommu ? (iommuGroup ?? this.#group(fn)) : undefined;
    fn.irq.connect(this.#route(fn));
    fn.commandWritten();
  }

  /** What firmware does for a function: addresses into the BARs, an interrupt line, decoding on. */
  assign(fn: EmulatedFunction): void {
    const { config } = fn;
    let command = 0;
    for (const [index, resource] of fn.resources.entries()) {
      if (resource === undefined) continue;
      const start = resource.start !== 0 ? resource.start : this.#allocate(fn, index);
      fn.resources[index] = { ...resource, start };
      const register = index === ROM_INDEX ? PCI_ROM_ADDRESS : PCI_BASE_ADDRESS_0 + 4 * index;
      config.write(register, 4, (start % 0x100000000) | 0);
      if (resource.is64Bit) config.write(register + 4, 4, Math.floor(start / 0x100000000));
      if (index !== ROM_INDEX) command |= resource.io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    }
    fn.virtual?.assign((size, alignment, index) => this.#virtualPool(fn, index).allocate(size, alignment));
    if (fn.irq.line !== undefined) config.write(PCI_INTERRUPT_LINE, 1, fn.irq.line.number);
    // The kernel turns error reporting on when it finds AER.
    if (fn.offsets.aer !== 0 && fn.offsets.express !== 0) {
      const at = fn.offsets.express + PCI_EXP_DEVCTL;
      const errors = PCI_EXP_DEVCTL_CERE | PCI_EXP_DEVCTL_NFERE | PCI_EXP_DEVCTL_FERE | PCI_EXP_DEVCTL_URRE;
      config.write(at, 2, config.read(at, 2) | errors);
    }
    config.write(PCI_COMMAND, 2, config.read(PCI_COMMAND, 2) | command);
  }

  #insert<M extends DeviceModel>(options: AddOptions<M>): EmulatedFunction<M> {
    const place = parseAddress(options.address);
    const address = formatAddress(place);
    const parent = place.bus === 0 ? undefined : this.#ports.get(busKey(place.domain, place.bus));
    if (place.bus !== 0 && parent === undefined)
      throw errnoError('EINVAL', `${address}: there is no bus ${hex(place.bus)}; add a root port with that bus first`);
    if (parent !== undefined && place.device !== 0)
      throw errnoError('EINVAL', `${address}: below a root port there is one device, number 0`);
    if (this.find(address) !== undefined) throw errnoError('EEXIST', `${address}: there is a function already`);
    const first = this.#functions.get(formatAddress({ ...place, func: 0 }));
    if (place.func !== 0 && first === undefined)
      throw errnoError('EINVAL', `${address}: a device has a function 0 before it has others`);
    const fn = new EmulatedFunction<M>(this, place, parent);
    for (const [token, value] of options.platform ?? []) fn.facts.set(token, value);
    try {
      this.build(fn, options.model, options.iommuGroup);
      // Reset values first, so that what firmware writes is all that differs from them.
      this.assign(fn);
      if (fn.model instanceof RootPort) fn.model.configure(fn);
    } catch (error) {
      this.#release(fn);
      fn.detach();
      throw error;
    }
    this.#functions.set(address, fn);
    parent?.plug(fn);
    if (first !== undefined)
      first.config.define(PCI_HEADER_TYPE, 1, first.config.get(PCI_HEADER_TYPE, 1) | PCI_HEADER_TYPE_MFD);
    return fn;
  }

  #removable(address: string): EmulatedFunction {
    const fn = this.#functions.get(address);
    if (fn === undefined) {
      if (this.find(address) !== undefined)
        throw errnoError('EBUSY', `${address} is a virtual function: its physical function disables it`);
      throw errnoError('ENODEV', `${address}: there is no function`);
    }
    if (fn.model instanceof RootPort && fn.model.below().length > 0)
      throw errnoError('EBUSY', `${address}: there are functions below the port`);
    return fn;
  }

  #take(fn: EmulatedFunction): void {
    fn.virtual?.detach();
    fn.detach();
    fn.parent?.unplug(fn);
    this.#functions.delete(fn.address);
    if (fn.model instanceof RootPort) this.#ports.delete(busKey(fn.place.domain, fn.model.secondaryBus));
    this.#release(fn);
    this.changed();
  }

  #release(fn: EmulatedFunction): void {
    fn.virtual?.release((start, index) => this.#virtualPool(fn, index).release(start));
    for (const [index, resource] of fn.resources.entries())
      if (resource !== undefined && resource.start !== 0) this.#poolOf(fn, index).release(resource.start);
  }

  #virtualPool(fn: EmulatedFunction, index: number): RangeAllocator {
    const bar = fn.virtual?.shape.bars?.[index];
    return this.#pool(fn, false, bar?.prefetchable === true && bar.is64Bit === true);
  }

  #allocate(fn: EmulatedFunction, index: number): number {
    const size = fn.resources[index]?.size ?? 0;
    return this.#poolOf(fn, index).allocate(size, Math.max(size, index === ROM_INDEX ? 2048 : 16));
  }

  #poolOf(fn: EmulatedFunction, index: number): RangeAllocator {
    const resource = fn.resources[index];
    const is64Bit = resource?.is64Bit === true;
    // A large BAR on a root bus goes above 4 GiB where it can; a bridge has its 64-bit window for prefetchable ones only.
    const high = is64Bit && (resource.prefetchable || (fn.parent === undefined && resource.size > 64 * MIB));
    return this.#pool(fn, resource?.io === true, high);
  }

  #pool(fn: EmulatedFunction, io: boolean, high: boolean): RangeAllocator {
    const kind = io ? 'io' : high ? 'prefetchable' : 'memory';
    return fn.parent === undefined ? this.windows[kind] : fn.parent.allocator(kind);
  }

  #route(fn: EmulatedFunction) {
    const pin = fn.config.get(PCI_INTERRUPT_PIN, 1);
    if (pin === 0) return undefined;
    // Each bridge turns the pin by the device number (PCI-to-PCI Bridge 1.2, 9.1); lines 16 to 23 are the host's.
    const portDevice = fn.parent === undefined ? undefined : this.#portDevice(fn.parent);
    const rotation = portDevice === undefined ? pin - 1 : (pin - 1 + fn.place.device) & 3;
    return this.irqs.line(16 + (((portDevice ?? fn.place.device) + rotation) & 7));
  }

  #portDevice(port: RootPort): number {
    return this.#placeOf(port)?.device ?? 0;
  }

  #placeOf(port: RootPort): PciAddress | undefined {
    for (const fn of this.#functions.values()) if (fn.model === port) return fn.place;
    return undefined;
  }

  #group(fn: EmulatedFunction): number {
    const { place, parent } = fn;
    let key: string;
    if (fn.vf !== undefined) key = fn.address;
    else if (parent !== undefined && !parent.hasAcs) {
      const above = this.#placeOf(parent);
      key = above === undefined ? fn.address : slotKey(above);
    } else key = slotKey(place);
    let group = this.#groups.get(key);
    if (group === undefined) {
      group = this.#nextGroup++;
      this.#groups.set(key, group);
    }
    return group;
  }
}

function busKey(domain: number, bus: number): string {
  return `${domain}:${bus}`;
}

/** Functions of one device share a group: nothing says that they keep apart. */
function slotKey(place: PciAddress): string {
  return `${place.domain}:${place.bus}:${place.device}`;
}
