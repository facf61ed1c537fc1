import { errnoError, hex, type VfioError } from '@vfio/uapi';
import { DirtyLog } from './dirty-log.js';
import { DmaMapping, DmaMappingTable, NUMBER_LIMIT } from './dma-mapping.js';
import type { DmaMapRequest, DmaSpace, PinnedView, RemoteDma } from './dma-space.js';
import type { IovaRange } from './migration-types.js';

export interface DmaSpaceOptions {
  /** Most mappings at once. @default 65535, the limit of the kernel's type 1 IOMMU */
  readonly maxMappings?: number;
  /** How long `unmap` waits for pinned views, in ms. @default 4000, below the 5 s after which QEMU gives a command up */
  readonly unmapDeadlineMs?: number;
  /** Address of the function, for messages. */
  readonly device?: string;
}

/** Below this many bytes a loop beats `set(subarray())`, which has to make a view object first. */
const LOOP_BYTES = 128;
const TOP = 1n << 64n;

/** Makes an empty address space. One device uses it; its dirty log starts off. */
export function createDmaSpace(options: DmaSpaceOptions = {}): GuestMemory {
  return new GuestMemory(options);
}

/**
 * The {@link DmaSpace} of this package: a sorted table of mappings, pins, and the dirty log. The data path makes no
 * bigint, no promise and, for accesses of up to 128 bytes, no object.
 */
export class GuestMemory implements DmaSpace {
  remote: RemoteDma | undefined = undefined;
  readonly #table = new DmaMappingTable();
  readonly #maxMappings: number;
  readonly #deadlineMs: number;
  readonly #device: string | undefined;
  readonly #draining = new Set<DmaMapping>();
  readonly #writablePins = new Set<Pin>();
  readonly #listeners = new Set<(iova: bigint, size: bigint) => void>();
  #log: DirtyLog | undefined;

  constructor(options: DmaSpaceOptions) {
    this.#maxMappings = options.maxMappings ?? 65535;
    this.#deadlineMs = options.unmapDeadlineMs ?? 4000;
    this.#device = options.device;
  }

  /** Number of mappings. */
  get mappings(): number {
    return this.#table.count;
  }

  map(request: DmaMapRequest): void {
    const problem = this.#mapProblem(request);
    if (problem !== undefined) {
      request.release?.();
      throw problem;
    }
    this.#table.insert(new DmaMapping(request));
  }

  #mapProblem(request: DmaMapRequest): VfioError | undefined {
    const { iova, size, memory } = request;
    const shown = `DMA map of ${hex(iova)}+${hex(size)}`;
    const options = { op: 'dmaMap', device: this.#device };
    if (iova < 0n || iova >= TOP || size <= 0n || iova + size > TOP) {
      return errnoError('EINVAL', `${shown}: must be a non-empty part of 64-bit address space`, options);
    }
    if (!request.readable && !request.writable) {
      return errnoError('EINVAL', `${shown}: neither readable nor writable`, options);
    }
    if (memory !== undefined && BigInt(memory.bytes.length) < size) {
      return errnoError('EINVAL', `${shown}: the memory behind it has only ${hex(memory.bytes.length)} bytes`, options);
    }
    const other = this.#table.overlapping(iova, size);
    if (other !== undefined) {
      return errnoError('EEXIST', `${shown}: overlaps the mapping ${hex(other.iova)}+${hex(other.size)}`, options);
    }
    if (this.#table.count >= this.#maxMappings) {
      return errnoError('ENOSPC', `${shown}: the limit of ${this.#maxMappings} mappings is reached`, options);
    }
    return undefined;
  }

