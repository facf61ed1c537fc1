import {
  type DmaBuffer,
  type IovaRange,
  DMA_PAGE as PAGE,
  type VfioLogOps,
  type VfioPciCoreDevice,
  vfioCombineIovaRanges,
} from '@vfio/core';
import { errnoError } from '@vfio/uapi';
import { allocPd, createMkey, deallocPd, destroyMkey, type Vhca } from './cmd.js';
import { CommandInput } from './hca/bits.js';
import type { TrackerCaps } from './hca/capabilities.js';
import type { Hca } from './hca/hca.js';
import { CMD } from './hca/opcodes.js';

const OBJECT_PAGE_TRACK = 0x46;
const TRACK_TYPE = 1;

/** What the last message of a report says, and those before it. */
const REPORT = { REPORTING: 1, ERROR: 2 } as const;

/** The receive queue takes at least so much, and so many messages. */
const MIN_RECEIVE_BYTES = 0x200000;
const MIN_MESSAGES = 4;

const CQE_BYTES = 64;
const CQE_RECEIVED_SEND_IMMEDIATE = 3;
const WQE_BYTES = 16;
const ENTRY_BYTES = 8;

/** The doorbell of a completion queue in a user access region. */
const UAR_CQ = 0x20;

/** How long a report may be silent. */
const REPORT_TIMEOUT_MS = 60_000;

/** Offsets of two counters in the page of doorbell records. */
const RECORD = { CQ_CONSUMER: 0, CQ_ARM: 4, RQ: 64 } as const;

/** log2, rounded up. */
function log2Ceil(value: bigint): number {
  let log = 0;
  while (1n << BigInt(log) < value) log++;
  return log;
}

/** Dirty tracking by the firmware: what a virtual function writes is reported through a queue pair of the physical one. */
export class Mlx5DirtyLog {
  readonly ops: VfioLogOps<VfioPciCoreDevice> = {
    logStart: (dev, ranges, pageSize) => this.#start(dev, ranges, pageSize),
    logStop: () => this.#stop(),
    logReadAndClear: (dev, range, dirty) => this.#report(dev, range, dirty),
  };
  readonly #vhca: Vhca;
  readonly #caps: TrackerCaps;
  #tracker: Tracker | undefined;
  #detached = false;

  constructor(vhca: Vhca, caps: TrackerCaps) {
    this.#vhca = vhca;
    this.#caps = caps;
  }

  detach(): void {
    this.#detached = true;
    this.#tracker = undefined;
  }

  async #start(dev: VfioPciCoreDevice, ranges: readonly IovaRange[], pageSize: bigint): Promise<bigint> {
    this.#checkAttached(dev);
    if (this.#tracker !== undefined) throw dev.error('EINVAL', 'DMA_LOGGING_START', 'logging has been started already');
    const log = Math.min(Math.max(log2Ceil(pageSize), this.#caps.logMinPage), this.#caps.logMaxPage);
    this.#tracker = await Tracker.start(
      this.#vhca,
      this.#caps,
      vfioCombineIovaRanges(ranges, this.#caps.maxRanges),
      log,
    );
    return 1n << BigInt(log);
  }

  async #stop(): Promise<void> {
    const tracker = this.#tracker;
    this.#tracker = undefined;
    await tracker?.stop();
  }

  async #report(
    dev: VfioPciCoreDevice,
    range: IovaRange,
    dirty: (iova: bigint, length: bigint) => void,
  ): Promise<void> {
    const tracker = this.#tracker;
    if (tracker === undefined && !this.#detached)
      throw dev.error('EINVAL', 'DMA_LOGGING_REPORT', 'logging has not been started');
    this.#checkAttached(dev);
    await tracker?.report(range, dirty);
  }

  #checkAttached(dev: VfioPciCoreDevice): void {
    if (this.#detached) throw dev.error('ENOTCONN', 'DMA_LOGGING', 'the physical function is gone');
  }
}

/** A page tracker with the queues through which it reports. */
class Tracker {
  readonly #hca: Hca;
  readonly #pageSize: bigint;
  readonly #messageBytes: number;
  readonly #messages: number;
  readonly #undo: (() => Promise<unknown>)[] = [];
  #records!: DmaBuffer;
  #completions!: DmaBuffer;
  #receives!: DmaBuffer;
  #data!: DmaBuffer;
  #key = 0;
  #cqn = 0;
  #object = 0;
  #consumed = 0;
  #posted = 0;
  #wake: (() => void) | undefined;
  /** A report was lost: nothing that is said from now on can be believed. */
  #failed = false;

