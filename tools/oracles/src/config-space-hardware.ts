import type { AccessWidth, PciResource, RawConfigSpace, RawFunctionBase, RegisterSpace } from '@vfio/core';
import { errnoError, PCI_VENDOR_ID, VFIO_PCI_INTX_IRQ_INDEX } from '@vfio/uapi';
import type { ConfigSpaceRecording, RecordedResource } from './config-space-recording.js';

const IORESOURCE_IO = 0x100;
const IORESOURCE_PREFETCH = 0x2000;
const IORESOURCE_MEM_64 = 0x10_0000;

/** Config registers that hold what is written to their writable bits, and nothing else happens. */
export class MaskedConfigSpace implements RawConfigSpace {
  readonly size: number;
  /** What hardware holds now. */
  readonly bytes: Uint8Array;
  readonly mask: Uint8Array;

  constructor(bytes: Uint8Array, mask: Uint8Array) {
    this.size = bytes.length;
    this.bytes = bytes.slice();
    this.mask = mask;
  }

  read(offset: number, width: AccessWidth): number {
    this.#demand(offset, width);
    let value = 0;
    for (let i = 0; i < width; i++) value |= this.bytes[offset + i]! << (8 * i);
    return value;
  }

  write(offset: number, width: AccessWidth, value: number): void {
    this.#demand(offset, width);
    for (let i = 0; i < width; i++) {
      const mask = this.mask[offset + i]!;
      this.bytes[offset + i] = (this.bytes[offset + i]! & ~mask) | ((value >> (8 * i)) & mask);
    }
  }

  /** The contract of raw config space is the caller's to keep; breaking it here is a failure of what is tested. */
  #demand(offset: number, width: AccessWidth): void {
    if (offset % width !== 0 || offset < 0 || offset + width > this.size) {
      throw new Error(`hardware access of ${width} bytes at ${offset}`);
    }
  }
}

function resource({ start, end, flags }: RecordedResource): PciResource | undefined {
  if (flags === 0 || (start === 0 && end === 0)) return undefined;
  return {
    start,
    size: end - start + 1,
    io: (flags & IORESOURCE_IO) !== 0,
    prefetchable: (flags & IORESOURCE_PREFETCH) !== 0,
    is64Bit: (flags & IORESOURCE_MEM_64) !== 0,
  };
}

/** Registers behind a BAR: bytes that hold what is stored. The recordings say nothing about them. */
function plainRegisters(size: number): RegisterSpace {
  const bytes = new Uint8Array(Math.min(size, 0x1000));
  const view = new DataView(bytes.buffer);
  return {
    size,
    read(offset, width) {
      if (offset + width > bytes.length) return -1;
      if (width === 1) return view.getUint8(offset);
      return width === 2 ? view.getUint16(offset, true) : view.getInt32(offset, true);
    },
    write(offset, width, value) {
      if (offset + width > bytes.length) return;
      if (width === 1) view.setUint8(offset, value);
      else if (width === 2) view.setUint16(offset, value, true);
      else view.setInt32(offset, value, true);
    },
    mmapAreas: [],
  };
}

/** The recorded hardware as a host would offer it: config registers, resources, a line where there was a pin. */
export interface RecordedHardware extends RawFunctionBase {
  readonly config: MaskedConfigSpace;
}

/** A function made from what its hardware held when the kernel had opened it, and the bits that could be changed. */
export function hardwareOf(recording: ConfigSpaceRecording): RecordedHardware {
  const resources = recording.resources.map(resource);
  return {
    kind: 'raw',
    config: new MaskedConfigSpace(recording.openHardware, recording.hardwareMask),
    resources,
    open(index) {
      const bar = resources[index];
      if (bar === undefined) throw errnoError('ENOMEM', `the function has no resource ${index}`);
      return plainRegisters(bar.size);
    },
    vga: undefined,
    interrupts: {
      // A pin that the kernel did not show had no line.
      intxLine: recording.irqCounts.get(VFIO_PCI_INTX_IRQ_INDEX) === 0 ? undefined : 11,
      requestIntx() {},
      freeIntx() {},
      setIntxLineEnabled() {},
      dynamicMsix: false,
      allocVectors() {
        throw errnoError('ENOSPC', 'the recorded hardware has no interrupt vectors');
      },
      allocMsixAt() {
        throw errnoError('EINVAL', 'the recorded hardware has no interrupt vectors');
      },
      freeVectors() {},
      setVectorHandler() {
        throw errnoError('EINVAL', 'the recorded hardware has no interrupt vectors');
      },
      rewriteMessage() {},
    },
    resetMethods: [],
    tryResetFunction() {
      throw errnoError('ENOTTY', 'the recorded hardware cannot be reset');
    },
    resetScope: undefined,
    setPowerState() {},
    sriov: undefined,
    attachDma() {},
    onError: () => () => {},
  };
}

/** A virtual function: its hardware has no ids of its own. */
export function isVirtualFunction(recording: ConfigSpaceRecording): boolean {
  const { openHardware } = recording;
  return openHardware[PCI_VENDOR_ID] === 0xff && openHardware[PCI_VENDOR_ID + 1] === 0xff;
}
