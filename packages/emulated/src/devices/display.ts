import type { AccessWidth } from '@vfio/core';
import { PCI_VENDOR_ID_QEMU } from '@vfio/uapi';
import { type BarHandler, MemoryBar } from '../host/bar.js';
import type { DeviceModel, FunctionContext } from '../model.js';

/** What a {@link BochsDisplay} is like. */
export interface BochsDisplayOptions {
  /** Bytes of video memory, a power of two of at least 64 KiB. Default 16 MiB. */
  readonly videoMemory?: number;
}

/** Bochs display interface registers, 16 bits each from offset 0x500 of BAR 2 (QEMU docs/specs/standard-vga). */
const DISPI = 0x500;
const DISPI_ID = 0;
const DISPI_VIDEO_MEMORY = 10;
const DISPI_COUNT = 11;
const DISPI_ID5 = 0xb0c5;
/** Extended registers: their size, and the byte order of the frame buffer. */
const EXTENDED = 0x600;
const LITTLE_ENDIAN = 0x1e1e1e1e;
const BIG_ENDIAN = 0xbebebebe | 0;

/** QEMU's bochs-display: a frame buffer in BAR 0 that may be mapped, mode registers in BAR 2, no interrupt. */
export class BochsDisplay implements DeviceModel, BarHandler {
  /** The frame buffer. */
  readonly frameBuffer: Uint8Array;
  readonly #registers = new Uint16Array(DISPI_COUNT);
  readonly #blocks: number;
  #byteOrder = LITTLE_ENDIAN;

  constructor(ctx: FunctionContext, options: BochsDisplayOptions = {}) {
    const size = options.videoMemory ?? 16 * 0x100000;
    ctx.identity({
      vendor: PCI_VENDOR_ID_QEMU,
      device: 0x1111,
      subvendor: 0x1af4,
      subdevice: 0x1100,
      class: 0x038000,
      revision: 2,
    });
    const memory = ctx.memory.allocate(size, { shared: true, name: `${ctx.address} video memory` });
    this.frameBuffer = memory.bytes;
    this.#blocks = size / 0x10000;
    ctx.bar(0, { size, prefetchable: true, handler: new MemoryBar(memory) });
    ctx.bar(2, { size: 0x1000, handler: this });
    ctx.express({});
    this.reset();
  }

  read(offset: number, width: AccessWidth): number {
    const index = (offset - DISPI) >> 1;
    if (index >= 0 && index < DISPI_COUNT && width === 2) return this.#registers[index] ?? 0;
    if (width === 4 && offset === EXTENDED) return 8;
    if (width === 4 && offset === EXTENDED + 4) return this.#byteOrder;
    // No EDID, no VGA ports.
    return 0;
  }

  write(offset: number, width: AccessWidth, value: number): void {
    const index = (offset - DISPI) >> 1;
    if (index > DISPI_ID && index < DISPI_VIDEO_MEMORY && width === 2) this.#registers[index] = value;
    else if (width === 4 && offset === EXTENDED + 4 && (value === LITTLE_ENDIAN || value === BIG_ENDIAN))
      this.#byteOrder = value;
  }

  reset(): void {
    this.#registers.fill(0);
    this.#registers[DISPI_ID] = DISPI_ID5;
    this.#registers[DISPI_VIDEO_MEMORY] = this.#blocks;
    this.#byteOrder = LITTLE_ENDIAN;
  }
}