  private constructor(hca: Hca, pageSize: bigint, messageBytes: number) {
    this.#hca = hca;
    this.#pageSize = pageSize;
    this.#messageBytes = messageBytes;
    this.#messages = Math.max(MIN_RECEIVE_BYTES / messageBytes, MIN_MESSAGES);
  }

  static async start(
    { hca, vhcaId }: Vhca,
    caps: TrackerCaps,
    ranges: readonly IovaRange[],
    logPageSize: number,
  ): Promise<Tracker> {
    const total = ranges.reduce((sum, { length }) => sum + length, 0n);
    const logSpace = log2Ceil(total);
    if (logSpace < caps.logMinAddressSpace || logSpace > caps.logMaxAddressSpace)
      throw errnoError(
        'EOPNOTSUPP',
        `${total} bytes to track: the firmware tracks 2^${caps.logMinAddressSpace} to 2^${caps.logMaxAddressSpace}`,
        { op: 'DMA_LOGGING_START' },
      );
    const tracker = new Tracker(hca, 1n << BigInt(logPageSize), 2 ** caps.logMaxMessage);
    try {
      const reporter = await tracker.#connect();
      await tracker.#create(vhcaId, ranges, logSpace, logPageSize, caps.logMaxMessage, reporter);
      return tracker;
    } catch (error) {
      await tracker.stop();
      throw error;
    }
  }

