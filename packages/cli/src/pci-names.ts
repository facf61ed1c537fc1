import { readFileSync } from 'node:fs';
import type { Io } from './io.js';

/** Where distributions keep the list. */
const PLACES = ['/usr/share/misc/pci.ids', '/usr/share/hwdata/pci.ids', '/var/lib/pciutils/pci.ids'];

/** Base classes, for systems without the list (PCI Code and ID Assignment Specification 1.0). */
const BASE_CLASSES: readonly string[] = [
  'Unclassified device',
  'Mass storage controller',
  'Network controller',
  'Display controller',
  'Multimedia controller',
  'Memory controller',
  'Bridge',
  'Communication controller',
  'System peripheral',
  'Input device',
  'Docking station',
  'Processor',
  'Serial bus controller',
  'Wireless controller',
  'Intelligent controller',
  'Satellite controller',
  'Encryption controller',
  'Signal processing controller',
  'Processing accelerator',
];

/** Names of vendors, devices and classes. Undefined where the list has none. */
export interface PciNames {
  /** The file that the names are from; undefined where this system has none. */
  readonly source: string | undefined;
  vendor(vendor: number): string | undefined;
  device(vendor: number, device: number): string | undefined;
  /** By base class and subclass of a 24-bit class. */
  class(classCode: number): string | undefined;
}

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');

/**
 * Reads a `pci.ids` file: vendor lines, tab-indented device lines, and the class section (`C xx`). Subsystem lines are
 * passed over. Lines of another form are skipped, as the file's own format description asks of readers.
 */
export function parsePciIds(text: string, source?: string): PciNames {
  const vendors = new Map<string, string>();
  const devices = new Map<string, string>();
  const classes = new Map<string, string>();
  let vendor: string | undefined;
  let base: string | undefined;
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#') || line.startsWith('\t\t')) continue;
    const top = /^([0-9a-f]{4})\s+(.+?)\r?$/.exec(line);
    if (top !== null) {
      [vendor, base] = [top[1], undefined];
      vendors.set(top[1] ?? '', top[2] ?? '');
      continue;
    }
    const section = /^C ([0-9a-f]{2})\s+(.+?)\r?$/.exec(line);
    if (section !== null) {
      [vendor, base] = [undefined, section[1]];
      classes.set(section[1] ?? '', section[2] ?? '');
      continue;
    }
    const entry = /^\t([0-9a-f]{2,4})\s+(.+?)\r?$/.exec(line);
    if (entry === null) {
      if (!line.startsWith('\t')) [vendor, base] = [undefined, undefined];
      continue;
    }
    if (vendor !== undefined) devices.set(`${vendor}:${entry[1]}`, entry[2] ?? '');
    else if (base !== undefined) classes.set(`${base}${entry[1]}`, entry[2] ?? '');
  }
  return {
    source,
    vendor: (id) => vendors.get(hex(id, 4)),
    device: (vendorId, id) => devices.get(`${hex(vendorId, 4)}:${hex(id, 4)}`),
    class: (code) => classes.get(hex(code >>> 8, 4)) ?? classes.get(hex(code >>> 16, 2)) ?? BASE_CLASSES[code >>> 16],
  };
}

/** The system's list, or one that `VFIO_PCI_IDS` names; only names of base classes where there is none. */
export function loadPciNames(io: Io): PciNames {
  const named = io.env['VFIO_PCI_IDS'];
  for (const path of named === undefined ? PLACES : [named]) {
    try {
      return parsePciIds(readFileSync(path, 'utf8'), path);
    } catch {
      if (named !== undefined) io.err(`warning: VFIO_PCI_IDS: ${path} cannot be read, names are left out\n`);
      // The list is a convenience: without it, numbers are shown.
    }
  }
  return parsePciIds('');
}
