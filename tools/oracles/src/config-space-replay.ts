import { isVfioError } from '@vfio/uapi';
import type { ConfigSpaceRecording, RecordedOp } from './config-space-recording.js';

/** A config space to replay against, and the hardware under it. */
export interface ReplayTarget {
  read(offset: number, data: Uint8Array): number;
  write(offset: number, data: Uint8Array): number | Promise<number>;
  /** Hardware's bytes now. */
  readonly hardware: Uint8Array;
}

/** An answer that was not the kernel's. */
export interface Mismatch {
  /** Index of the op; -1: right after open, `ops.length`: at the end. */
  readonly op: number;
  readonly what: string;
  readonly expected: string;
  readonly actual: string;
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

/** Result of a call as the kernel gives it: a count, or a negative errno. */
async function rcOf(call: () => number | Promise<number>): Promise<number> {
  try {
    return await call();
  } catch (error) {
    if (isVfioError(error)) return -error.errnoNumber;
    throw error;
  }
}

function describe(op: RecordedOp): string {
  const bytes = op.written === undefined ? `${op.data.length} bytes` : hexOf(op.written);
  return `${op.kind} ${bytes} at 0x${op.offset.toString(16)}`;
}

/** Reads a whole config space as the recorder did, dword by dword. */
async function view(target: ReplayTarget, size: number): Promise<string> {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 4) await target.read(at, bytes.subarray(at, at + 4));
  return hexOf(bytes);
}

/** Replays a recording and returns every answer that differs, the views at both ends included. */
export async function replay(recording: ConfigSpaceRecording, target: ReplayTarget): Promise<Mismatch[]> {
  const mismatches: Mismatch[] = [];
  const compare = (op: number, what: string, expected: string | number, actual: string | number) => {
    if (expected !== actual) mismatches.push({ op, what, expected: String(expected), actual: String(actual) });
  };
  const size = recording.openHardware.length;
  compare(-1, 'hardware after open', hexOf(recording.openHardware), hexOf(target.hardware));
  compare(-1, 'view after open', hexOf(recording.openView), await view(target, size));
  for (const [index, op] of recording.ops.entries()) {
    const { offset, written } = op;
    const name = describe(op);
    const data = new Uint8Array(op.data.length);
    if (written !== undefined) {
      compare(index, `${name}: result`, op.rc, await rcOf(() => target.write(offset, written)));
      compare(index, `${name}: result of reading back`, op.dataRc, await rcOf(() => target.read(offset, data)));
    } else {
      compare(index, `${name}: result`, op.rc, await rcOf(() => target.read(offset, data)));
    }
    compare(index, `${name}: data`, hexOf(op.data), hexOf(data));
    const hardware = target.hardware.subarray(offset, offset + op.hardware.length);
    compare(index, `${name}: hardware`, hexOf(op.hardware), hexOf(hardware));
  }
  const { endView, endHardware, ops } = recording;
  if (endView !== undefined) compare(ops.length, 'view at the end', hexOf(endView), await view(target, size));
  if (endHardware !== undefined) {
    compare(ops.length, 'hardware at the end', hexOf(endHardware), hexOf(target.hardware));
  }
  return mismatches;
}
