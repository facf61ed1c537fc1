import { type MigrationData, migrationStateName, type VfioDeviceClient } from '@vfio/core';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
} from '@vfio/uapi';
import { refusal } from './access.js';
import { check, fails } from './assert.js';

export const STOP = VFIO_DEVICE_STATE_STOP;
export const RUNNING = VFIO_DEVICE_STATE_RUNNING;
export const STOP_COPY = VFIO_DEVICE_STATE_STOP_COPY;
export const RESUMING = VFIO_DEVICE_STATE_RESUMING;
export const PRE_COPY = VFIO_DEVICE_STATE_PRE_COPY;
export const PRE_COPY_P2P = VFIO_DEVICE_STATE_PRE_COPY_P2P;

/** More than any stream of a case gives. */
const MAX_READS = 1_000_000;
const PIECE = 0x10000;

/** VFIO_MIGRATION_* of the device, 0 where it cannot be migrated. */
export async function migrationFlags(device: VfioDeviceClient): Promise<number> {
  const get = device.deviceFeature({ flags: VFIO_DEVICE_FEATURE_MIGRATION | VFIO_DEVICE_FEATURE_GET });
  return (await refusal(get)) === undefined ? ((await get) as { flags: number }).flags : 0;
}

/** The states that a device with these flags has, and those that it lacks; ERROR is among neither. */
export function statesOf(flags: number): { has: readonly number[]; lacks: readonly number[] } {
  const p2p = (flags & VFIO_MIGRATION_P2P) !== 0;
  const precopy = (flags & VFIO_MIGRATION_PRE_COPY) !== 0;
  const optional = [
    [VFIO_DEVICE_STATE_RUNNING_P2P, p2p],
    [PRE_COPY, precopy],
    [PRE_COPY_P2P, p2p && precopy],
  ] as const;
  return {
    has: [STOP, RUNNING, STOP_COPY, RESUMING, ...optional.filter(([, has]) => has).map(([state]) => state)],
    lacks: optional.filter(([, has]) => !has).map(([state]) => state),
  };
}

/** Whether a state belongs to those in which one stream lasts from its begin to its end. */
export const isSaving = (state: number): boolean => state === STOP_COPY || state === PRE_COPY || state === PRE_COPY_P2P;

/** The one thing that no device does: saving while it runs again after it has been stopped for that. */
export const isWay = (from: number, to: number): boolean =>
  from !== STOP_COPY || (to !== PRE_COPY && to !== PRE_COPY_P2P);

/** Whether a step opens a stream. */
export const opensStream = (from: number, to: number): boolean =>
  from !== to && (to === RESUMING || (isSaving(to) && !isSaving(from)));

export async function stateOf(device: VfioDeviceClient): Promise<number> {
  const flags = VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_GET;
  return ((await device.deviceFeature({ flags })) as { state: number }).state;
}

export async function setState(device: VfioDeviceClient, state: number): Promise<MigrationData | undefined> {
  const flags = VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET;
  return ((await device.deviceFeature({ flags, value: { state } })) as { data: MigrationData | undefined }).data;
}

/** Goes to a state that opens a stream. */
export async function openStream(device: VfioDeviceClient, state: number): Promise<MigrationData> {
  const stream = await setState(device, state);
  check(stream !== undefined, `no stream was opened on the way to ${migrationStateName(state)}`);
  return stream;
}

export function join(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** What there is to read, in pieces of sizes that the caller says. Ends where `end` says that a refusal is the end. */
async function readParts(stream: MigrationData, size: () => number, end: readonly string[]): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (let n = 0; n < MAX_READS; n++) {
    const part = new Uint8Array(size());
    let count = 0;
    const errno = await refusal((async () => (count = await stream.read(part)))());
    if (errno !== undefined) {
      check(end.includes(errno), `a read failed with ${errno}`);
      return join(parts);
    }
    check(count <= part.length, `a read of ${part.length} bytes gave ${count}`);
    if (count === 0) return join(parts);
    parts.push(part.subarray(0, count));
  }
  throw new Error(`a stream that does not end after ${MAX_READS} reads`);
}

/** The rest of a stream in STOP_COPY, which ends with reads of 0 bytes. */
export const readToEnd = (stream: MigrationData, size: () => number = () => PIECE): Promise<Uint8Array> =>
  readParts(stream, size, []);

/** What there is for now in PRE_COPY. Over vfio-user a read of 0 bytes says that there is nothing more. */
export const readForNow = (stream: MigrationData, size: () => number = () => PIECE): Promise<Uint8Array> =>
  readParts(stream, size, ['ENOMSG']);

/** Nothing more for now, which is not the end. */
export async function checkIdle(stream: MigrationData): Promise<void> {
  const into = new Uint8Array(16);
  if (await hasPrecopyInfo(stream)) await fails(async () => stream.read(into), 'ENOMSG', 'a read of an idle stream');
  else check((await stream.read(into)) === 0, 'a read of an idle stream gave bytes');
}

/** vfio-user carries a stream, but not what is asked of it. */
export const hasPrecopyInfo = async (stream: MigrationData): Promise<boolean> =>
  (await refusal((async () => stream.precopyInfo())())) !== 'ENOTTY';

/** The whole state of a device, which is STOPped for it. */
export async function save(device: VfioDeviceClient): Promise<Uint8Array> {
  const bytes = await readToEnd(await openStream(device, STOP_COPY));
  await setState(device, STOP);
  return bytes;
}

/** Writes a state, in pieces. */
export async function writeAll(
  stream: MigrationData,
  bytes: Uint8Array,
  size: () => number = () => PIECE,
): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const part = bytes.subarray(at, at + size());
    const count = await stream.write(part);
    check(count > 0 && count <= part.length, `a write of ${part.length} bytes took ${count}`);
    at += count;
  }
}

/** Loads a state into a device, which is STOPped then. */
export async function load(device: VfioDeviceClient, bytes: Uint8Array, size?: () => number): Promise<void> {
  await writeAll(await openStream(device, RESUMING), bytes, size);
  await setState(device, STOP);
}
