import { DirtyLog, type IovaRange, type VfioLogOps, type VfioPciCoreDevice, vfioCombineIovaRanges } from '@vfio/core';
import { errnoError } from '@vfio/uapi';
import { type Child, GRAIN, type TrackedMemory, trackedChanges, trackMemory, untrackMemory } from './cmd.js';
import { hasStatus, NVME_STATUS } from './parent/errors.js';

const MAX_GRAINS = 0xffffffffn;

/** How long the controller may go on saying that there is more. */
const REPORT_TIMEOUT_MS = 60_000;

/**
 * Dirty tracking by the parent: what a virtual function writes is told by Track Receive (NVM Express Base 2.1, 5.1.26), of all
 * tracked memory at once. It is kept here until the part in which it lies is asked for.
 */
export class NvmeDirtyLog {
  readonly ops: VfioLogOps<VfioPciCoreDevice> = {
    logStart: (dev, ranges, pageSize) => this.#start(dev, ranges, pageSize),
    logStop: () => this.#stop(),
    logReadAndClear: (dev, range, dirty) => this.#report(dev, range, dirty),
  };
  readonly #child: Child;
  #log: DirtyLog | undefined;
  /** What the controller was told to track, aligned to its grains; of a log that has ended where there is none. */
  #tracked: readonly IovaRange[] = [];
  #failed = false;
  #detached = false;

  constructor(child: Child) {
    this.#child = child;
  }

  detach(): void {
    this.#detached = true;
    this.#log = undefined;
    this.#tracked = [];
  }

  /** The controller may be told again to stop tracking, which it refuses while it is suspended (5.1.27.1.2). */
  async settle(): Promise<void> {
    if (this.#log === undefined) await this.#untrack();
  }

  async #start(dev: VfioPciCoreDevice, ranges: readonly IovaRange[], pageSize: bigint): Promise<bigint> {
    this.#checkAttached(dev);
    if (this.#log !== undefined) throw dev.error('EINVAL', 'DMA_LOGGING_START', 'logging has been started already');
    await this.#untrack();
    const { parent } = this.#child;
    const { maxDescriptors, powersOfTwo } = parent.capabilities.tracking;
    const granularity = this.#granularity(ranges, pageSize);
    const grain = GRAIN << BigInt(granularity);
    const tracked = vfioCombineIovaRanges(aligned(ranges, grain), Math.max(1, maxDescriptors - parent.trackedRanges));
    const memory = tracked.map(({ iova, length }): TrackedMemory => {
      const grains = powersOfTwo ? powerOfTwo(length / grain) : length / grain;
      return { address: iova, grains: Number(grains) };
    });
    await trackMemory(this.#child, memory, granularity);
    parent.trackedRanges += tracked.length;
    this.#tracked = memory.map(({ address, grains }) => ({ iova: address, length: BigInt(grains) * grain }));
    this.#log = new DirtyLog(grain, ranges);
    this.#failed = false;
    return grain;
  }

  async #stop(): Promise<void> {
    this.#log = undefined;
    await this.#untrack();
  }

  async #untrack(): Promise<void> {
    if (this.#tracked.length === 0 || this.#detached) return;
    try {
      await untrackMemory(this.#child);
    } catch (error) {
      // Later, when it runs. A controller that refuses for another reason, or is gone, tracks nothing for us.
      if (hasStatus(error, NVME_STATUS.CONTROLLER_SUSPENDED)) return;
    }
    this.#child.parent.trackedRanges -= this.#tracked.length;
    this.#tracked = [];
  }

  async #report(
    dev: VfioPciCoreDevice,
    range: IovaRange,
    dirty: (iova: bigint, length: bigint) => void,
  ): Promise<void> {
    const log = this.#log;
    if (log === undefined && !this.#detached)
      throw dev.error('EINVAL', 'DMA_LOGGING_REPORT', 'logging has not been started');
    this.#checkAttached(dev);
    if (log === undefined) return;
    if (this.#failed) throw this.#error('a report has failed before');
    try {
      const end = Date.now() + REPORT_TIMEOUT_MS;
      for (let more = true; more; ) {
        ({ more } = await trackedChanges(this.#child, (address, length) => this.#changed(log, address, length)));
        if (more && Date.now() >= end) throw this.#error('the controller does not come to an end of its report');
      }
    } catch (error) {
      // What was told in it is lost.
      this.#failed = true;
      throw error;
    }
    log.readAndClear(range, dirty);
  }

  #changed(log: DirtyLog, address: bigint, length: bigint): void {
    const end = address + length;
    if (!this.#tracked.some(({ iova, length: bytes }) => address >= iova && end <= iova + bytes))
      throw this.#error(`a change of ${length} bytes at 0x${address.toString(16)}, which is not tracked`);
    log.markBig(address, length);
  }

  /** The size that was asked for, as far as the controller has it; larger where a range has too many grains otherwise. */
  #granularity(ranges: readonly IovaRange[], pageSize: bigint): number {
    const { minGranularity, maxGranularity } = this.#child.parent.capabilities.tracking;
    const wanted = pageSize <= GRAIN ? 0 : (pageSize / GRAIN).toString(2).length - 1;
    let end = 0n;
    for (const { iova, length } of ranges) if (iova + length > end) end = iova + length;
    let granularity = Math.min(Math.max(wanted, minGranularity), maxGranularity);
    // Merged ranges are not longer than the highest address.
    while (granularity < maxGranularity && end / (GRAIN << BigInt(granularity)) > MAX_GRAINS) granularity++;
    if (end / (GRAIN << BigInt(granularity)) > MAX_GRAINS)
      throw errnoError(
        'EOPNOTSUPP',
        `memory up to 0x${end.toString(16)} to track, in grains of ${GRAIN << BigInt(granularity)} bytes: ${MAX_GRAINS} of them are the most`,
        { op: 'DMA_LOGGING_START', device: this.#child.parent.address },
      );
    return granularity;
  }

  #checkAttached(dev: VfioPciCoreDevice): void {
    if (this.#detached) throw dev.error('ENOTCONN', 'DMA_LOGGING', 'the physical function is gone');
  }

  #error(message: string): Error {
    return errnoError('EIO', `dirty tracking: ${message}; take everything as dirty`, {
      op: 'DMA_LOGGING_REPORT',
      device: this.#child.parent.address,
    });
  }
}

/** Ranges that begin and end at grains, in order, none touching another. */
function aligned(ranges: readonly IovaRange[], grain: bigint): IovaRange[] {
  const sorted = ranges
    .map(({ iova, length }) => ({ from: iova - (iova % grain), to: ((iova + length + grain - 1n) / grain) * grain }))
    .sort((a, b) => (a.from < b.from ? -1 : 1));
  const merged: { from: bigint; to: bigint }[] = [];
  for (const range of sorted) {
    const last = merged.at(-1);
    if (last === undefined || range.from > last.to) merged.push(range);
    else if (range.to > last.to) last.to = range.to;
  }
  return merged.map(({ from, to }) => ({ iova: from, length: to - from }));
}

function powerOfTwo(value: bigint): bigint {
  let power = 1n;
  while (power < value) power <<= 1n;
  return power;
}
