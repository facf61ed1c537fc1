import { hex } from '@vfio/uapi';
import type { ConfigBytes } from './config-bytes.js';

/** One decoded register field. */
export interface DecodedField {
  readonly name: string;
  readonly value: string;
}

type Show = (value: number) => string;

interface Field {
  readonly name: string;
  /** Bytes from the start of the capability. */
  readonly at: number;
  readonly width: 1 | 2 | 4;
  readonly shift: number;
  readonly bits: number;
  readonly show: Show;
}

const yesNo: Show = (v) => (v === 0 ? '-' : '+');
const decimal: Show = (v) => String(v);
const bytes =
  (unit: number): Show =>
  (v) =>
    `${unit << v} bytes`;
const oneOf =
  (...names: string[]): Show =>
  (v) =>
    names[v] ?? `reserved (${v})`;

function field(name: string, at: number, width: 1 | 2 | 4, shift = 0, bits = width * 8, show: Show = hex): Field {
  return { name, at, width, shift, bits, show };
}
function flag(name: string, at: number, width: 1 | 2 | 4, shift: number): Field {
  return field(name, at, width, shift, 1, yesNo);
}

const SPEEDS = ['unknown', '2.5GT/s', '5GT/s', '8GT/s', '16GT/s', '32GT/s', '64GT/s'];
const BAR_INDICATOR = [0, 1, 2, 3, 4, 5].map((n) => `BAR ${n}`);

const FIELDS: Readonly<Record<number, readonly Field[]>> = {
  1: [
    field('Version', 2, 2, 0, 3, decimal),
    flag('DSI', 2, 2, 5),
    flag('D1', 2, 2, 9),
    flag('D2', 2, 2, 10),
    field('PME support', 2, 2, 11, 5),
    field('Power state', 4, 2, 0, 2, oneOf('D0', 'D1', 'D2', 'D3hot')),
    flag('NoSoftRst', 4, 2, 3),
    flag('PME-Enable', 4, 2, 8),
    flag('PME-Status', 4, 2, 15),
  ],
  3: [field('Address', 2, 2, 0, 15), flag('F', 2, 2, 15), field('Data', 4, 4)],
  5: [
    flag('Enable', 2, 2, 0),
    field('Vectors', 2, 2, 1, 3, (v) => String(1 << v)),
    field('Vectors enabled', 2, 2, 4, 3, (v) => String(1 << v)),
    flag('64bit', 2, 2, 7),
    flag('Maskable', 2, 2, 8),
    field('Address', 4, 4),
  ],
  9: [field('Length', 2, 1)],
  13: [field('Subsystem', 4, 4, 0, 32, (v) => ids(v & 0xffff, v >>> 16))],
  16: [
    field('Version', 2, 2, 0, 4, decimal),
    field(
      'Type',
      2,
      2,
      4,
      4,
      oneOf(
        'Endpoint',
        'Legacy Endpoint',
        'reserved',
        'reserved',
        'Root Port',
        'Upstream Port',
        'Downstream Port',
        'PCI-Express to PCI bridge',
        'PCI to PCI-Express bridge',
        'Root Complex Integrated Endpoint',
        'Root Complex Event Collector',
      ),
    ),
    field('MaxPayload supported', 4, 4, 0, 3, bytes(128)),
    flag('ExtTag supported', 4, 4, 5),
    flag('FLR', 4, 4, 28),
    field('MaxPayload', 8, 2, 5, 3, bytes(128)),
    field('MaxReadReq', 8, 2, 12, 3, bytes(128)),
    flag('CorrErr', 10, 2, 0),
    flag('NonFatalErr', 10, 2, 1),
    flag('FatalErr', 10, 2, 2),
    flag('UnsupReq', 10, 2, 3),
    flag('TransPend', 10, 2, 5),
    field('Link speed supported', 12, 4, 0, 4, oneOf(...SPEEDS)),
    field('Link width supported', 12, 4, 4, 6, (v) => `x${v}`),
    field('Link speed', 18, 2, 0, 4, oneOf(...SPEEDS)),
    field('Link width', 18, 2, 4, 6, (v) => `x${v}`),
  ],
  17: [
    flag('Enable', 2, 2, 15),
    flag('Masked', 2, 2, 14),
    field('Vectors', 2, 2, 0, 11, (v) => String(v + 1)),
    field('Table', 4, 4, 0, 3, oneOf(...BAR_INDICATOR)),
    field('Table offset', 4, 4, 3, 29, (v) => hex(v * 8)),
    field('PBA', 8, 4, 0, 3, oneOf(...BAR_INDICATOR)),
    field('PBA offset', 8, 4, 3, 29, (v) => hex(v * 8)),
  ],
  19: [flag('TP', 3, 1, 0), flag('FLR', 3, 1, 1), flag('Transactions pending', 5, 1, 0)],
};

const EXT_FIELDS: Readonly<Record<number, readonly Field[]>> = {
  1: [
    field('Uncorrectable status', 4, 4),
    field('Uncorrectable mask', 8, 4),
    field('Uncorrectable severity', 12, 4),
    field('Correctable status', 16, 4),
    field('Correctable mask', 20, 4),
  ],
  3: [field('Serial, lower', 4, 4), field('Serial, upper', 8, 4)],
  11: [field('Id', 4, 4, 0, 16), field('Revision', 4, 4, 16, 4, decimal), field('Length', 4, 4, 20, 12)],
  13: [field('Capability', 4, 2), field('Control', 6, 2)],
  14: [field('Next function', 4, 2, 8, 8, decimal)],
  15: [field('Invalidate queue depth', 4, 2, 0, 5, decimal), flag('Enable', 6, 2, 15)],
  16: [
    flag('VF Enable', 8, 2, 0),
    flag('VF Memory Space', 8, 2, 3),
    field('Initial VFs', 12, 2, 0, 16, decimal),
    field('Total VFs', 14, 2, 0, 16, decimal),
    field('Number of VFs', 16, 2, 0, 16, decimal),
    field('VF offset', 20, 2, 0, 16, decimal),
    field('VF stride', 22, 2, 0, 16, decimal),
    field('VF device id', 26, 2),
  ],
  24: [field('Max snoop latency', 4, 2), field('Max no-snoop latency', 6, 2)],
  35: [field('Vendor', 4, 4, 0, 16), field('Length', 4, 4, 20, 12), field('Id', 8, 2)],
};

function ids(vendor: number, device: number): string {
  return `${vendor.toString(16).padStart(4, '0')}:${device.toString(16).padStart(4, '0')}`;
}

/** The fields of a capability that this library knows, in register order; those past the end of config space are left out. */
export function decodeFields(config: ConfigBytes, id: number, offset: number, extended: boolean): DecodedField[] {
  const fields = (extended ? EXT_FIELDS : FIELDS)[id] ?? [];
  const decoded: DecodedField[] = [];
  for (const { name, at, width, shift, bits, show } of fields) {
    const raw = config.read(offset + at, width);
    if (raw === undefined) continue;
    const mask = bits === 32 ? 0xffffffff : (1 << bits) - 1;
    decoded.push({ name, value: show(((raw >>> shift) & mask) >>> 0) });
  }
  return decoded;
}
