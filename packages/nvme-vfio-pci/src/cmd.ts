import { errnoError } from '@vfio/uapi';
import type { NvmeParent } from './parent/parent.js';

/** Admin opcodes (NVM Express Base 2.1, figure 141). */
const TRACK_SEND = 0x3d;
const TRACK_RECEIVE = 0x3e;
const MIGRATION_SEND = 0x41;
const MIGRATION_RECEIVE = 0x42;

/** Management operations of Migration Send (figure 349), and of Track Send (figure 463). */
const SEND = { SUSPEND: 0, RESUME: 1, SET_STATE: 2 } as const;
const TRACK_MEMORY = 1;

/** Suspend Type (figure 351). */
const SUSPEND = 1;

/** Sequence Indicator (figure 353): which of the commands that carry a state one is. */
const SEQUENCE = { FIRST: 1, LAST: 2 } as const;

/** Bytes before the two parts of a controller's state (figure 358). */
export const STATE_HEADER_BYTES = 48;
/** The largest state that is moved: thousands of queues and the vendor's part. */
export const MAX_STATE_BYTES = 0x800000;

/** Bytes of a report of memory changes: its header and descriptors of 16 bytes each (figures 460 and 461). */
const REPORT_BYTES = 0x10000;
const REPORT_HEADER_BYTES = 16;
const DESCRIPTOR_BYTES = 16;

/** The unit of granularities. */
export const GRAIN = 4096n;

/** A controller, and the one that manages its migration. */
export interface Child {
  readonly parent: NvmeParent;
  readonly controllerId: number;
}

/** Indexes of the formats of a state's two parts, counted from 1 (figures 345, 346 and 354). */
export interface FormatIndexes {
  readonly version: number;
  readonly uuid: number;
}

export async function suspend({ parent, controllerId }: Child): Promise<void> {
  await parent.send('Migration Send (suspend)', MIGRATION_SEND, [SEND.SUSPEND, controllerId | (SUSPEND << 16)]);
}

export async function resume({ parent, controllerId }: Child): Promise<void> {
  await parent.send('Migration Send (resume)', MIGRATION_SEND, [SEND.RESUME, controllerId]);
}

/** Bytes of the state as it is now. */
export async function stateSize(child: Child, formats: FormatIndexes): Promise<number> {
  const { data } = await receiveState(child, formats, 0, STATE_HEADER_BYTES);
  return sizeOf(data, child);
}

/** The state of a suspended controller. @throws EIO where it was not suspended all the time, or is not what it says. */
export async function getState(child: Child, formats: FormatIndexes): Promise<Uint8Array> {
  const { parent } = child;
  const size = await stateSize(child, formats);
  const state = new Uint8Array(size);
  for (let at = 0; at < size; at += parent.maxTransfer) {
    const length = Math.min(parent.maxTransfer, size - at);
    const { data, wasSuspended } = await receiveState(child, formats, at, length);
    if (!wasSuspended) throw lie(child, 'Migration Receive', 'the controller was not suspended while it was read');
    state.set(data, at);
  }
  checkState(state, (message) => lie(child, 'Migration Receive', message));
  return state;
}

/**
 * Checks a state's header, as far as a format that is the controller's own lets it be checked: it was taken from a suspended
 * controller and is as long as it says.
 */
export function checkState(state: Uint8Array, problem: (message: string) => Error): void {
  if (state.length < STATE_HEADER_BYTES) throw problem(`a state of ${state.length} bytes`);
  const view = new DataView(state.buffer, state.byteOffset, state.byteLength);
  const version = view.getUint16(0, true);
  if (version !== 0) throw problem(`version ${version} of the controller state, 0 is known`);
  if ((view.getUint8(2) & 1) === 0) throw problem('a state of a controller that was not suspended');
  const size = headerSize(view);
  if (size !== state.length) throw problem(`the header tells of ${size} bytes, there are ${state.length}`);
  if (view.getUint32(16, true) === 0 || view.getUint32(32, true) === 0)
    throw problem('a state without its queues, or without the vendor’s part');
}

/** Gives a state to a suspended controller, which verifies it. @throws EINVAL where it refuses */
export async function setState(child: Child, formats: FormatIndexes, state: Uint8Array): Promise<void> {
  const { parent, controllerId } = child;
  const step = parent.maxTransfer;
  for (let at = 0; at < state.length; at += step) {
    const part = state.subarray(at, at + step);
    const isFirst = at === 0;
    const isLast = at + step >= state.length;
    const sequence = (isFirst ? SEQUENCE.FIRST : 0) | (isLast ? SEQUENCE.LAST : 0);
    const dwords = [
      SEND.SET_STATE | (sequence << 16),
      controllerId | (formats.version << 16) | (formats.uuid << 24),
      at,
      0,
      0,
      part.length / 4,
    ];
    await parent.send('Migration Send (set controller state)', MIGRATION_SEND, dwords, part);
  }
}

