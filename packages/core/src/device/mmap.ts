import { VFIO_PCI_NUM_REGIONS, VFIO_PCI_ROM_REGION_INDEX } from '@vfio/uapi';
import type { MmapArea, SharedMemory } from '../pci/raw-function.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { mmapDevRegion } from './dev-region.js';
import { isMappingLive } from './memory.js';

export const PAGE_SIZE = 4096;
const NOTHING = new Uint8Array(0);

/**
 * Memory of a BAR as a user has it mapped: nothing while memory decode is off, the function sleeps or is reset, and for
 * good when the device was closed. (In the kernel such a mapping is zapped and the next access faults.) A consumer takes
 * `bytes` anew for each use.
 */
class BarMemory implements SharedMemory {
  readonly fd: number | undefined;
  readonly fdOffset: number;
  readonly #dev: VfioPciCoreDevice;
  readonly #config: unknown;
  readonly #memory: SharedMemory;
  readonly #start: number;
  readonly #length: number;
  #view: Uint8Array = NOTHING;

  constructor(dev: VfioPciCoreDevice, memory: SharedMemory, start: number, length: number) {
    this.#dev = dev;
    // A later opening has another config space, so a mapping never outlives the opening that made it.
    this.#config = dev.config;
    this.#memory = memory;
    this.#start = start;
    this.#length = length;
    this.fd = memory.fd;
    this.fdOffset = memory.fdOffset + start;
  }

  get bytes(): Uint8Array {
    if (this.#dev.config !== this.#config || !isMappingLive(this.#dev)) return NOTHING;
    const all = this.#memory.bytes;
    if (this.#view.buffer !== all.buffer || this.#view.length === 0) {
      this.#view = all.subarray(this.#start, this.#start + this.#length);
    }
    return this.#view;
  }
}

/**
 * The memory behind a range of a region: `vfio_pci_core_mmap`.
 *
 * @throws EINVAL: ROM, config space, VGA, not mappable, not page-aligned, empty, or beyond what is memory; EBUSY, ENOMEM,
 *   ENODEV: the BAR's kept error.
 */
export function vfioPciCoreMmapArea(dev: VfioPciCoreDevice, region: number, offset: number, length: number): MmapArea {
  const shown = `mmap of region ${region} at 0x${offset.toString(16)}+0x${length.toString(16)}`;
  const problem = (message: string) => dev.error('EINVAL', 'mmapArea', `${shown}: ${message}`);
  if (length <= 0 || offset % PAGE_SIZE !== 0) throw problem('must be a non-empty range from a page boundary');
  if (region >= VFIO_PCI_NUM_REGIONS) return mmapDevRegion(dev, region, offset, length);
  const bar = dev.bars[region];
  if (region >= VFIO_PCI_ROM_REGION_INDEX || bar === undefined || !bar.mmapable)
    throw problem('the region cannot be mapped');
  if (offset + length > pageAlign(bar.size)) throw problem(`past the end (size 0x${bar.size.toString(16)})`);
  if (bar.error !== undefined)
    throw dev.error(bar.error, 'mmapArea', `${shown}: the BAR could not be mapped when the device was opened`);
  for (const area of bar.space!.mmapAreas) {
    if (offset < area.offset || offset + length > pageAlign(area.offset + area.size)) continue;
    return { offset, size: length, memory: new BarMemory(dev, area.memory, offset - area.offset, length) };
  }
  throw problem('not within one area that may be mapped (see the sparse mmap capability)');
}

/** `value` rounded up to whole pages. */
export function pageAlign(value: number): number {
  return Math.ceil(value / PAGE_SIZE) * PAGE_SIZE;
}