  /** Ends tracking and gives everything back, last first. */
  async stop(): Promise<void> {
    for (const step of this.#undo.splice(0).reverse()) await step().catch(() => undefined);
  }

  async report(range: IovaRange, dirty: (iova: bigint, length: bigint) => void): Promise<void> {
    if (this.#failed) throw this.#error('a report has failed before');
    try {
      const input = new CommandInput(CMD.MODIFY_GENERAL_OBJECT, 64, OBJECT_PAGE_TRACK)
        .u32(8, this.#object)
        .u64(0x10, 3)
        .u32(0x20, (REPORT.REPORTING << 28) >>> 0)
        .u64(0x30, Number(range.iova))
        .u64(0x38, Number(range.length));
      await this.#hca.execute('MODIFY_GENERAL_OBJECT', input);
      for (let state: number = REPORT.REPORTING; state === REPORT.REPORTING; ) state = await this.#next(dirty);
    } catch (error) {
      this.#failed = true;
      throw error;
    }
  }

  /** Takes one message. Gives the state that it came with. */
  async #next(dirty: (iova: bigint, length: bigint) => void): Promise<number> {
    const entry = await this.#completion();
    if (entry.getUint8(0x3f) >> 4 !== CQE_RECEIVED_SEND_IMMEDIATE) throw this.#error('the connection is broken');
    const state = entry.getUint32(0x24) >>> 28;
    const bytes = entry.getUint32(0x2c);
    const index = entry.getUint16(0x3c) % this.#messages;
    if (bytes > this.#messageBytes || bytes % ENTRY_BYTES !== 0) throw this.#error(`a message of ${bytes} bytes`);
    const at = index * this.#messageBytes;
    for (let i = 0; i < bytes; i += ENTRY_BYTES) dirty(this.#data.view.getBigUint64(at + i), this.#pageSize);
    this.#consumed++;
    this.#records.view.setUint32(RECORD.CQ_CONSUMER, this.#consumed & 0xffffff);
    this.#post(index);
    if (state === REPORT.ERROR) throw this.#error('the firmware has lost track of what was written');
    return state;
  }

  async #completion(): Promise<DataView> {
    const entries = this.#completions.bytes.length / CQE_BYTES;
    const end = Date.now() + REPORT_TIMEOUT_MS;
    for (let armed = false; ; ) {
      const { bytes } = this.#completions;
      const at = bytes.byteOffset + (this.#consumed % entries) * CQE_BYTES;
      const entry = new DataView(bytes.buffer, at, CQE_BYTES);
      const last = entry.getUint8(0x3f);
      if (last >> 4 !== 0xf && (last & 1) === (Math.floor(this.#consumed / entries) & 1)) return entry;
      if (this.#hca.isGone) throw this.#error('the firmware has stopped');
      if (Date.now() >= end) throw this.#error('the firmware does not report');
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      if (!armed) {
        // Armed before the queue is looked at again: what comes in between is seen by one of the two.
        await this.#arm();
        armed = true;
        continue;
      }
      const timer = setTimeout(() => this.#wake?.(), 100);
      await woken;
      clearTimeout(timer);
      armed = false;
    }
  }

  async #arm(): Promise<void> {
    const word = this.#consumed & 0xffffff;
    this.#records.view.setUint32(RECORD.CQ_ARM, word);
    await this.#hca.ring(UAR_CQ, word, this.#cqn);
  }

  /** Posts the receive of a message's place. */
  #post(index: number): void {
    const at = index * WQE_BYTES;
    this.#receives.view.setUint32(at, this.#messageBytes);
    this.#receives.view.setUint32(at + 4, this.#key);
    this.#receives.view.setBigUint64(at + 8, BigInt(index * this.#messageBytes));
    this.#posted++;
    this.#records.view.setUint32(RECORD.RQ, this.#posted & 0xffff);
  }

  /** Protection domain, completion queue, and two queue pairs that are connected to each other. Gives the firmware's. */
  async #connect(): Promise<number> {
    const hca = this.#hca;
    const buffer = (size: number): DmaBuffer => {
      const made = hca.pool.buffer(size);
      this.#undo.push(() => hca.pool.freeBuffer(made.iova));
      return made;
    };
    this.#records = buffer(PAGE);
    this.#completions = buffer(2 * this.#messages * CQE_BYTES);
    this.#receives = buffer(this.#messages * WQE_BYTES);
    this.#data = buffer(this.#messages * this.#messageBytes);
    // Of the device until it has written.
    for (let at = CQE_BYTES - 1; at < this.#completions.bytes.length; at += CQE_BYTES)
      this.#completions.bytes[at] = 0xf1;
    const pd = await allocPd(hca);
    this.#undo.push(() => deallocPd(hca, pd));
    this.#key = await createMkey(hca, pd, this.#data);
    this.#undo.push(() => destroyMkey(hca, this.#key));
    await this.#createCompletionQueue();
    const host = await this.#createQueuePair(pd, true);
    const firmware = await this.#createQueuePair(pd, false);
    await this.#move(CMD.RST2INIT_QP, 'RST2INIT_QP', host);
    for (let i = 0; i < this.#messages; i++) this.#post(i);
    await this.#move(CMD.INIT2RTR_QP, 'INIT2RTR_QP', host, firmware);
    await this.#move(CMD.RST2INIT_QP, 'RST2INIT_QP', firmware);
    await this.#move(CMD.INIT2RTR_QP, 'INIT2RTR_QP', firmware, host);
    await this.#move(CMD.RTR2RTS_QP, 'RTR2RTS_QP', firmware);
    return firmware;
  }

  async #createCompletionQueue(): Promise<void> {
    const hca = this.#hca;
    const log = Math.log2(this.#completions.bytes.length / CQE_BYTES);
    const input = new CommandInput(CMD.CREATE_CQ, 272 + pageListBytes(this.#completions))
      .u32(0x1c, ((log << 24) | hca.uar) >>> 0)
      .u32(0x24, hca.completionEventQueue)
      .u64(0x48, this.#records.iova + RECORD.CQ_CONSUMER);
    writePages(input, this.#completions);
    this.#cqn = (await hca.execute('CREATE_CQ', input)).getUint32(8) & 0xffffff;
    this.#undo.push(() => hca.execute('DESTROY_CQ', new CommandInput(CMD.DESTROY_CQ).u32(8, this.#cqn)));
    hca.onCompletion(this.#cqn, () => this.#wake?.());
    this.#undo.push(async () => hca.onCompletion(this.#cqn, undefined));
  }

  async #createQueuePair(pd: number, receives: boolean): Promise<number> {
    const hca = this.#hca;
    const input = new CommandInput(CMD.CREATE_QP, 272 + (receives ? pageListBytes(this.#receives) : 0))
      // Reliable connection, path migrated, no send queue.
      .u32(0x18, 3 << 11)
      .u32(0x1c, pd)
      .u32(0x20, ((receives ? Math.log2(this.#messages) << 19 : 0) | (1 << 15)) >>> 0)
      .u32(0x24, hca.uar);
    if (receives) {
      input.u32(0x18 + 0x9c, this.#cqn).u64(0x18 + 0xa0, this.#records.iova + RECORD.RQ);
      writePages(input, this.#receives);
    } else input.u32(0x18 + 0xac, 3 << 24);
    const qpn = (await hca.execute('CREATE_QP', input)).getUint32(8) & 0xffffff;
    this.#undo.push(() => hca.execute('DESTROY_QP', new CommandInput(CMD.DESTROY_QP).u32(8, qpn)));
    return qpn;
  }

  async #move(opcode: number, name: string, qpn: number, remote = 0): Promise<void> {
    const input = new CommandInput(opcode, 272).u32(8, qpn);
    // The port, and what is only of one step: remote reads and writes; the longest message and the other end; retries.
    input.bytes[0x18 + 0x18 + 0x25] = 1;
    if (opcode === CMD.RST2INIT_QP) input.or(0x18, 3 << 11).or(0x18 + 0x90, 3 << 14);
    else if (opcode === CMD.INIT2RTR_QP)
      input
        .or(0x18 + 0x08, ((5 << 29) | (this.#hca.caps.logMaxMessage << 24)) >>> 0)
        .or(0x18 + 0x14, remote)
        .or(0x18 + 0x18, 0x80000000)
        .or(0x18 + 0x94, 1 << 24);
    else input.or(0x18 + 0x70, (7 << 16) | (7 << 13));
    await this.#hca.execute(name, input);
  }

  async #create(
    vhcaId: number,
    ranges: readonly IovaRange[],
    logSpace: number,
    logPage: number,
    logMessage: number,
    reporter: number,
  ): Promise<void> {
    const input = new CommandInput(CMD.CREATE_GENERAL_OBJECT, 64 + 16 * ranges.length, OBJECT_PAGE_TRACK)
      .u16(0x10 + 0x0a, vhcaId)
      .u32(0x10 + 0x10, ((TRACK_TYPE << 24) | (logSpace << 16) | (logPage << 8) | logMessage) >>> 0)
      .u32(0x10 + 0x14, reporter)
      .u32(0x10 + 0x18, ranges.length);
    for (const [i, { iova, length }] of ranges.entries()) {
      input.view.setBigUint64(64 + 16 * i, iova);
      input.view.setBigUint64(72 + 16 * i, length);
    }
    this.#object = (await this.#hca.execute('CREATE_GENERAL_OBJECT', input)).getUint32(8);
    const destroy = new CommandInput(CMD.DESTROY_GENERAL_OBJECT, 16, OBJECT_PAGE_TRACK).u32(8, this.#object);
    this.#undo.push(() => this.#hca.execute('DESTROY_GENERAL_OBJECT', destroy));
  }

  #error(message: string): Error {
    return errnoError('EIO', `dirty tracking: ${message}; take everything as dirty`, { op: 'DMA_LOGGING_REPORT' });
  }
}

const pageListBytes = ({ bytes }: DmaBuffer): number => 8 * (bytes.length / PAGE);

function writePages(input: CommandInput, { iova, bytes }: DmaBuffer): void {
  for (let i = 0; i < bytes.length / PAGE; i++) input.u64(272 + 8 * i, iova + i * PAGE);
}
