import type {
  DmaSpace,
  FunctionResetMethod,
  PciFunction,
  PciResource,
  PlatformToken,
  RawErrorEvent,
  RawFunctionBase,
  RawResetScope,
  RawSriov,
  RegisterSpace,
} from '@vfio/core';
import {
  errnoError,
  hex,
  PCI_BASE_ADDRESS_0,
  PCI_CLASS_REVISION,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_DEVICE_ID,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_HEADER_TYPE,
  PCI_HEADER_TYPE_BRIDGE,
  PCI_HEADER_TYPE_MASK,
  PCI_PM_CTRL,
  PCI_PM_CTRL_NO_SOFT_RESET,
  PCI_PM_CTRL_STATE_MASK,
  PCI_REVISION_ID,
  PCI_ROM_ADDRESS,
  PCI_ROM_ADDRESS_ENABLE,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from '@vfio/uapi';
import { ConfigSpace, type ResetKind } from '../config/config-space.js';
import { barAddress } from '../config/header.js';
import { FunctionInterrupts } from '../irq/function-interrupts.js';
import type { DeviceModel } from '../model.js';
import { formatAddress, type PciAddress } from './address.js';
import type { BarSpace } from './bar.js';
import { FunctionDma } from './dma.js';
import type { EmulatedPciHost } from './host.js';
import { HostInterrupts } from './raw-interrupts.js';
import type { RootPort } from './root-port.js';
import { restoreState, saveState } from './saved-state.js';
import type { VirtualFunctions } from './sriov.js';

/** Index of the ROM among a function's resources. */
export const ROM_INDEX = 6;

/** Where a virtual function belongs. */
export interface VfPlace {
  readonly pf: EmulatedFunction;
  readonly index: number;
}

/** Reset methods in the kernel's order of preference. */
const METHODS: readonly FunctionResetMethod[] = ['device_specific', 'flr', 'af_flr', 'pm', 'bus'];

/**
 * A function of an {@link EmulatedPciHost}: registers, BARs, interrupts and DMA, with a {@link DeviceModel} behind
 * them. As a `PciFunction` it stands on the raw base: the host does for it what the kernel's PCI core does.
 */
export class EmulatedFunction<M extends DeviceModel = DeviceModel> implements PciFunction, RawFunctionBase {
  readonly kind = 'raw';
  readonly host: EmulatedPciHost;
  readonly place: PciAddress;
  readonly address: string;
  readonly config: ConfigSpace;
  /** The function's own side of its interrupts; the host's side is {@link EmulatedFunction.interrupts}. */
  readonly irq: FunctionInterrupts;
  readonly dma: FunctionDma;
  readonly interrupts: HostInterrupts;
  readonly resources: (PciResource | undefined)[] = new Array<PciResource | undefined>(7).fill(undefined);
  readonly spaces: (BarSpace | undefined)[] = new Array<BarSpace | undefined>(7).fill(undefined);
  readonly facts = new Map<PlatformToken<unknown>, unknown>();
  /** Offsets of capabilities that the function's own logic follows; 0 where there is none. */
  readonly offsets = { pm: 0, express: 0, af: 0, aer: 0, vpd: 0 };
  readonly vf: VfPlace | undefined;
  /** The bridge above; undefined on a root bus. */
  readonly parent: RootPort | undefined;
  iommuGroup: number | undefined;
  hasFlr = false;
  nonMappableBars = false;
  /** Pulled out of its slot: it answers nothing, whatever the bus does, until it is gone from the host as well. */
  isPulled = false;
  virtual: VirtualFunctions | undefined;
  #model: M | undefined;
  #powerState: 0 | 1 | 2 | 3 = 0;
  #gone = false;
  #resetLocks = 0;
  #master = false;
  readonly #errorHandlers = new Set<(event: RawErrorEvent) => void>();
  readonly vga = undefined;

  constructor(host: EmulatedPciHost, place: PciAddress, parent: RootPort | undefined, vf?: VfPlace) {
    this.host = host;
    this.place = place;
    this.address = formatAddress(place);
    this.parent = parent;
    this.vf = vf;
    this.config = new ConfigSpace();
    const isPowered = (): boolean => this.#powerState === 0;
    const isForwarded = (): boolean => this.parent?.passesUp ?? true;
    this.irq = new FunctionInterrupts(this.config, host.irqs, isPowered, isForwarded);
    this.dma = new FunctionDma(this.config, this.address, isPowered, isForwarded);
    const { address, config, irq } = this;
    this.interrupts = new HostInterrupts(
      { address, config, interrupts: irq, open: (index) => this.open(index) },
      host.irqs,
      host.vectorLimits,
    );
    this.config.onWrite(PCI_COMMAND, (offset) => {
      if (offset < PCI_COMMAND + 2) this.commandWritten();
    });
  }

  // What the function says it is. Identity is read once by software, so it does not follow the function's presence.

  get vendor(): number {
    return this.vf === undefined ? this.config.get(PCI_VENDOR_ID, 2) : this.vf.pf.vendor;
  }

  get device(): number {
    return this.vf === undefined ? this.config.get(PCI_DEVICE_ID, 2) : this.vf.pf.virtualDeviceId;
  }

  get subvendor(): number {
    return this.headerType === PCI_HEADER_TYPE_BRIDGE ? 0 : this.config.get(PCI_SUBSYSTEM_VENDOR_ID, 2);
  }

  get subdevice(): number {
    return this.headerType === PCI_HEADER_TYPE_BRIDGE ? 0 : this.config.get(PCI_SUBSYSTEM_ID, 2);
  }

  get class(): number {
    return this.config.get(PCI_CLASS_REVISION, 4) >>> 8;
  }

  get revision(): number {
    return this.config.get(PCI_REVISION_ID, 1);
  }

  get headerType(): number {
    return this.config.get(PCI_HEADER_TYPE, 1) & PCI_HEADER_TYPE_MASK;
  }

  get physfn(): EmulatedFunction | undefined {
    return this.vf?.pf;
  }

  get vfIndex(): number | undefined {
    return this.vf?.index;
  }

  get virtualDeviceId(): number {
    return this.virtual?.deviceId ?? 0xffff;
  }

  get base(): RawFunctionBase {
    return this;
  }

  platform<T>(token: PlatformToken<T>): T | undefined {
    return this.facts.get(token) as T | undefined; // the token carries the type of what was stored under it
  }

  /** The device behind the function, for tests and tools: what hardware would show a debugger. */
  get model(): M {
    if (this.#model === undefined) throw errnoError('ENODEV', `${this.address}: the device is still being made`);
    return this.#model;
  }

  setModel(model: M): void {
    this.#model = model;
  }

  /** D0 (0) to D3hot (3). */
  get powerState(): 0 | 1 | 2 | 3 {
    return this.#powerState;
  }

  /** Whether the function has been taken out. */
  get isGone(): boolean {
    return this.#gone;
  }

  open(index: number): RegisterSpace {
    const space = this.spaces[index];
    if (space === undefined)
      throw errnoError('ENODEV', `${index === ROM_INDEX ? 'ROM' : `BAR ${index}`}: the function has none`, {
        device: this.address,
      });
    return space;
  }

  attachDma(space: DmaSpace | undefined): void {
    this.dma.attach(space);
  }

  onError(handler: (event: RawErrorEvent) => void): () => void {
    this.#errorHandlers.add(handler);
    return () => {
      this.#errorHandlers.delete(handler);
    };
  }

  notifyError(event: RawErrorEvent): void {
    for (const handler of [...this.#errorHandlers]) handler(event);
  }

  /**
   * The host resets the function of itself, as error recovery and `reset` in sysfs do, and gives it back as it was.
   *
   * @throws ENOTTY where it cannot be reset alone, EAGAIN where it is being reset.
   */
  resetByHost(): void {
    const state = saveState(this);
    this.tryResetFunction();
    restoreState(state);
    this.notifyError('reset-done');
  }

  get sriov(): RawSriov | undefined {
    return this.virtual;
  }

  get resetMethods(): readonly FunctionResetMethod[] {
    return METHODS.filter((method) => this.#hasResetMethod(method));
  }

  tryResetFunction(): void {
    this.checkResetLock();
    const [method] = this.resetMethods;
    switch (method) {
      case 'device_specific':
        this.reset('device');
        break;
      case 'flr':
        this.config.write(
          this.offsets.express + PCI_EXP_DEVCTL,
          2,
          this.config.read(this.offsets.express + PCI_EXP_DEVCTL, 2) | PCI_EXP_DEVCTL_BCR_FLR,
        );
        break;
      case 'af_flr':
        this.config.write(this.offsets.af + 4, 1, 1);
        break;
      case 'pm':
        this.#writePowerState(3);
        this.#writePowerState(0);
        break;
      case 'bus':
        this.parent?.resetSecondaryBus();
        break;
      default:
        throw errnoError('ENOTTY', 'the function cannot be reset alone', { op: 'reset', device: this.address });
    }
  }

  get resetScope(): RawResetScope | undefined {
    const { parent } = this;
    if (parent === undefined || this.vf !== undefined) return undefined;
    return {
      kind: parent.hasSlot ? 'slot' : 'bus',
      functions: () => parent.below(),
      tryReset: () => parent.tryReset(),
    };
  }

  /** Without a PM capability, or for a state that the function does not have, nothing changes. */
  setPowerState(state: 0 | 1 | 2 | 3): void {
    if (this.offsets.pm !== 0) this.#writePowerState(state);
  }

  /** Resets make EAGAIN until the result is called: another thread of the host holds the function's lock. */
  holdResetLock(): () => void {
    this.#resetLocks += 1;
    let held = true;
    return () => {
      if (held) this.#resetLocks -= 1;
      held = false;
    };
  }

  checkResetLock(): void {
    if (this.#resetLocks > 0)
      throw errnoError('EAGAIN', 'reset: the lock of the function is held', { op: 'reset', device: this.address });
  }

  /** The hardware's reset: registers, interrupts, VFs, then the device. */
  reset(kind: ResetKind): void {
    this.#powerState = 0;
    this.config.reset(kind);
    this.irq.reset();
    this.virtual?.controlChanged();
    if (kind === 'device') this.#model?.deviceReset?.();
    else this.#model?.reset?.(kind);
    this.commandWritten();
  }

  /** Power is lost and comes back. What the device keeps without power is all that is left. */
  powerCycle(): void {
    this.reset('power');
    if (this.vf === undefined) this.host.assign(this);
  }

  /** Called after software moved the function to another power state. */
  powerChanged(from: number, to: number): void {
    const noSoftReset = (this.config.get(this.offsets.pm + PCI_PM_CTRL, 2) & PCI_PM_CTRL_NO_SOFT_RESET) !== 0;
    if (from === 3 && to === 0 && !noSoftReset) {
      this.reset('pm');
      return;
    }
    this.#powerState = to as 0 | 1 | 2 | 3; // two bits of PMCSR
    this.#model?.powerState?.(this.#powerState);
    this.updateDecode();
    this.irq.update();
  }

  commandWritten(): void {
    this.updateDecode();
    this.irq.update();
    const master = (this.config.get(PCI_COMMAND, 2) & PCI_COMMAND_MASTER) !== 0;
    if (master !== this.#master) {
      this.#master = master;
      this.#model?.busMaster?.(master);
    }
  }

  /** Works out which BARs answer. After every write to what decides it. */
  updateDecode(): void {
    for (let index = 0; index < this.spaces.length; index++) {
      const space = this.spaces[index];
      const resource = this.resources[index];
      if (space !== undefined && resource !== undefined) space.decoded = this.#isDecoded(index, resource);
    }
    this.virtual?.updateDecode();
  }

  /** The function leaves the host for good. */
  detach(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.config.present = false;
    this.interrupts.dispose();
    this.irq.connect(undefined);
    this.dma.attach(undefined);
    this.updateDecode();
    this.#model?.removed?.();
    this.#errorHandlers.clear();
  }

  #isDecoded(index: number, resource: PciResource): boolean {
    const { config } = this;
    if (!config.present || this.#powerState !== 0) return false;
    if (this.parent !== undefined && !this.parent.forwards(resource)) return false;
    if (this.vf !== undefined) return this.vf.pf.virtual?.decodes(index) === true;
    const command = config.get(PCI_COMMAND, 2);
    if ((command & (resource.io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)) === 0) return false;
    if (index === ROM_INDEX) {
      const rom = config.get(PCI_ROM_ADDRESS, 4);
      return (rom & PCI_ROM_ADDRESS_ENABLE) !== 0 && (rom & 0xfffff800) >>> 0 === resource.start;
    }
    return barAddress(config, PCI_BASE_ADDRESS_0 + 4 * index, resource) === resource.start;
  }

  #hasResetMethod(method: FunctionResetMethod): boolean {
    switch (method) {
      case 'device_specific':
        return this.#model?.deviceReset !== undefined;
      case 'flr':
        return this.hasFlr;
      case 'af_flr':
        return this.offsets.af !== 0;
      case 'pm':
        return (
          this.offsets.pm !== 0 && (this.config.get(this.offsets.pm + PCI_PM_CTRL, 2) & PCI_PM_CTRL_NO_SOFT_RESET) === 0
        );
      case 'bus':
        return this.vf === undefined && this.parent !== undefined && this.parent.below().length === 1;
    }
  }

  #writePowerState(state: number): void {
    const at = this.offsets.pm + PCI_PM_CTRL;
    this.config.write(at, 2, (this.config.read(at, 2) & ~PCI_PM_CTRL_STATE_MASK) | state);
  }

  toString(): string {
    return `${this.address} [${hex(this.vendor)}:${hex(this.device)}]`;
  }
}
