import { readFileSync } from 'node:fs';
import { AliasIndex, parseModulesAlias } from '@vfio/core';

/** Lines of a modules.alias of a distribution's kernel. */
const LINES = 28_000;

const hex = (value: number, digits: number): string => value.toString(16).toUpperCase().padStart(digits, '0');

/**
 * A modules.alias in the proportions of a real one: most lines name vendor and device, one in six a subsystem too, one in
 * twelve a class. Vendors come from a small pool, as the large ones have thousands of lines.
 */
function madeUpFile(): string {
  const lines: string[] = [];
  for (let n = 0; n < LINES; n++) {
    const vendor = `v${hex(0x1000 + (n % 61) * 37, 8)}`;
    const device = `d${hex((n * 7919) % 0x10000, 8)}`;
    const subsystem = n % 6 === 1 ? `sv${hex(0x1000 + (n % 13), 8)}sd${hex(n % 997, 8)}` : 'sv*sd*';
    const ofClass = n % 12 === 5 ? `bc${hex(n % 13, 2)}sc${hex(n % 7, 2)}i*` : 'bc*sc*i*';
    const head = n % 120 === 7 ? 'v*d*' : `${vendor}${device}`;
    lines.push(`alias ${n % 5 === 0 ? 'vfio_pci' : 'pci'}:${head}${subsystem}${ofClass} driver_${n % 3000}`);
  }
  return lines.join('\n');
}

/** Microseconds of finding the best driver of a function, known or not, in the fastest of several rounds. */
export function lookupTimes(file: string | undefined): { lines: number; microseconds: number } {
  const index = new AliasIndex(
    parseModulesAlias(file === undefined ? madeUpFile() : readFileSync(file, 'utf8')).aliases,
  );
  const functions = Array.from({ length: 1000 }, (_, n) => ({
    vendor: 0x1000 + (n % 61) * 37,
    device: (n * 7919) % 0x10000,
    subvendor: 0x1000 + (n % 13),
    subdevice: n % 997,
    class: ((n % 13) << 16) | ((n % 7) << 8),
  }));
  let fastest = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 100; round++) {
    const start = performance.now();
    for (const [n, fn] of functions.entries()) index.best(fn, undefined, n % 2 === 0 ? 'pci' : 'vfio_pci');
    fastest = Math.min(fastest, performance.now() - start);
  }
  return { lines: index.size, microseconds: (fastest * 1000) / functions.length };
}