  unmap(iova: bigint, size: bigint): void | Promise<void> {
    const options = { op: 'dmaUnmap', device: this.#device };
    const shown = `DMA unmap of ${hex(iova)}+${hex(size)}`;
    if (iova < 0n || iova >= TOP || size <= 0n || iova + size > TOP) {
      throw errnoError('EINVAL', `${shown}: must be a non-empty part of 64-bit address space`, options);
    }
    const mapping = this.#table.exactly(iova, size);
    if (mapping !== undefined) return this.#detach(mapping);
    // An unmap that ended with EBUSY may be asked for again, to wait for the pins once more.
    for (const gone of this.#draining) if (gone.iova === iova && gone.size === size) return this.#drain(gone);
    const near = this.#table.overlapping(iova, size);
    throw errnoError(
      'ENOENT',
      near === undefined
        ? `${shown}: nothing is mapped there`
        : `${shown}: must be exactly a mapping, the one there is ${hex(near.iova)}+${hex(near.size)}`,
      options,
    );
  }

  unmapAll(): void | Promise<void> {
    const waits: Promise<void>[] = [];
    for (const mapping of [...this.#table.all()]) {
      const wait = this.#detach(mapping);
      if (wait !== undefined) waits.push(wait);
    }
    if (waits.length === 0) return undefined;
    return Promise.allSettled(waits).then((results) => {
      for (const result of results) if (result.status === 'rejected') throw result.reason;
    });
  }

  onUnmap(handler: (iova: bigint, size: bigint) => void): () => void {
    this.#listeners.add(handler);
    return () => {
      this.#listeners.delete(handler);
    };
  }

  #detach(mapping: DmaMapping): void | Promise<void> {
    for (const listener of this.#listeners) listener(mapping.iova, mapping.size);
    this.#table.remove(mapping);
    if (mapping.pins === 0) return mapping.release();
    this.#draining.add(mapping);
    return this.#drain(mapping);
  }

  /** Waits for the last pin. After the deadline the caller is told, and the memory still goes only with that pin. */
  #drain(mapping: DmaMapping): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        mapping.drained = mapping.drained.filter((done) => done !== finish);
        reject(
          errnoError(
            'EBUSY',
            `DMA unmap of ${hex(mapping.iova)}+${hex(mapping.size)}: ${mapping.pins} pinned views are still held after ${this.#deadlineMs} ms`,
            { op: 'dmaUnmap', device: this.#device },
          ),
        );
      }, this.#deadlineMs);
      const finish = () => {
        clearTimeout(timer);
        resolve();
      };
      mapping.drained.push(finish);
    });
  }

  read(iova: number, into: Uint8Array): void | Promise<void> {
    const length = into.length;
    const mapping = this.#table.find(iova);
    if (mapping !== undefined && iova + length <= mapping.to && mapping.readable && mapping.memory !== undefined) {
      const bytes = mapping.memory.bytes;
      const at = iova - mapping.from;
      if (at + length <= bytes.length) {
        if (length <= LOOP_BYTES) for (let i = 0; i < length; i++) into[i] = bytes[at + i]!;
        else into.set(bytes.subarray(at, at + length));
        return undefined;
      }
    }
    return length === 0 ? undefined : this.#spanning(iova, into, false);
  }

  write(iova: number, from: Uint8Array): void | Promise<void> {
    const length = from.length;
    const mapping = this.#table.find(iova);
    if (mapping !== undefined && iova + length <= mapping.to && mapping.writable && mapping.memory !== undefined) {
      const bytes = mapping.memory.bytes;
      const at = iova - mapping.from;
      if (at + length <= bytes.length) {
        if (length <= LOOP_BYTES) for (let i = 0; i < length; i++) bytes[at + i] = from[i]!;
        else bytes.set(from, at);
        if (this.#log !== undefined) this.#log.mark(iova, length);
        return undefined;
      }
    }
    return length === 0 ? undefined : this.#spanning(iova, from, true);
  }

  /** Reads or writes what is not in one local mapping. Everything is checked before the first byte moves. */
  #spanning(iova: number, data: Uint8Array, isWrite: boolean): void | Promise<void> {
    this.#checkRange(isWrite ? 'write' : 'read', iova, data.length);
    const end = iova + data.length;
    let isRemote = false;
    for (let at = iova; at < end; ) {
      const mapping = this.#reachable(at, isWrite, iova, data.length);
      if (mapping.memory === undefined) isRemote = true;
      at = mapping.to;
    }
    if (!isRemote) {
      for (let at = iova; at < end; ) {
        const mapping = this.#table.find(at)!;
        const stop = Math.min(mapping.to, end);
        this.#copyLocal(mapping, at, data.subarray(at - iova, stop - iova), isWrite);
        at = stop;
      }
      return undefined;
    }
    return this.#spanningRemote(iova, data, isWrite);
  }

