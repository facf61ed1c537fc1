import { errnoError } from '@vfio/uapi';
import type { SharedMemory } from '../pci/raw-function.js';
import type { VfioDevice } from './vfio-device.js';

/** The device's page, whatever the host's is. */
export const DMA_PAGE = 4096;

/** Pages that are mapped at once. */
const ARENA_PAGES = 256;

/** Memory for the device: as bytes here and by address there. */
export interface DmaBuffer {
  readonly iova: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** Gives memory that the device's DMA may reach. The default is plain memory, for devices that are emulated here. */
export type AllocateMemory = (bytes: number) => SharedMemory;

export const plainMemory: AllocateMemory = (bytes) => ({ bytes: new Uint8Array(bytes), fd: undefined, fdOffset: 0 });

interface Arena {
  readonly iova: number;
  readonly memory: SharedMemory;
  readonly free: number[];
}

/** The first address that is handed out: not 0, which firmware takes for "none". */
const FIRST_IOVA = 0x100000;

/**
 * Memory that a driver shares with its function: pages from arenas that stay mapped, and larger buffers with a mapping of
 * their own. Addresses are the pool's to choose, as nothing else uses the function's address space.
 */
export class DmaPool {
  readonly #device: VfioDevice;
  readonly #allocate: AllocateMemory;
  readonly #arenas: Arena[] = [];
  readonly #owners = new Map<number, Arena>();
  readonly #large = new Map<number, number>();
  #next = FIRST_IOVA;

  constructor(device: VfioDevice, allocate: AllocateMemory) {
    this.#device = device;
    this.#allocate = allocate;
  }

  /** Pages and buffers that have not been given back. */
  get used(): number {
    return this.#owners.size + this.#large.size;
  }

  /** One zeroed page. */
  page(): DmaBuffer {
    const arena = this.#arenas.find(({ free }) => free.length > 0) ?? this.#addArena();
    const index = arena.free.pop() as number; // an arena with a free page was chosen
    const iova = arena.iova + index * DMA_PAGE;
    this.#owners.set(iova, arena);
    const bytes = arena.memory.bytes.subarray(index * DMA_PAGE, (index + 1) * DMA_PAGE);
    bytes.fill(0);
    return buffer(iova, bytes);
  }

  freePage(iova: number): void {
    const arena = this.#owners.get(iova);
    if (arena === undefined) return;
    this.#owners.delete(iova);
    arena.free.push((iova - arena.iova) / DMA_PAGE);
  }

  /** A zeroed buffer of whole pages, in one piece. */
  buffer(size: number): DmaBuffer {
    const length = Math.ceil(size / DMA_PAGE) * DMA_PAGE;
    const { iova, memory } = this.#map(length);
    this.#large.set(iova, length);
    return buffer(iova, memory.bytes.subarray(0, length));
  }

  async freeBuffer(iova: number): Promise<void> {
    const length = this.#large.get(iova);
    if (length === undefined) return;
    this.#large.delete(iova);
    await this.#device.dmaUnmap(BigInt(iova), BigInt(length));
  }

  /** Unmaps everything. */
  async close(): Promise<void> {
    for (const iova of [...this.#large.keys()]) await this.freeBuffer(iova);
    for (const { iova } of this.#arenas.splice(0))
      await this.#device.dmaUnmap(BigInt(iova), BigInt(ARENA_PAGES * DMA_PAGE));
    this.#owners.clear();
  }

  #addArena(): Arena {
    const { iova, memory } = this.#map(ARENA_PAGES * DMA_PAGE);
    const arena = { iova, memory, free: Array.from({ length: ARENA_PAGES }, (_, i) => ARENA_PAGES - 1 - i) };
    this.#arenas.push(arena);
    return arena;
  }

  /** @throws ENOMEM, where there is not so much: how much is needed is what a firmware or a stream says */
  #map(length: number): { iova: number; memory: SharedMemory } {
    let memory: SharedMemory;
    try {
      memory = this.#allocate(length);
    } catch (error) {
      throw errnoError('ENOMEM', `${length} bytes for the device's DMA are not to be had`, {
        op: 'dmaMap',
        cause: error,
      });
    }
    const iova = this.#next;
    this.#device.dmaMap({ iova: BigInt(iova), size: BigInt(length), readable: true, writable: true, memory });
    this.#next += length;
    return { iova, memory };
  }
}

function buffer(iova: number, bytes: Uint8Array): DmaBuffer {
  return { iova, bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength) };
}
