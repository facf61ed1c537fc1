import type { MmapArea, PlatformToken } from '@vfio/core';
import type { Clock } from './clock.js';
import type { MsiOptions, MsixOptions, PmOptions, VpdOptions } from './config/capabilities.js';
import type { ConfigSpace, ResetKind } from './config/config-space.js';
import type { ExpressOptions } from './config/express.js';
import type { SriovShape } from './config/ext-capabilities.js';
import type { BarShape, FunctionIdentity } from './config/header.js';
import type { BarHandler } from './host/bar.js';
import type { FunctionDma } from './host/dma.js';
import type { FunctionInterrupts } from './irq/function-interrupts.js';
import type { MemoryProvider } from './memory.js';

/**
 * A device behind a function. Its constructor receives the {@link FunctionContext}, declares config space, BARs and
 * capabilities, and keeps the context for later. All methods are optional notices.
 *
 * **Guarantees**: everything runs in one thread. `reset` comes after config space has its reset values and interrupts
 * are quiet; work deferred before it still runs, so a model that defers counts its resets. After `removed` nothing is
 * called, and DMA, interrupts and register accesses go nowhere.
 */
export interface DeviceModel {
  /** The function was reset: `flr` (also AF), `pm` (D3hot to D0 without NoSoftRst), `bus`, `device` (its own method),
   * `power` (power was lost and came back: what was not kept without power is gone). */
  reset?(kind: ResetKind): void;
  /** Software moved the function to D0..D3hot; not called for the reset on the way back. */
  powerState?(state: 0 | 1 | 2 | 3): void;
  /** The function is taken out: let go of files and timers. */
  removed?(): void;
  /** Present: the function has a reset method of its own (`device_specific`), which is this. */
  deviceReset?(): void;
  /** Bus mastering was switched. */
  busMaster?(enabled: boolean): void;
}

/** Makes the device of a function. */
export type ModelFactory<M extends DeviceModel = DeviceModel> = (ctx: FunctionContext) => M;

/** A virtual function's model, made when VF Enable is set. */
export type VfModelFactory = (ctx: FunctionContext, index: number) => DeviceModel;

/** Size and kind of a BAR and what is behind it. */
export interface BarOptions extends BarShape {
  /** What is behind it; nothing but zeros by default. */
  readonly handler?: BarHandler;
  /** The BAR is plain memory from the host's provider, and may be mapped. */
  readonly memory?: boolean;
}

/** SR-IOV and what the VFs are. */
export interface SriovOptions extends SriovShape {
  readonly model: VfModelFactory;
}

/** An uncorrectable error that a model reports by AER. */
export interface ErrorReport {
  /** One PCI_ERR_UNC_* bit. */
  readonly status: number;
}

/**
 * What a model has of its function. The declaring methods are for the constructor; where one must precede another its
 * comment says so.
 */
export interface FunctionContext {
  /** `0000:03:00.0`. */
  readonly address: string;
  /** The registers, for what the declaring methods do not cover. */
  readonly config: ConfigSpace;
  /** What the function signals by. */
  readonly irq: FunctionInterrupts;
  readonly dma: FunctionDma;
  readonly clock: Clock;
  readonly memory: MemoryProvider;
  /** Index of a virtual function, from 0. */
  readonly vfIndex: number | undefined;
  /** Runs `work` after the access that is being handled has been answered. */
  defer(work: () => void): void;

  /** Ids and class; on a VF the vendor comes from the PF and the device id from its SR-IOV capability. */
  identity(id: FunctionIdentity): void;
  /** Connects INTx pin 1 (A) to 4 (D). Not on a VF. @throws EINVAL. */
  intx(pin?: 1 | 2 | 3 | 4): void;
  /** Declares BAR 0-5. A VF's BARs are sized by its PF: the sizes must agree. Returns the areas that are memory.
   * @throws EINVAL, EEXIST where it is declared. */
  bar(index: number, options: BarOptions): readonly MmapArea[];
  /** An expansion ROM with this image. */
  rom(image: Uint8Array): void;
  pm(options?: PmOptions): void;
  msi(options?: MsiOptions): void;
  /** After the BARs that hold the table and the pending bits. @throws EINVAL where these do not fit. */
  msix(options: MsixOptions): void;
  express(options?: ExpressOptions): void;
  /** Advanced Features with FLR. */
  af(): void;
  vpd(options: VpdOptions): void;
  vendor(body: Uint8Array, writable?: Uint8Array): number;
  ssvid(subvendor: number, subdevice: number): void;
  aer(): void;
  dsn(serial: bigint): void;
  ari(nextFunction?: number): void;
  ltr(): void;
  acs(): void;
  vendorExtended(id: number, revision: number, body: Uint8Array): number;
  /** Makes this a physical function. */
  sriov(options: SriovOptions): void;
  /** The function is one from before PCI 2.3: no DisINTx, no STATUS.INTERRUPT. */
  beforePci23(): void;
  /** The function's BARs may not be mapped by users. */
  nonMappableBars(): void;
  /** A fact for drivers that only the platform knows. */
  platformFact<T>(token: PlatformToken<T>, value: T): void;
  /** Reports an uncorrectable error. Without AER, or where it is masked or reporting is off, nobody hears of it. */
  reportError(report: ErrorReport): void;
}
