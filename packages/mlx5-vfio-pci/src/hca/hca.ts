import {
  type AllocateMemory,
  callbackTrigger,
  type DmaBuffer,
  DmaPool,
  DMA_PAGE as PAGE,
  plainMemory,
  type VfioDevice,
} from '@vfio/core';
import {
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_MSIX_IRQ_INDEX,
} from '@vfio/uapi';
import { CommandInput } from './bits.js';
import {
  CAP_OUTPUT,
  CAP_START,
  CAP_TYPE,
  type General2Caps,
  type GeneralCaps,
  parseGeneral,
  parseGeneral2,
  parseTracker,
  type TrackerCaps,
} from './capabilities.js';
import { CommandQueue } from './command-queue.js';
import { lost } from './errors.js';
import { EVENT, EventQueue } from './event-queue.js';
import { CMD } from './opcodes.js';
import { REG, Registers } from './registers.js';

/** Revision of the command interface that this driver speaks. */
const CMDIF_REVISION = 5;

/** What MANAGE_PAGES does, and which pages QUERY_PAGES asks about. */
const PAGES = { CANT_GIVE: 0, GIVE: 1, TAKE: 2 } as const;
const PHASE = { BOOT: 1, INIT: 2 } as const;

/** Pages in one MANAGE_PAGES, given or taken. */
const PAGES_AT_ONCE = 512;

/** Doorbells of event queues in a user access region. */
const UAR_EQ_ARM = 0x40;

/** Vectors: commands, pages and errors; completions. */
const VECTOR = { ASYNC: 0, COMPLETION: 1, COUNT: 2 } as const;

const INITIALIZING_POLL_MS = 10;

export interface HcaOptions {
  /** Milliseconds for a command, or for each by its name. @default 60000, as mlx5_core */
  readonly commandTimeoutMs?: number | ((command: string) => number);
  /** Milliseconds for the firmware to become ready. @default 120000 */
  readonly initTimeoutMs?: number;
  /** Memory that the function's DMA may reach. @default plain memory, for functions that are emulated in this process */
  readonly allocate?: AllocateMemory;
  /** Sentences for the log. */
  readonly warn?: (message: string) => void;
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * A physical function as its driver has it: booted, with pages, events and a command queue. What `mlx5_core` is to the
 * kernel's variant driver. One owner at a time.
 */
export class Hca {
  readonly address: string;
  readonly pool: DmaPool;
  readonly caps: GeneralCaps;
  readonly trackerCaps: TrackerCaps | undefined;
  /** Number of a user access region for doorbells. */
  readonly uar: number;
  readonly #device: VfioDevice;
  readonly #registers: Registers;
  readonly #queue: CommandQueue;
  readonly #lent: Map<number, Set<number>>;
  readonly #warn: (message: string) => void;
  readonly #eventQueues: EventQueue[] = [];
  readonly #completions = new Map<number, () => void>();
  /** Virtual functions that were brought to life. */
  readonly #enabled = new Set<number>();
  /** Called once when the function is not to be talked to any more. */
  readonly #goneWatchers = new Set<() => void>();
  #isGone = false;
  /** Requests for pages are answered one after the other. */
  #pageWork: Promise<void> = Promise.resolve();

  private constructor(boot: Boot, caps: GeneralCaps, trackerCaps: TrackerCaps | undefined, uar: number) {
    this.address = boot.address;
    this.pool = boot.pool;
    this.caps = caps;
    this.trackerCaps = trackerCaps;
    this.uar = uar;
    this.#device = boot.device;
    this.#registers = boot.registers;
    this.#queue = boot.queue;
    this.#lent = boot.lent;
    this.#warn = boot.warn;
    this.#queue.onBroken = () => this.#setGone();
  }

  /**
   * Boots an opened physical function.
   *
   * @throws EIO (no ConnectX, another command interface), ETIMEDOUT, what a command answered; everything is undone then.
   */
  static async boot(device: VfioDevice, options: HcaOptions = {}): Promise<Hca> {
    const boot = await Boot.begin(device, options);
    try {
      return await boot
        .finish((caps, tracker, uar) => new Hca(boot, caps, tracker, uar))
        .then(async (hca) => {
          await hca.#startEvents();
          return hca;
        });
    } catch (error) {
      await boot.undo();
      throw error;
    }
  }

