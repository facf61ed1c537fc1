import type { AccessWidth } from '@vfio/core';
import type { BarHandler } from '../../host/bar.js';
import type { FunctionContext } from '../../model.js';
import { TrackedDma } from '../tracked-dma.js';
import type { Capabilities } from './capabilities.js';
import { CommandError, SYNDROME } from './command.js';
import { CommandQueue } from './command-queue.js';
import type { CompletionQueue } from './completion-queue.js';
import { ADAPTER_PAGE, EVENT, STATUS } from './constants.js';
import type { DeviceMemory } from './device-memory.js';
import { ENGINE, type Engine } from './engine.js';
import { EventQueue, type EventQueueShape } from './event-queue.js';
import type { Firmware } from './firmware.js';
import type { FunctionRecord } from './function-record.js';
import { readResources, writeResources } from './hca-image.js';
import { InitSegment, NIC_INTERFACE, type SegmentOwner } from './init-segment.js';
import type { MemoryKey } from './memory-key.js';
import type { PageSupply } from './page-supply.js';
import type { PageTracker } from './page-tracker.js';
import type { QueuePair } from './queue-pair.js';
import { ResourceTable } from './resources.js';
import type { VhcaMigration } from './vhca-migration.js';

/** The first page of BAR 0 that is a user access region; before it lie the initialization segment and MSI-X. */
export const FIRST_UAR = 16;

/** Doorbells in a user access region (UAR). */
const UAR = { CQ: 0x20, CQ_NUMBER: 0x24, EQ_ARM: 0x40, EQ_UPDATE: 0x48 } as const;

/** How far a function has come. */
export type Phase = 'disabled' | 'enabled' | 'initialized';

/** What a virtual function has of its own. */
export interface VirtualParts {
  readonly memory: DeviceMemory;
  readonly engine: Engine;
  readonly migration: VhcaMigration;
}

/** One function as the firmware knows it: registers, command queue, pages and resources. */
export class HcaFunction implements BarHandler, SegmentOwner {
  readonly record: FunctionRecord;
  readonly ctx: FunctionContext;
  readonly dma: TrackedDma;
  readonly firmware: Firmware;
  readonly segment: InitSegment;
  readonly eventQueues: ResourceTable<EventQueue>;
  readonly completionQueues: ResourceTable<CompletionQueue>;
  readonly queuePairs: ResourceTable<QueuePair>;
  readonly memoryKeys: ResourceTable<MemoryKey>;
  readonly protectionDomains: ResourceTable<true>;
  readonly uars: ResourceTable<true>;
  readonly trackers: ResourceTable<PageTracker>;
  readonly #queue: CommandQueue;
  phase: Phase = 'disabled';
  issi = 0;
  /** What software calls itself (SET_DRIVER_VERSION). */
  driverVersion = '';
  /** Undefined on the physical function. */
  virtual: VirtualParts | undefined;
  #epoch = 0;
  /** Slots whose doorbell rang while commands were held; undefined where they are not held. */
  #held: number | undefined;
  #idle: (() => void)[] = [];
  /** The first half of a completion queue's doorbell. */
  #cqDoorbell = 0;

  constructor(ctx: FunctionContext, firmware: Firmware, record: FunctionRecord, barSize: number) {
    this.ctx = ctx;
    this.dma = new TrackedDma(ctx.dma);
    this.firmware = firmware;
    this.record = record;
    this.segment = new InitSegment(
      this,
      firmware.version,
      ctx.clock,
      this.capabilities.general('device_frequency_khz'),
    );
    this.#queue = new CommandQueue(this.dma, (input, output, slot) => firmware.execute(this, input, output, slot));
    const { capabilities } = this;
    const uarEnd = (record.id === 0 ? barSize : ENGINE.BASE) / ADAPTER_PAGE;
    this.eventQueues = new ResourceTable('event queue', 1, capabilities.general('max_num_eqs') + 1);
    this.completionQueues = new ResourceTable('completion queue', 1, 2 ** capabilities.general('log_max_cq'));
    this.queuePairs = new ResourceTable('queue pair', 1, 2 ** capabilities.general('log_max_qp'));
    this.memoryKeys = new ResourceTable('memory key', 1, 2 ** capabilities.general('log_max_mkey'));
    this.protectionDomains = new ResourceTable('protection domain', 1, 2 ** capabilities.general('log_max_pd'));
    this.uars = new ResourceTable('user access region', FIRST_UAR, uarEnd);
    const trackers =
      capabilities.general('adv_virtualization') === 1 ? capabilities.advVirtualization('pg_track_log_max_num') : 0;
    this.trackers = new ResourceTable('page tracker', 1, 2 ** trackers);
  }

