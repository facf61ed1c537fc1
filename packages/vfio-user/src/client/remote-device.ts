import type {
  DeviceInfo,
  DmaMapRequest,
  FeatureRequest,
  IrqInfo,
  MmapArea,
  RegionInfo,
  SetIrqsRequest,
} from '@vfio/core';
import { closeFd, type Mapping, mmap, PROT_READ, PROT_WRITE, pageSize } from '@vfio/native';
import * as uapi from '@vfio/uapi';
import { errnoError, hex, isVfioError } from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { brokenReplyError, closeAll } from '../connection.js';
import { MAX_REGION_INFO_SIZE, MAX_REGION_INFO_TRIES } from '../limits.js';
import type { ServiceLoop } from '../service-loop.js';
import { MappedMemory } from './client-memory.js';
import { HeldTrigger, HeldTriggers, isUnmasking } from './held-triggers.js';
import { MigrationStream } from './migration-stream.js';
import type { Call, Procedure } from './procedure.js';
import type { ServerLimits } from './proposal.js';

/** States in which a stream of device state is open, by its direction. */
const SAVING: readonly number[] = [
  uapi.VFIO_DEVICE_STATE_STOP_COPY,
  uapi.VFIO_DEVICE_STATE_PRE_COPY,
  uapi.VFIO_DEVICE_STATE_PRE_COPY_P2P,
];

/** Disables an interrupt index. */
const DISABLE = uapi.VFIO_IRQ_SET_DATA_NONE | uapi.VFIO_IRQ_SET_ACTION_TRIGGER;

interface KnownRegion {
  readonly info: RegionInfo;
  readonly fd: number | undefined;
}

/**
 * The device at the other end of a socket: what each call of {@link import('@vfio/core').VfioDevice} sends, and what this
 * side has to remember for it. Knows nothing of waiting.
 */
export class RemoteDevice {
  readonly memory = new MappedMemory();
  readonly #limits: ServerLimits;
  readonly #loop: ServiceLoop;
  readonly #triggers = new HeldTriggers();
  readonly #regions = new Map<number, KnownRegion>();
  readonly #mappings: Mapping[] = [];
  #stream: { readonly isSaving: boolean; readonly stream: MigrationStream } | undefined;

  constructor(limits: ServerLimits, loop: ServiceLoop) {
    this.#limits = limits;
    this.#loop = loop;
  }

