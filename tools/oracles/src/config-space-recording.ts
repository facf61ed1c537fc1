import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Where the recordings are: the folder that `VFIO_VECTORS` names, by default the one of this repository. */
export function vectorsFolder(): string {
  const { VFIO_VECTORS: named } = process.env;
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

/** The files' own layout: numbers of sysfs as hex text, bytes as hex, ops as rows. */
interface RecordingFile {
  readonly address: string;
  readonly vendor: string;
  readonly device: string;
  readonly subsystemVendor: string;
  readonly subsystemDevice: string;
  readonly class: string;
  readonly resources: readonly (readonly [string, string, string])[];
  readonly regions: readonly { readonly index: number; readonly size?: number }[];
  readonly irqs: readonly { readonly index: number; readonly count?: number }[];
  readonly hardwareMask: string;
  readonly openHardware: string;
  readonly openView: string;
  readonly endHardware: string;
  readonly endView: string;
  readonly ops: readonly OpRow[];
}

type OpRow =
  | readonly ['w', offset: number, data: string, rc: number, readback: string, readbackRc: number, hardware: string]
  | readonly ['r', offset: number, length: number, data: string, rc: number, hardware: string];

function unhex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, 'hex'));
}

function op(row: OpRow): RecordedOp {
  if (row[0] === 'w') {
    const [, offset, data, rc, readback, readbackRc, hardware] = row;
    return {
      kind: 'write',
      offset,
      written: unhex(data),
      rc,
      data: unhex(readback),
      dataRc: readbackRc,
      hardware: unhex(hardware),
    };
  }
  const [kind, offset, length, data, rc, hardware] = row;
  if (kind !== 'r' || length !== data.length / 2) throw new Error(`not an op: ${JSON.stringify(row)}`);
  return {
    kind: 'read',
    offset,
    written: undefined,
    rc,
    data: unhex(data),
    dataRc: rc,
    hardware: unhex(hardware),
  };
}

/** Reads one recording. */
export function parseRecording(name: string, text: string): ConfigSpaceRecording {
  const file = JSON.parse(text) as RecordingFile;
  return {
    name,
    address: file.address,
    vendor: Number(file.vendor),
    device: Number(file.device),
    subsystemVendor: Number(file.subsystemVendor),
    subsystemDevice: Number(file.subsystemDevice),
    class: Number(file.class),
    resources: file.resources.slice(0, 7).map(([start, end, flags]) => ({
      start: Number(start),
      end: Number(end),
      flags: Number(flags),
    })),
    regionSizes: new Map(file.regions.flatMap(({ index, size }) => (size === undefined ? [] : [[index, size]]))),
    irqCounts: new Map(file.irqs.flatMap(({ index, count }) => (count === undefined ? [] : [[index, count]]))),
    hardwareMask: unhex(file.hardwareMask),
    openHardware: unhex(file.openHardware),
    openView: unhex(file.openView),
    endHardware: unhex(file.endHardware),
    endView: unhex(file.endView),
    ops: file.ops.map(op),
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
