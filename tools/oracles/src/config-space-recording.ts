import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  PCI_CLASS_REVISION,
  PCI_DEVICE_ID,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from '@vfio/uapi';

/** The recordings of this repository. */
export const OWN_VECTORS = fileURLToPath(new URL('../vectors', import.meta.url));

/** The folder that `VFIO_VECTORS` names, seen from where npm was started; by default the one of this repository. */
export function vectorsFolder(): string {
  const { VFIO_VECTORS: named = '', INIT_CWD: startedIn = '.' } = process.env;
  return named === '' ? OWN_VECTORS : resolve(startedIn, named);
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
  /** Undefined where the recorder did not look once more at the end. */
  readonly endHardware: Uint8Array | undefined;
  readonly endView: Uint8Array | undefined;
  readonly ops: readonly RecordedOp[];
}

/** The files' own layout: numbers of sysfs as hex text, bytes as hex, ops as rows. */
interface RecordingFile {
  readonly address?: string;
  readonly vendor?: string;
  readonly device?: string;
  readonly subsystemVendor?: string;
  readonly subsystemDevice?: string;
  readonly class?: string;
  readonly resources?: readonly (readonly [string, string, string])[];
  readonly regions?: readonly { readonly index: number; readonly size?: number }[];
  readonly irqs?: readonly { readonly index: number; readonly count?: number }[];
  readonly hardwareMask: string;
  readonly openHardware: string;
  readonly openView: string;
  readonly endHardware?: string;
  readonly endView?: string;
  readonly ops: readonly OpRow[];
}

/** Without these there is nothing to replay; the rest is compared where it was recorded. */
const NEEDED = ['hardwareMask', 'openHardware', 'openView', 'ops'] as const;

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

/** Reads one recording. @throws Error that names the recording and what is wrong with it. */
export function parseRecording(name: string, text: string): ConfigSpaceRecording {
  let file: RecordingFile;
  try {
    file = JSON.parse(text) as RecordingFile;
  } catch (cause) {
    throw new Error(`recording ${name} is not JSON`, { cause });
  }
  const missing = NEEDED.filter((field) => file?.[field] === undefined);
  if (missing.length > 0) throw new Error(`recording ${name} has no ${missing.join(', ')}`);
  const openView = unhex(file.openView);
  // The view has the ids of virtual functions too, whose hardware has none.
  const view = new DataView(openView.buffer, openView.byteOffset, openView.byteLength);
  const number = (recorded: string | undefined, shown: number): number =>
    recorded === undefined ? shown : Number(recorded);
  return {
    name,
    address: file.address ?? '0000:01:00.0',
    vendor: number(file.vendor, view.getUint16(PCI_VENDOR_ID, true)),
    device: number(file.device, view.getUint16(PCI_DEVICE_ID, true)),
    subsystemVendor: number(file.subsystemVendor, view.getUint16(PCI_SUBSYSTEM_VENDOR_ID, true)),
    subsystemDevice: number(file.subsystemDevice, view.getUint16(PCI_SUBSYSTEM_ID, true)),
    class: number(file.class, view.getUint32(PCI_CLASS_REVISION, true) >>> 8),
    resources: (file.resources ?? []).slice(0, 7).map(([start, end, flags]) => ({
      start: Number(start),
      end: Number(end),
      flags: Number(flags),
    })),
    regionSizes: new Map(
      (file.regions ?? []).flatMap(({ index, size }) => (size === undefined ? [] : [[index, size]])),
    ),
    irqCounts: new Map((file.irqs ?? []).flatMap(({ index, count }) => (count === undefined ? [] : [[index, count]]))),
    hardwareMask: unhex(file.hardwareMask),
    openHardware: unhex(file.openHardware),
    openView,
    endHardware: file.endHardware === undefined ? undefined : unhex(file.endHardware),
    endView: file.endView === undefined ? undefined : unhex(file.endView),
    ops: file.ops.map(op),
  };
}

/**
 * All recordings of a folder, by name: of its subfolder `config-space`, or of itself where it has none.
 * @throws Error where there are none: a replay of nothing proves nothing.
 */
export function readRecordings(folder: string = vectorsFolder()): ConfigSpaceRecording[] {
  const sub = join(folder, 'config-space');
  const dir = existsSync(sub) ? sub : folder;
  const files = readdirSync(dir).filter((file) => file.endsWith('.json'));
  if (files.length === 0) throw new Error(`no recordings (*.json) in ${dir}`);
  return files.sort().map((file) => parseRecording(basename(file, '.json'), readFileSync(join(dir, file), 'utf8')));
}