  /** Whether the function is not talked to any more. */
  get isGone(): boolean {
    return this.#isGone;
  }

  /** Version of the firmware. */
  get firmwareVersion(): string {
    const revision = this.#registers.read(REG.FW_REV);
    return `${revision & 0xffff}.${revision >>> 16}.${this.#registers.read(REG.CMDIF_REV) & 0xffff}`;
  }

  /** Pages lent to a function: 0 is this one, n virtual function n - 1. */
  lentPages(functionId: number): number {
    return this.#lent.get(functionId)?.size ?? 0;
  }

  /** Carries out a command. @throws see {@link CommandQueue.execute}. */
  execute(name: string, input: CommandInput, outputBytes = 16): Promise<DataView> {
    return this.#queue.execute(name, input.bytes, outputBytes);
  }

  /** Capabilities of another function. */
  async capsOf(functionId: number): Promise<{ general: GeneralCaps; general2: General2Caps | undefined }> {
    const general = parseGeneral(await this.#queryCaps(CAP_TYPE.GENERAL, functionId));
    const general2 = general.hasGeneral2
      ? parseGeneral2(await this.#queryCaps(CAP_TYPE.GENERAL_2, functionId))
      : undefined;
    return { general, general2 };
  }

  /** Lets a virtual function be moved, or not. Takes effect when it is enabled next. */
  async setMigratable(functionId: number, on: boolean): Promise<void> {
    const current = await this.#queryCaps(CAP_TYPE.GENERAL_2, functionId);
    const input = new CommandInput(CMD.SET_HCA_CAP, CAP_OUTPUT, CAP_TYPE.GENERAL_2 << 1).u32(
      8,
      (0x80000000 | functionId) >>> 0,
    );
    input.bytes.set(current, CAP_START);
    const at = CAP_START + 0x10;
    input.bytes[at] = ((input.bytes[at] ?? 0) & 0x7f) | (on ? 0x80 : 0);
    await this.execute('SET_HCA_CAP', input);
  }

  /** Brings a virtual function to life, with the pages that it asks for. */
  async enableFunction(functionId: number): Promise<void> {
    await this.execute('ENABLE_HCA', new CommandInput(CMD.ENABLE_HCA).u32(8, functionId));
    this.#enabled.add(functionId);
    for (const phase of [PHASE.BOOT, PHASE.INIT])
      await lendPages(this.#queue, this.pool, this.#lent, functionId, phase);
  }

  /** Cuts a virtual function off and takes its pages back. */
  async disableFunction(functionId: number): Promise<void> {
    await this.execute('DISABLE_HCA', new CommandInput(CMD.DISABLE_HCA).u32(8, functionId));
    this.#enabled.delete(functionId);
    await takePages(this.#queue, this.pool, this.#lent, functionId);
  }

  async disableFunctions(): Promise<void> {
    for (const functionId of this.#enabled) await this.disableFunction(functionId);
  }

  /** Number of the event queue for completions. */
  get completionEventQueue(): number {
    return this.#eventQueues[1]?.number ?? 0;
  }

  /** Calls back for each completion event of a completion queue. */
  onCompletion(cqn: number, callback: (() => void) | undefined): void {
    if (callback === undefined) this.#completions.delete(cqn);
    else this.#completions.set(cqn, callback);
  }

  /** Rings a doorbell in the user access region. */
  async ring(offset: number, ...values: number[]): Promise<void> {
    for (const [i, value] of values.entries()) await this.#registers.write(this.uar * PAGE + offset + 4 * i, value);
  }

  /** Calls back once when the function is gone: with its driver, or because it does not answer. Called at once where it is. */
  onGone(callback: () => void): () => void {
    if (this.#isGone) callback();
    else this.#goneWatchers.add(callback);
    return () => this.#goneWatchers.delete(callback);
  }

  /** Ends everything in order, and tells who is watching first. */
  async shutdown(): Promise<void> {
    this.#setGone();
    await this.#pageWork;
    this.#queue.usesEvents = false;
    try {
      await this.disableFunctions();
      for (const queue of this.#eventQueues.reverse())
        await this.execute('DESTROY_EQ', new CommandInput(CMD.DESTROY_EQ).u32(8, queue.number));
      await this.execute('DEALLOC_UAR', new CommandInput(CMD.DEALLOC_UAR).u32(8, this.uar));
      await this.execute('TEARDOWN_HCA', new CommandInput(CMD.TEARDOWN_HCA));
      for (const functionId of [...this.#lent.keys()]) await takePages(this.#queue, this.pool, this.#lent, functionId);
      await this.execute('DISABLE_HCA', new CommandInput(CMD.DISABLE_HCA));
    } catch (error) {
      // A function that does not end in order is reset by the close of its device; its pages are safe after that only.
      this.#warn(`no orderly shutdown: ${error instanceof Error ? error.message : String(error)}`);
    }
    this.#device.setIrqs({
      flags: VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
      index: VFIO_PCI_MSIX_IRQ_INDEX,
      start: 0,
      count: 0,
    });
    this.#queue.close(lost('shutdown', 'ENOLINK', 'the driver has let go', this.address));
    await this.pool.close();
  }

  async #startEvents(): Promise<void> {
    const async = new EventQueue(this.pool.page(), (type, data) => this.#asyncEvent(type, data));
    const completions = new EventQueue(this.pool.page(), (_type, data) => {
      this.#completions.get(data.getUint32(24) & 0xffffff)?.();
    });
    const queues = [async, completions];
    this.#device.setIrqs({
      flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
      index: VFIO_PCI_MSIX_IRQ_INDEX,
      start: 0,
      count: VECTOR.COUNT,
      triggers: queues.map((queue) => callbackTrigger(() => this.#interrupt(queue))),
    });
    const asyncEvents = (1 << EVENT.COMMAND) | (1 << EVENT.PAGE_REQUEST) | (1 << EVENT.INTERNAL_ERROR);
    await this.#createEventQueue(async, VECTOR.ASYNC, asyncEvents);
    await this.#createEventQueue(completions, VECTOR.COMPLETION, 0);
    this.#queue.usesEvents = true;
  }

  async #createEventQueue(queue: EventQueue, vector: number, events: number): Promise<void> {
    const input = new CommandInput(CMD.CREATE_EQ, 272 + 8)
      .u32(0x10 + 0x0c, (queue.logSize << 24) | this.uar)
      .u32(0x10 + 0x14, vector)
      .u32(0x5c, events)
      .u64(272, queue.buffer.iova);
    const output = await this.execute('CREATE_EQ', input);
    queue.number = output.getUint32(8) & 0xff;
    this.#eventQueues.push(queue);
    await this.ring(UAR_EQ_ARM, queue.doorbell);
  }

  #interrupt(queue: EventQueue): void {
    if (queue.number === 0) return;
    queue.poll();
    void this.ring(UAR_EQ_ARM, queue.doorbell);
  }

  #asyncEvent(type: number, data: DataView): void {
    if (type === EVENT.COMMAND) this.#queue.completed(data.getUint32(0));
    else if (type === EVENT.PAGE_REQUEST) this.#pagesWanted(data.getUint16(2), data.getInt32(4));
    else if (type === EVENT.INTERNAL_ERROR) {
      this.#warn('the firmware reports an internal error');
      this.#queue.fail(lost('firmware', 'EIO', 'the firmware reports an internal error', this.address));
    }
  }

  /** The firmware wants pages for a function, or offers some back. Not answered inside the event that says so. */
  #pagesWanted(functionId: number, count: number): void {
    this.#pageWork = this.#pageWork.then(async () => {
      try {
        if (count > 0) await givePages(this.#queue, this.pool, this.#lent, functionId, count);
        else await takePages(this.#queue, this.pool, this.#lent, functionId, -count);
      } catch (error) {
        this.#warn(`pages for function ${functionId}: ${error instanceof Error ? error.message : String(error)}`);
      }
    });
  }

  #setGone(): void {
    if (this.#isGone) return;
    this.#isGone = true;
    for (const watcher of this.#goneWatchers) watcher();
    this.#goneWatchers.clear();
  }

  async #queryCaps(type: number, functionId: number): Promise<Uint8Array> {
    const input = new CommandInput(CMD.QUERY_HCA_CAP, 16, (type << 1) | 1).u32(8, (0x80000000 | functionId) >>> 0);
    return structure(await this.execute('QUERY_HCA_CAP', input, CAP_OUTPUT));
  }
}

function structure(output: DataView): Uint8Array {
  return new Uint8Array(output.buffer, output.byteOffset + CAP_START, 4096);
}

/** Everything from a function that was found to one that works, and the way back. */
class Boot {
  readonly address: string;
  readonly device: VfioDevice;
  readonly registers: Registers;
  readonly pool: DmaPool;
  readonly queue: CommandQueue;
  readonly lent = new Map<number, Set<number>>();
  readonly warn: (message: string) => void;
  #phase: 'none' | 'enabled' | 'initialized' = 'none';

  private constructor(
    device: VfioDevice,
    registers: Registers,
    pool: DmaPool,
    queue: CommandQueue,
    options: HcaOptions,
  ) {
    this.address = device.function.address;
    this.device = device;
    this.registers = registers;
    this.pool = pool;
    this.queue = queue;
    this.warn = options.warn ?? (() => {});
  }

  static async begin(device: VfioDevice, options: HcaOptions): Promise<Boot> {
    const { address } = device.function;
    const registers = new Registers(device);
    const revision = registers.read(REG.CMDIF_REV) >>> 16;
    if (revision !== CMDIF_REVISION)
      throw lost('boot', 'EIO', `command interface ${revision}, this driver speaks ${CMDIF_REVISION}`, address);
    await ready(registers, address, options.initTimeoutMs ?? 120_000);
    const pool = new DmaPool(device, options.allocate ?? plainMemory);
    try {
      const { commandTimeoutMs = 60_000 } = options;
      const timeoutMs = typeof commandTimeoutMs === 'function' ? commandTimeoutMs : () => commandTimeoutMs;
      const queue = new CommandQueue(registers, pool, address, { timeoutMs });
      await queue.start();
      await ready(registers, address, options.initTimeoutMs ?? 120_000);
      return new Boot(device, registers, pool, queue, options);
    } catch (error) {
      await pool.close();
      throw error;
    }
  }

  async finish(make: (caps: GeneralCaps, tracker: TrackerCaps | undefined, uar: number) => Hca): Promise<Hca> {
    await this.#run('ENABLE_HCA', new CommandInput(CMD.ENABLE_HCA));
    this.#phase = 'enabled';
    await this.#chooseIssi();
    await lendPages(this.queue, this.pool, this.lent, 0, PHASE.BOOT);
    const general = await this.#queryCaps(CAP_TYPE.GENERAL);
    await lendPages(this.queue, this.pool, this.lent, 0, PHASE.INIT);
    await this.#run('INIT_HCA', new CommandInput(CMD.INIT_HCA, 32));
    this.#phase = 'initialized';
    const caps = parseGeneral(general);
    const tracker = caps.advVirtualization
      ? parseTracker(await this.#queryCaps(CAP_TYPE.ADV_VIRTUALIZATION))
      : undefined;
    const uar = (await this.#run('ALLOC_UAR', new CommandInput(CMD.ALLOC_UAR))).getUint32(8) & 0xffffff;
    return make(caps, tracker, uar);
  }

  /** Back to a function that nobody has touched, as far as it goes along. */
  async undo(): Promise<void> {
    try {
      if (this.#phase === 'initialized') await this.#run('TEARDOWN_HCA', new CommandInput(CMD.TEARDOWN_HCA));
      await takePages(this.queue, this.pool, this.lent, 0);
      if (this.#phase !== 'none') await this.#run('DISABLE_HCA', new CommandInput(CMD.DISABLE_HCA));
    } catch (error) {
      this.warn(`boot was not undone in order: ${error instanceof Error ? error.message : String(error)}`);
    }
    this.queue.close(lost('boot', 'ENOLINK', 'the function did not boot', this.address));
  }

  /** ISSI 1 where there is one. Firmware without the query has 0. */
  async #chooseIssi(): Promise<void> {
    let supported: number;
    try {
      supported = (await this.#run('QUERY_ISSI', new CommandInput(CMD.QUERY_ISSI), 112)).getUint32(0x6c);
    } catch {
      return;
    }
    if ((supported & 2) !== 0) await this.#run('SET_ISSI', new CommandInput(CMD.SET_ISSI).u32(8, 1));
  }

  async #queryCaps(type: number): Promise<Uint8Array> {
    const input = new CommandInput(CMD.QUERY_HCA_CAP, 16, (type << 1) | 1);
    return structure(await this.#run('QUERY_HCA_CAP', input, CAP_OUTPUT));
  }

  #run(name: string, input: CommandInput, outputBytes = 16): Promise<DataView> {
    return this.queue.execute(name, input.bytes, outputBytes);
  }
}

async function ready(registers: Registers, address: string, timeoutMs: number): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (registers.read(REG.INITIALIZING) >>> 31 !== 0) {
    if (Date.now() >= end) throw lost('boot', 'ETIMEDOUT', `not ready within ${timeoutMs} ms`, address);
    await sleep(INITIALIZING_POLL_MS);
  }
}

async function lendPages(
  queue: CommandQueue,
  pool: DmaPool,
  lent: Map<number, Set<number>>,
  functionId: number,
  phase: number,
): Promise<void> {
  const query = new CommandInput(CMD.QUERY_PAGES, 16, phase).u32(8, functionId);
  const output = await queue.execute('QUERY_PAGES', query.bytes, 16, true);
  await givePages(queue, pool, lent, functionId, output.getInt32(12));
}

async function givePages(
  queue: CommandQueue,
  pool: DmaPool,
  lent: Map<number, Set<number>>,
  functionId: number,
  count: number,
): Promise<void> {
  for (let given = 0; given < count; given += PAGES_AT_ONCE) {
    const pages: DmaBuffer[] = Array.from({ length: Math.min(PAGES_AT_ONCE, count - given) }, () => pool.page());
    const input = new CommandInput(CMD.MANAGE_PAGES, 16 + 8 * pages.length, PAGES.GIVE)
      .u32(8, functionId)
      .u32(12, pages.length);
    for (const [i, { iova }] of pages.entries()) input.u64(16 + 8 * i, iova);
    try {
      await queue.execute('MANAGE_PAGES', input.bytes, 16, true);
    } catch (error) {
      for (const { iova } of pages) pool.freePage(iova);
      const cannot = new CommandInput(CMD.MANAGE_PAGES, 16, PAGES.CANT_GIVE).u32(8, functionId);
      await queue.execute('MANAGE_PAGES', cannot.bytes, 16, true).catch(() => undefined);
      throw error;
    }
    const all = lent.get(functionId) ?? new Set();
    for (const { iova } of pages) all.add(iova);
    lent.set(functionId, all);
  }
}

/** Takes back `count` pages, or all; fewer where the firmware still needs some. */
async function takePages(
  queue: CommandQueue,
  pool: DmaPool,
  lent: Map<number, Set<number>>,
  functionId: number,
  count = Number.POSITIVE_INFINITY,
): Promise<void> {
  const mine = lent.get(functionId);
  let left = Math.min(count, mine?.size ?? 0);
  while (mine !== undefined && left > 0) {
    const wanted = Math.min(PAGES_AT_ONCE, left);
    const input = new CommandInput(CMD.MANAGE_PAGES, 16, PAGES.TAKE).u32(8, functionId).u32(12, wanted);
    const output = await queue.execute('MANAGE_PAGES', input.bytes, 16 + 8 * wanted, true);
    const taken = Math.min(output.getUint32(8), wanted);
    if (taken === 0) break;
    for (let i = 0; i < taken; i++) {
      const iova = Number(output.getBigUint64(16 + 8 * i));
      // Only what was lent is ours to use again.
      if (mine.delete(iova)) pool.freePage(iova);
    }
    left -= taken;
  }
  if (mine?.size === 0) lent.delete(functionId);
}
