import type { PciDriver, PciFunction, VfioDeviceClient } from '@vfio/core';

/** A device that one case works on. */
export interface ContractSubject {
  /** Opened for this case alone. */
  readonly device: VfioDeviceClient;
  /** Lets go of everything that came with it. Called once, whatever the case did to the device. */
  close(): Promise<void>;
}

/** What the suite is told of a driver on one base. */
export interface ContractOptions {
  /** Appears in the names of the cases: `nvme-vfio-pci on an emulated function, through a socket`. */
  readonly name: string;
  /** Opens the device anew: local, through a socket, the kernel's. */
  open(): Promise<ContractSubject>;
  /** The driver and a function that it is for; without them nothing is said about matching. */
  readonly driver?: { readonly driver: PciDriver; readonly function: PciFunction };
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
  /** Throws where the rule is broken. */
  run(): Promise<void>;
}

/** A rule over an open device. Returns a sentence where the device has nothing to which the rule applies. */
export type Rule = (device: VfioDeviceClient, options: ContractOptions) => Promise<void>;

/** The rules of one group, by the sentence that states each. */
export interface RuleGroup {
  readonly group: string;
  readonly rules: Readonly<Record<string, Rule>>;
}
