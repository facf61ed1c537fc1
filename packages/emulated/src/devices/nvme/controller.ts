import type { AccessWidth } from '@vfio/core';
import { errnoError, hex, PCI_CLASS_STORAGE_EXPRESS } from '@vfio/uapi';
import type { ResetKind } from '../../config/config-space.js';
import type { BarHandler } from '../../host/bar.js';
import type { DeviceModel, FunctionContext } from '../../model.js';
import { AdminCommands, type AdminHost } from './admin.js';
import { NvmeCommand } from './command.js';
import { CC, CQE_SHIFT, CSTS, EVENT, FEATURE, LOG, NVME_VERSION, REG, SQE_SHIFT } from './constants.js';
import { AsyncEvents } from './events.js';
import { type FeatureHost, NvmeFeatures } from './features.js';
import { NvmeHealth, type NvmePersistence } from './health.js';
import type { ControllerIdentity } from './identify.js';
import { IoCommands, type IoHost } from './io.js';
import { ErrorLog } from './logs.js';
import { NvmeNamespace, type NvmeNamespaceOptions } from './namespace.js';
import { type Completion, CompletionQueue, SubmissionQueue } from './queues.js';
import { HELD, MORE, STATUS } from './status.js';
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
}

const BAR_SIZE = 0x4000;
const TABLE_OFFSET = 0x2000;
const PENDING_OFFSET = 0x3000;
/** Commands per turn, before other work of the thread has one. */
const BUDGET = 64;
/** Entries that one fetch takes. */
const BATCH = 16;
/** Commands of one queue that may wait for memory that is reached by messages. */
const IN_FLIGHT = 64;
const ERROR_LOG_ENTRIES = 64;
const ASYNC_EVENTS = 4;
const WARNING_TEMPERATURE = 343;
const CRITICAL_TEMPERATURE = 373;
const CRITICAL_WARNING_TEMPERATURE = 0x02;

/**
 * An NVM Express 1.4 controller with the NVM command set. Register writes only note what is to be done; commands are
 * fetched, executed and completed after the access that rang the doorbell was answered.
 */
export class NvmeController implements DeviceModel, BarHandler, AdminHost, IoHost, FeatureHost {
  readonly identity: ControllerIdentity;
  readonly namespaces: ReadonlyMap<number, NvmeNamespace>;
  readonly changedNamespaces = new Set<number>();
  readonly health: NvmeHealth;
  readonly errors: ErrorLog;
  readonly events: AsyncEvents;
  readonly features: NvmeFeatures;
  readonly transfer: PrpTransfer;
  readonly sqs: (SubmissionQueue | undefined)[];
  readonly cqs: (CompletionQueue | undefined)[];
  readonly maxEntries: number;
  readonly maxTransfer: number;
  readonly vectors: number;
  readonly maxQueues: number;
  readonly hasCache: boolean;
  readonly warningTemperature = WARNING_TEMPERATURE;
  /** Resets of an enabled controller that no shutdown notification came before. Not in the specification: for tests. */
  abruptResets = 0;
  readonly #ctx: FunctionContext;
  readonly #admin: AdminCommands;
  readonly #io: IoCommands;
  readonly #started: number;
  #cc = 0;
  #csts = 0;
  #intms = 0;
  #aqa = 0;
  readonly #asq = new Int32Array(2);
  readonly #acq = new Int32Array(2);
  #criticalWarning = 0;
  #epoch = 0;
  #resetting = false;
  #scheduled = false;
  #removed = false;
  /** Commands that wait for promises, of this enabling or an earlier one. */
  #outstanding = 0;
  #nextQueue = 1;
  readonly #stock: NvmeCommand[] = [];
  readonly #batch = new Uint8Array(BATCH << SQE_SHIFT);
  readonly #entry = new Uint8Array(1 << CQE_SHIFT);
  /** The memory that completions were posted to last, as words: made once, not for each. */
  #words: Int32Array<ArrayBufferLike> = new Int32Array(0);
  readonly #entryView = new DataView(this.#entry.buffer);

