import type { DmaMapRequest, RemoteDma, SharedMemory, VfioDevice } from '@vfio/core';
import { closeFd, MADV_DONTDUMP, type Mapping, mmap, PROT_READ, PROT_WRITE, pageSize, statFd } from '@vfio/native';
import {
  errnoError,
  hex,
  isVfioError,
  VFIO_USER_F_DMA_REGION_FILE_IO,
  VFIO_USER_F_DMA_REGION_MASK,
  VFIO_USER_F_DMA_REGION_MMAP,
  VFIO_USER_F_DMA_REGION_READ,
  VFIO_USER_F_DMA_REGION_WRITE,
} from '@vfio/uapi';
import { FileDma } from './file-dma.js';
import { type KeptFile, KeptFiles } from './kept-files.js';
import {
  DMA_PAGE_SIZE,
  MAX_DMA_MAP_SIZE,
  MAX_FILE_MAPS,
  MAX_MAPPED_BYTES,
  MAX_MAPPED_PART,
  MAX_MAPPED_PARTS,
} from './limits.js';

/** A DMA_MAP, taken apart. */
export interface MapCommand {
  /** VFIO_USER_F_DMA_REGION_*. */
  readonly flags: number;
  /** Bytes from the start of the descriptor's file. */
  readonly offset: bigint;
  readonly iova: bigint;
  readonly size: bigint;
}

/** What one DMA_MAP made reachable, as its client sees it. */
export interface MappedRange {
  readonly iova: bigint;
  readonly size: bigint;
  /** What the device may do there. */
  readonly readable: boolean;
  readonly writable: boolean;
  /** The file whose bytes they are, and where in it the first is; undefined where there is none that others could map too. */
  readonly file: { readonly dev: bigint; readonly ino: bigint; readonly offset: bigint } | undefined;
}

/** How a mapping's memory is reached. */
type Access = 'mmap' | 'file' | 'message';

/** One DMA_MAP that stands. */
export interface ClientMapping extends MapCommand {
  readonly access: Access;
  /** Of its file; undefined without one, and where there was no room for it. */
  readonly kept: KeptFile | undefined;
  /** Which file it is, to know an identical map again; undefined without descriptor. */
  readonly file: { readonly dev: bigint; readonly ino: bigint } | undefined;
  /** A file of memory or of a disk: the same bytes for all who map it. */
  readonly isFile: boolean;
  /** What the device has of it: more than one where a single buffer cannot show it all. */
  parts: readonly Part[];
  /** An unmap was asked for and did not end: the device still holds some of it. It may be asked for again. */
  isLeaving: boolean;
}

interface Range {
  readonly iova: bigint;
  readonly size: bigint;
}

/** A piece as the device has it, with the way to its bytes. */
type Part = DmaMapRequest;

export interface ClientMemoryOptions {
  readonly device: VfioDevice;
  readonly maxMaps: number;
  /** Reaches what was mapped without a descriptor. */
  readonly remote: RemoteDma;
  /** A mapping was made: the connection is to end when its file is cut. */
  readonly onMapped?: (mapping: Mapping) => void;
  /** Bytes of the largest single piece, whole pages. @default 1 GiB */
  readonly maxPart?: number;
  /** Bytes of everything that is mapped. @default 8 TiB */
  readonly maxMappedBytes?: bigint;
}

const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const TOP = 1n << 64n;

/**
 * The memory that one client gave to its device. The device's own address space holds the mappings; this table knows
 * what belongs to the protocol: which descriptor, which flags, and what one command became.
 */
export class ClientMemory {
  readonly #options: ClientMemoryOptions;
  readonly #mappings = new Map<bigint, ClientMapping>();
  readonly #files = new KeptFiles();
  /** What is mapped here now, and what that may come to. */
  readonly #mapped = { bytes: 0n, parts: 0, files: 0 };
  #generation = 0;
  #lastPart: Part | undefined;

  constructor(options: ClientMemoryOptions) {
    this.#options = options;
  }