  get id(): number {
    return this.record.id;
  }

  get vhcaId(): number {
    return this.record.vhcaId;
  }

  get capabilities(): Capabilities {
    return this.record.capabilities;
  }

  get pages(): PageSupply {
    return this.record.pages;
  }

  /** Counts resets: what was started before one ends without effect. */
  get epoch(): number {
    return this.#epoch;
  }

  get isInitializing(): boolean {
    return !this.record.isAdmitted;
  }

  // BAR 0.

  read(offset: number, width: AccessWidth): number {
    if (offset < FIRST_UAR * ADAPTER_PAGE) return this.segment.read(offset, width);
    const engine = this.virtual?.engine;
    return engine !== undefined && offset >= ENGINE.BASE ? engine.read(offset - ENGINE.BASE, width) : 0;
  }

  write(offset: number, width: AccessWidth, value: number): void {
    const { virtual } = this;
    // Stopped as a responder: its state may be on its way, nothing may change it.
    if (virtual?.migration.isStopped === true) return;
    if (offset < FIRST_UAR * ADAPTER_PAGE) this.segment.write(offset, width, value);
    else if (virtual !== undefined && offset >= ENGINE.BASE) virtual.engine.write(offset - ENGINE.BASE, width, value);
    else if (width === 4) this.#uarWritten(Math.floor(offset / ADAPTER_PAGE), offset % ADAPTER_PAGE, value);
  }

