import type { AccessWidth } from '@vfio/core';
import type { BarHandler } from '../../host/bar.js';
import type { FunctionContext } from '../../model.js';
import { Capabilities, type CapabilityValues } from './capabilities.js';
import { CommandError, SYNDROME } from './command.js';
import { CommandQueue } from './command-queue.js';
import { ADAPTER_PAGE, EVENT, STATUS } from './constants.js';
import { EventQueue, type EventQueueShape } from './event-queue.js';
import type { Firmware } from './firmware.js';
import { InitSegment, NIC_INTERFACE, type SegmentOwner } from './init-segment.js';
import { type PageNeeds, PageSupply } from './page-supply.js';
import { ResourceTable } from './resources.js';

/** Bytes of BAR 0. */
export const BAR_SIZE = 0x2000000;

/** The first page of BAR 0 that is a user access region; before it lie the initialization segment and MSI-X. */
export const FIRST_UAR = 16;

/** Doorbells in a user access region (UAR). */
const UAR = { EQ_ARM: 0x40, EQ_UPDATE: 0x48 } as const;

/** How far a function has come. */
export type Phase = 'disabled' | 'enabled' | 'initialized';

/** What distinguishes a function of the device. */
export interface HcaShape {
  /** 0: the physical function; n: virtual function n - 1. */
  readonly id: number;
  readonly vhcaId: number;
  readonly capabilities: CapabilityValues;
  readonly pages: PageNeeds;
}

/** One function as the firmware knows it: registers, command queue, pages and resources. */
export class HcaFunction implements BarHandler, SegmentOwner {
  readonly id: number;
  readonly vhcaId: number;
  readonly ctx: FunctionContext;
  readonly firmware: Firmware;
  readonly segment: InitSegment;
  readonly capabilities: Capabilities;
  readonly pages: PageSupply;
  readonly eventQueues: ResourceTable<EventQueue>;
  readonly protectionDomains: ResourceTable<true>;
  readonly uars: ResourceTable<true>;
  readonly #queue: CommandQueue;
  phase: Phase = 'disabled';
  issi = 0;
  /** What software calls itself (SET_DRIVER_VERSION). */
  driverVersion = '';
  /** The physical function has enabled this one; always so for itself. */
  isAdmitted: boolean;
  #epoch = 0;

  constructor(ctx: FunctionContext, firmware: Firmware, shape: HcaShape) {
    this.ctx = ctx;
    this.firmware = firmware;
    this.id = shape.id;
    this.vhcaId = shape.vhcaId;
    this.isAdmitted = shape.id === 0;
    this.capabilities = new Capabilities(shape.capabilities);
    this.pages = new PageSupply(shape.pages);
    this.segment = new InitSegment(
      this,
      firmware.version,
      ctx.clock,
      this.capabilities.general('device_frequency_khz'),
    );
    this.#queue = new CommandQueue(ctx.dma, (input, output, slot) => firmware.execute(this, input, output, slot));
    this.eventQueues = new ResourceTable('event queue', 1, this.capabilities.general('max_num_eqs') + 1);
    this.protectionDomains = new ResourceTable('protection domain', 1, 2 ** this.capabilities.general('log_max_pd'));
    this.uars = new ResourceTable('user access region', FIRST_UAR, BAR_SIZE / ADAPTER_PAGE);
  }

  get address(): string {
    return this.ctx.address;
  }

  /** Counts resets: what was started before one ends without effect. */
  get epoch(): number {
    return this.#epoch;
  }

  get isInitializing(): boolean {
    return !this.isAdmitted;
  }

  // BAR 0.

  read(offset: number, width: AccessWidth): number {
    return offset < FIRST_UAR * ADAPTER_PAGE ? this.segment.read(offset, width) : 0;
  }

  write(offset: number, width: AccessWidth, value: number): void {
    if (offset < FIRST_UAR * ADAPTER_PAGE) this.segment.write(offset, width, value);
    else if (width === 4) this.#uarWritten(Math.floor(offset / ADAPTER_PAGE), offset % ADAPTER_PAGE, value);
  }

  doorbell(slots: number): void {
    const { queueAddress } = this.segment;
    // Without a queue, without power over the bus or with the interface disabled nobody looks.
    if (queueAddress === undefined || this.isInitializing || this.segment.nicInterface !== NIC_INTERFACE.FULL) return;
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

  /** The function was reset, or software asked for it. Its pages are forgotten: they are software's again. */
  reset(): void {
    this.#epoch++;
    this.#queue.reset();
    this.segment.reset();
    this.dropResources();
    this.pages.reset();
    this.capabilities.reset();
    this.phase = 'disabled';
    this.issi = 0;
  }

  /** The physical function has cut this one off: nothing of it runs, its pages stay until they are taken. */
  stop(): void {
    this.#epoch++;
    this.#queue.reset();
    this.dropResources();
    this.pages.setPhase('off');
    this.phase = 'disabled';
  }

  /** TEARDOWN_HCA: everything that was created is gone. */
  dropResources(): void {
    this.eventQueues.clear();
    this.protectionDomains.clear();
    this.uars.clear();
  }

  // Resources.

  /** Takes room for a context in software's pages. @throws CommandError (no resources) where there is none. */
  addContext(): void {
    const fits = this.pages.addContext();
    this.firmware.askForPages(this);
    if (!fits)
      throw new CommandError(STATUS.NO_RESOURCES, SYNDROME.PAGES_MISSING, 'no page is left for another resource');
  }

  removeContext(): void {
    this.pages.removeContext();
    this.firmware.askForPages(this);
  }

  createEventQueue(shape: Omit<EventQueueShape, 'number'>): number {
    this.addContext();
    try {
      const number = this.eventQueues.add((free) => new EventQueue(this.ctx, { ...shape, number: free }));
      for (const fn of this.firmware.functions) this.firmware.askForPages(fn);
      return number;
    } catch (error) {
      this.removeContext();
      throw error;
    }
  }

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

  async #runSlot(queueAddress: number, slot: number, epoch: number): Promise<void> {
    const isCurrent = (): boolean => epoch === this.#epoch;
    if (!isCurrent()) return;
    const checksum = this.capabilities.general('cmdif_checksum');
    // Where the command's end is told is known when it starts: the queue that it creates does not hear of it.
    const queue = this.#queueOf(EVENT.COMMAND);
    if (!(await this.#queue.run(queueAddress, slot, checksum, isCurrent)) || queue === undefined) return;
    // Nor does one that it destroyed.
    if (this.eventQueues.find(queue.shape.number) !== queue) return;
    await queue.post(EVENT.COMMAND, 0, (data) => data.setUint32(0, (1 << slot) >>> 0));
  }

  #uarWritten(uar: number, offset: number, value: number): void {
    if (offset !== UAR.EQ_ARM && offset !== UAR.EQ_UPDATE) return;
    // Big-endian: the queue's number is in the byte that comes first.
    const number = value & 0xff;
    const index = ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24);
    const queue = this.eventQueues.find(number);
    if (queue !== undefined && queue.shape.uar === uar) queue.doorbell(index, offset === UAR.EQ_ARM);
  }
}
