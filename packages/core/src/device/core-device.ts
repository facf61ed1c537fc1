import { type ErrnoName, errnoError, type VfioError } from '@vfio/uapi';
import type { PciBus } from '../pci/bus.js';
import type { PciFunction } from '../pci/function.js';
import type { RawFunctionBase, RegisterSpace } from '../pci/raw-function.js';
import { BarSlot } from './bar-slot.js';
import type { SavedState } from './config/saved-state.js';
import type { VirtualConfigSpace } from './config/virtual-config.js';
import { DeferredReset } from './deferred-reset.js';
import { DevRegion, type DevRegionInit } from './dev-region.js';
import type { DeviceSet } from './device-set.js';
import type { DeviceExtension } from './extension.js';
import type { FeatureHandler } from './feature.js';
import { createDmaSpace, type GuestMemory } from './guest-memory.js';
import type { DeviceCap } from './info.js';
import { IoeventfdList } from './ioeventfd-list.js';
import { IrqState } from './irq-state.js';
import { chain, type MaybePromise } from './maybe-promise.js';
import type { MigrationSession } from './migration-session.js';
import type { VfioLogOps, VfioMigrationOps } from './migration-types.js';
import { openVfioDevice } from './open.js';
import type { VfioDeviceOps } from './ops.js';
import type { VfioPciCoreParams } from './params.js';
import { PowerState } from './power-state.js';
import { VfState } from './vf-state.js';
import type { OpenOptions, VfioDevice, VfioDeviceProvider } from './vfio-device.js';

/** A device capability, or what makes it at each GET_INFO (undefined: none now). */
export type InfoCap = DeviceCap | ((dev: VfioPciCoreDevice) => DeviceCap | undefined);

export interface VfioPciCoreDeviceInit {
  readonly fn: PciFunction;
  readonly bus: PciBus | undefined;
  readonly ops: VfioDeviceOps;
  readonly baseOps: VfioDeviceOps;
  readonly params: VfioPciCoreParams;
  readonly extensions: readonly DeviceExtension[];
  readonly warn: (message: string) => void;
  readonly unmapDeadlineMs?: number | undefined;
}

/**
 * A VFIO PCI device: the kernel's `vfio_pci_core_device`. It is state; what is done with it are the exported
 * `vfioPciCore*` functions and the ops table, so that nothing can be overridden twice. Made by
 * `vfioPciCoreAllocDevice`, usable between `vfioPciCoreRegisterDevice` and `vfioPciCoreUnregisterDevice`.
 */
export class VfioPciCoreDevice implements VfioDeviceProvider {
  readonly fn: PciFunction;
  readonly bus: PciBus | undefined;
  /** The driver's table. */
  readonly ops: VfioDeviceOps;
  /** The table that the driver's was made from: core's, or what the function brings. */
  readonly baseOps: VfioDeviceOps;
  readonly params: VfioPciCoreParams;
  readonly extensions: readonly DeviceExtension[];
  /** A sentence for the log. */
  readonly warn: (message: string) => void;
  /** What the device's DMA reaches. */
  readonly dmaSpace: GuestMemory;

  /** For the driver; core never touches it. For typed state of helpers see `deviceState`. */
  driverData: unknown = undefined;