/** Memory whose changes are tracked: an aligned address, and a length in grains. */
export interface TrackedMemory {
  readonly address: bigint;
  readonly grains: number;
}

/** Starts tracking, in grains of 4 KiB << granularity. */
export async function trackMemory(
  { parent, controllerId }: Child,
  ranges: readonly TrackedMemory[],
  granularity: number,
): Promise<void> {
  const data = new Uint8Array(8 + 12 * ranges.length);
  const view = new DataView(data.buffer);
  view.setUint8(3, granularity);
  view.setUint32(4, ranges.length, true);
  for (const [n, { address, grains }] of ranges.entries()) {
    view.setBigUint64(8 + 12 * n, address, true);
    view.setUint32(16 + 12 * n, grains, true);
  }
  await parent.send('Track Send (start)', TRACK_SEND, [TRACK_MEMORY | (1 << 16), controllerId], data);
}

export async function untrackMemory({ parent, controllerId }: Child): Promise<void> {
  await parent.send('Track Send (stop)', TRACK_SEND, [TRACK_MEMORY, controllerId]);
}

/**
 * What has changed since it was asked for last, as far as it has room in one report; whether there is more.
 *
 * @throws EIO where the report is not one.
 */
export async function trackedChanges(
  child: Child,
  changed: (address: bigint, length: bigint) => void,
): Promise<{ readonly more: boolean }> {
  const { parent, controllerId } = child;
  const size = Math.min(REPORT_BYTES, parent.maxTransfer);
  const name = 'Track Receive';
  const { data } = await parent.receive(name, TRACK_RECEIVE, [0, controllerId, size / 4 - 1], size);
  const view = new DataView(data.buffer);
  const version = view.getUint8(0);
  const attributes = view.getUint8(1);
  const id = view.getUint16(2, true);
  const count = view.getUint32(4, true);
  const granularity = view.getUint16(8, true);
  if (version !== 0) throw lie(child, name, `version ${version} of the report, 0 is known`);
  if (id !== controllerId) throw lie(child, name, `a report of controller ${id}, ${controllerId} was asked for`);
  if (count > (size - REPORT_HEADER_BYTES) / DESCRIPTOR_BYTES)
    throw lie(child, name, `${count} changes in a report of ${size} bytes`);
  const grain = GRAIN << BigInt(Math.min(granularity, 64));
  for (let at = REPORT_HEADER_BYTES; at < REPORT_HEADER_BYTES + DESCRIPTOR_BYTES * count; at += DESCRIPTOR_BYTES) {
    const address = view.getBigUint64(at, true);
    const length = grain * BigInt(view.getUint32(at + 8, true));
    if (address % grain !== 0n || length === 0n || address + length > 1n << 64n)
      throw lie(child, name, `a change of ${length} bytes at 0x${address.toString(16)}`);
    changed(address, length);
  }
  const more = (attributes & 1) !== 0;
  if (more && count === 0) throw lie(child, name, 'no change, and more of them');
  return { more };
}

async function receiveState(
  { parent, controllerId }: Child,
  formats: FormatIndexes,
  offset: number,
  length: number,
): Promise<{ readonly data: Uint8Array<ArrayBuffer>; readonly wasSuspended: boolean }> {
  const dwords = [formats.version << 16, controllerId | (formats.uuid << 16), offset, 0, 0, length / 4 - 1];
  const { result, data } = await parent.receive('Migration Receive', MIGRATION_RECEIVE, dwords, length);
  return { data, wasSuspended: (result & 1) !== 0 };
}

function sizeOf(header: Uint8Array, child: Child): number {
  const size = headerSize(new DataView(header.buffer, header.byteOffset, header.byteLength));
  if (size > MAX_STATE_BYTES)
    throw errnoError('ENOMEM', `a controller state of ${size} bytes: ${MAX_STATE_BYTES} are the most`, {
      op: 'Migration Receive',
      device: child.parent.address,
    });
  return size;
}

/** The size that a header tells: the two parts are counted in dwords, with 128 bits each. */
function headerSize(view: DataView): number {
  let size = STATE_HEADER_BYTES;
  for (const at of [16, 32]) {
    const low = Number(view.getBigUint64(at, true));
    const isHuge = view.getBigUint64(at + 8, true) !== 0n;
    size += isHuge ? Number.POSITIVE_INFINITY : 4 * low;
  }
  return size;
}

/** The controller says what cannot be. */
function lie({ parent }: Child, op: string, message: string): Error {
  return errnoError('EIO', `${op}: ${message}`, { op, device: parent.address });
}