  /** Number of mappings. */
  get count(): number {
    return this.#mappings.size;
  }

  /** Changes with each map and unmap. */
  get generation(): number {
    return this.#generation;
  }

  /** What is mapped, by address. */
  ranges(): readonly MappedRange[] {
    const ranges = [...this.#mappings.values()].filter(({ isLeaving }) => !isLeaving);
    return ranges
      .sort((a, b) => (a.iova < b.iova ? -1 : 1))
      .map(({ iova, size, flags, offset, file, isFile }) => ({
        iova,
        size,
        readable: (flags & VFIO_USER_F_DMA_REGION_READ) !== 0,
        writable: (flags & VFIO_USER_F_DMA_REGION_WRITE) !== 0,
        file: isFile && file !== undefined ? { dev: file.dev, ino: file.ino, offset } : undefined,
      }));
  }

  /**
   * Copies bytes out of one mapping, the device's own log not told: what moves a device reads and writes its client's memory
   * in the client's place.
   * @throws EFAULT where they are not in one mapping, or their memory is gone
   */
  read(iova: bigint, into: Uint8Array): void | Promise<void> {
    return this.#each(iova, into, (part, at, data) => {
      if (!part.readable) throw errnoError('EFAULT', `the mapping at ${hex(part.iova)} is not readable`, { op: 'dma' });
      if (part.memory !== undefined) return data.set(part.memory.bytes.subarray(at, at + data.length));
      return remoteOf(part).read(Number(part.iova) + at, data);
    });
  }

  /** The bytes themselves, as far as they are in one piece that is mapped here; to be used at once. Undefined: {@link read} them. */
  view(iova: bigint, length: number): Uint8Array | undefined {
    const part = this.#partAt(iova);
    if (part?.memory === undefined || !part.readable) return undefined;
    const at = Number(iova - part.iova);
    const { bytes } = part.memory;
    return at + length <= Math.min(bytes.length, Number(part.size)) ? bytes.subarray(at, at + length) : undefined;
  }

  /** {@link read}, the other way. What its client mapped for one of them cannot be used for the other. */
  write(iova: bigint, from: Uint8Array): void | Promise<void> {
    return this.#each(iova, from, (part, at, data) => {
      if (!part.writable) throw errnoError('EFAULT', `the mapping at ${hex(part.iova)} is not writable`, { op: 'dma' });
      if (part.memory !== undefined) return part.memory.bytes.set(data, at);
      return remoteOf(part).write(Number(part.iova) + at, data);
    });
  }

  #each(
    iova: bigint,
    data: Uint8Array,
    move: (part: Part, at: number, data: Uint8Array) => void | Promise<void>,
  ): void | Promise<void> {
    const waits: Promise<void>[] = [];
    for (let done = 0; done < data.length; ) {
      const address = iova + BigInt(done);
      const part = this.#partAt(address);
      const at = part === undefined ? 0 : Number(address - part.iova);
      const length = part === undefined ? 0 : Math.min(data.length - done, Number(part.size) - at);
      if (part === undefined || (part.memory !== undefined && part.memory.bytes.length < at + length)) {
        throw errnoError('EFAULT', `nothing is mapped at ${hex(address)} any more`, { op: 'dma' });
      }
      const wait = move(part, at, data.subarray(done, done + length));
      if (wait !== undefined) waits.push(wait);
      done += length;
    }
    return waits.length === 0 ? undefined : allOf(waits);
  }

  /** The piece that holds an address. What was found last is found again at once. */
  #partAt(address: bigint): Part | undefined {
    const holds = ({ iova, size }: Range) => address >= iova && address < iova + size;
    if (this.#lastPart !== undefined && holds(this.#lastPart)) return this.#lastPart;
    for (const mapping of this.#mappings.values()) {
      if (holds(mapping)) this.#lastPart = mapping.parts.find(holds);
      else continue;
      return this.#lastPart;
    }
    return undefined;
  }

  /** @throws ENOENT where not exactly this was mapped by one command */
  check(iova: bigint, size: bigint): void {
    const mapping = this.#mappings.get(iova);
    if (mapping !== undefined && mapping.size === size) return;
    throw errnoError(
      'ENOENT',
      mapping === undefined
        ? `DMA_UNMAP of ${hex(iova)}+${hex(size)}: nothing was mapped at this address`
        : `DMA_UNMAP of ${hex(iova)}+${hex(size)}: the mapping there has ${hex(mapping.size)} bytes`,
      { op: 'DMA_UNMAP' },
    );
  }

  /**
   * Maps. The descriptor, where there is one, is this call's whatever happens.
   * @throws EINVAL (flags, alignment, a file that is too short, wrap-around), EEXIST (overlap), ENOSPC (number or size of
   *   mappings), EACCES (the descriptor forbids the access) and what mmap says
   */
  map(command: MapCommand, fd: number | undefined): void {
    try {
      this.#map(command, fd);
    } finally {
      // A mapping lives without its descriptor; file access keeps a copy.
      if (fd !== undefined) closeFd(fd);
    }
  }

  /** Everything that stands, for who takes the client over. */
  mappings(): Iterable<ClientMapping> {
    return this.#mappings.values();
  }

  /** The client is gone, and the device with it. Idempotent. */
  close(): void {
    this.#mappings.clear();
    this.#files.close();
  }

  #map(command: MapCommand, fd: number | undefined): void {
    const { flags, iova, size, offset } = command;
    const shown = `DMA_MAP of ${hex(iova)}+${hex(size)}`;
    const refuse = (why: string) => errnoError('EINVAL', `${shown}: ${why}`, { op: 'DMA_MAP' });
    if ((flags & ~VFIO_USER_F_DMA_REGION_MASK) !== 0) throw refuse(`unknown flags in ${hex(flags >>> 0)}`);
    const access = accessOf(flags, fd);
    if (access === undefined) throw refuse(`flags ${hex(flags)} need a descriptor`);
    if (size === 0n || iova + size > TOP) throw refuse('must be a non-empty part of 64-bit address space');
    const mask = BigInt(DMA_PAGE_SIZE - 1);
    if (((iova | size | (fd === undefined ? 0n : offset)) & mask) !== 0n) {
      throw refuse(`address, size and offset ${hex(offset)} must be multiples of ${hex(DMA_PAGE_SIZE)}`);
    }
    if (size > MAX_DMA_MAP_SIZE) {
      throw errnoError('ENOSPC', `${shown}: one mapping holds at most ${hex(MAX_DMA_MAP_SIZE)}`, { op: 'DMA_MAP' });
    }
    const stat = fd === undefined ? undefined : statFd(fd);
    if (this.#isIdentical(command, access, stat)) return;
    if (this.#mappings.size >= this.#options.maxMaps) {
      throw errnoError('ENOSPC', `${shown}: the limit of ${this.#options.maxMaps} mappings is reached`, {
        op: 'DMA_MAP',
      });
    }
    const isFile = stat !== undefined && (stat.mode & S_IFMT) === S_IFREG;
    // A file of /proc (FILE_IO) has no size; what is mapped and ends too early would be a trap for every access behind it.
    if (access === 'mmap' && isFile && offset + size > stat.size) {
      throw refuse(`the file has ${hex(stat.size)} bytes, ${hex(offset + size)} are needed`);
    }
    const ranges = this.#split(iova, size, access);
    this.#checkRoom(shown, size, ranges.length, access);
    const parts: Part[] = [];
    try {
      for (const range of ranges) {
        const part = this.#request(command, range, access, fd, stat?.isHugetlb ? stat.blockSize : 0);
        this.#options.device.dmaMap(part);
        parts.push(part);
      }
    } catch (error) {
      // Nothing uses them yet.
      for (const part of parts) void this.#options.device.dmaUnmap(part.iova, part.size);
      throw error;
    }
    this.#generation++;
    const kept = fd === undefined ? undefined : this.#files.keep(fd, stat!, isWritable(flags));
    this.#mappings.set(iova, { iova, size, flags, offset, access, file: stat, kept, isFile, parts, isLeaving: false });
  }

  /** What one client may take of this process. @throws ENOSPC */
  #checkRoom(shown: string, size: bigint, parts: number, access: Access): void {
    const mapped = this.#mapped;
    const refuse = (why: string) => errnoError('ENOSPC', `${shown}: ${why}`, { op: 'DMA_MAP' });
    if (access === 'file' && mapped.files >= MAX_FILE_MAPS) {
      throw refuse(`${MAX_FILE_MAPS} mappings by file access are the most, each keeps a descriptor`);
    }
    if (access !== 'mmap') return;
    if (mapped.parts + parts > MAX_MAPPED_PARTS) throw refuse(`${MAX_MAPPED_PARTS} mapped pieces are the most`);
    const most = this.#options.maxMappedBytes ?? MAX_MAPPED_BYTES;
    if (mapped.bytes + size > most) {
      throw refuse(`${hex(mapped.bytes)} bytes are mapped already, ${hex(most)} are the most`);
    }
  }

  /** Whether exactly this is mapped already: libvfio-user's clients may map again what they mapped. */
  #isIdentical(command: MapCommand, access: Access, stat: ClientMapping['file']): boolean {
    const known = this.#mappings.get(command.iova);
    return (
      known !== undefined &&
      !known.isLeaving &&
      known.size === command.size &&
      known.flags === command.flags &&
      known.access === access &&
      (stat === undefined ||
        (known.offset === command.offset && known.file?.dev === stat.dev && known.file.ino === stat.ino))
    );
  }

  /** Memory that is mapped is cut into pieces: a buffer has a largest size. */
  #split(iova: bigint, size: bigint, access: Access): readonly Range[] {
    if (access !== 'mmap') return [{ iova, size }];
    const step = BigInt(this.#options.maxPart ?? MAX_MAPPED_PART);
    const ranges: Range[] = [];
    for (let at = 0n; at < size; at += step) {
      ranges.push({ iova: iova + at, size: size - at < step ? size - at : step });
    }
    return ranges;
  }

  #request(command: MapCommand, part: Range, access: Access, fd: number | undefined, hugePage: number): Part {
    const readable = (command.flags & VFIO_USER_F_DMA_REGION_READ) !== 0;
    const writable = isWritable(command.flags);
    const common = { iova: part.iova, size: part.size, readable, writable };
    if (access === 'message') return { ...common, memory: undefined, remote: this.#options.remote };
    const offset = command.offset + (part.iova - command.iova);
    const mapped = this.#mapped;
    if (access === 'file') {
      const file = new FileDma(fd!, part.iova, offset);
      mapped.files++;
      const release = (): void => {
        file.close();
        mapped.files--;
      };
      return { ...common, memory: undefined, remote: file, release };
    }
    const { mapping, bytes } = mapFile(fd!, offset, Number(part.size), readable, writable, hugePage);
    mapped.bytes += part.size;
    mapped.parts++;
    const release = (): void => {
      mapping.unmap();
      mapped.bytes -= part.size;
      mapped.parts--;
    };
    try {
      this.#options.onMapped?.(mapping);
    } catch (error) {
      release();
      throw error;
    }
    const memory: SharedMemory = { bytes, fd: undefined, fdOffset: 0 };
    return { ...common, memory, release };
  }

  /**
   * Unmaps what was mapped by one command, exactly. A promise while the device still uses the memory.
   * @throws ENOENT where there is no such mapping, EBUSY where the device holds it too long; the client may ask again
   */
  unmap(iova: bigint, size: bigint): void | Promise<void> {
    this.check(iova, size);
    return this.#unmap(this.#mappings.get(iova)!);
  }

  /** Unmaps everything, the youngest first. What fails stays, the rest goes. */
  unmapAll(): void | Promise<void> {
    const waits: Promise<void>[] = [];
    for (const mapping of [...this.#mappings.values()].reverse()) {
      const wait = this.#unmap(mapping);
      if (wait !== undefined) waits.push(wait);
    }
    return waits.length === 0 ? undefined : allOf(waits);
  }

  #unmap(mapping: ClientMapping): void | Promise<void> {
    const isAgain = mapping.isLeaving;
    mapping.isLeaving = true;
    this.#generation++;
    this.#lastPart = undefined;
    const held: Part[] = [];
    const waits: Promise<void>[] = [];
    for (const part of mapping.parts) {
      const wait = this.#unmapPart(part, isAgain, held);
      if (wait !== undefined) waits.push(wait);
    }
    const forget = (): void => {
      mapping.parts = held;
      if (held.length > 0 || this.#mappings.get(mapping.iova) !== mapping) return;
      this.#mappings.delete(mapping.iova);
      if (mapping.kept !== undefined) this.#files.release(mapping.kept);
    };
    if (waits.length === 0) return forget();
    return allOf(waits).finally(forget);
  }

  /** Does not throw: the other parts go although one does not. What was asked for before may have gone by itself. */
  #unmapPart(part: Part, isAgain: boolean, held: Part[]): void | Promise<void> {
    const keep = (error: unknown): Promise<void> => {
      if (isAgain && isVfioError(error) && error.errno === 'ENOENT') return Promise.resolve();
      held.push(part);
      return Promise.reject(error);
    };
    try {
      return this.#options.device.dmaUnmap(part.iova, part.size)?.catch(keep);
    } catch (error) {
      return keep(error);
    }
  }
}

