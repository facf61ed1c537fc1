import type { MmapArea, RegionCap, RegionInfo, RegionRange, VfioDevice } from '@vfio/core';
import { hex, VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_MMAP, VfioError } from '@vfio/uapi';

/** What a client is told of a region, and the descriptor that goes with it. */
export interface OfferedRegion {
  /** As it goes over the wire: `offset` is where the region starts in the descriptor's file. */
  readonly info: RegionInfo;
  /** Of the memory behind the areas that may be mapped; the device's. */
  readonly fd: number | undefined;
}

/**
 * What a client may map of a device's regions. A reply carries one descriptor for all areas of a region, and a client
 * adds an area's offset to the region's: so only areas of one file, at matching offsets, can be offered. What cannot be
 * (private memory, a second file) is reached by messages, which always works.
 */
export class RegionMemory {
  readonly #device: VfioDevice;
  readonly #takesFd: boolean;
  readonly #warn: (message: string) => void;
  readonly #offered = new Map<number, OfferedRegion>();

  /** @param takesFd the client takes a descriptor with a reply; otherwise nothing can be mapped */
  constructor(device: VfioDevice, takesFd: boolean, warn: (message: string) => void) {
    this.#device = device;
    this.#takesFd = takesFd;
    this.#warn = warn;
  }

  /** A region of which the client was given a descriptor: it may have it mapped. Undefined: there is none. */
  get given(): number | undefined {
    for (const [index, { fd }] of this.#offered) if (fd !== undefined) return index;
    return undefined;
  }

  /** @throws EINVAL where there is no such region */
  offer(index: number): OfferedRegion {
    const known = this.#offered.get(index);
    if (known !== undefined) return known;
    const info = this.#device.getRegionInfo(index);
    const areas = this.#mappable(info);
    const first = areas[0];
    if (first === undefined) {
      // Not kept: memory that cannot be had now may be there when the client asks again.
      return { info: { ...info, ...withoutMmap(info), offset: 0 }, fd: undefined };
    }
    const sparse: RegionCap = {
      id: VFIO_REGION_INFO_CAP_SPARSE_MMAP,
      version: 1,
      areas: areas.map(({ offset, size }) => ({ offset, size })),
    };
    const offered: OfferedRegion = {
      info: {
        ...info,
        offset: first.memory.fdOffset - first.offset,
        // Always there: the Rust crate takes the descriptor only together with capabilities.
        caps: [sparse, ...info.caps.filter((cap) => cap.id !== VFIO_REGION_INFO_CAP_SPARSE_MMAP)],
      },
      fd: first.memory.fd,
    };
    this.#offered.set(index, offered);
    return offered;
  }

  /** The areas of a region that can go with one descriptor. */
  #mappable(info: RegionInfo): MmapArea[] {
    if (!this.#takesFd || (info.flags & VFIO_REGION_INFO_FLAG_MMAP) === 0 || info.size === 0) return [];
    const areas: MmapArea[] = [];
    for (const range of rangesOf(info)) {
      if (range.size === 0) continue;
      const area = this.#area(info.index, range);
      const why = area === undefined ? undefined : unfit(area, areas[0]);
      if (area === undefined || why !== undefined) {
        if (why !== undefined) {
          this.#warn(`region ${info.index}, ${hex(range.offset)}+${hex(range.size)} is not offered for mmap: ${why}`);
        }
        continue;
      }
      areas.push(area);
    }
    return areas;
  }

  #area(index: number, range: RegionRange): MmapArea | undefined {
    try {
      return this.#device.mmapArea(index, range.offset, range.size);
    } catch (error) {
      if (!(error instanceof VfioError)) throw error;
      this.#warn(`region ${index}, ${hex(range.offset)}+${hex(range.size)} is not offered for mmap: ${error.message}`);
      return undefined;
    }
  }
}

function rangesOf(info: RegionInfo): readonly RegionRange[] {
  for (const cap of info.caps) if (cap.id === VFIO_REGION_INFO_CAP_SPARSE_MMAP) return cap.areas;
  return [{ offset: 0, size: info.size }];
}

function withoutMmap(info: RegionInfo): Pick<RegionInfo, 'flags' | 'caps'> {
  return {
    flags: info.flags & ~VFIO_REGION_INFO_FLAG_MMAP,
    caps: info.caps.filter((cap) => cap.id !== VFIO_REGION_INFO_CAP_SPARSE_MMAP),
  };
}

/** Why an area cannot be offered; undefined where it can. */
function unfit(area: MmapArea, first: MmapArea | undefined): string | undefined {
  const { fd, fdOffset } = area.memory;
  if (fd === undefined) return 'its memory is private to this process';
  if (fdOffset < area.offset) return 'it lies further into the region than into its file';
  if (first === undefined) return undefined;
  if (fd !== first.memory.fd) return 'another area of the region has another file, and one message carries one';
  if (fdOffset - area.offset !== first.memory.fdOffset - first.offset)
    return 'its place in the file does not fit the region';
  return undefined;
}