  doorbell(slots: number): void {
    const { queueAddress } = this.segment;
    // Without a queue or with the interface disabled nobody looks.
    if (queueAddress === undefined || this.isInitializing || this.segment.nicInterface !== NIC_INTERFACE.FULL) return;
    if (this.#held !== undefined) {
      this.#held |= slots;
      return;
    }
    const epoch = this.#epoch;
    for (let slot = 0; slot < 1 << this.segment.logQueueSize; slot++)
      if ((slots & (1 << slot)) !== 0) this.ctx.defer(() => void this.#runSlot(queueAddress, slot, epoch));
  }

  interfaceWritten(state: number): void {
    if (state === NIC_INTERFACE.SOFTWARE_RESET) {
      this.reset();
      this.segment.nicInterface = NIC_INTERFACE.DISABLED;
    } else this.segment.nicInterface = state;
  }

  // Life.

  /**
   * The function was reset, or software asked for it. The physical function takes the whole firmware with it; what it
   * lent to a virtual one outlives the reset of that.
   */
  reset(): void {
    this.#restart();
    this.segment.reset();
    if (this.id === 0) this.firmware.forget();
    else {
      this.pages.setPhase('off');
      this.capabilities.reset();
    }
    this.virtual?.engine.reset();
    this.virtual?.memory.clear();
    this.virtual?.migration.reset();
  }

  /** The physical function has cut this one off: nothing of it runs. */
  stop(): void {
    this.#restart();
  }

  /** TEARDOWN_HCA: everything that was created is gone. */
  dropResources(): void {
    for (const tracker of this.trackers.values()) tracker.destroy();
    for (const table of [
      this.trackers,
      this.queuePairs,
      this.completionQueues,
      this.eventQueues,
      this.memoryKeys,
      this.protectionDomains,
      this.uars,
    ])
      table.clear();
  }

  /** Takes no new command; resolves when those that run have ended. */
  async holdCommands(): Promise<void> {
    this.#held ??= 0;
    if (this.#queue.busySlots !== 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  releaseCommands(): void {
    const slots = this.#held ?? 0;
    this.#held = undefined;
    if (slots !== 0) this.doorbell(slots);
  }

  // Moving.

  /** What software has created, as text that does not depend on the order of anything. */
  saveResources(): string {
    return writeResources(this, this.#held ?? 0);
  }

  /** @throws CommandError where this is no such text. */
  loadResources(bytes: Uint8Array): void {
    this.dropResources();
    this.#held = (this.#held ?? 0) | readResources(this, bytes);
  }

  // Resources.

  /** Takes room for a context in software's pages. @throws CommandError (no resources) where there is none. */
  addContext(): void {
    const fits = this.pages.addContext();
    this.firmware.askForPages(this.record);
    if (!fits)
      throw new CommandError(STATUS.NO_RESOURCES, SYNDROME.PAGES_MISSING, 'no page is left for another resource');
  }

  removeContext(): void {
    this.pages.removeContext();
    this.firmware.askForPages(this.record);
  }

  /** Adds a resource that has a context. @throws CommandError where there is no room. */
  create<T>(table: ResourceTable<T>, make: (number: number) => T): number {
    this.addContext();
    try {
      return table.add(make);
    } catch (error) {
      this.removeContext();
      throw error;
    }
  }

  /** Removes such a resource. @throws CommandError where there is none of this number. */
  destroy<T>(table: ResourceTable<T>, number: number): T {
    const entry = table.remove(number);
    this.removeContext();
    return entry;
  }

  createEventQueue(shape: Omit<EventQueueShape, 'number'>): number {
    const number = this.create(
      this.eventQueues,
      (free) => new EventQueue(this.dma, this.ctx.irq, { ...shape, number: free }),
    );
    // There may be something that could not be told before.
    for (const record of this.firmware.records) this.firmware.askForPages(record);
    return number;
  }

  /** The memory behind a key as software names it. @throws CommandError where it is not one of `pd`. */
  memoryKey(key: number, pd?: number): MemoryKey {
    const found = this.memoryKeys.find(key >>> 8);
    if (found === undefined || found.shape.key !== key >>> 0 || (pd !== undefined && found.shape.pd !== pd))
      throw new CommandError(STATUS.BAD_PARAM, SYNDROME.BAD_MKEY, `there is no memory key ${key}`);
    return found;
  }

  // Events.

  /** Tells software of an event, where it has a queue for such. */
  post(type: number, subType: number, fill: (data: DataView) => void): Promise<void> | undefined {
    return this.#queueOf(type)?.post(type, subType, fill);
  }

  /** Whether software has a queue for events of a type. */
  hears(type: number): boolean {
    return this.#queueOf(type) !== undefined;
  }

  #queueOf(type: number): EventQueue | undefined {
    for (const queue of this.eventQueues.values()) if (queue.takes(type)) return queue;
    return undefined;
  }

  #restart(): void {
    this.#epoch++;
    this.#queue.reset();
    this.#held = undefined;
    this.#becomeIdle();
    this.dropResources();
    this.phase = 'disabled';
    this.issi = 0;
  }

  async #runSlot(queueAddress: number, slot: number, epoch: number): Promise<void> {
    const isCurrent = (): boolean => epoch === this.#epoch;
    if (!isCurrent()) return;
    if (this.#held !== undefined) {
      this.#held |= 1 << slot;
      return;
    }
    const checksum = this.capabilities.general('cmdif_checksum');
    // Where the command's end is told is known when it starts: the queue that it creates does not hear of it.
    const queue = this.#queueOf(EVENT.COMMAND);
    const hasEnded = await this.#queue.run(queueAddress, slot, checksum, isCurrent);
    // Nor does one that it destroyed.
    if (hasEnded && queue !== undefined && this.eventQueues.find(queue.shape.number) === queue)
      await queue.post(EVENT.COMMAND, 0, (data) => data.setUint32(0, (1 << slot) >>> 0));
    if (isCurrent() && this.#queue.busySlots === 0) this.#becomeIdle();
  }

  #becomeIdle(): void {
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  #uarWritten(uar: number, offset: number, value: number): void {
    // Big-endian: what comes first is in the low byte.
    const dword = ((value & 0xff) << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24);
    switch (offset) {
      case UAR.CQ:
        this.#cqDoorbell = dword;
        break;
      case UAR.CQ_NUMBER: {
        const queue = this.completionQueues.find(dword & 0xffffff);
        if (queue !== undefined && queue.shape.uar === uar) queue.arm(this.#cqDoorbell & 0xffffff);
        break;
      }
      case UAR.EQ_ARM:
      case UAR.EQ_UPDATE: {
        const queue = this.eventQueues.find(dword >>> 24);
        if (queue !== undefined && queue.shape.uar === uar) queue.doorbell(dword & 0xffffff, offset === UAR.EQ_ARM);
        break;
      }
      default:
    }
  }
}
