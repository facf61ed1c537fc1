import type { IovaRange, PciDriver, PciFunction, VfioDeviceClient } from '@vfio/core';

/** A device that one case works on. */
export interface ContractSubject {
  /** Opened for this case alone. */
  readonly device: VfioDeviceClient;
  /** Lets go of everything that came with it. Called once, whatever the case did to the device. */
  close(): Promise<void>;
}

/** A device that is let go of by closing it. */
export function subject(device: VfioDeviceClient): ContractSubject {
  return { device, close: () => device.close() };
}

/** How to see a device's DMA: what no rule can know of a device that it has never met. */
export interface DeviceDma {
  /** Maps zeroed memory for the device, and gives the bytes. */
  map(device: VfioDeviceClient, iova: bigint, size: number): Promise<Uint8Array>;
  /**
   * Has the device write `length` bytes, none of them 0, from an address on. Done when the device has, or has given up.
   * Bus mastering is on, unless a rule has turned it off.
   */
  write(device: VfioDeviceClient, iova: bigint, length: number): Promise<void>;
  /** Signalled after each write, if the device signals. */
  readonly interrupt?: { readonly index: number; readonly vector: number };
}

/** Work of a device that can be seen from outside: what it writes, and that it says so. */
export interface DeviceWorkload {
  /** Maps zeroed memory for the device, and gives the bytes. */
  map(device: VfioDeviceClient, iova: bigint, size: number): Promise<Uint8Array>;
  /**
   * Has the device write here and there in memory that was mapped and is zeroed, to places that `random` (0 to below 1)
   * chooses. Done when the device is. Returns the ranges that were written, with a byte in each that is not 0 now; other
   * pages are as they were. A device without DMA returns none, and shows by its interrupt that it works.
   */
  run(device: VfioDeviceClient, memory: DeviceMemory, random: () => number): Promise<readonly IovaRange[]>;
  /** Signalled in each run, if the device signals. */
  readonly interrupt?: { readonly index: number; readonly vector: number };
}

/** Memory as the device (`iova`) and the suite (`bytes`) see it. */
export interface DeviceMemory {
  readonly iova: bigint;
  readonly bytes: Uint8Array;
}

/** State of a device that a user can change and see: what must move with it. Memory decode is on. */
export interface DeviceState {
  /** Changes it, to something else for each `seed`. */
  put(device: VfioDeviceClient, seed: number): Promise<void>;
  get(device: VfioDeviceClient): Promise<Uint8Array>;
}

/** What the suite is told of a driver on one base. */
export interface ContractOptions {
  /** Appears in the names of the cases: `nvme-vfio-pci on an emulated function, through a socket`. */
  readonly name: string;
  /** Opens the device anew: local, through a socket, the kernel's. */
  open(): Promise<ContractSubject>;
  /** The driver and a function that it is for; without them nothing is said about matching. */
  readonly driver?: { readonly driver: PciDriver; readonly function: PciFunction };
  /** Without it nothing is said about what DMA does to memory, nor about the pages that a dirty log shows. */
  readonly dma?: DeviceDma;
  /** What the device does under load. Without it a load is made of `dma`, if that is there. */
  readonly workload?: DeviceWorkload;
  /** Without it nothing is said about what a migration carries, only about how. */
  readonly state?: DeviceState;
  /** Opens a second device, to which the first one can be migrated. Without it the first is opened again. */
  peer?(): Promise<ContractSubject>;
  /**
   * Opens a device of the kind whose driver has another version, one with which this version can exchange streams. Without
   * it nothing is said about that.
   */
  otherVersion?(): Promise<ContractSubject>;
  /** Opens a device with which no stream can be exchanged: another model, another size, a version that is too old. */
  incompatible?(): Promise<ContractSubject>;
  /** A count of handles (descriptors, mappings) that must be the same after a case as before. */
  readonly handles?: () => number;
  /** Cases that cannot be true here, by name, with the reason. */
  readonly skip?: Readonly<Record<string, string>>;
}

/** One rule that every driver keeps. */
export interface ContractCase {
  /** `interrupts` */
  readonly group: string;
  /** A sentence that states the rule. */
  readonly name: string;
  /** Why it is not run; undefined: it is. */
  readonly skip: string | undefined;
  /** Throws where the rule is broken. Gives a sentence where the device has nothing to which it applies. */
  run(): Promise<string | undefined>;
}

/** A rule over an open device. Calls `notApplicable` where the device has nothing to which it applies. */
export type Rule = (device: VfioDeviceClient, options: ContractOptions) => Promise<void>;

/** The rules of one group, by the sentence that states each. */
export interface RuleGroup {
  readonly group: string;
  readonly rules: Readonly<Record<string, Rule>>;
}
