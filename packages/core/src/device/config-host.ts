import { VFIO_PCI_MSI_IRQ_INDEX } from '@vfio/uapi';
import type { RawFunctionBase } from '../pci/raw-function.js';
import type { ConfigSpaceHost, PciPowerState } from './config/host.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { maskIntx, unmaskIntx } from './intx.js';
import type { MaybePromise } from './maybe-promise.js';
import { lockMemory, unlockMemory } from './memory.js';
import { setPowerState } from './power.js';
import { tryResetFunction } from './reset.js';

/** The device as its virtual config space sees it. */
export class DeviceConfigHost implements ConfigSpaceHost {
  readonly raw: RawFunctionBase;
  readonly address: string;
  readonly vendor: number;
  readonly device: number;
  readonly isVf: boolean;
  readonly #dev: VfioPciCoreDevice;

  constructor(dev: VfioPciCoreDevice) {
    this.#dev = dev;
    this.raw = dev.raw;
    this.address = dev.fn.address;
    this.vendor = dev.fn.vendor;
    this.device = dev.fn.device;
    this.isVf = dev.fn.physfn !== undefined;
  }

  get noCommandMemory(): boolean {
    return this.isVf;
  }

  get intxUsable(): boolean {
    return this.raw.interrupts.intxLine !== undefined;
  }

  get nointx(): boolean {
    return this.#dev.nointx;
  }

  get virqDisabled(): boolean {
    return this.#dev.irqs.virqDisabled;
  }

  set virqDisabled(disabled: boolean) {
    this.#dev.irqs.virqDisabled = disabled;
  }

  maskIntx(): void {
    maskIntx(this.#dev);
  }

  unmaskIntx(): void {
    unmaskIntx(this.#dev);
  }

  get msiActive(): boolean {
    return this.#dev.irqs.type === VFIO_PCI_MSI_IRQ_INDEX;
  }

  get msiQmax(): number {
    return this.#dev.irqs.msiQmax;
  }

  get powerState(): PciPowerState {
    return this.#dev.power.state;
  }

  setPowerState(state: PciPowerState): MaybePromise<void> {
    return setPowerState(this.#dev, state);
  }

  tryResetFunction(): MaybePromise<void> {
    return tryResetFunction(this.#dev);
  }

  lockMemory(zap: boolean): void {
    lockMemory(this.#dev, zap);
  }

  unlockMemory(): void {
    unlockMemory(this.#dev);
  }

  warn(message: string): void {
    this.#dev.warn(message);
  }
}
