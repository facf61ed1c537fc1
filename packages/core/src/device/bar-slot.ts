import type { ErrnoName } from '@vfio/uapi';
import type { PciResource, RegisterSpace } from '../pci/raw-function.js';

/** What a device keeps of one BAR or the ROM while it is enabled. */
export class BarSlot {
  /** 0-5, or 6 for the ROM. */
  readonly index: number;
  resource: PciResource | undefined = undefined;
  space: RegisterSpace | undefined = undefined;
  /** Why {@link space} is missing: the answer to each access. */
  error: ErrnoName | undefined = 'ENODEV';
  /** Size of the resource; 0: there is none. */
  size = 0;
  isIo = false;
  /** Users may map it. */
  mmapable = false;
  /** Window in which reads give all ones and writes are dropped: the MSI-X table, or what lies behind a ROM's image. */
  holeStart = 0;
  holeEnd = 0;

  constructor(index: number) {
    this.index = index;
  }

  clear(): void {
    this.resource = undefined;
    this.space = undefined;
    this.error = 'ENODEV';
    this.size = 0;
    this.isIo = false;
    this.mmapable = false;
    this.holeStart = 0;
    this.holeEnd = 0;
  }
}
