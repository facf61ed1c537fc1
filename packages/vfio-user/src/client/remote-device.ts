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
import { errnoError, hex, VfioError } from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { MAX_REGION_INFO_SIZE } from '../limits.js';
import type { ServiceLoop } from '../service-loop.js';
import { MappedMemory } from './client-memory.js';
import { HeldTrigger, HeldTriggers } from './held-triggers.js';
import { MigrationStream } from './migration-stream.js';
import type { Procedure } from './procedure.js';
import type { ServerLimits } from './proposal.js';

/** States in which a stream of device state is open, by its direction. */
const SAVING: readonly number[] = [
  uapi.VFIO_DEVICE_STATE_STOP_COPY,
  uapi.VFIO_DEVICE_STATE_PRE_COPY,
  uapi.VFIO_DEVICE_STATE_PRE_COPY_P2P,
];

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
    this.memory.releaseAll();
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
    const known = this.#regions.get(index);
    if (known !== undefined) return known;
    let argsz: number = uapi.vfioRegionInfo.size;
    for (;;) {
      const reply = yield {
        command: uapi.VFIO_USER_DEVICE_GET_REGION_INFO,
        pieces: [uapi.encodeVfioUserGetRegionInfo({ argsz, index }, LITTLE_ENDIAN)],
      };
      const [fd, ...others] = reply.fds;
      for (const other of others) closeFd(other);
      const decoded = uapi.decodeVfioUserRegionInfo(reply.payload, LITTLE_ENDIAN);
      if (decoded.argsz > argsz && decoded.argsz <= MAX_REGION_INFO_SIZE) {
        if (fd !== undefined) closeFd(fd);
        argsz = decoded.argsz;
        continue;
      }
      const region = { info: decoded.info, fd };
      // Only what can be mapped is kept: the rest may be asked for again.
      if (fd !== undefined) this.#regions.set(index, region);
      return region;
    }
  }

  *getIrqInfo(index: number): Procedure<IrqInfo> {
    const reply = yield {
      command: uapi.VFIO_USER_DEVICE_GET_IRQ_INFO,
      pieces: [uapi.encodeVfioUserGetIrqInfo(index, LITTLE_ENDIAN)],
    };
    return uapi.decodeVfioUserIrqInfo(reply.payload, LITTLE_ENDIAN);
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
      if (answer.data.length > count) throw broken('REGION_READ', `${answer.data.length} bytes for ${count}`);
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
      if (count > part.length) throw broken('REGION_WRITE', `${count} bytes for ${part.length}`);
      done += count;
      if (count < part.length) break;
    } while (done < data.length);
    return done;
  }

  *mmapArea(region: number, offset: number, length: number): Procedure<MmapArea> {
    const { info, fd } = yield* this.#region(region);
    const refuse = (why: string) =>
      errnoError('EINVAL', `region ${region}, ${hex(offset)}+${hex(length)}: ${why}`, { op: 'mmapArea' });
    if (fd === undefined) throw refuse('the server gives no memory for it');
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
   * vector or none at all. Where one fails, the vectors before it get back what they had.
   */
  *setIrqs(request: SetIrqsRequest): Procedure<number> {
    const { triggers, flags, index, start } = request;
    if (triggers === undefined) {
      yield this.#irqCall(request, [], request.bools);
      // The whole index was disabled: the server has let go of every trigger.
      if (request.count === 0) this.#triggers.clearIndex(index);
      return 0;
    }
    const isUnmask = (flags & uapi.VFIO_IRQ_SET_ACTION_UNMASK) !== 0;
    const given = triggers.map((trigger) =>
      trigger === null ? undefined : new HeldTrigger(this.#loop, trigger, isUnmask),
    );
    let done = 0;
    try {
      for (const run of runs(given, Math.max(1, this.#limits.maxMsgFds))) {
        const fds = run.flatMap((trigger) => (trigger === undefined ? [] : [trigger.fd]));
        yield this.#irqCall({ ...request, start: start + done, count: run.length }, fds);
        done += run.length;
      }
    } catch (error) {
      yield* this.#restore(request, done);
      for (const trigger of given) trigger?.release();
      throw error;
    }
    for (const [at, trigger] of given.entries()) this.#triggers.set(flags, index, start + at, trigger);
    return 0;
  }

  *#restore(request: SetIrqsRequest, count: number): Procedure<void> {
    for (let vector = request.start; vector < request.start + count; vector++) {
      const before = this.#triggers.get(request.flags, request.index, vector);
      try {
        yield this.#irqCall({ ...request, start: vector, count: 1 }, before === undefined ? [] : [before.fd]);
      } catch {
        // The first failure is what the caller hears of.
      }
    }
  }

  #irqCall(request: SetIrqsRequest, fds: readonly number[], bools?: Uint8Array) {
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
    const payload = uapi.encodeVfioUserFeatureCommand(flags, value, LITTLE_ENDIAN);
    const reply = yield { command: uapi.VFIO_USER_DEVICE_FEATURE, pieces: [payload] };
    const result = uapi.decodeVfioUserFeatureReply(flags, value, reply.payload, LITTLE_ENDIAN);
    const isSet = (flags & uapi.VFIO_DEVICE_FEATURE_SET) !== 0 && (flags & uapi.VFIO_DEVICE_FEATURE_PROBE) === 0;
    const opened =
      isSet && feature === uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
        ? this.#followState((result as { state: number }).state)
        : undefined;
    return { result, opened };
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
    try {
      const flags =
        (request.readable ? uapi.VFIO_USER_F_DMA_REGION_READ : 0) |
        (request.writable ? uapi.VFIO_USER_F_DMA_REGION_WRITE : 0);
      const fd = memory?.fd;
      const offset = fd === undefined ? 0n : BigInt(memory?.fdOffset ?? 0);
      if (memory !== undefined && BigInt(memory.bytes.length) < size) {
        throw errnoError(
          'EINVAL',
          `DMA map of ${hex(iova)}+${hex(size)}: the memory has ${hex(memory.bytes.length)} bytes`,
        );
      }
      // Known before the server can ask for it.
      const before = this.memory.take(iova, size);
      this.memory.add(request);
      try {
        yield {
          command: uapi.VFIO_USER_DMA_MAP,
          pieces: [uapi.encodeVfioUserDmaMap({ flags, offset, iova, size }, LITTLE_ENDIAN)],
          fds: fd === undefined ? [] : [fd],
        };
      } catch (error) {
        this.memory.take(iova, size);
        if (before !== undefined) this.memory.add(before);
        throw error;
      }
      before?.release?.();
    } catch (error) {
      request.release?.();
      throw error;
    }
  }

  *dmaUnmap(iova: bigint, size: bigint): Procedure<void> {
    const unmap = { argsz: uapi.vfioUserDmaUnmap.size, flags: 0, iova, size };
    yield { command: uapi.VFIO_USER_DMA_UNMAP, pieces: [uapi.encodeVfioUserDmaUnmap(unmap, LITTLE_ENDIAN)] };
    this.memory.take(iova, size)?.release?.();
  }
}

/** Pieces of a list that go into one message each: all with a trigger, at most `limit` of them, or all without. */
export function* runs<T>(list: readonly (T | undefined)[], limit: number): Iterable<readonly (T | undefined)[]> {
  for (let start = 0; start < list.length; ) {
    const isEmpty = list[start] === undefined;
    let end = start + 1;
    while (end < list.length && (list[end] === undefined) === isEmpty && (isEmpty || end - start < limit)) end++;
    yield list.slice(start, end);
    start = end;
  }
}

function areasOf(info: RegionInfo): readonly { offset: number; size: number }[] {
  for (const cap of info.caps) if (cap.id === uapi.VFIO_REGION_INFO_CAP_SPARSE_MMAP) return cap.areas;
  return [{ offset: 0, size: info.size }];
}

function broken(op: string, why: string): VfioError {
  return new VfioError('ERR_VFIO_PROTOCOL', `${op}: the server answered ${why}`, { errno: 'EPROTO', op });
}

/** Calls that have no form in this protocol. */
export function notOverSocket(op: string): VfioError {
  return errnoError('ENOTTY', `${op} cannot be had over vfio-user`, { op });
}