function remoteOf(part: Part): RemoteDma {
  if (part.remote !== undefined && part.iova + part.size <= BigInt(Number.MAX_SAFE_INTEGER)) return part.remote;
  throw errnoError('EFAULT', `the memory at ${hex(part.iova)} can only be reached by its device`, { op: 'dma' });
}

/** Waits for all, then fails with the first that failed. */
async function allOf(waits: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(waits)) if (result.status === 'rejected') throw result.reason;
}

function isWritable(flags: number): boolean {
  return (flags & VFIO_USER_F_DMA_REGION_WRITE) !== 0;
}

/** How the memory of a DMA_MAP is reached; undefined where the flags ask for a descriptor that is not there. */
function accessOf(flags: number, fd: number | undefined): Access | undefined {
  const needsFd = flags & (VFIO_USER_F_DMA_REGION_MMAP | VFIO_USER_F_DMA_REGION_FILE_IO);
  if (fd === undefined) return needsFd === 0 ? 'message' : undefined;
  if ((flags & VFIO_USER_F_DMA_REGION_MMAP) !== 0) return 'mmap';
  return (flags & VFIO_USER_F_DMA_REGION_FILE_IO) !== 0 ? 'file' : 'mmap';
}

/** Maps `size` bytes at any page-aligned offset; on hugetlbfs, whose mappings start at its own pages, around them. */
function mapFile(
  fd: number,
  offset: bigint,
  size: number,
  readable: boolean,
  writable: boolean,
  hugePage: number,
): { mapping: Mapping; bytes: Uint8Array } {
  const align = Math.max(pageSize(), hugePage);
  const before = Number(offset % BigInt(align));
  let length = before + size;
  if (hugePage > 0) length = Math.ceil(length / align) * align;
  const prot = (readable ? PROT_READ : 0) | (writable ? PROT_WRITE : 0);
  const mapping = mmap(fd, offset - BigInt(before), length, prot);
  try {
    // Guest memory does not belong into a core file of ours.
    mapping.advise(0, mapping.length, MADV_DONTDUMP);
  } catch {
    // Only a wish.
  }
  return {
    mapping,
    bytes: before === 0 && length === size ? mapping.bytes : mapping.bytes.subarray(before, before + size),
  };
}
