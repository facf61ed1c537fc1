/** A deterministic stand-in for a kernel's modules.alias: the same lines on every machine, without a file in the repository. */

/** A small generator of repeatable numbers (xorshift32). */
export function randomNumbers(seed: number): (below: number) => number {
  let state = seed >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % below;
  };
}

const hex = (value: number, digits: number): string => value.toString(16).toUpperCase().padStart(digits, '0');

/** Percent below which a line has these exact fields. */
const SHAPES: readonly (readonly [below: number, exact: number])[] = [
  [72, 0b0000011],
  [88, 0b0001111],
  [92, 0b0010011],
  [95, 0b0110011],
  [98, 0b0110001],
  [99, 0b1110000],
  [100, 0b1110001],
];

export interface SyntheticLine {
  readonly pattern: string;
  readonly driver: string;
}

/**
 * Lines in the proportions of a real file: most name vendor and device, some a subsystem, some a class, few a class alone;
 * on request every one of the 128 combinations of wildcards occurs in each namespace. Vendors and devices come from small
 * pools, so that functions match several lines.
 */
export function syntheticLines(
  count: number,
  seed = 1,
  options: { allCombinations: boolean } = { allCombinations: true },
): SyntheticLine[] {
  const random = randomNumbers(seed);
  const lines: SyntheticLine[] = [];
  for (let i = 0; i < count; i++) {
    const kind = random(100);
    const listed = options.allCombinations && i < 256;
    // Bits: vendor, device, subvendor, subdevice, base class, subclass, interface.
    const exact = listed ? i & 127 : (SHAPES.find(([below]) => kind < below)?.[1] ?? 0);
    const field = (bit: number, tag: string, value: number, digits: number): string =>
      tag + (exact & (1 << bit) ? hex(value, digits) : '*');
    const body =
      field(0, 'v', syntheticVendor(random(60)), 8) +
      field(1, 'd', syntheticDevice(random(700)), 8) +
      field(2, 'sv', syntheticVendor(random(20)), 8) +
      field(3, 'sd', random(16), 8) +
      field(4, 'bc', random(13), 2) +
      field(5, 'sc', random(6), 2) +
      field(6, 'i', random(4), 2);
    const namespace = (listed ? i >= 128 : random(4) === 0) ? 'vfio_pci' : 'pci';
    const pattern = `${namespace}:${body}`;
    lines.push({ pattern: pattern.endsWith('*') ? pattern : `${pattern}*`, driver: `mod_${random(3000)}` });
  }
  return lines;
}

export function syntheticVendor(index: number): number {
  return 0x1000 + index * 37;
}

export function syntheticDevice(index: number): number {
  return index * 11;
}

export interface SyntheticIdentity {
  readonly vendor: number;
  readonly device: number;
  readonly subvendor: number;
  readonly subdevice: number;
  readonly class: number;
}

/** Functions from the same pools, so that nearly all of them match something. */
export function syntheticFunctions(count: number, seed = 2): SyntheticIdentity[] {
  const random = randomNumbers(seed);
  return Array.from({ length: count }, () => ({
    vendor: syntheticVendor(random(60)),
    device: syntheticDevice(random(700)),
    subvendor: syntheticVendor(random(20)),
    subdevice: random(16),
    class: (random(13) << 16) | (random(6) << 8) | random(4),
  }));
}
