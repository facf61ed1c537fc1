import type { PciResource } from '@vfio/core';
import {
  PCI_BRIDGE_CONTROL,
  PCI_BRIDGE_CTL_BUS_RESET,
  PCI_BRIDGE_CTL_ISA,
  PCI_BRIDGE_CTL_PARITY,
  PCI_BRIDGE_CTL_SERR,
  PCI_CLASS_BRIDGE_PCI,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_HEADER_TYPE,
  PCI_HEADER_TYPE_BRIDGE,
  PCI_IO_BASE,
  PCI_IO_LIMIT,
  PCI_MEMORY_BASE,
  PCI_MEMORY_LIMIT,
  PCI_PREF_BASE_UPPER32,
  PCI_PREF_LIMIT_UPPER32,
  PCI_PREF_MEMORY_BASE,
  PCI_PREF_MEMORY_LIMIT,
  PCI_PREF_RANGE_TYPE_64,
  PCI_PRIMARY_BUS,
  PCI_SEC_STATUS,
  PCI_SECONDARY_BUS,
  PCI_SUBORDINATE_BUS,
} from '@vfio/uapi';
import { STATUS_W1C } from '../config/header.js';
import type { DeviceModel, FunctionContext } from '../model.js';
import { RangeAllocator } from './allocator.js';
import type { EmulatedFunction } from './function.js';
import type { EmulatedPciHost } from './host.js';
import { restoreState, saveState } from './saved-state.js';

/** What a root port is like. */
export interface RootPortOptions {
  readonly address: string;
  /** The bus below it. */
  readonly secondaryBus: number;
  /** A slot that functions can be plugged into. Default true. */
  readonly slot?: boolean;
  /** Isolates what is below it from the rest and from each other (Access Control Services). Default true. */
  readonly acs?: boolean;
  /** Bytes of the windows it forwards. Defaults 16 MiB and 4 GiB. */
  readonly memoryWindow?: number;
  readonly prefetchableWindow?: number;
}

const MIB = 0x100000;
const IO_WINDOW = 0x1000;

/** A PCI Express root port: the bridge to one link with one device below it. */
export class RootPort implements DeviceModel {
  readonly hasSlot: boolean;
  readonly hasAcs: boolean;
  readonly secondaryBus: number;
  readonly #ctx: FunctionContext;
  readonly #host: EmulatedPciHost;
  readonly #options: RootPortOptions;
  #children: readonly EmulatedFunction[] = [];
  #fn: EmulatedFunction | undefined;
  #memory: RangeAllocator | undefined;
  #prefetchable: RangeAllocator | undefined;
  #io: RangeAllocator | undefined;
  #inReset = false;
  /** Gives the windows back. */
  #releaseWindows: (() => void)[] = [];

