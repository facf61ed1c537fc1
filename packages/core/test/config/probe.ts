import type { AccessWidth } from '../../src/pci/raw-function.js';
import type { TestSpace } from './support.js';

/** What can be found out about a register from outside. */
export interface Probed {
  /** Bits that do not show what hardware holds. */
  readonly virtual: number;
  /** Bits of hardware that a user can set and clear. */
  readonly hardware: number;
  /** Bits of the view that a user can set and clear. */
  readonly view: number;
}

/** Finds out by single bytes what a register lets through. Leaves register and hardware as they were found. */
export function probe(space: TestSpace, offset: number, width: AccessWidth): Probed {
  const found = { virtual: 0, hardware: 0, view: 0 };
  for (let i = 0; i < width; i++) {
    const at = offset + i;
    const { hw } = space;
    const kept = hw.bytes[at]!;
    const keptView = space.read(at, 1);
    hw.bytes[at] = ~kept;
    const shown = space.read(at, 1) ^ keptView;
    hw.bytes[at] = kept;
    space.write(at, 1, 0xff);
    const [hardwareOnes, viewOnes] = [hw.bytes[at]!, space.read(at, 1)];
    space.write(at, 1, 0x00);
    const [hardwareZeros, viewZeros] = [hw.bytes[at]!, space.read(at, 1)];
    space.write(at, 1, keptView);
    const factor = 2 ** (8 * i);
    found.virtual += (~shown & 0xff) * factor;
    found.hardware += (hardwareOnes & ~hardwareZeros) * factor;
    found.view += (viewOnes & ~viewZeros) * factor;
  }
  return found;
}

/** The three masks of a register in hex, for a table of expectations. */
export function masks(space: TestSpace, offset: number, width: AccessWidth): string {
  const { virtual, hardware, view } = probe(space, offset, width);
  const hex = (value: number) => value.toString(16).padStart(2 * width, '0');
  return `${hex(virtual)} ${hex(hardware)} ${hex(view)}`;
}