  async #spanningRemote(iova: number, data: Uint8Array, isWrite: boolean): Promise<void> {
    const end = iova + data.length;
    for (let at = iova; at < end; ) {
      // Looked up again after each wait: the mapping may have gone meanwhile.
      const mapping = this.#reachable(at, isWrite, iova, data.length);
      const stop = Math.min(mapping.to, end);
      const piece = data.subarray(at - iova, stop - iova);
      if (mapping.memory !== undefined) this.#copyLocal(mapping, at, piece, isWrite);
      else {
        const remote = (mapping.remote ?? this.remote)!;
        if (isWrite) {
          await remote.write(at, piece);
          this.#log?.mark(at, piece.length);
        } else await remote.read(at, piece);
      }
      at = stop;
    }
  }

  #copyLocal(mapping: DmaMapping, iova: number, data: Uint8Array, isWrite: boolean): void {
    const bytes = mapping.memory!.bytes;
    const at = iova - mapping.from;
    if (isWrite) {
      bytes.set(data, at);
      this.#log?.mark(iova, data.length);
    } else data.set(bytes.subarray(at, at + data.length));
  }

  /** The mapping at an address, if it can be used for this. @throws EFAULT */
  #reachable(at: number, isWrite: boolean, iova: number, length: number): DmaMapping {
    const mapping = this.#table.find(at);
    const kind = isWrite ? 'write' : 'read';
    if (mapping === undefined) throw this.#fault(kind, iova, length, `nothing is mapped at ${hex(at)}`);
    if (isWrite ? !mapping.writable : !mapping.readable) {
      throw this.#fault(
        kind,
        iova,
        length,
        `the mapping at ${hex(mapping.from)} is not ${kind === 'read' ? 'readable' : 'writable'}`,
      );
    }
    if (mapping.memory === undefined) {
      if ((mapping.remote ?? this.remote) === undefined)
        throw this.#fault(kind, iova, length, 'the memory is remote and its peer is gone');
    } else {
      const end = Math.min(mapping.to, iova + length);
      if (end - mapping.from > mapping.memory.bytes.length)
        throw this.#fault(kind, iova, length, 'the memory behind the mapping is gone');
    }
    return mapping;
  }

  view(iova: number, length: number, writable: boolean): Uint8Array | undefined {
    const mapping = this.#oneLocal(iova, length, writable);
    if (mapping === undefined) return undefined;
    if (writable && this.#log !== undefined) this.#log.mark(iova, length);
    return viewOf(mapping, iova, length);
  }

  pin(iova: number, length: number, writable: boolean): PinnedView {
    const mapping = this.#oneLocal(iova, length, writable);
    if (mapping === undefined) {
      throw errnoError('EOPNOTSUPP', `DMA pin of ${hex(iova)}+${hex(length)}: not within one local mapping`, {
        op: 'pin',
        device: this.#device,
      });
    }
    const at = iova - mapping.from;
    const pin = new Pin(this, mapping, mapping.memory!.bytes.subarray(at, at + length), iova, writable);
    mapping.pins++;
    if (writable) {
      this.#writablePins.add(pin);
      this.#log?.mark(iova, length);
    }
    return pin;
  }

  /** The local mapping that holds all of a range; undefined where several do or it is remote. @throws EFAULT */
  #oneLocal(iova: number, length: number, writable: boolean): DmaMapping | undefined {
    const mapping = this.#table.find(iova);
    if (mapping !== undefined && length >= 0 && iova + length <= mapping.to && mapping.memory !== undefined) {
      if (writable ? mapping.writable : mapping.readable) {
        if (iova - mapping.from + length <= mapping.memory.bytes.length) return mapping;
      }
    }
    this.#checkRange('view', iova, length);
    const end = iova + Math.max(length, 1);
    for (let at = iova; at < end; ) at = this.#reachable(at, writable, iova, length).to;
    return undefined;
  }

  /** For {@link PinnedView.release} only. */
  unpin(pin: Pin): void {
    const { mapping } = pin;
    if (pin.writable) {
      this.#writablePins.delete(pin);
      this.#log?.mark(pin.iova, pin.bytes.length === 0 ? pin.length : pin.bytes.length);
    }
    if (--mapping.pins > 0 || !this.#draining.has(mapping)) return;
    this.#draining.delete(mapping);
    mapping.release();
    const waiting = mapping.drained;
    mapping.drained = [];
    for (const done of waiting) done();
  }

  /** {@link read} at any 64-bit address; slower. */
  readBig(iova: bigint, into: Uint8Array): void | Promise<void> {
    return this.#big(iova, into, false);
  }

  /** {@link write} at any 64-bit address; slower. */
  writeBig(iova: bigint, from: Uint8Array): void | Promise<void> {
    return this.#big(iova, from, true);
  }

  #big(iova: bigint, data: Uint8Array, isWrite: boolean): void | Promise<void> {
    const end = iova + BigInt(data.length);
    if (iova >= 0n && end <= BigInt(NUMBER_LIMIT)) {
      return isWrite ? this.write(Number(iova), data) : this.read(Number(iova), data);
    }
    const pieces: BigPiece[] = [];
    for (let at = iova; at < end; ) {
      const piece = this.#bigPiece(iova, at, end, data, isWrite);
      pieces.push(piece);
      at += BigInt(piece.data.length);
    }
    const waits: Promise<void>[] = [];
    for (const piece of pieces) {
      const wait = this.#copyBig(piece, isWrite);
      if (wait !== undefined) waits.push(wait);
    }
    return waits.length === 0 ? undefined : Promise.all(waits).then(() => undefined);
  }

  /** The part of an access that one mapping holds. @throws EFAULT */
  #bigPiece(iova: bigint, at: bigint, end: bigint, data: Uint8Array, isWrite: boolean): BigPiece {
    const kind = isWrite ? 'write' : 'read';
    const mapping = this.#table.findBig(at);
    if (mapping === undefined || (isWrite ? !mapping.writable : !mapping.readable)) {
      throw this.#fault(kind, iova, data.length, `no mapping at ${hex(at)} allows it`);
    }
    const mappingEnd = mapping.iova + mapping.size;
    const stop = mappingEnd < end ? mappingEnd : end;
    const part = data.subarray(Number(at - iova), Number(stop - iova));
    const offset = Number(at - mapping.iova);
    if (mapping.memory !== undefined && offset + part.length > mapping.memory.bytes.length) {
      throw this.#fault(kind, iova, data.length, 'the memory behind the mapping is gone');
    }
    if (mapping.memory === undefined) {
      const remote = mapping.remote ?? this.remote;
      if ((isWrite ? remote?.writeBig : remote?.readBig) === undefined) {
        throw this.#fault(kind, iova, data.length, 'the memory is remote and cannot be reached above 2^53');
      }
    }
    return { mapping, at, offset, data: part };
  }

  #copyBig({ mapping, at, offset, data }: BigPiece, isWrite: boolean): void | Promise<void> {
    if (mapping.memory === undefined) {
      const remote = (mapping.remote ?? this.remote)!;
      if (!isWrite) return remote.readBig!(at, data);
      return remote.writeBig!(at, data).then(() => this.#log?.markBig(at, BigInt(data.length)));
    }
    const { bytes } = mapping.memory;
    if (isWrite) {
      bytes.set(data, offset);
      this.#log?.markBig(at, BigInt(data.length));
    } else data.set(bytes.subarray(offset, offset + data.length));
    return undefined;
  }

  /** Whether writes are logged now. */
  get isLogging(): boolean {
    return this.#log !== undefined;
  }

  /** Starts the dirty log; returns the page size that is tracked. @throws EINVAL while it runs. */
  startLog(ranges: readonly IovaRange[], pageSize: bigint): bigint {
    if (this.#log !== undefined) {
      throw errnoError('EINVAL', 'DMA logging is on already', { op: 'DMA_LOGGING_START', device: this.#device });
    }
    this.#log = new DirtyLog(pageSize, ranges);
    for (const pin of this.#writablePins) this.#log.mark(pin.iova, pin.length);
    return this.#log.pageSize;
  }

  /** Ends the log; tolerated while it is off. */
  stopLog(): void {
    this.#log = undefined;
  }

  /** Reports and clears a range. Memory under a writable pin stays dirty. @throws EINVAL while the log is off. */
  readAndClearLog(range: IovaRange, dirty: (iova: bigint, length: bigint) => void): void {
    const log = this.#log;
    if (log === undefined) {
      throw errnoError('EINVAL', 'DMA logging is not on', { op: 'DMA_LOGGING_REPORT', device: this.#device });
    }
    log.readAndClear(range, dirty);
    for (const pin of this.#writablePins) log.mark(pin.iova, pin.length);
  }

  /** What was written is not known any more: the next report says that everything is dirty. */
  markAllDirty(): void {
    this.#log?.markAll();
  }

  /** Ranges that no loop over addresses could end on. @throws EFAULT */
  #checkRange(kind: string, iova: number, length: number): void {
    if (Number.isSafeInteger(iova) && length >= 0) return;
    throw this.#fault(kind, iova, length, 'not a range of addresses below 2^53');
  }

  #fault(kind: string, iova: number | bigint, length: number, why: string): VfioError {
    return errnoError('EFAULT', `DMA ${kind} of ${hex(iova)}+${hex(length)}: ${why}`, {
      op: kind,
      device: this.#device,
    });
  }
}

/** The part of a bigint access that one mapping holds. */
interface BigPiece {
  readonly mapping: DmaMapping;
  readonly at: bigint;
  readonly offset: number;
  readonly data: Uint8Array;
}

class Pin implements PinnedView {
  readonly bytes: Uint8Array;
  readonly mapping: DmaMapping;
  readonly iova: number;
  readonly length: number;
  readonly writable: boolean;
  #space: GuestMemory | undefined;

  constructor(space: GuestMemory, mapping: DmaMapping, bytes: Uint8Array, iova: number, writable: boolean) {
    this.#space = space;
    this.mapping = mapping;
    this.bytes = bytes;
    this.length = bytes.length;
    this.iova = iova;
    this.writable = writable;
  }

  release(): void {
    const space = this.#space;
    this.#space = undefined;
    space?.unpin(this);
  }
}

function viewOf(mapping: DmaMapping, iova: number, length: number): Uint8Array {
  const bytes = mapping.memory!.bytes;
  const at = iova - mapping.from;
  const last = mapping.lastView;
  if (
    last !== undefined &&
    last.buffer === bytes.buffer &&
    last.byteOffset === bytes.byteOffset + at &&
    last.length === length
  ) {
    return last;
  }
  const view = bytes.subarray(at, at + length);
  mapping.lastView = view;
  return view;
}
