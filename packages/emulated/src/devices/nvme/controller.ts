import type { AccessWidth } from '@vfio/core';
import { errnoError, hex, PCI_CLASS_STORAGE_EXPRESS } from '@vfio/uapi';
import type { ResetKind } from '../../config/config-space.js';
import type { BarHandler } from '../../host/bar.js';
import type { DeviceModel, FunctionContext } from '../../model.js';
import { TrackedDma } from '../tracked-dma.js';
import { AdminCommands, type AdminHost } from './admin.js';
import type { NvmeCommand } from './command.js';
import { CC, CQE_SHIFT, CSTS, EVENT, FEATURE, LOG, NVME_VERSION, REG, SQE_SHIFT } from './constants.js';
import { type EngineHost, QueueEngine } from './engine.js';
import { AsyncEvents } from './events.js';
import { type FeatureHost, NvmeFeatures } from './features.js';
import { NvmeHealth, type NvmePersistence } from './health.js';
import type { ControllerIdentity } from './identify.js';
import { IoCommands, type IoHost } from './io.js';
import { ErrorLog } from './logs.js';
import { Migratable, type MigratableHost, pageSizeOf } from './migratable.js';
import { MigrationManager } from './migration-manager.js';
import { NvmeNamespace, type NvmeNamespaceOptions } from './namespace.js';
import { CompletionQueue, SubmissionQueue } from './queues.js';
import { ControllerRegisters } from './registers.js';
import { HELD, STATUS } from './status.js';
import { PrpTransfer } from './transfer.js';

/** What an {@link NvmeController} is like. */
export interface NvmeOptions {
  /** Namespaces 1, 2, ... Default: one of 64 MiB in memory. */
  readonly namespaces?: readonly NvmeNamespaceOptions[];
  /** Up to 20 characters. Default: made from the function's address. */
  readonly serial?: string;
  /** Up to 40 characters. */
  readonly model?: string;
  /** Up to 8 characters. */
  readonly firmware?: string;
  /** I/O queue pairs, 1 to 254; there is an interrupt vector for each and one for the admin queue. Default 8. */
  readonly ioQueues?: number;
  /** Entries that a queue may have, 2 to 65536. Default 1024. */
  readonly queueEntries?: number;
  /** Most data of one command: 4096 << mdts bytes, 1 to 9. Default 7: 512 KiB. */
  readonly mdts?: number;
  /** Bytes of the volatile write cache of each namespace; 0: none. Default 16 MiB. */
  readonly cacheSize?: number;
  /** Keeps counters and saved features over the end of the process. */
  readonly persistence?: NvmePersistence;
  readonly vendor?: number;
  readonly device?: number;
  /**
   * Virtual functions, 0 to 127: each is a secondary controller with the same namespaces, whose migration the controller of
   * the physical function manages. Default 0.
   */
  readonly virtualFunctions?: number;
}

/**
 * How an admin command goes wrong: it is refused with a status, it is carried out and its data or the first dword of its completion
 * is another, or it is not completed: `stalls` (not carried out), `is not answered` (carried out), `dies` (the controller is in fatal
 * state).
 */
export type AdminFault =
  | {
      readonly status?: number;
      readonly output?: (data: Uint8Array) => void;
      readonly result?: (result: number) => number;
    }
  | 'stalls'
  | 'is not answered'
  | 'dies';

const BAR_SIZE = 0x4000;
const TABLE_OFFSET = 0x2000;
const PENDING_OFFSET = 0x3000;
const ERROR_LOG_ENTRIES = 64;
const ASYNC_EVENTS = 4;
const WARNING_TEMPERATURE = 343;
const CRITICAL_TEMPERATURE = 373;
const CRITICAL_WARNING_TEMPERATURE = 0x02;

/**
 * An NVM Express 1.4 controller with the NVM command set; with virtual functions one that manages their migration, as
 * technical proposal 4159 and Base 2.1 have it (8.1.12). Register writes only note what is to be done; commands are
 * fetched, executed and completed after the access that rang the doorbell was answered.
 */