  /** VFIO_MIGRATION_*; with {@link migrationOps}, set in `init` and never changed. */
  migrationFlags = 0;
  migrationOps: VfioMigrationOps<VfioPciCoreDevice> | undefined = undefined;
  /** Why a device whose driver could migrate it cannot be: a condition that is missing. Said where migration is asked for. */
  whyNotMigratable: string | undefined = undefined;
  logOps: VfioLogOps<VfioPciCoreDevice> | undefined = undefined;
  /** The base migrates itself (the kernel's own variant driver below): then the driver does not. Known while it is open. */
  baseMigrates = false;
  /** The user understands VFIO_PRECOPY_INFO_REINIT (feature 12); until the last close. */
  precopyInfoV2 = false;
  /** Features that the driver or an extension adds, by number. Set in `init`. */
  readonly features = new Map<number, FeatureHandler>();
  /** The data stream that is open. */
  session: MigrationSession | undefined = undefined;
  /** Taken by each migration step; a reset that comes meanwhile waits for its end. */
  readonly stateLock = new DeferredReset((raced) => this.#afterReset(raced));
  /** The op that may take time and runs now, with all that wait for it; never rejects. */
  pending: Promise<void> | undefined = undefined;
  /**
   * Called after each reset of the function, however it came about: a migratable device returns to RUNNING. `raced`: it came
   * while a migration step was under way, which may have changed the function after it; then the handler may take its time
   * to undo that. Set in `init`.
   */
  readonly resetDone: ((raced: boolean) => MaybePromise<void>)[] = [];

  /** Device regions, in the order of registration; the first has the index after the base's own. */
  readonly regions: DevRegion[] = [];
  readonly infoCaps: InfoCap[] = [];
  /** Regions of the base, device regions of a VFIO base included. Known while the device is open. */
  baseRegions: number;
  /** How many of {@link regions} were there before the first open: those stay when the device is disabled. */
  lastingRegions = 0;

  registered = false;
  /** Unregistering: nobody may open it any more. */
  leaving = false;
  /** Handles that are open. */
  openCount = 0;
  /** Called when {@link openCount} falls to 0. */
  onIdle: (() => void) | undefined = undefined;
  deviceSet: DeviceSet | undefined = undefined;

  /** The state of a raw base between enable and disable. */
  config: VirtualConfigSpace | undefined = undefined;
  /** BARs 0-5 and the ROM. */
  readonly bars: readonly BarSlot[];
  vga: RegisterSpace | undefined = undefined;
  /** Bytes of the MSI-X table in {@link msixBar}; -1: there is none. */
  msixBar = -1;
  msixOffset = 0;
  msixSize = 0;
  /** A function reset works; settled at first open. */
  resetWorks = false;
  /** Somebody used the function since it was last reset. */
  needsReset = false;
  /** DisINTx works: PCI 2.3. */
  pci23 = false;
  /** INTx of this device is broken. */
  nointx = false;
  /** How many operations hold memory decode: while above 0 no BAR access reaches the hardware. */
  memoryLocks = 0;
  /** Config space as found at open, to be restored at close. */
  savedState: SavedState | undefined = undefined;
  /** Undoes what registration and enabling hooked up. */
  readonly undoRegister: (() => void)[] = [];
  readonly undoEnable: (() => void)[] = [];
  readonly irqs = new IrqState();
  readonly power = new PowerState();
  readonly ioeventfds = new IoeventfdList();
  readonly vf = new VfState();
  /** DMA buffers and mappings over BARs: told when memory goes and comes. */
  readonly memoryWatchers = new Set<(enabled: boolean) => void>();

  constructor(init: VfioPciCoreDeviceInit) {
    this.fn = init.fn;
    this.bus = init.bus;
    this.ops = init.ops;
    this.baseOps = init.baseOps;
    this.params = init.params;
    this.extensions = init.extensions;
    this.warn = init.warn;
    this.baseRegions = 9;
    this.bars = Array.from({ length: 7 }, (_, index) => new BarSlot(index));
    this.dmaSpace = createDmaSpace({
      device: init.fn.address,
      ...(init.unmapDeadlineMs === undefined ? {} : { unmapDeadlineMs: init.unmapDeadlineMs }),
    });
  }

  get function(): PciFunction {
    return this.fn;
  }

  get address(): string {
    return this.fn.address;
  }

  /** Ops name of the driver. */
  get name(): string {
    return this.ops.name;
  }

  /** The bare hardware. @throws EINVAL on a function that is a VFIO device already. */
  get raw(): RawFunctionBase {
    const { base } = this.fn;
    if (base.kind !== 'raw')
      throw this.error('EINVAL', 'raw', 'the function is a VFIO device already, its hardware is out of reach');
    return base;
  }

  /** Opens the device; several may have it open at once. See `openVfioDevice`. */
  open(options: OpenOptions = {}): Promise<VfioDevice> {
    return openVfioDevice(this, options);
  }

  /** Adds a capability to GET_INFO, in the order of calls. For `init`. */
  addInfoCap(cap: InfoCap): void {
    this.infoCaps.push(cap);
  }

  /** Adds a device region: `vfio_pci_core_register_dev_region`. For `init` (it lasts) and `openDevice` (until disable). */
  registerDevRegion(init: DevRegionInit): DevRegion {
    const region = new DevRegion(init);
    this.regions.push(region);
    return region;
  }

  /** The index by which users know a device region. Settled while the device is open. */
  regionIndex(region: DevRegion): number {
    const at = this.regions.indexOf(region);
    if (at < 0) throw this.error('EINVAL', 'regionIndex', 'the region is not registered on this device');
    return this.baseRegions + at;
  }

  #afterReset(raced: boolean): MaybePromise<void> {
    const { session } = this;
    this.session = undefined;
    session?.end();
    let work: MaybePromise<void> | undefined;
    for (const handler of this.resetDone) work = chain(work, () => handler(raced));
    return work;
  }

  /** A {@link VfioError} that names this device. */
  error(errno: ErrnoName, op: string, message: string): VfioError {
    return errnoError(errno, message, { op, device: this.fn.address });
  }
}