  /** @throws EINVAL for options outside their ranges. */
  constructor(ctx: FunctionContext, options: NvmeOptions = {}) {
    const { ioQueues = 8, queueEntries = 1024, mdts = 7, cacheSize = 16 * 0x100000 } = options;
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
    ctx.intx();
    ctx.bar(0, { size: BAR_SIZE, is64Bit: true, handler: this });
    ctx.pm({ noSoftReset: true });
    ctx.msix({
      vectors: this.vectors,
      table: { bar: 0, offset: TABLE_OFFSET },
      pba: { bar: 0, offset: PENDING_OFFSET },
    });
    ctx.express({ flr: true });
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
      controllerId: 0,
      mdts,
      namespaces: Math.max(1, this.namespaces.size),
      hasCache: this.hasCache,
      capacity: sizes.reduce((sum, { size }) => sum + size, 0),
      errorLogSize: ERROR_LOG_ENTRIES,
      asyncEvents: ASYNC_EVENTS,
      warningTemperature: WARNING_TEMPERATURE,
      criticalTemperature: CRITICAL_TEMPERATURE,
    };
    this.health = new NvmeHealth(options.persistence);
    this.errors = new ErrorLog(ERROR_LOG_ENTRIES, this.health);
    this.sqs = new Array<SubmissionQueue | undefined>(ioQueues + 1).fill(undefined);
    this.cqs = new Array<CompletionQueue | undefined>(ioQueues + 1).fill(undefined);
    this.transfer = new PrpTransfer(ctx.dma);
    this.features = new NvmeFeatures(this);
    this.features.reset();
    this.#applyCache();
    this.events = new AsyncEvents(ASYNC_EVENTS, (command, status) => this.#finish(command, status));
    this.#admin = new AdminCommands(this);
    this.#io = new IoCommands(this);
  }