  constructor(ctx: FunctionContext, host: EmulatedPciHost, options: RootPortOptions) {
    this.#ctx = ctx;
    this.#host = host;
    this.#options = options;
    this.hasSlot = options.slot ?? true;
    this.hasAcs = options.acs ?? true;
    this.secondaryBus = options.secondaryBus;
    const { config } = ctx;
    // Red Hat's "PCIe root port": ids that operating systems know as one without quirks.
    ctx.identity({ vendor: 0x1b36, device: 0x000c, class: PCI_CLASS_BRIDGE_PCI << 8 });
    config.define(0x2c, 4, 0); // a bridge's header has no subsystem ids there
    config.define(PCI_HEADER_TYPE, 1, PCI_HEADER_TYPE_BRIDGE);
    config.define(PCI_COMMAND, 2, 0, {
      rw: config.writableBits(PCI_COMMAND, 2) | PCI_COMMAND_IO | PCI_COMMAND_MEMORY,
    });
    for (const register of [PCI_PRIMARY_BUS, PCI_SECONDARY_BUS, PCI_SUBORDINATE_BUS])
      config.define(register, 1, 0, { rw: 0xff });
    for (const register of [PCI_IO_BASE, PCI_IO_LIMIT]) config.define(register, 1, 0, { rw: 0xf0 });
    config.define(PCI_SEC_STATUS, 2, 0, { w1c: STATUS_W1C });
    for (const register of [PCI_MEMORY_BASE, PCI_MEMORY_LIMIT]) config.define(register, 2, 0, { rw: 0xfff0 });
    for (const register of [PCI_PREF_MEMORY_BASE, PCI_PREF_MEMORY_LIMIT])
      config.define(register, 2, PCI_PREF_RANGE_TYPE_64, { rw: 0xfff0 });
    for (const register of [PCI_PREF_BASE_UPPER32, PCI_PREF_LIMIT_UPPER32])
      config.define(register, 4, 0, { rw: 0xffffffff });
    config.define(PCI_BRIDGE_CONTROL, 2, 0, {
      rw: PCI_BRIDGE_CTL_PARITY | PCI_BRIDGE_CTL_SERR | PCI_BRIDGE_CTL_ISA | PCI_BRIDGE_CTL_BUS_RESET,
    });
    ctx.intx();
    ctx.express({ type: 'root-port', slot: this.hasSlot, ariForwarding: true });
    ctx.msi({ vectors: 1, is64Bit: true, maskable: true });
    ctx.ssvid(0x1b36, 0);
    ctx.pm({ noSoftReset: true, pme: true });
    ctx.aer();
    if (this.hasAcs) ctx.acs();
    for (const register of [
      PCI_IO_BASE,
      PCI_MEMORY_BASE,
      PCI_PREF_MEMORY_BASE,
      PCI_PREF_BASE_UPPER32,
      PCI_PREF_LIMIT_UPPER32,
    ])
      config.onWrite(register, () => this.#changed());
    config.onWrite(PCI_COMMAND, () => this.#changed());
    config.onWrite(PCI_BRIDGE_CONTROL & ~3, () => this.#controlWritten());
  }

  removed(): void {
    for (const release of this.#releaseWindows) release();
    this.#releaseWindows = [];
  }

  /** What firmware does: bus numbers, windows, decoding on. */
  configure(fn: EmulatedFunction): void {
    this.#fn = fn;
    const { config } = this.#ctx;
    const { memoryWindow = 16 * MIB, prefetchableWindow = 4096 * MIB } = this.#options;
    config.write(PCI_PRIMARY_BUS, 1, fn.place.bus);
    config.write(PCI_SECONDARY_BUS, 1, this.secondaryBus);
    config.write(PCI_SUBORDINATE_BUS, 1, this.secondaryBus);
    const memory = this.#host.windows.memory.allocate(memoryWindow, MIB);
    this.#releaseWindows.push(() => this.#host.windows.memory.release(memory));
    const prefetchable = this.#host.windows.prefetchable.allocate(prefetchableWindow, MIB);
    this.#releaseWindows.push(() => this.#host.windows.prefetchable.release(prefetchable));
    this.#memory = new RangeAllocator(`memory below ${fn.address}`, memory, memory + memoryWindow);
    this.#prefetchable = new RangeAllocator(
      `prefetchable memory below ${fn.address}`,
      prefetchable,
      prefetchable + prefetchableWindow,
    );
    config.write(PCI_MEMORY_BASE, 2, memory >>> 16);
    config.write(PCI_MEMORY_LIMIT, 2, (memory + memoryWindow - 1) >>> 16);
    const last = prefetchable + prefetchableWindow - 1;
    config.write(PCI_PREF_MEMORY_BASE, 2, (prefetchable % 0x100000000) >>> 16);
    config.write(PCI_PREF_MEMORY_LIMIT, 2, (last % 0x100000000) >>> 16);
    config.write(PCI_PREF_BASE_UPPER32, 4, Math.floor(prefetchable / 0x100000000));
    config.write(PCI_PREF_LIMIT_UPPER32, 4, Math.floor(last / 0x100000000));
    config.write(PCI_IO_BASE, 1, 0xf0); // base above limit: no I/O window yet
    config.write(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_IO);
  }

  /** Where BARs below the port come from. The I/O window is opened for the first I/O BAR: there is little I/O space. */
  allocator(kind: 'memory' | 'prefetchable' | 'io'): RangeAllocator {
    const fn = this.#fn;
    if (kind === 'io' && this.#io === undefined && fn !== undefined) {
      const start = this.#host.windows.io.allocate(IO_WINDOW);
      this.#releaseWindows.push(() => this.#host.windows.io.release(start));
      this.#io = new RangeAllocator(`I/O ports below ${fn.address}`, start, start + IO_WINDOW);
      this.#ctx.config.write(PCI_IO_BASE, 1, start >>> 8);
      this.#ctx.config.write(PCI_IO_LIMIT, 1, (start + IO_WINDOW - 1) >>> 8);
    }
    const found = kind === 'io' ? this.#io : kind === 'memory' ? this.#memory : this.#prefetchable;
    if (found === undefined) throw new Error('a root port is configured before anything is put below it');
    return found;
  }

  /** Whether accesses to a resource pass the bridge as it is programmed. */
  forwards(resource: PciResource): boolean {
    const { config } = this.#ctx;
    if (!config.present || this.#inReset || this.#fn?.powerState !== 0) return false;
    const command = config.get(PCI_COMMAND, 2);
    const last = resource.start + resource.size - 1;
    if (resource.io) {
      const base = (config.get(PCI_IO_BASE, 1) & 0xf0) << 8;
      const limit = ((config.get(PCI_IO_LIMIT, 1) & 0xf0) << 8) | 0xfff;
      return (command & PCI_COMMAND_IO) !== 0 && resource.start >= base && last <= limit;
    }
    if ((command & PCI_COMMAND_MEMORY) === 0) return false;
    const base = (config.get(PCI_MEMORY_BASE, 2) & 0xfff0) * 0x10000;
    const limit = (config.get(PCI_MEMORY_LIMIT, 2) & 0xfff0) * 0x10000 + 0xfffff;
    if (resource.start >= base && last <= limit) return true;
    const high = (register: number): number => (config.get(register, 4) >>> 0) * 0x100000000;
    const prefBase = high(PCI_PREF_BASE_UPPER32) + (config.get(PCI_PREF_MEMORY_BASE, 2) & 0xfff0) * 0x10000;
    const prefLimit =
      high(PCI_PREF_LIMIT_UPPER32) + (config.get(PCI_PREF_MEMORY_LIMIT, 2) & 0xfff0) * 0x10000 + 0xfffff;
    return resource.start >= prefBase && last <= prefLimit;
  }

  /** Whether requests from below go up: Bus Master Enable of a bridge is about those it forwards (PCIe Base 7.5.1.1.3). */
  get passesUp(): boolean {
    const { config } = this.#ctx;
    const isOn = (config.get(PCI_COMMAND, 2) & PCI_COMMAND_MASTER) !== 0;
    return isOn && config.present && !this.#inReset && this.#fn?.powerState === 0;
  }

  /** Physical functions are told to the port so that it can reset them. */
  plug(child: EmulatedFunction): void {
    this.#children = [...this.#children, child];
  }

  unplug(child: EmulatedFunction): void {
    this.#children = this.#children.filter((other) => other !== child);
  }

  /** Every function on the bus below, announced VFs included. */
  below(): EmulatedFunction[] {
    return this.#children.flatMap((child) => [child, ...(child.virtual?.announced ?? [])]);
  }

  /** Secondary Bus Reset on and off, as the bridge control register does it. */
  resetSecondaryBus(): void {
    const { config } = this.#ctx;
    const control = config.read(PCI_BRIDGE_CONTROL, 2);
    config.write(PCI_BRIDGE_CONTROL, 2, control | PCI_BRIDGE_CTL_BUS_RESET);
    config.write(PCI_BRIDGE_CONTROL, 2, control & ~PCI_BRIDGE_CTL_BUS_RESET);
  }

  /** Resets everything below, with the registers of each function kept over it. @throws EAGAIN where one is locked. */
  tryReset(): void {
    const all = this.below();
    for (const fn of all) fn.checkResetLock();
    const saved = all.map(saveState);
    this.resetSecondaryBus();
    for (const state of saved) restoreState(state);
  }

  #controlWritten(): void {
    const inReset = (this.#ctx.config.get(PCI_BRIDGE_CONTROL, 2) & PCI_BRIDGE_CTL_BUS_RESET) !== 0;
    if (inReset === this.#inReset) return;
    this.#inReset = inReset;
    for (const child of this.#children) {
      if (inReset) child.reset('bus');
      child.config.present = !inReset && !child.isGone && !child.isPulled;
      child.virtual?.controlChanged();
      child.updateDecode();
    }
  }

  #changed(): void {
    for (const child of this.#children) child.updateDecode();
  }
}
