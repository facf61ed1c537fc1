import type { RawSriov } from '@vfio/core';
import {
  errnoError,
  PCI_SRIOV_BAR,
  PCI_SRIOV_CTRL,
  PCI_SRIOV_CTRL_MSE,
  PCI_SRIOV_CTRL_VFE,
  PCI_SRIOV_NUM_VF,
  PCI_SRIOV_TOTAL_VF,
} from '@vfio/uapi';
import { barAddress } from '../config/header.js';
import type { SriovOptions } from '../model.js';
import { addressOfRoutingId, routingId } from './address.js';
import { EmulatedFunction } from './function.js';

/** The VFs of a physical function: what its SR-IOV capability makes of them, and the host's view. */
export class VirtualFunctions implements RawSriov {
  readonly shape: SriovOptions;
  driversAutoprobe = true;
  readonly #pf: EmulatedFunction;
  readonly #at: number;
  /** First VF BAR addresses as firmware assigned them. */
  readonly #starts: (number | undefined)[] = new Array<number | undefined>(6).fill(undefined);
  #functions: EmulatedFunction[] = [];
  #announced = 0;

  constructor(pf: EmulatedFunction, shape: SriovOptions, at: number) {
    this.#pf = pf;
    this.shape = shape;
    this.#at = at;
    for (const index of this.#barIndexes())
      for (const register of [this.#register(index), this.#register(index) + 4])
        pf.config.onWrite(register, () => pf.updateDecode());
  }

  get deviceId(): number {
    return this.shape.device;
  }

  get totalVfs(): number {
    return this.#pf.config.get(this.#at + PCI_SRIOV_TOTAL_VF, 2);
  }

  get numVfs(): number {
    return this.#announced;
  }

  /** The VFs that the host has announced. */
  get announced(): readonly EmulatedFunction[] {
    return this.#functions.slice(0, this.#announced);
  }

  /** Gives the VF BARs their addresses: each holds the BARs of all VFs, one after the other. */
  assign(allocate: (size: number, alignment: number, index: number) => number): void {
    const { config } = this.#pf;
    for (const index of this.#barIndexes()) {
      const bar = this.shape.bars?.[index];
      if (bar === undefined) continue;
      const start = this.#starts[index] ?? allocate(bar.size * this.totalVfs, bar.size, index);
      this.#starts[index] = start;
      config.write(this.#register(index), 4, (start % 0x100000000) | 0);
      if (bar.is64Bit === true) config.write(this.#register(index) + 4, 4, Math.floor(start / 0x100000000));
    }
  }

  /** Gives the addresses of the VF BARs back. */
  release(free: (start: number, index: number) => void): void {
    for (const [index, start] of this.#starts.entries()) if (start !== undefined) free(start, index);
    this.#starts.fill(undefined);
  }

  enable(count: number): void {
    const { config } = this.#pf;
    if (this.#announced > 0) throw this.#error('EBUSY', `${count} VFs: ${this.#announced} are enabled already`);
    if (!Number.isInteger(count) || count < 1 || count > this.totalVfs)
      throw this.#error('EINVAL', `${count} VFs: 1 to ${this.totalVfs} are allowed`);
    config.write(this.#at + PCI_SRIOV_NUM_VF, 2, count);
    config.write(
      this.#at + PCI_SRIOV_CTRL,
      2,
      config.read(this.#at + PCI_SRIOV_CTRL, 2) | PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE,
    );
    if (this.#functions.length < count) throw this.#error('EIO', `${count} VFs: the function does not answer`);
    // Counted one by one, so that each notice finds the host's list as the kernel's would be at that moment.
    for (const vf of this.#functions.slice(0, count)) {
      this.#announced += 1;
      this.#pf.host.announce(vf);
    }
  }

  disable(): void | Promise<void> {
    if (this.#announced === 0) return;
    const leaving = this.#functions.slice(0, this.#announced).reverse();
    const finish = (): void => {
      this.#announced = 0;
      const { config } = this.#pf;
      config.write(
        this.#at + PCI_SRIOV_CTRL,
        2,
        config.read(this.#at + PCI_SRIOV_CTRL, 2) & ~(PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE),
      );
      config.write(this.#at + PCI_SRIOV_NUM_VF, 2, 0);
      for (const vf of leaving) vf.detach();
      this.#functions = [];
      this.#pf.host.changed();
    };
    const next = (index: number): void | Promise<void> => {
      for (let i = index; i < leaving.length; i++) {
        const vf = leaving[i];
        const result = vf === undefined ? undefined : this.#pf.host.leaving(vf);
        if (result !== undefined) return result.then(() => next(i + 1));
      }
      finish();
    };
    return next(0);
  }

  /** VF Enable or the number of VFs changed, or the PF was reset. */
  controlChanged(): void {
    const { config } = this.#pf;
    const enabled = config.present && (config.get(this.#at + PCI_SRIOV_CTRL, 2) & PCI_SRIOV_CTRL_VFE) !== 0;
    const count = enabled ? config.get(this.#at + PCI_SRIOV_NUM_VF, 2) : 0;
    for (let i = this.#functions.length; i < count; i++) this.#functions.push(this.#make(i));
    for (const [index, vf] of this.#functions.entries()) {
      const present = index < count && !vf.isGone;
      // VFs come out of VF Enable as from a reset (PCIe Base 9.3.3.3.1).
      if (present !== vf.config.present) vf.reset('bus');
      vf.config.present = present;
    }
    // Software that sets VF Enable itself makes VFs that the host does not know; they go with the bit.
    if (!enabled && this.#announced === 0) {
      for (const vf of this.#functions) vf.detach();
      this.#functions = [];
    }
    this.#pf.updateDecode();
  }

  /** Whether the VFs' BAR `index` answers. */
  decodes(index: number): boolean {
    const bar = this.shape.bars?.[index];
    const { config, powerState } = this.#pf;
    const control = config.get(this.#at + PCI_SRIOV_CTRL, 2);
    const on = PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE;
    if (bar === undefined || !config.present || powerState !== 0 || (control & on) !== on) return false;
    return (
      barAddress(config, this.#register(index), { io: false, is64Bit: bar.is64Bit === true }) === this.#starts[index]
    );
  }

  updateDecode(): void {
    for (const vf of this.#functions) vf.updateDecode();
  }

  /** The PF leaves: so do its VFs. */
  detach(): void {
    for (const vf of this.#functions) vf.detach();
    this.#functions = [];
    this.#announced = 0;
  }

  #make(index: number): EmulatedFunction {
    const { offset = 1, stride = 1 } = this.shape;
    const rid = routingId(this.#pf.place) + offset + index * stride;
    const place = addressOfRoutingId(this.#pf.place.domain, rid);
    const vf = new EmulatedFunction(this.#pf.host, place, this.#pf.parent, { pf: this.#pf, index });
    this.#pf.host.build(vf, (ctx) => this.shape.model(ctx, index));
    for (const bar of this.#barIndexes()) {
      const resource = vf.resources[bar];
      const start = this.#starts[bar];
      if (resource !== undefined && start !== undefined)
        vf.resources[bar] = { ...resource, start: start + index * resource.size };
    }
    vf.config.present = false;
    return vf;
  }

  #barIndexes(): number[] {
    return Object.keys(this.shape.bars ?? {}).map(Number);
  }

  #register(index: number): number {
    return this.#at + PCI_SRIOV_BAR + 4 * index;
  }

  #error(errno: 'EBUSY' | 'EINVAL' | 'EIO', message: string): Error {
    return errnoError(errno, message, { op: 'sriov', device: this.#pf.address });
  }
}