  /** Lets go of everything that belongs to this side: descriptors, mappings, triggers. */
  release(): void {
    this.#triggers.clear();
    for (const mapping of this.#mappings.splice(0)) mapping.unmap();
    for (const { fd } of this.#regions.values()) if (fd !== undefined) closeFd(fd);
    this.#regions.clear();
    this.#stream?.stream.end();
    this.memory.dropAll();
  }

  *getInfo(): Procedure<DeviceInfo> {
    const reply = yield {
      command: uapi.VFIO_USER_DEVICE_GET_INFO,
      pieces: [uapi.encodeVfioUserGetInfo(LITTLE_ENDIAN)],
    };
    return uapi.decodeVfioUserDeviceInfo(reply.payload, LITTLE_ENDIAN);
  }

  *getRegionInfo(index: number): Procedure<RegionInfo> {
    return (yield* this.#region(index)).info;
  }

  /** Asks again with more room where the capabilities did not fit; the descriptor comes with them. */
  *#region(index: number): Procedure<KnownRegion> {
    const command = uapi.VFIO_USER_DEVICE_GET_REGION_INFO;
    let argsz: number = uapi.vfioRegionInfo.size;
    for (let tries = 0; tries < MAX_REGION_INFO_TRIES; tries++) {
      const known = this.#regions.get(index);
      if (known !== undefined) return known;
      const pieces = [uapi.encodeVfioUserGetRegionInfo({ argsz, index }, LITTLE_ENDIAN)];
      const reply = yield { command, pieces, takesFds: true };
      let kept: number | undefined;
      try {
        const { info, argsz: needed } = uapi.decodeVfioUserRegionInfo(reply.payload, LITTLE_ENDIAN);
        if (info.index !== index) throw brokenReplyError(command, `region ${info.index} for ${index}`);
        if (needed > MAX_REGION_INFO_SIZE) throw brokenReplyError(command, `that it takes ${needed} bytes`);
        if (needed <= argsz) {
          const region = { info, fd: reply.fds[0] };
          // Only what can be mapped is kept: the rest may be asked for again. Two calls may have asked at once.
          if (region.fd === undefined || this.#regions.has(index)) return region;
          kept = region.fd;
          this.#regions.set(index, region);
          return region;
        }
        argsz = needed;
      } finally {
        closeAll(reply.fds.filter((fd) => fd !== kept));
      }
    }
    throw brokenReplyError(command, `each time that it takes more than ${argsz} bytes`);
  }

  *getIrqInfo(index: number): Procedure<IrqInfo> {
    const reply = yield {
      command: uapi.VFIO_USER_DEVICE_GET_IRQ_INFO,
      pieces: [uapi.encodeVfioUserGetIrqInfo(index, LITTLE_ENDIAN)],
    };
    const info = uapi.decodeVfioUserIrqInfo(reply.payload, LITTLE_ENDIAN);
    if (info.index === index) return info;
    throw brokenReplyError(uapi.VFIO_USER_DEVICE_GET_IRQ_INFO, `index ${info.index} for ${index}`);
  }

  *read(region: number, offset: number, data: Uint8Array): Procedure<number> {
    const { maxDataXferSize } = this.#limits;
    let done = 0;
    do {
      const count = Math.min(data.length - done, maxDataXferSize);
      const reply = yield {
        command: uapi.VFIO_USER_REGION_READ,
        pieces: [uapi.encodeVfioUserRegionAccess({ offset: offset + done, region, count }, LITTLE_ENDIAN)],
      };
      const answer = uapi.decodeVfioUserRegionData(reply.payload, LITTLE_ENDIAN);
      if (answer.data.length > count) {
        throw brokenReplyError(uapi.VFIO_USER_REGION_READ, `${answer.data.length} bytes for ${count}`);
      }
      data.set(answer.data, done);
      done += answer.data.length;
      if (answer.data.length < count) break;
    } while (done < data.length);
    return done;
  }

  *write(region: number, offset: number, data: Uint8Array): Procedure<number> {
    const { maxDataXferSize } = this.#limits;
    let done = 0;
    do {
      const part = data.subarray(done, done + maxDataXferSize);
      const reply = yield {
        command: uapi.VFIO_USER_REGION_WRITE,
        pieces: [uapi.encodeVfioUserRegionData(region, offset + done, part, LITTLE_ENDIAN)],
      };
      const { count } = uapi.decodeVfioUserRegionAccess(reply.payload, LITTLE_ENDIAN);
      if (count > part.length) {
        throw brokenReplyError(uapi.VFIO_USER_REGION_WRITE, `${count} bytes for ${part.length}`);
      }
      done += count;
      if (count < part.length) break;
    } while (done < data.length);
    return done;
  }

  *mmapArea(region: number, offset: number, length: number): Procedure<MmapArea> {
    const { info, fd } = yield* this.#region(region);
    const refuse = (why: string) =>
      errnoError('EINVAL', `region ${region}, ${hex(offset)}+${hex(length)}: ${why}`, { op: 'mmapArea' });
    if (fd === undefined || (info.flags & uapi.VFIO_REGION_INFO_FLAG_MMAP) === 0) {
      throw refuse('the server gives no memory for it');
    }
    if (offset % pageSize() !== 0 || length <= 0) throw refuse('must start at a page and have some bytes');
    const isWithin = areasOf(info).some((area) => offset >= area.offset && offset + length <= area.offset + area.size);
    if (!isWithin) throw refuse('is not within one of its areas');
    const readable = (info.flags & uapi.VFIO_REGION_INFO_FLAG_READ) !== 0 ? PROT_READ : 0;
    const writable = (info.flags & uapi.VFIO_REGION_INFO_FLAG_WRITE) !== 0 ? PROT_WRITE : 0;
    const mapping = mmap(fd, info.offset + offset, length, readable | writable);
    this.#mappings.push(mapping);
    return { offset, size: length, memory: { bytes: mapping.bytes, fd, fdOffset: info.offset + offset } };
  }

  /**
   * SET_IRQS, in as many messages as the server's limit on descriptors makes of it: a message has a descriptor for each
   * vector or none at all. A server that allocates vectors when their index is enabled has to hear of all of them first.
   * Where a message fails, the index is as it was before.
   */
  *setIrqs(request: SetIrqsRequest): Procedure<number> {
    const { triggers, flags, index, start, count } = request;
    if (triggers === undefined) {
      yield this.#irqCall(request, [], request.bools);
      // The whole index was disabled: the server has let go of every trigger.
      if (flags === DISABLE && count === 0) this.#triggers.clearIndex(index);
      return 0;
    }
    const held = HeldTrigger.all(this.#loop, triggers, isUnmasking(flags));
    try {
      this.#checkTriggers(request, held);
      yield* this.#setTriggers(request, [...runs(held, this.#limits.maxMsgFds)]);
    } catch (error) {
      for (const trigger of held) trigger?.release();
      throw error;
    }
    for (const [at, trigger] of held.entries()) this.#triggers.set(flags, index, start + at, trigger);
    return 0;
  }

  #checkTriggers({ count }: SetIrqsRequest, held: readonly (HeldTrigger | undefined)[]): void {
    if (held.length !== count) {
      throw errnoError('EINVAL', `${held.length} triggers for ${count} vectors`, { op: 'setIrqs' });
    }
    if (this.#limits.maxMsgFds === 0 && held.some((trigger) => trigger !== undefined)) {
      throw errnoError('ENOSPC', 'the server takes no descriptors, and a trigger goes as one', { op: 'setIrqs' });
    }
  }

  *#setTriggers(request: SetIrqsRequest, parts: readonly (readonly (HeldTrigger | undefined)[])[]): Procedure<void> {
    const { flags, index, start } = request;
    const enables = !isUnmasking(flags) && !this.#triggers.isActive(index);
    const isPrepared = enables && parts.length > 1;
    let done = start;
    let end = start;
    try {
      if (isPrepared) yield this.#irqCall(request, []);
      for (const part of parts) {
        const fds = part.flatMap((trigger) => (trigger === undefined ? [] : [trigger.fd]));
        end = done + part.length;
        if (!isPrepared || fds.length > 0) {
          yield this.#irqCall({ ...request, start: done, count: part.length }, fds);
        }
        done = end;
      }
    } catch (error) {
      // A server that does not answer is not asked for more.
      if (isVfioError(error, 'ERR_VFIO_REMOTE') && end > start) {
        yield* enables ? this.#disable(request, isPrepared || done > start) : this.#restore(request, done, end);
      }
      throw error;
    }
  }

  /** Undoes what has enabled an index. */
  *#disable(request: SetIrqsRequest, isEnabled: boolean): Procedure<void> {
    if (isEnabled) yield* this.#try(this.#irqCall({ ...request, flags: DISABLE, start: 0, count: 0 }, []));
  }

  /** Gives vectors back what they had: those up to `done`, and of the rest, which the server may have freed, the set ones. */
  *#restore(request: SetIrqsRequest, done: number, end: number): Procedure<void> {
    const { flags, index } = request;
    for (let vector = request.start; vector < end; vector++) {
      const before = this.#triggers.get(flags, index, vector);
      if (before === undefined && vector >= done) continue;
      const fds = before === undefined ? [] : [before.fd];
      yield* this.#try(this.#irqCall({ ...request, start: vector, count: 1 }, fds));
    }
  }

