import type { VfioFunctionBase } from '../device/vfio-base.js';
import type { RawFunctionBase } from './raw-function.js';

/**
 * A typed fact about a function that only its host can know: the memory of an IGD OpRegion, the zPCI attributes.
 * Tokens are declared in core, filled by hosts, and read by drivers through {@link PciFunction.platform}.
 */
export interface PlatformToken<T> {
  readonly name: string;
  /** Carries the type only; never present at run time. */
  readonly type?: T;
}

/** Declares a platform fact. The name is for messages; identity is the token object itself. */
export function platformToken<T>(name: string): PlatformToken<T> {
  return Object.freeze({ name });
}

/** What `pci_device_id` tables match on, as read from a function's config space. */
export interface PciIdentity {
  /** 16 bits each. */
  readonly vendor: number;
  readonly device: number;
  readonly subvendor: number;
  readonly subdevice: number;
  /** 24 bits: base class, subclass, programming interface. */
  readonly class: number;
}

/**
 * A PCI function as its host provides it: the kernel's `pci_dev`. It says what the function is and on which of two
 * bases a VFIO device can be built; what is done with it (drivers, overrides) is the bus's business.
 */
export interface PciFunction extends PciIdentity {
  /** `dddd:bb:dd.f`, lower-case hex. */
  readonly address: string;
  readonly revision: number;
  /** Header type without the multi-function bit; 0 is an endpoint, 1 a bridge. */
  readonly headerType: number;
  readonly host: PciHost;
  /** Number of the IOMMU group; undefined where there is no IOMMU. */
  readonly iommuGroup: number | undefined;
  /** The physical function, where this is a virtual one. */
  readonly physfn: PciFunction | undefined;
  /** Index of a virtual function among its PF's, from 0. */
  readonly vfIndex: number | undefined;
  /** What a VFIO device stands on here. */
  readonly base: RawFunctionBase | VfioFunctionBase;
  /** A fact that this function's host knows, or undefined where it has none of that kind. */
  platform<T>(token: PlatformToken<T>): T | undefined;
}

/** A change of what a host has. */
export interface PciHostEvents {
  /** A function has appeared (hot plug, a virtual function enabled). */
  added?(fn: PciFunction): void;
  /** A function is about to go; drivers let go of it before this returns or its promise settles. */
  removing?(fn: PciFunction): void | Promise<void>;
}

/** Where functions come from: the emulated topology, sysfs. */
export interface PciHost {
  /** `emulated`, `linux`. */
  readonly name: string;
  /** All functions, ordered by address. */
  functions(): readonly PciFunction[];
  /** The function at an address in full form, or undefined. */
  find(address: string): PciFunction | undefined;
  /** Registers for changes; the result unregisters and may be called twice. */
  watch(events: PciHostEvents): () => void;
}
