import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Where the recordings are: the folder that `VFIO_VECTORS` names, by default the one of this repository. */
export function vectorsFolder(): string {
  const named = process.env['VFIO_VECTORS'];
  return named === undefined || named === '' ? fileURLToPath(new URL('../vectors', import.meta.url)) : named;
}

/** One access as it was recorded, with what the kernel answered. */
export interface RecordedOp {
  readonly kind: 'read' | 'write';
  readonly offset: number;
  /** What was written; undefined for a read. */
  readonly written: Uint8Array | undefined;
  /** Byte count, or a negative errno, of the write or read. */
  readonly rc: number;
  /** What a read gave, for a write the read that followed it. */
  readonly data: Uint8Array;
  /** Result of that read. */
  readonly dataRc: number;
  /** The same bytes of hardware afterwards. */
  readonly hardware: Uint8Array;
}

/** A BAR or ROM as sysfs shows it. */
export interface RecordedResource {
  readonly start: number;
  readonly end: number;
  /** IORESOURCE_*. */
  readonly flags: number;
}

/** One function that was recorded. */
export interface ConfigSpaceRecording {
  readonly name: string;
  readonly address: string;
  readonly vendor: number;
  readonly device: number;
  readonly subsystemVendor: number;
  readonly subsystemDevice: number;
  readonly class: number;
  /** BARs 0-5 and ROM. */
  readonly resources: readonly RecordedResource[];
  /** Size of the regions by index; a missing one gave an error. */
  readonly regionSizes: ReadonlyMap<number, number>;
  readonly irqCounts: ReadonlyMap<number, number>;
  readonly hardwareMask: Uint8Array;
  readonly openHardware: Uint8Array;
  readonly openView: Uint8Array;
  readonly endHardware: Uint8Array;
  readonly endView: Uint8Array;
  readonly ops: readonly RecordedOp[];
}

type Json = Record<string, unknown>;

function unhex(text: unknown): Uint8Array {
  return Uint8Array.from(Buffer.from(String(text), 'hex'));
}

function number(value: unknown): number {
  return Number(value);
}

function op(row: unknown[]): RecordedOp {
  if (row[0] === 'w') {
    return {
      kind: 'write',
      offset: number(row[1]),
      written: unhex(row[2]),
      rc: number(row[3]),
      data: unhex(row[4]),
      dataRc: number(row[5]),
      hardware: unhex(row[6]),
    };
  }
  if (row[0] !== 'r') throw new Error(`an op that is neither read nor write: ${JSON.stringify(row)}`);
  return {
    kind: 'read',
    offset: number(row[1]),
    written: undefined,
    rc: number(row[4]),
    data: unhex(row[3]),
    dataRc: number(row[4]),
    hardware: unhex(row[5]),
  };
}

function byIndex(rows: unknown, key: string): Map<number, number> {
  const map = new Map<number, number>();
  for (const row of rows as Json[]) if (row[key] !== undefined) map.set(number(row['index']), number(row[key]));
  return map;
}

/** Reads one recording. */
export function parseRecording(name: string, text: string): ConfigSpaceRecording {
  const json = JSON.parse(text) as Json;
  return {
    name,
    address: String(json['address']),
    vendor: number(json['vendor']),
    device: number(json['device']),
    subsystemVendor: number(json['subsystemVendor']),
    subsystemDevice: number(json['subsystemDevice']),
    class: number(json['class']),
    resources: (json['resources'] as unknown[][]).slice(0, 7).map(([start, end, flags]) => ({
      start: number(start),
      end: number(end),
      flags: number(flags),
    })),
    regionSizes: byIndex(json['regions'], 'size'),
    irqCounts: byIndex(json['irqs'], 'count'),
    hardwareMask: unhex(json['hardwareMask']),
    openHardware: unhex(json['openHardware']),
    openView: unhex(json['openView']),
    endHardware: unhex(json['endHardware']),
    endView: unhex(json['endView']),
    ops: (json['ops'] as unknown[][]).map(op),
  };
}

/** All recordings of a vectors folder, by name. */
export function readRecordings(folder: string = vectorsFolder()): ConfigSpaceRecording[] {
  const dir = join(folder, 'config-space');
  return readdirSync(dir)
    .filter((file) => file.endsWith('.json'))
    .sort()
    .map((file) => parseRecording(basename(file, '.json'), readFileSync(join(dir, file), 'utf8')));
}
