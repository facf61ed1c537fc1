import type { SharedMemory } from '../pci/raw-function.js';
import type { DmaMapRequest, RemoteDma } from './dma-space.js';

/** Addresses from here on are no longer exact as numbers. */
export const NUMBER_LIMIT = 2 ** 53;
const NUMBER_LIMIT_BIG = 1n << 53n;

/** One mapping of a {@link DmaSpace}, with its ends as numbers for the data path. */
export class DmaMapping {
  readonly iova: bigint;
  readonly size: bigint;
  /** First address as a number; {@link NUMBER_LIMIT} for a mapping that starts above. */
  readonly from: number;
  /** Address after the last that is reachable as a number. */
  readonly to: number;
  readonly memory: SharedMemory | undefined;
  /** How memory that is not here is reached; undefined: as the space says. */
  readonly remote: RemoteDma | undefined;
  readonly readable: boolean;
  readonly writable: boolean;
  pins = 0;
  /** The view that was handed out last: a driver that looks at the same ring again gets the same object. */
  lastView: Uint8Array | undefined;
  /** Called when the last pin goes while an unmap waits. */
  drained: (() => void)[] = [];
  #release: (() => void) | undefined;

  constructor(request: DmaMapRequest) {
    this.iova = request.iova;
    this.size = request.size;
    const end = request.iova + request.size;
    this.from = request.iova < NUMBER_LIMIT_BIG ? Number(request.iova) : NUMBER_LIMIT;
    this.to = end < NUMBER_LIMIT_BIG ? Number(end) : NUMBER_LIMIT;
    this.memory = request.memory;
    this.remote = request.remote;
    this.readable = request.readable;
    this.writable = request.writable;
    this.#release = request.release?.bind(request);
  }

  /** Lets go of the memory; only the first call does. */
  release(): void {
    const release = this.#release;
    this.#release = undefined;
    this.lastView = undefined;
    release?.();
  }
}

/** Mappings sorted by address, with the one that was hit last tried first. */
export class DmaMappingTable {
  readonly #sorted: DmaMapping[] = [];
  #hit: DmaMapping | undefined;

  get count(): number {
    return this.#sorted.length;
  }

  all(): readonly DmaMapping[] {
    return this.#sorted;
  }

  /** The mapping that holds an address below 2^53. No allocation. */
  find(iova: number): DmaMapping | undefined {
    const hit = this.#hit;
    if (hit !== undefined && iova >= hit.from && iova < hit.to) return hit;
    const sorted = this.#sorted;
    let low = 0;
    let high = sorted.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const mapping = sorted[middle]!;
      if (iova >= mapping.to) low = middle + 1;
      else if (iova >= mapping.from) {
        this.#hit = mapping;
        return mapping;
      } else high = middle - 1;
    }
    return undefined;
  }

  /** The mapping that holds any 64-bit address. */
  findBig(iova: bigint): DmaMapping | undefined {
    const mapping = this.#sorted[this.#firstAfter(iova) - 1];
    return mapping !== undefined && iova < mapping.iova + mapping.size ? mapping : undefined;
  }

  /** A mapping that shares an address with the range, or undefined. */
  overlapping(iova: bigint, size: bigint): DmaMapping | undefined {
    const before = this.#sorted[this.#firstAfter(iova + size - 1n) - 1];
    return before !== undefined && before.iova + before.size > iova ? before : undefined;
  }

  /** The mapping that is exactly this range. */
  exactly(iova: bigint, size: bigint): DmaMapping | undefined {
    const mapping = this.findBig(iova);
    return mapping !== undefined && mapping.iova === iova && mapping.size === size ? mapping : undefined;
  }

  /** Adds a mapping that overlaps none. */
  insert(mapping: DmaMapping): void {
    this.#sorted.splice(this.#firstAfter(mapping.iova), 0, mapping);
  }

  remove(mapping: DmaMapping): void {
    const at = this.#sorted.indexOf(mapping);
    if (at >= 0) this.#sorted.splice(at, 1);
    if (this.#hit === mapping) this.#hit = undefined;
  }

  /** Index of the first mapping that starts above `iova`. */
  #firstAfter(iova: bigint): number {
    let low = 0;
    let high = this.#sorted.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#sorted[middle]!.iova <= iova) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