  /** The first failure is what the caller hears of, not that of putting it right. */
  *#try(call: Call): Procedure<void> {
    try {
      yield call;
    } catch {}
  }

  #irqCall(request: SetIrqsRequest, fds: readonly number[], bools?: Uint8Array): Call {
    const { flags, index, start, count } = request;
    return {
      command: uapi.VFIO_USER_DEVICE_SET_IRQS,
      pieces: [uapi.encodeVfioUserIrqSet({ flags, index, start, count, bools }, LITTLE_ENDIAN)],
      fds,
    };
  }

  *reset(): Procedure<void> {
    yield { command: uapi.VFIO_USER_DEVICE_RESET, pieces: [] };
    this.#followState(uapi.VFIO_DEVICE_STATE_RUNNING);
  }

  /** @returns the result, and the stream that a change of migration state has opened */
  *deviceFeature({
    flags,
    value,
  }: FeatureRequest): Procedure<{ result: unknown; opened: MigrationStream | undefined }> {
    const feature = flags & uapi.VFIO_DEVICE_FEATURE_MASK;
    if (uapi.vfioUserFeatureCodec(feature) === undefined) {
      throw errnoError('ENOTTY', `feature ${feature} cannot be had over vfio-user`, { op: 'deviceFeature' });
    }
    const parts = feature === uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT ? this.#reportParts(value) : undefined;
    if (parts !== undefined) {
      for (const part of parts) yield* this.#feature(flags, part);
      return { result: undefined, opened: undefined };
    }
    const result = yield* this.#feature(flags, value);
    const isSet = (flags & uapi.VFIO_DEVICE_FEATURE_SET) !== 0 && (flags & uapi.VFIO_DEVICE_FEATURE_PROBE) === 0;
    const opened =
      isSet && feature === uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
        ? this.#followState((result as { state: number }).state)
        : undefined;
    return { result, opened };
  }

  /** One DEVICE_FEATURE. */
  *#feature(flags: number, value: unknown): Procedure<unknown> {
    const payload = encodeFeature(flags, value);
    const reply = yield { command: uapi.VFIO_USER_DEVICE_FEATURE, pieces: [payload] };
    return uapi.decodeVfioUserFeatureReply(flags, value, reply.payload, LITTLE_ENDIAN);
  }

  /** A dirty report whose bitmap is larger than a message, as several of ranges next to each other; undefined: it is one. */
  #reportParts(value: unknown): uapi.DmaLoggingReport[] | undefined {
    const { iova, length, pageSize, bitmap } = (value ?? {}) as Partial<uapi.DmaLoggingReport>;
    const words = Math.floor((this.#limits.maxDataXferSize - uapi.vfioUserDmaLoggingReport.size) / 8);
    const most = words * 8;
    // What makes no sense is refused by the encoder, as one.
    if (typeof iova !== 'bigint' || typeof length !== 'bigint' || typeof pageSize !== 'bigint') return undefined;
    if (!(bitmap instanceof Uint8Array) || bitmap.length <= most || pageSize <= 0n) return undefined;
    const step = BigInt(most) * 8n * pageSize;
    const parts: uapi.DmaLoggingReport[] = [];
    for (let done = 0n; done < length; done += step) {
      const at = parts.length * most;
      const part = length - done < step ? length - done : step;
      parts.push({ iova: iova + done, length: part, pageSize, bitmap: bitmap.subarray(at, at + most) });
    }
    return parts;
  }

  /** The stream that a state opens, where the one before did not have it open already. */
  #followState(state: number): MigrationStream | undefined {
    const isSaving = SAVING.includes(state);
    const isOpen = isSaving || state === uapi.VFIO_DEVICE_STATE_RESUMING;
    if (isOpen && this.#stream?.isSaving === isSaving) return undefined;
    this.#stream?.stream.end();
    this.#stream = isOpen
      ? { isSaving, stream: new MigrationStream(isSaving, this.#limits.maxDataXferSize) }
      : undefined;
    return this.#stream?.stream;
  }

  *dmaMap(request: DmaMapRequest): Procedure<void> {
    const { iova, size, memory } = request;
    // Known before the server can ask for it.
    const map = this.memory.add(request);
    try {
      if (memory !== undefined && BigInt(memory.bytes.length) < size) {
        throw errnoError('EINVAL', `${hex(iova)}+${hex(size)}: the memory has ${hex(memory.bytes.length)} bytes`, {
          op: 'dmaMap',
        });
      }
      const flags =
        (request.readable ? uapi.VFIO_USER_F_DMA_REGION_READ : 0) |
        (request.writable ? uapi.VFIO_USER_F_DMA_REGION_WRITE : 0);
      const fd = this.#limits.maxMsgFds === 0 ? undefined : memory?.fd;
      const offset = fd === undefined ? 0n : BigInt(memory?.fdOffset ?? 0);
      yield {
        command: uapi.VFIO_USER_DMA_MAP,
        pieces: [uapi.encodeVfioUserDmaMap({ flags, offset, iova, size }, LITTLE_ENDIAN)],
        fds: fd === undefined ? [] : [fd],
      };
    } catch (error) {
      this.memory.drop(map);
      throw error;
    }
    // A server may take the same map again: this one is in its place.
    const before = this.memory.find(iova, size);
    if (before !== undefined && before !== map) this.memory.drop(before);
  }

  *dmaUnmap(iova: bigint, size: bigint): Procedure<void> {
    const unmap = { argsz: uapi.vfioUserDmaUnmap.size, flags: 0, iova, size };
    yield { command: uapi.VFIO_USER_DMA_UNMAP, pieces: [uapi.encodeVfioUserDmaUnmap(unmap, LITTLE_ENDIAN)] };
    const map = this.memory.find(iova, size);
    if (map !== undefined) this.memory.drop(map);
  }
}

/** Pieces of a list that go into one message each: all with a trigger, at most `limit` of them, or all without. */
function* runs<T>(list: readonly (T | undefined)[], limit: number): Iterable<readonly (T | undefined)[]> {
  let start = 0;
  // A request for no vectors goes too: what it means is the server's to say.
  do {
    const isEmpty = list[start] === undefined;
    let end = Math.min(start + 1, list.length);
    while (end < list.length && (list[end] === undefined) === isEmpty && (isEmpty || end - start < limit)) end++;
    yield list.slice(start, end);
    start = end;
  } while (start < list.length);
}

/** @throws EINVAL for a value that is not the feature's */
function encodeFeature(flags: number, value: unknown): Uint8Array {
  try {
    return uapi.encodeVfioUserFeatureCommand(flags, value, LITTLE_ENDIAN);
  } catch (error) {
    if (isVfioError(error)) throw error;
    const feature = flags & uapi.VFIO_DEVICE_FEATURE_MASK;
    throw errnoError('EINVAL', `feature ${feature}: its value is missing or of another kind`, {
      op: 'deviceFeature',
      cause: error,
    });
  }
}

function areasOf(info: RegionInfo): readonly { offset: number; size: number }[] {
  for (const cap of info.caps) if (cap.id === uapi.VFIO_REGION_INFO_CAP_SPARSE_MMAP) return cap.areas;
  return [{ offset: 0, size: info.size }];
}

/** Calls that have no form in this protocol. */
export function notOverSocket(op: string): uapi.VfioError {
  return errnoError('ENOTTY', `${op} cannot be had over vfio-user`, { op });
}