export class NvmeController
  implements DeviceModel, BarHandler, AdminHost, IoHost, FeatureHost, EngineHost, MigratableHost
{
  readonly identity: ControllerIdentity;
  readonly namespaces: ReadonlyMap<number, NvmeNamespace>;
  readonly changedNamespaces = new Set<number>();
  readonly health: NvmeHealth;
  readonly errors: ErrorLog;
  readonly events: AsyncEvents;
  readonly features: NvmeFeatures;
  readonly transfer: PrpTransfer;
  readonly maxEntries: number;
  readonly maxTransfer: number;
  readonly vectors: number;
  readonly maxQueues: number;
  readonly hasCache: boolean;
  readonly warningTemperature = WARNING_TEMPERATURE;
  readonly asyncEvents = ASYNC_EVENTS;
  readonly registers = new ControllerRegisters();
  readonly engine: QueueEngine;
  readonly dma: TrackedDma;
  readonly controllerId: number;
  readonly migratable: Migratable;
  /** Manages the migration of the virtual functions' controllers. */
  readonly manager: MigrationManager | undefined;
  /** Makes admin commands go wrong, by opcode and dword 10. Not in the specification: for tests of those who send them. */
  adminFault: ((opcode: number, dword10: number) => AdminFault | undefined) | undefined;
  /** Resets of an enabled controller that no shutdown notification came before. Not in the specification: for tests. */
  abruptResets = 0;
  readonly #ctx: FunctionContext;
  readonly #admin: AdminCommands;
  readonly #io: IoCommands;
  readonly #started: number;
  readonly #primary: NvmeController | undefined;
  #criticalWarning = 0;
  /** Counts resets: a shutdown that was asked for before one ends unseen. */
  #epoch = 0;
  #resetting = false;
  #removed = false;

  /** @param primary the controller of the physical function, for one of a virtual function
   * @throws EINVAL for options outside their ranges. */
  constructor(ctx: FunctionContext, options: NvmeOptions = {}, primary?: NvmeController) {
    const { ioQueues = 8, queueEntries = 1024, mdts = 7, cacheSize = 16 * 0x100000, virtualFunctions = 0 } = options;
    limit('virtualFunctions', virtualFunctions, 0, 127);
    limit('ioQueues', ioQueues, 1, 254);
    limit('queueEntries', queueEntries, 2, 0x10000);
    limit('mdts', mdts, 1, 9);
    this.#ctx = ctx;
    this.#started = ctx.clock.now();
    this.maxQueues = ioQueues;
    this.vectors = ioQueues + 1;
    this.maxEntries = queueEntries;
    this.maxTransfer = 4096 << mdts;
    this.hasCache = cacheSize >= 0x10000;
    const { vendor = 0x1b36, device = 0x0010 } = options;
    ctx.identity({
      vendor,
      device,
      subvendor: 0x1af4,
      subdevice: 0x1100,
      class: PCI_CLASS_STORAGE_EXPRESS,
      revision: 2,
    });
    if (primary === undefined) ctx.intx();
    ctx.bar(0, { size: BAR_SIZE, is64Bit: true, handler: this });
    ctx.pm({ noSoftReset: true });
    ctx.msix({
      vectors: this.vectors,
      table: { bar: 0, offset: TABLE_OFFSET },
      pba: { bar: 0, offset: PENDING_OFFSET },
    });
    ctx.express({ flr: true });
    this.#primary = primary;
    this.controllerId = (ctx.vfIndex ?? -1) + 1;
    this.dma = new TrackedDma(ctx.dma);
    this.transfer = new PrpTransfer(this.dma);
    if (primary === undefined) {
      ctx.aer();
      const serial = options.serial ?? `VFIO${ctx.address.replaceAll(/[^0-9a-f]/g, '')}`;
      const id = fnv1a(serial);
      ctx.dsn((0x525400n << 40n) | BigInt(id));
      const sizes = options.namespaces ?? [{ size: 64 * 0x100000 }];
      this.namespaces = new Map(
        sizes.map((size, index) => [
          index + 1,
          // The OUI 52:54:00, a hash of the serial number, the namespace id: no two drives of a guest are alike.
          new NvmeNamespace(
            index + 1,
            { eui64: (0x525400n << 40n) | (BigInt(id) << 8n) | BigInt((index + 1) & 0xff), ...size },
            cacheSize,
          ),
        ]),
      );
      this.identity = {
        vendor,
        subvendor: 0x1af4,
        serial,
        model: options.model ?? 'VFIO emulated NVMe',
        firmware: options.firmware ?? '1.0',
        subnqn: `nqn.2014-08.org.nvmexpress:uuid:${uuidOf(id)}`,
        controllerId: this.controllerId,
        role: virtualFunctions > 0 ? 'manager' : 'only',
        mdts,
        namespaces: Math.max(1, this.namespaces.size),
        hasCache: this.hasCache,
        capacity: sizes.reduce((sum, { size }) => sum + size, 0),
        errorLogSize: ERROR_LOG_ENTRIES,
        asyncEvents: ASYNC_EVENTS,
        warningTemperature: WARNING_TEMPERATURE,
        criticalTemperature: CRITICAL_TEMPERATURE,
      };
    } else {
      this.namespaces = primary.namespaces;
      this.identity = { ...primary.identity, controllerId: this.controllerId, role: 'managed' };
    }
    this.health = new NvmeHealth(primary === undefined ? options.persistence : undefined);
    this.errors = new ErrorLog(ERROR_LOG_ENTRIES, this.health);
    this.engine = new QueueEngine(ctx, this.dma, this, ioQueues + 1);
    this.features = new NvmeFeatures(this);
    this.features.reset();
    this.events = new AsyncEvents(ASYNC_EVENTS, (command, status) => this.engine.finish(command, status));
    this.#admin = new AdminCommands(this);
    this.#io = new IoCommands(this);
    this.migratable = new Migratable(this);
    this.manager = virtualFunctions > 0 && primary === undefined ? new MigrationManager(this) : undefined;
    primary?.manager?.controllers.set(this.controllerId, this);
    this.#applyCache();
    if (this.manager === undefined) return;
    ctx.ari();
    ctx.sriov({
      totalVfs: virtualFunctions,
      device,
      bars: { 0: { size: BAR_SIZE, is64Bit: true } },
      model: (vf) => new NvmeController(vf, options, this),
    });
  }

  get vfNumber(): number {
    return this.controllerId;
  }

  // What commands and the engine see of the controller.

  get sqs(): (SubmissionQueue | undefined)[] {
    return this.engine.sqs;
  }

  get cqs(): (CompletionQueue | undefined)[] {
    return this.engine.cqs;
  }

  get isRunning(): boolean {
    return (this.registers.csts & (CSTS.RDY | CSTS.CFS)) === CSTS.RDY && !this.#resetting && !this.#removed;
  }

  get isAccepting(): boolean {
    return this.isRunning && (this.registers.csts & CSTS.SHST_MASK) === 0;
  }

  execute(command: NvmeCommand, isAdmin: boolean): number | Promise<number> {
    if (!isAdmin) return this.#io.execute(command);
    const fault = this.adminFault?.(command.opcode, command.dword(10));
    return fault === undefined ? this.#admin.execute(command) : this.#executeFaulty(command, fault);
  }

  #executeFaulty(command: NvmeCommand, fault: AdminFault): number | Promise<number> {
    if (fault === 'dies') {
      this.fatal();
      return HELD;
    }
    if (fault === 'stalls') return HELD;
    if (fault === 'is not answered') {
      const status = this.#admin.execute(command);
      return typeof status === 'number' ? HELD : status.then(() => HELD);
    }
    if (fault.status !== undefined) return fault.status;
    this.transfer.alter = fault.output;
    const done = (status: number): number => {
      this.transfer.alter = undefined;
      command.result = fault.result?.(command.result) ?? command.result;
      return status;
    };
    const status = this.#admin.execute(command);
    return typeof status === 'number' ? done(status) : status.then(done);
  }

  /** Nothing more can be told but that (CSTS.CFS). */
  fatal(): void {
    this.registers.csts |= CSTS.CFS;
  }

  drained(): void {
    this.#settle();
  }

  get allocatedSqs(): number {
    return (this.features.value(FEATURE.NUMBER_OF_QUEUES) & 0xffff) + 1;
  }

  get allocatedCqs(): number {
    return (this.features.value(FEATURE.NUMBER_OF_QUEUES) >>> 16) + 1;
  }

  get hasQueues(): boolean {
    return (
      this.sqs.some((sq, id) => id > 0 && sq !== undefined) || this.cqs.some((cq, id) => id > 0 && cq !== undefined)
    );
  }

  get entrySizesValid(): boolean {
    return (
      ((this.registers.cc >> CC.IOSQES_SHIFT) & 0xf) === SQE_SHIFT &&
      ((this.registers.cc >> CC.IOCQES_SHIFT) & 0xf) === CQE_SHIFT
    );
  }

  get criticalWarning(): number {
    return this.#criticalWarning;
  }

  get powerOnHours(): number {
    return Math.floor((this.#ctx.clock.now() - this.#started) / 3_600_000);
  }

  get saved(): Record<string, number> {
    return this.health.features;
  }

  get namespaceIds(): Iterable<number> {
    return this.namespaces.keys();
  }

  isActive(nsid: number): boolean {
    return this.namespaces.has(nsid);
  }

  save(): void {
    this.health.save();
  }

  changed(nsid: number, start: number, blocks: number, isDeallocated: boolean): void {
    this.#primary?.manager?.changed(this.controllerId, { nsid, range: { start, blocks, isDeallocated } });
  }

  formatted(nsid: number): void {
    this.#primary?.manager?.changed(this.controllerId, { nsid });
  }

  missing(nsid: number): number {
    return nsid >= 1 && nsid <= this.identity.namespaces ? STATUS.INVALID_FIELD : STATUS.INVALID_NAMESPACE;
  }

  apply(feature: number, value: number): number | Promise<number> {
    if (feature === FEATURE.TEMPERATURE_THRESHOLD) this.#checkTemperature();
    if (feature !== FEATURE.VOLATILE_WRITE_CACHE) return STATUS.SUCCESS;
    this.#applyCache();
    // Switched off, what it holds goes to the media before the command completes (5.21.1.6).
    return value === 0 ? this.writeBack() : STATUS.SUCCESS;
  }

  queuesChanged(): void {
    this.engine.updateIntx();
  }

  // What the migration of the controller needs of it.

  get isResetting(): boolean {
    return this.#resetting;
  }

  stop(): void {
    this.#epoch += 1;
    this.#resetting = false;
    this.engine.stop();
  }

  adopted(): void {
    if ((this.registers.csts & CSTS.RDY) !== 0) this.health.enabled();
    this.#applyCache();
    this.#checkTemperature();
    if ((this.registers.csts & CSTS.SHST_MASK) === CSTS.SHST_OCCURRING) this.#beginShutdown();
  }

  resumed(): void {
    this.#ctx.defer(this.#settle);
  }

  /** Sets the composite temperature in kelvin, as a test makes weather. */
  setTemperature(kelvin: number): void {
    this.health.temperature = kelvin;
    this.#checkTemperature();
  }

  /** Whether anything written would be lost with power now. */
  get isDirty(): boolean {
    return [...this.namespaces.values()].some((namespace) => namespace.cache.isDirty);
  }

  // Registers.

  read(offset: number, width: AccessWidth): number {
    const word = this.#readRegister(offset & ~3);
    if (width === 4) return word;
    return (word >>> (8 * (offset & 3))) & (width === 2 ? 0xffff : 0xff);
  }

  write(offset: number, width: AccessWidth, value: number): void {
    // Registers are accessed in their native width or as aligned dwords (3.1); others have no defined effect.
    if (width !== 4) return;
    switch (offset) {
      case REG.INTMS:
        this.engine.mask |= value;
        this.engine.updateIntx();
        break;
      case REG.INTMC:
        this.engine.mask &= ~value;
        this.engine.updateIntx();
        break;
      case REG.CC:
        this.#writeConfiguration(value);
        break;
      case REG.AQA:
        if ((this.registers.cc & CC.EN) === 0) this.registers.aqa = value & 0x0fff0fff;
        break;
      case REG.ASQ:
      case REG.ASQ_HIGH:
        if ((this.registers.cc & CC.EN) === 0)
          this.registers.asq[(offset - REG.ASQ) >> 2] = offset === REG.ASQ ? value & ~0xfff : value;
        break;
      case REG.ACQ:
      case REG.ACQ_HIGH:
        if ((this.registers.cc & CC.EN) === 0)
          this.registers.acq[(offset - REG.ACQ) >> 2] = offset === REG.ACQ ? value & ~0xfff : value;
        break;
      default:
        if (offset >= REG.DOORBELLS && offset < TABLE_OFFSET) this.engine.ring((offset - REG.DOORBELLS) >> 2, value);
    }
  }

  reset(kind: ResetKind): void {
    if (kind === 'power') {
      if (this.#primary === undefined) for (const namespace of this.namespaces.values()) namespace.cache.lose();
      this.health.powerLost();
      this.health.save();
      this.errors.clear();
    } else this.#countAbruptReset();
    this.#stop();
    this.registers.clear();
    this.#resetting = false;
    this.engine.mask = 0;
  }

  busMaster(enabled: boolean): void {
    if (enabled) this.engine.schedule();
  }

  removed(): void {
    this.#removed = true;
    this.#stop();
    this.health.save();
    this.#primary?.manager?.remove(this.controllerId);
    if (this.#primary !== undefined) return;
    // Pulled out: what was not flushed is gone, as with power.
    for (const namespace of this.namespaces.values()) {
      namespace.cache.lose();
      namespace.store.close?.();
    }
  }

  #readRegister(offset: number): number {
    switch (offset) {
      case REG.CAP:
        // MQES, contiguous queues required, 20 x 500 ms to become ready.
        return (this.maxEntries - 1) | 0x10000 | (20 << 24);
      case REG.CAP_HIGH:
        // Doorbell stride 4 bytes, NVM command set, pages of 4 KiB to 64 KiB.
        return 0x20 | (4 << 20);
      case REG.VS:
        return NVME_VERSION;
      case REG.INTMS:
      case REG.INTMC:
        return this.engine.mask;
      case REG.CC:
        return this.registers.cc;
      case REG.CSTS:
        return this.registers.csts;
      case REG.AQA:
        return this.registers.aqa;
      case REG.ASQ:
      case REG.ASQ_HIGH:
        return this.registers.asq[(offset - REG.ASQ) >> 2] ?? 0;
      case REG.ACQ:
      case REG.ACQ_HIGH:
        return this.registers.acq[(offset - REG.ACQ) >> 2] ?? 0;
      default:
        return 0;
    }
  }

  #writeConfiguration(value: number): void {
    const before = this.registers.cc;
    const wasEnabled = (before & CC.EN) !== 0;
    let next = value & CC.ALL;
    if (wasEnabled && (next & CC.EN) !== 0) next = (next & ~CC.FIXED) | (before & CC.FIXED);
    this.registers.cc = next;
    const isEnabled = (next & CC.EN) !== 0;
    if (wasEnabled && !isEnabled) {
      this.#countAbruptReset();
      this.#stop();
      this.#resetting = true;
      this.#ctx.defer(this.#settle);
    } else if (!wasEnabled && isEnabled) {
      this.registers.csts &= ~CSTS.SHST_MASK;
      this.#ctx.defer(this.#settle);
    }
    const notified = next & CC.SHN_MASK;
    if ((notified === CC.SHN_NORMAL || notified === CC.SHN_ABRUPT) && (this.registers.csts & CSTS.SHST_MASK) === 0) {
      this.registers.csts |= CSTS.SHST_OCCURRING;
      this.#beginShutdown();
    }
  }

  #beginShutdown(): void {
    const epoch = this.#epoch;
    this.#ctx.defer(() => this.#shutDown(epoch));
  }

  /** Carries out what CC asks for, once nothing of the time before is under way. */
  readonly #settle = (): void => {
    if (this.engine.isBusy || this.#removed) return;
    if (this.#resetting) {
      this.#resetting = false;
      this.registers.csts = 0;
      this.engine.mask = 0;
    }
    // Whether a suspended controller becomes ready is its own to say (Base 2.1, 5.1.17.1.1): this one does when it goes on.
    if (this.engine.isSuspended) return;
    if ((this.registers.cc & CC.EN) !== 0 && (this.registers.csts & (CSTS.RDY | CSTS.CFS)) === 0) this.#enable();
  };

  #enable(): void {
    const { asqAddress: asq, acqAddress: acq, adminSqSize: sqSize, adminCqSize: cqSize } = this.registers;
    const pageSize = pageSizeOf(this.registers.cc);
    const isValid =
      pageSize <= 0x10000 &&
      (this.registers.cc & (CC.CSS_MASK | CC.AMS_MASK)) === 0 &&
      sqSize >= 2 &&
      cqSize >= 2 &&
      asq % pageSize === 0 &&
      acq % pageSize === 0;
    if (!isValid) {
      this.registers.csts |= CSTS.CFS;
      return;
    }
    this.transfer.pageSize = pageSize;
    const cq = new CompletionQueue(0, acq, cqSize, 0, true);
    this.cqs[0] = cq;
    this.sqs[0] = new SubmissionQueue(0, asq, sqSize, cq);
    this.features.reset();
    this.#applyCache();
    this.health.enabled();
    this.registers.csts |= CSTS.RDY;
  }

  #stop(): void {
    this.stop();
    this.manager?.reset();
    this.#primary?.manager?.forget(this.controllerId);
  }

  #countAbruptReset(): void {
    if ((this.registers.cc & CC.EN) !== 0 && (this.registers.csts & CSTS.SHST_MASK) !== CSTS.SHST_COMPLETE)
      this.abruptResets += 1;
  }

  #shutDown(epoch: number): void {
    if (epoch !== this.#epoch) return;
    const done = (status: number): void => {
      // A store that fails leaves the notification unanswered: the host's time-out tells it.
      if (epoch !== this.#epoch || status !== STATUS.SUCCESS) return;
      this.health.shutDown();
      this.registers.csts = (this.registers.csts & ~CSTS.SHST_MASK) | CSTS.SHST_COMPLETE;
    };
    const status = this.writeBack();
    if (typeof status === 'number') done(status);
    else void status.then(done);
  }

  /** Makes what the caches hold durable. */
  writeBack(): number | Promise<number> {
    return this.#io.flush([...this.namespaces.values()]);
  }

  /** The caches are the namespaces': one controller of theirs that wants none is enough. */
  #applyCache(): void {
    const primary = this.#primary ?? this;
    const all = [primary, ...(primary.manager?.controllers.values() ?? [])];
    const enabled = this.hasCache && all.every(({ features }) => features.value(FEATURE.VOLATILE_WRITE_CACHE) === 1);
    for (const namespace of this.namespaces.values()) namespace.cache.enabled = enabled;
  }

  #checkTemperature(): void {
    const { temperature } = this.health;
    const over = this.features.value(FEATURE.TEMPERATURE_THRESHOLD, 0);
    const under = this.features.value(FEATURE.TEMPERATURE_THRESHOLD, 1);
    const before = this.#criticalWarning;
    this.#criticalWarning = temperature >= over || temperature <= under ? CRITICAL_WARNING_TEMPERATURE : 0;
    const isNew = before === 0 && this.#criticalWarning !== 0;
    if (isNew && (this.features.value(FEATURE.ASYNC_EVENT) & CRITICAL_WARNING_TEMPERATURE) !== 0) {
      this.events.raise(EVENT.TYPE_SMART, EVENT.SMART_TEMPERATURE, LOG.SMART);
      this.engine.signalAll();
    }
  }
}

function limit(what: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most)
    throw errnoError('EINVAL', `NVMe ${what} ${value}: ${least} to ${hex(most)} is allowed`);
}

/** A 32-bit hash of a text (FNV-1a): the same drive has the same ids in every process. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

function uuidOf(id: number): string {
  const digits = id.toString(16).padStart(8, '0');
  return `${digits}-7666-8f69-8e76-6d65${digits}`;
}
