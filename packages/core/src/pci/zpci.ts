import type { FunctionConditions } from './driver-source.js';
import { type PlatformToken, platformToken } from './function.js';

/** The group of a zPCI function: what its functions have in common (CLP Query PCI Function Group). */
export interface ZpciGroup {
  /** DMA address space mask. */
  readonly dasm: bigint;
  /** Address to which MSIs are written. */
  readonly msiAddr: bigint;
  /** Milliseconds between updates of the measurement block. */
  readonly mui: number;
  /** Interrupts of a function. */
  readonly noi: number;
  /** Bytes of the longest store block. */
  readonly maxstbl: number;
  readonly version: number;
}

/** Error records of a function, kept for its user instead of being handled by the host: Linux calls it mediated recovery. */
export interface ZpciErrors {
  /** Records are kept from now on. */
  start(): void;
  /** They are not any more, and those that were are dropped. */
  stop(): void;
  /** The oldest record, 32 bytes in the host's byte order; undefined: there is none. Each is given once. */
  take(): Uint8Array | undefined;
}

/** What s390 says of a PCI function beside its config space. */
export interface ZpciFacts {
  /** First and last address of its DMA. */
  readonly startDma: bigint;
  readonly endDma: bigint;
  /** Physical channel. */
  readonly pchid: number;
  /** Number of the virtual function. */
  readonly vfn: number;
  /** Bytes of the measurement block. */
  readonly fmbLength: number;
  /** Type of function. */
  readonly pft: number;
  /** Number of the group. */
  readonly gid: number;
  /** Handle; another one after the function was disabled and enabled. */
  readonly fh: number;
  readonly group: ZpciGroup;
  /** 64 bytes of EBCDIC, where the function has a utility string. */
  readonly utilStr: Uint8Array | undefined;
  /** Path inside the machine: 4 segments. */
  readonly pfip: Uint8Array;
  /** Undefined where the host does not give error records away. */
  readonly errors: ZpciErrors | undefined;
}

/** Every function of an s390 machine has it, and no other. */
export const ZPCI: PlatformToken<ZpciFacts> = platformToken('zpci');

/** Conditions of drivers that a function's host decides. */
export const PLATFORM_CONDITIONS: FunctionConditions = { zpci: (fn) => fn.platform(ZPCI) !== undefined };