  // What commands see of the controller.

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
    return ((this.#cc >> CC.IOSQES_SHIFT) & 0xf) === SQE_SHIFT && ((this.#cc >> CC.IOCQES_SHIFT) & 0xf) === CQE_SHIFT;
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

  apply(feature: number, value: number): void | Promise<void> {
    if (feature === FEATURE.TEMPERATURE_THRESHOLD) this.#checkTemperature();
    if (feature !== FEATURE.VOLATILE_WRITE_CACHE) return;
    this.#applyCache();
    // Switched off, what it holds goes to the media before the command completes (5.21.1.6).
    if (value === 0) return this.#writeBack();
  }

  queuesChanged(): void {
    this.#updateIntx();
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
        this.#intms |= value;
        this.#updateIntx();
        break;
      case REG.INTMC:
        this.#intms &= ~value;
        this.#updateIntx();
        break;
      case REG.CC:
        this.#writeConfiguration(value);
        break;
      case REG.AQA:
        if ((this.#cc & CC.EN) === 0) this.#aqa = value & 0x0fff0fff;
        break;
      case REG.ASQ:
      case REG.ASQ_HIGH:
        if ((this.#cc & CC.EN) === 0) this.#asq[(offset - REG.ASQ) >> 2] = offset === REG.ASQ ? value & ~0xfff : value;
        break;
      case REG.ACQ:
      case REG.ACQ_HIGH:
        if ((this.#cc & CC.EN) === 0) this.#acq[(offset - REG.ACQ) >> 2] = offset === REG.ACQ ? value & ~0xfff : value;
        break;
      default:
        if (offset >= REG.DOORBELLS && offset < TABLE_OFFSET) this.#ring((offset - REG.DOORBELLS) >> 2, value);
    }
  }

  reset(kind: ResetKind): void {
    if (kind === 'power') {
      for (const namespace of this.namespaces.values()) namespace.cache.lose();
      this.health.powerLost();
      this.health.save();
      this.errors.clear();
    } else this.#countAbruptReset();
    this.#stop();
    this.#cc = 0;
    this.#csts = 0;
    this.#resetting = false;
    this.#intms = 0;
    this.#aqa = 0;
    this.#asq.fill(0);
    this.#acq.fill(0);
  }

  busMaster(enabled: boolean): void {
    if (enabled) this.#schedule();
  }

  removed(): void {
    this.#removed = true;
    this.#stop();
    // Pulled out: what was not flushed is gone, as with power.
    for (const namespace of this.namespaces.values()) {
      namespace.cache.lose();
      namespace.store.close?.();
    }
    this.health.save();
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
        return this.#intms;
      case REG.CC:
        return this.#cc;
      case REG.CSTS:
        return this.#csts;
      case REG.AQA:
        return this.#aqa;
      case REG.ASQ:
      case REG.ASQ_HIGH:
        return this.#asq[(offset - REG.ASQ) >> 2] ?? 0;
      case REG.ACQ:
      case REG.ACQ_HIGH:
        return this.#acq[(offset - REG.ACQ) >> 2] ?? 0;
      default:
        return 0;
    }
  }

  #writeConfiguration(value: number): void {
    const before = this.#cc;
    const wasEnabled = (before & CC.EN) !== 0;
    let next = value & CC.ALL;
    if (wasEnabled && (next & CC.EN) !== 0) next = (next & ~CC.FIXED) | (before & CC.FIXED);
    this.#cc = next;
    const isEnabled = (next & CC.EN) !== 0;
    if (wasEnabled && !isEnabled) {
      this.#countAbruptReset();
      this.#stop();
      this.#resetting = true;
      this.#ctx.defer(this.#settle);
    } else if (!wasEnabled && isEnabled) {
      this.#csts &= ~CSTS.SHST_MASK;
      this.#ctx.defer(this.#settle);
    }
    const notified = next & CC.SHN_MASK;
    if ((notified === CC.SHN_NORMAL || notified === CC.SHN_ABRUPT) && (this.#csts & CSTS.SHST_MASK) === 0) {
      this.#csts |= CSTS.SHST_OCCURRING;
      const epoch = this.#epoch;
      this.#ctx.defer(() => this.#shutDown(epoch));
    }
  }

  /** Carries out what CC asks for, once nothing of the time before is under way. */
  readonly #settle = (): void => {
    if (this.#outstanding > 0 || this.#removed) return;
    if (this.#resetting) {
      this.#resetting = false;
      this.#csts = 0;
      this.#intms = 0;
    }
    if ((this.#cc & CC.EN) !== 0 && (this.#csts & (CSTS.RDY | CSTS.CFS)) === 0) this.#enable();
  };

  #enable(): void {
    const shift = 12 + ((this.#cc & CC.MPS_MASK) >> CC.MPS_SHIFT);
    const pageSize = 2 ** shift;
    const asq = address(this.#asq);
    const acq = address(this.#acq);
    const sqSize = (this.#aqa & 0xfff) + 1;
    const cqSize = ((this.#aqa >>> 16) & 0xfff) + 1;
    const isValid =
      shift <= 16 &&
      (this.#cc & (CC.CSS_MASK | CC.AMS_MASK)) === 0 &&
      sqSize >= 2 &&
      cqSize >= 2 &&
      asq % pageSize === 0 &&
      acq % pageSize === 0;
    if (!isValid) {
      this.#csts |= CSTS.CFS;
      return;
    }
    this.transfer.pageSize = pageSize;
    const cq = new CompletionQueue(0, acq, cqSize, 0, true);
    this.cqs[0] = cq;
    this.sqs[0] = new SubmissionQueue(0, asq, sqSize, cq);
    this.features.reset();
    this.#applyCache();
    this.health.enabled();
    this.#csts |= CSTS.RDY;
  }

  /** Everything stops where it is: queues are gone, commands are forgotten, the pin is quiet. */
  #stop(): void {
    this.#epoch += 1;
    this.#stock.push(...this.events.reset());
    this.sqs.fill(undefined);
    this.cqs.fill(undefined);
    this.#words = new Int32Array(0);
    this.#ctx.irq.setIntx(false);
  }

  #countAbruptReset(): void {
    if ((this.#cc & CC.EN) !== 0 && (this.#csts & CSTS.SHST_MASK) !== CSTS.SHST_COMPLETE) this.abruptResets += 1;
  }

  #shutDown(epoch: number): void {
    if (epoch !== this.#epoch) return;
    const done = (): void => {
      if (epoch !== this.#epoch) return;
      this.health.shutDown();
      this.#csts = (this.#csts & ~CSTS.SHST_MASK) | CSTS.SHST_COMPLETE;
    };
    // A store that fails leaves the notification unanswered: the host's time-out tells it.
    const wait = this.#writeBack();
    if (wait === undefined) done();
    else wait.then(done, () => {});
  }

  #writeBack(): void | Promise<void> {
    const waits: Promise<void>[] = [];
    for (const namespace of this.namespaces.values()) {
      namespace.cache.writeBack();
      const wait = namespace.store.flush();
      if (wait !== undefined) waits.push(wait);
    }
    if (waits.length > 0) return Promise.all(waits).then(() => undefined);
  }

  #applyCache(): void {
    const enabled = this.hasCache && this.features.value(FEATURE.VOLATILE_WRITE_CACHE) === 1;
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
      this.#signalAll();
    }
  }

  // Doorbells and queues.

  #ring(index: number, value: number): void {
    if ((this.#csts & (CSTS.RDY | CSTS.CFS | CSTS.SHST_MASK)) !== CSTS.RDY || this.#resetting) return;
    const id = index >> 1;
    const isCompletion = (index & 1) !== 0;
    const queue = isCompletion ? this.cqs[id] : this.sqs[id];
    if (queue === undefined) {
      this.#doorbellError(EVENT.ERROR_INVALID_DOORBELL);
      return;
    }
    const entry = value >>> 0;
    const from = isCompletion ? queue.head : queue.tail;
    const moved = entry >= from ? entry - from : entry + queue.size - from;
    // Not more than was posted can be consumed, and not more added than there is room for.
    const most = queue instanceof CompletionQueue ? queue.unread : queue.size - 1 - queue.waiting;
    if (entry >= queue.size || moved > most) {
      this.#doorbellError(EVENT.ERROR_INVALID_DOORBELL_VALUE);
      return;
    }
    if (isCompletion) {
      queue.head = entry;
      this.#updateIntx();
    } else queue.tail = entry;
    this.#schedule();
  }

  #doorbellError(info: number): void {
    // Told by an event, whose completion is posted later: a register access does no DMA.
    const epoch = this.#epoch;
    this.#ctx.defer(() => {
      if (epoch !== this.#epoch) return;
      this.events.raise(EVENT.TYPE_ERROR, info, LOG.ERROR);
      this.#signalAll();
    });
  }

  #schedule(): void {
    if (this.#scheduled || this.#removed) return;
    this.#scheduled = true;
    this.#ctx.defer(this.#run);
  }

  readonly #run = (): void => {
    this.#scheduled = false;
    if ((this.#csts & (CSTS.RDY | CSTS.CFS)) !== CSTS.RDY || this.#resetting || !this.#ctx.dma.enabled) return;
    for (let id = 0; id < this.cqs.length; id++) {
      const cq = this.cqs[id];
      if (cq !== undefined && cq.backlog.length > 0) this.#drain(cq);
    }
    let budget = BUDGET;
    // The admin queue first, then each I/O queue in turn (round robin, 4.13.1).
    budget -= this.#serve(this.sqs[0]);
    const count = this.sqs.length - 1;
    for (let idle = 0; idle < count && budget > 0; ) {
      const served = this.#serve(this.sqs[this.#nextQueue]);
      this.#nextQueue = this.#nextQueue >= count ? 1 : this.#nextQueue + 1;
      budget -= served;
      idle = served === 0 ? idle + 1 : 0;
    }
    this.#signalAll();
    if (budget <= 0) this.#schedule();
  };

  /** Fetches and executes a batch of one queue; how many commands. */
  #serve(sq: SubmissionQueue | undefined): number {
    if (sq === undefined || sq.deleting || sq.isFetching || sq.waiting === 0) return 0;
    if (sq.inFlight >= IN_FLIGHT || sq.cq.backlog.length > 0) return 0;
    const straight = sq.tail > sq.head ? sq.tail - sq.head : sq.size - sq.head;
    const count = Math.min(straight, BATCH);
    const from = sq.base + (sq.head << SQE_SHIFT);
    const length = count << SQE_SHIFT;
    const epoch = this.#epoch;
    try {
      const local = this.#ctx.dma.view(from, length, false);
      if (local !== undefined) {
        this.#batch.set(local);
        this.#executeBatch(sq, this.#batch, count);
        return count;
      }
      const buffer = new Uint8Array(length);
      const wait = this.#ctx.dma.read(from, buffer);
      if (wait === undefined) {
        this.#executeBatch(sq, buffer, count);
        return count;
      }
      sq.isFetching = true;
      this.#outstanding += 1;
      wait
        .then(
          () => {
            sq.isFetching = false;
            if (epoch === this.#epoch) this.#executeBatch(sq, buffer, count);
          },
          () => {
            sq.isFetching = false;
            if (epoch === this.#epoch) this.#fail();
          },
        )
        .finally(() => {
          if (sq.deleting && sq.isIdle) sq.onIdle?.();
          this.#ended();
        });
    } catch {
      this.#fail();
    }
    return 0;
  }

  #executeBatch(sq: SubmissionQueue, entries: Uint8Array, count: number): void {
    const epoch = this.#epoch;
    for (let i = 0; i < count && epoch === this.#epoch && !sq.deleting; i++) {
      const command = this.#stock.pop() ?? new NvmeCommand();
      const at = i << SQE_SHIFT;
      for (let b = 0; b < 1 << SQE_SHIFT; b++) command.bytes[b] = entries[at + b] ?? 0;
      command.begin(sq, epoch);
      sq.head = sq.head + 1 === sq.size ? 0 : sq.head + 1;
      sq.inFlight += 1;
      const status = sq.id === 0 ? this.#admin.execute(command) : this.#io.execute(command);
      if (typeof status === 'number') {
        if (status !== HELD) {
          this.#finish(command, status);
          continue;
        }
        command.isHeld = true;
        sq.inFlight -= 1;
        this.events.deliver();
        continue;
      }
      this.#outstanding += 1;
      status
        .catch(() => STATUS.INTERNAL_ERROR)
        .then((result) => {
          if (command.epoch === this.#epoch) this.#finish(command, result);
          else this.#stock.push(command);
          this.#ended();
        });
    }
  }

  /** Something that waited has ended. */
  #ended(): void {
    this.#outstanding -= 1;
    if (this.#resetting || (this.#csts & CSTS.RDY) === 0) this.#settle();
    this.#signalAll();
    this.#schedule();
  }

  /** A command is done: its completion is posted, or waits for room. */
  #finish(command: NvmeCommand, status: number): void {
    const { sq } = command;
    if (sq === undefined) return;
    let field = status;
    if (status !== STATUS.SUCCESS && status !== STATUS.ABORT_REQUESTED) {
      this.errors.add({
        sqId: sq.id,
        cid: command.cid,
        status,
        at: command.errorAt,
        lba: command.errorLba,
        nsid: command.nsid,
      });
      field |= MORE;
    }
    if (!command.isHeld) sq.inFlight -= 1;
    this.#post(sq.cq, {
      result: command.result,
      sqId: sq.id,
      sqHead: sq.head,
      cid: command.cid,
      status: field,
    });
    this.#stock.push(command);
    if (sq.deleting && sq.isIdle) sq.onIdle?.();
  }

  #post(cq: CompletionQueue, completion: Completion): void {
    cq.backlog.push(completion);
    this.#drain(cq);
  }

  /** Posts what waits, as far as there is room. The phase bit is stored last. */
  #drain(cq: CompletionQueue): void {
    while (cq.backlog.length > 0 && !cq.isFull && !cq.posting && (this.#csts & CSTS.CFS) === 0) {
      const completion = cq.backlog.shift();
      if (completion === undefined) return;
      const at = cq.base + (cq.tail << CQE_SHIFT);
      const last = completion.cid | (((completion.status << 1) | cq.phase) << 16) | 0;
      cq.tail += 1;
      if (cq.tail === cq.size) {
        cq.tail = 0;
        cq.phase ^= 1;
      }
      const view = this.#entryView;
      view.setUint32(0, completion.result, true);
      view.setUint32(4, 0, true);
      view.setUint32(8, (completion.sqHead | (completion.sqId << 16)) >>> 0, true);
      view.setInt32(12, last, true);
      try {
        const local = this.#ctx.dma.view(at, 1 << CQE_SHIFT, true);
        if (local !== undefined) {
          for (let i = 0; i < 12; i++) local[i] = this.#entry[i] ?? 0;
          this.#storeLast(local, last);
          cq.posted = true;
          continue;
        }
        const epoch = this.#epoch;
        const wait = this.#ctx.dma.write(at, this.#entry.slice());
        if (wait === undefined) {
          cq.posted = true;
          continue;
        }
        cq.posting = true;
        this.#outstanding += 1;
        wait
          .then(
            () => {
              cq.posting = false;
              cq.posted = true;
              if (epoch === this.#epoch) this.#drain(cq);
            },
            () => {
              cq.posting = false;
              if (epoch === this.#epoch) this.#fail();
            },
          )
          .finally(() => this.#ended());
      } catch {
        this.#fail();
      }
    }
  }

  // Interrupts.

  /** One interrupt for each queue that was posted to since the last time. */
  #signalAll(): void {
    for (let id = 0; id < this.cqs.length; id++) {
      const cq = this.cqs[id];
      if (cq === undefined || !cq.posted) continue;
      cq.posted = false;
      if (cq.interrupts) this.#ctx.irq.send(cq.vector);
    }
    this.#updateIntx();
  }

  /** The pin is asserted while a queue holds what the host has not consumed, and is not masked (INTMS). */
  #updateIntx(): void {
    let level = false;
    for (let id = 0; id < this.cqs.length && !level; id++) {
      const cq = this.cqs[id];
      // With pin-based interrupts all queues share the one line, and its mask is bit 0.
      level = cq?.interrupts === true && cq.visible > 0 && (this.#intms & 1) === 0;
    }
    this.#ctx.irq.setIntx(level);
  }

  /** Stores the dword with the phase bit so that nobody who sees it misses what was stored before. */
  #storeLast(entry: Uint8Array, value: number): void {
    const { buffer } = entry;
    const at = entry.byteOffset + 12;
    if ((at & 3) !== 0) {
      // Queues are aligned to pages; only a mapping that is not even to dwords comes here.
      new DataView(buffer, at, 4).setInt32(0, value, true);
      return;
    }
    if (this.#words.buffer !== buffer) this.#words = new Int32Array(buffer, 0, buffer.byteLength >> 2);
    Atomics.store(this.#words, at >> 2, isLittleEndian ? value : swap(value));
  }

  /** Queue memory cannot be reached: nothing more can be told but this (CSTS.CFS). */
  #fail(): void {
    this.#csts |= CSTS.CFS;
  }
}

const isLittleEndian = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;

function swap(value: number): number {
  return ((value & 0xff) << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | ((value >>> 24) & 0xff);
}

function address(halves: Int32Array): number {
  return ((halves[1] ?? 0) >>> 0) * 0x100000000 + ((halves[0] ?? 0) >>> 0);
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
