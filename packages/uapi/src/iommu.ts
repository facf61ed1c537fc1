/** VFIO_IOMMU_GET_INFO of a type 1 container: the struct and its capabilities. */
import { type FoundCap, readCapChain } from './cap-chain.js';
import { needBytes, readArray, viewOf } from './struct.js';
import {
  VFIO_IOMMU_INFO_CAPS,
  VFIO_IOMMU_INFO_PGSIZES,
  VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
  VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
  VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
} from './vfio.js';
import {
  vfioIommuType1Info,
  vfioIommuType1InfoCapIovaRange,
  vfioIommuType1InfoCapMigration,
  vfioIommuType1InfoDmaAvail,
  vfioIovaRange,
} from './vfio-structs.js';

/** What a container's IOMMU can do. A part that an older kernel does not tell is `undefined`. */
export interface IommuType1Info {
  /** One bit a page size. */
  readonly iovaPgsizes: bigint | undefined;
  /** The address space that can be mapped, ends included. */
  readonly iovaRanges: readonly { readonly start: bigint; readonly end: bigint }[] | undefined;
  /** Dirty page tracking by the container. */
  readonly migration: { readonly pgsizeBitmap: bigint; readonly maxDirtyBitmapSize: bigint } | undefined;
  /** Mappings that can still be made. */
  readonly dmaAvail: number | undefined;
}

/** Least size of the struct: it ended here before it had capabilities. */
const MIN_SIZE = vfioIommuType1Info.fields.capOffset.offset;
const OLD_SIZE = vfioIommuType1Info.fields.pad.offset;

/**
 * Reads a reply to VFIO_IOMMU_GET_INFO. `argsz` says how much room the whole reply takes.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short, or a broken chain.
 */
export function decodeIommuType1Info(
  data: Uint8Array,
  littleEndian: boolean,
): { readonly info: IommuType1Info; readonly argsz: number; readonly chain: readonly FoundCap[] } {
  needBytes(viewOf(data), 0, MIN_SIZE, vfioIommuType1Info.name);
  const whole = new Uint8Array(Math.max(data.length, vfioIommuType1Info.size));
  whole.set(data);
  const raw = vfioIommuType1Info.read(viewOf(whole), 0, littleEndian);
  const filled = data.subarray(0, Math.min(data.length, raw.argsz));
  const chain =
    (raw.flags & VFIO_IOMMU_INFO_CAPS) !== 0 ? readCapChain(viewOf(filled), raw.capOffset, OLD_SIZE, littleEndian) : [];
  const body = (id: number): DataView | undefined => {
    const cap = chain.find((found) => found.id === id && found.version === 1);
    return cap === undefined ? undefined : viewOf(cap.data);
  };
  const ranges = body(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE);
  const migration = body(VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION);
  const avail = body(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL);
  return {
    info: {
      iovaPgsizes: (raw.flags & VFIO_IOMMU_INFO_PGSIZES) !== 0 ? raw.iovaPgsizes : undefined,
      iovaRanges: ranges === undefined ? undefined : readRanges(ranges, littleEndian),
      migration: migration === undefined ? undefined : readMigration(migration, littleEndian),
      dmaAvail: avail === undefined ? undefined : vfioIommuType1InfoDmaAvail.read(avail, 0, littleEndian).avail,
    },
    argsz: raw.argsz,
    chain,
  };
}

function readRanges(view: DataView, littleEndian: boolean) {
  const layout = vfioIommuType1InfoCapIovaRange;
  const { nrIovas } = layout.read(view, 0, littleEndian);
  return readArray(vfioIovaRange, view, layout.size, nrIovas, littleEndian);
}

function readMigration(view: DataView, littleEndian: boolean) {
  const { pgsizeBitmap, maxDirtyBitmapSize } = vfioIommuType1InfoCapMigration.read(view, 0, littleEndian);
  return { pgsizeBitmap, maxDirtyBitmapSize };
}
