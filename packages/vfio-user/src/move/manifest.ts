import { readFileSync } from 'node:fs';
import { migrationStateName, type VfioDevice } from '@vfio/core';
import {
  errnoError,
  hex,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
  VFIO_PCI_NUM_REGIONS,
  type VfioError,
} from '@vfio/uapi';
import type { MappedRange } from '../dma.js';
import { MAX_MOVE_RANGES } from '../limits.js';
import { broken, json, MOVE_MAGIC, MOVE_VERSION, parseJson } from './wire.js';

/** What a device is, as far as another must be the same for its state. */
export interface DeviceManifest {
  readonly vendor: number;
  readonly device: number;
  readonly subvendor: number;
  readonly subdevice: number;
  readonly class: number;
  readonly revision: number;
  /** Ops name of its driver. */
  readonly driver: string;
  /** Version of its driver's package; undefined where the server was not told. Not compared: streams have versions. */
  readonly driverVersion: string | undefined;
  /** VFIO_MIGRATION_*. */
  readonly migrationFlags: number;
  /** Bytes of each region that the kernel numbers. */
  readonly regions: readonly number[];
  /** Boot of the kernel under which it is: file numbers mean the same only there. */
  readonly host: string;
}

/** `move`: the source ends. `save`: its device goes on, and nobody commits to anything. `check`: ACCEPT is all that is wanted. */
export type MovePurpose = 'move' | 'save' | 'check';

const PURPOSES: readonly unknown[] = ['move', 'save', 'check'];

/** What HELLO says. */
export interface Hello {
  readonly device: DeviceManifest;
  readonly purpose: MovePurpose;
  /** The ranges that follow. */
  readonly ranges: number;
  /** Upper estimate of the device's own state in bytes, for progress. */
  readonly stateBytes: number;
}

const HELLO_FIXED = 16;

/** What a device that can be migrated is. @throws ENOTTY with the driver's reason where it cannot */
export async function describeDevice(device: VfioDevice, driverVersion?: string): Promise<DeviceManifest> {
  const { vendor, device: id, subvendor, subdevice, class: classCode, revision } = device.function;
  const { flags } = (await device.deviceFeature({
    flags: VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION,
  })) as { flags: number };
  return {
    vendor,
    device: id,
    subvendor,
    subdevice,
    class: classCode,
    revision,
    driver: device.name,
    driverVersion,
    migrationFlags: flags,
    regions: Array.from({ length: VFIO_PCI_NUM_REGIONS }, (_, index) => regionSize(device, index)),
    host: bootId(),
  };
}

function regionSize(device: VfioDevice, index: number): number {
  try {
    return device.getRegionInfo(index).size;
  } catch {
    // VGA, where there is none.
    return 0;
  }
}

let boot: string | undefined;

function bootId(): string {
  boot ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return boot;
}

/** Bytes that STOP_COPY may give; 0 where the driver does not say. */
export async function stateSize(device: VfioDevice): Promise<number> {
  const flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DATA_SIZE;
  const { stopCopyLength } = (await device.deviceFeature({ flags })) as { stopCopyLength: bigint };
  return stopCopyLength > BigInt(Number.MAX_SAFE_INTEGER) ? 0 : Number(stopCopyLength);
}

/** Only a device that runs can be moved, and only over one that runs. @throws EBUSY */
export async function checkRunning(device: VfioDevice): Promise<void> {
  const flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
  const { state } = (await device.deviceFeature({ flags })) as { state: number };
  if (state === VFIO_DEVICE_STATE_RUNNING) return;
  throw errnoError(
    'EBUSY',
    `the device is in ${migrationStateName(state)}, it must be RUNNING: its client migrates it`,
    {
      op: 'migrate',
      device: device.function.address,
    },
  );
}

const id4 = (value: number): string => value.toString(16).padStart(4, '0');

/** Why the state of one device cannot go to another: a sentence each, none where it can. */
export function incompatibilities(from: DeviceManifest, to: DeviceManifest): string[] {
  const problems: string[] = [];
  const compare = (what: string, a: string, b: string) => {
    if (a !== b) problems.push(`${what} ${a} cannot go to ${b}`);
  };
  compare('ids', `${id4(from.vendor)}:${id4(from.device)}`, `${id4(to.vendor)}:${id4(to.device)}`);
  compare('subsystem', `${id4(from.subvendor)}:${id4(from.subdevice)}`, `${id4(to.subvendor)}:${id4(to.subdevice)}`);
  compare('class', hex(from.class), hex(to.class));
  compare('revision', hex(from.revision), hex(to.revision));
  compare('driver', from.driver, to.driver);
  for (const [index, size] of from.regions.entries()) {
    compare(`region ${index} of`, hex(size), hex(to.regions[index] ?? 0));
  }
  for (const [side, { migrationFlags }] of [
    ['source', from],
    ['destination', to],
  ] as const) {
    if ((migrationFlags & VFIO_MIGRATION_STOP_COPY) === 0) problems.push(`the ${side} cannot be migrated`);
  }
  return problems;
}

/** @throws EINVAL naming every difference */
export function checkCompatible(from: DeviceManifest, to: DeviceManifest): void {
  const problems = incompatibilities(from, to);
  if (problems.length > 0) throw incompatible(problems);
}

function incompatible(problems: readonly string[]): VfioError {
  return errnoError('EINVAL', `the devices are not of one kind: ${problems.join('; ')}`, { op: 'migrate' });
}

/** VFIO_MIGRATION_* as a list of words. */
export function migrationFlagNames(flags: number): string[] {
  const names: [number, string][] = [
    [VFIO_MIGRATION_STOP_COPY, 'STOP_COPY'],
    [VFIO_MIGRATION_P2P, 'P2P'],
    [VFIO_MIGRATION_PRE_COPY, 'PRE_COPY'],
  ];
  return names.filter(([flag]) => (flags & flag) !== 0).map(([, name]) => name);
}

export function encodeHello(hello: Hello): Uint8Array {
  const text = json(hello);
  const bytes = new Uint8Array(HELLO_FIXED + text.length);
  bytes.set(Buffer.from(MOVE_MAGIC, 'latin1'));
  const view = new DataView(bytes.buffer);
  view.setUint16(8, MOVE_VERSION.major, true);
  view.setUint16(10, MOVE_VERSION.minor, true);
  bytes.set(text, HELLO_FIXED);
  return bytes;
}

/** @throws ERR_VFIO_PROTOCOL: not this protocol, another major version, a field that is missing or out of range */
export function decodeHello(payload: Uint8Array): Hello {
  if (payload.length < HELLO_FIXED || Buffer.from(payload.subarray(0, 8)).toString('latin1') !== MOVE_MAGIC) {
    throw broken('HELLO does not begin as it must: the other side speaks something else');
  }
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const major = view.getUint16(8, true);
  if (major !== MOVE_VERSION.major) {
    throw broken(`version ${major}.${view.getUint16(10, true)}, this side speaks ${MOVE_VERSION.major}.x`);
  }
  if (view.getUint32(12, true) !== 0) throw broken('HELLO has something in its reserved bytes');
  const value = parseJson(payload.subarray(HELLO_FIXED), 'HELLO');
  const { purpose } = value;
  if (!PURPOSES.includes(purpose)) throw broken(`HELLO has the purpose ${JSON.stringify(purpose)}`);
  return {
    device: readManifest(value['device'], 'HELLO'),
    // One of the three.
    purpose: purpose as MovePurpose,
    ranges: whole(value, 'ranges', MAX_MOVE_RANGES, 'HELLO'),
    stateBytes: whole(value, 'stateBytes', Number.MAX_SAFE_INTEGER, 'HELLO'),
  };
}

function whole(value: Readonly<Record<string, unknown>>, name: string, most: number, record: string): number {
  const found = value[name];
  if (typeof found === 'number' && Number.isInteger(found) && found >= 0 && found <= most) return found;
  throw broken(`${record}: ${name} is ${JSON.stringify(found)}, a whole number up to ${most} is needed`);
}

/** @throws ERR_VFIO_PROTOCOL */
export function readManifest(value: unknown, record: string): DeviceManifest {
  if (typeof value !== 'object' || value === null) throw broken(`${record} does not say what the device is`);
  // An object: each member is checked below.
  const members = value as Readonly<Record<string, unknown>>;
  const { driver, driverVersion, regions, host } = members;
  if (typeof driver !== 'string' || driver.length > 100) throw broken(`${record} does not name the driver`);
  if (driverVersion !== undefined && (typeof driverVersion !== 'string' || driverVersion.length > 100)) {
    throw broken(`${record}: the version of the driver is no text`);
  }
  if (typeof host !== 'string' || host.length > 100) throw broken(`${record} does not name the host`);
  const isSize = (size: unknown) => typeof size === 'number' && Number.isSafeInteger(size) && size >= 0;
  if (!Array.isArray(regions) || regions.length !== VFIO_PCI_NUM_REGIONS || !regions.every(isSize)) {
    throw broken(`${record}: the sizes of ${VFIO_PCI_NUM_REGIONS} regions are needed`);
  }
  return {
    vendor: whole(members, 'vendor', 0xffff, record),
    device: whole(members, 'device', 0xffff, record),
    subvendor: whole(members, 'subvendor', 0xffff, record),
    subdevice: whole(members, 'subdevice', 0xffff, record),
    class: whole(members, 'class', 0xffffff, record),
    revision: whole(members, 'revision', 0xff, record),
    driver,
    driverVersion,
    migrationFlags: whole(members, 'migrationFlags', 0xffffffff, record),
    regions: regions as number[],
    host,
  };
}

/** What is to become of a range of the source's memory. */
export const FATE = {
  /** Its bytes go over the socket. */
  SENT: 0,
  /** It is the same memory at both: nothing to do. */
  SHARED: 1,
  /** Its device may not write there at the destination: what is in it is for its client to bring. */
  LEFT: 2,
} as const;

/** u64 address, u64 size, u32 flags (1 readable, 2 writable, 4 a file), u32 0, u64 device and u64 inode of it, u64 offset. */
export const RANGE_BYTES = 48;

export function encodeRanges(ranges: readonly MappedRange[]): Uint8Array {
  const bytes = new Uint8Array(ranges.length * RANGE_BYTES);
  const view = new DataView(bytes.buffer);
  for (const [index, { iova, size, readable, writable, file }] of ranges.entries()) {
    const at = index * RANGE_BYTES;
    view.setBigUint64(at, iova, true);
    view.setBigUint64(at + 8, size, true);
    view.setUint32(at + 16, (readable ? 1 : 0) | (writable ? 2 : 0) | (file === undefined ? 0 : 4), true);
    view.setBigUint64(at + 24, file?.dev ?? 0n, true);
    view.setBigUint64(at + 32, file?.ino ?? 0n, true);
    view.setBigUint64(at + 40, file?.offset ?? 0n, true);
  }
  return bytes;
}

/** @param after where the range before these ended @throws ERR_VFIO_PROTOCOL: out of range, out of order, overlapping */
export function decodeRanges(payload: Uint8Array, after: bigint): MappedRange[] {
  if (payload.length === 0 || payload.length % RANGE_BYTES !== 0) {
    throw broken(`RANGES has ${payload.length} bytes, ${RANGE_BYTES} for each are needed`);
  }
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const ranges: MappedRange[] = [];
  let end = after;
  for (let at = 0; at < payload.length; at += RANGE_BYTES) {
    const iova = view.getBigUint64(at, true);
    const size = view.getBigUint64(at + 8, true);
    const flags = view.getUint32(at + 16, true);
    const name = `RANGES: ${hex(iova)}+${hex(size)}`;
    if (size === 0n || iova + size > 1n << 64n) throw broken(`${name} is no part of 64-bit address space`);
    if (iova < end) throw broken(`${name} overlaps the one before it, or is out of order`);
    if (flags > 7 || (flags & 3) === 0 || view.getUint32(at + 20, true) !== 0)
      throw broken(`${name} has flags ${hex(flags)}`);
    const file = {
      dev: view.getBigUint64(at + 24, true),
      ino: view.getBigUint64(at + 32, true),
      offset: view.getBigUint64(at + 40, true),
    };
    end = iova + size;
    ranges.push({
      iova,
      size,
      readable: (flags & 1) !== 0,
      writable: (flags & 2) !== 0,
      file: (flags & 4) === 0 ? undefined : file,
    });
  }
  return ranges;
}

/**
 * What is to become of each range of the source, given what the destination's client has mapped.
 * @throws EINVAL where a range is not there, or is the same memory in part only
 */
export function decideFates(
  source: readonly MappedRange[],
  mine: readonly MappedRange[],
  isSameHost: boolean,
): Uint8Array {
  return Uint8Array.from(source, (range) => fateOf(range, mine, isSameHost));
}

function fateOf(range: MappedRange, mine: readonly MappedRange[], isSameHost: boolean): number {
  const end = range.iova + range.size;
  const shown = `the memory at ${hex(range.iova)}+${hex(range.size)}`;
  const refuse = (why: string) => errnoError('EINVAL', `${shown} ${why}`, { op: 'migrate' });
  let at = range.iova;
  let shared = 0;
  let pieces = 0;
  let isWritable = true;
  for (const piece of mine) {
    if (piece.iova + piece.size <= at || piece.iova >= end) continue;
    if (piece.iova > at) break;
    pieces++;
    if (isSameHost && isSameFile(range, piece)) shared++;
    if (!piece.writable) isWritable = false;
    at = piece.iova + piece.size;
  }
  if (at < end)
    throw refuse(
      `is not mapped at the destination, whose client must have it at the same addresses (${hex(at)} is free)`,
    );
  if (shared > 0 && shared < pieces) throw refuse('is the same memory at both servers only in part');
  if (shared > 0) return FATE.SHARED;
  if (!isWritable) {
    if (range.writable) throw refuse('is written by the source, and the destination may only read it');
    return FATE.LEFT;
  }
  return FATE.SENT;
}

/** Whether two ranges show the same bytes at the same addresses. */
function isSameFile(a: MappedRange, b: MappedRange): boolean {
  if (a.file === undefined || b.file === undefined) return false;
  return a.file.dev === b.file.dev && a.file.ino === b.file.ino && a.file.offset - a.iova === b.file.offset - b.iova;
}

/** What ACCEPT says. */
export interface Accept {
  readonly device: DeviceManifest;
  /** {@link FATE} of each range. */
  readonly fates: Uint8Array;
}

/** u32 length of the JSON, the JSON, the fates. */
export function encodeAccept({ device, fates }: Accept): Uint8Array {
  const text = json({ device });
  const bytes = new Uint8Array(4 + text.length + fates.length);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, 4);
  bytes.set(fates, 4 + text.length);
  return bytes;
}

/** @throws ERR_VFIO_PROTOCOL */
export function decodeAccept(payload: Uint8Array, ranges: number): Accept {
  const length =
    payload.length < 4 ? 0 : new DataView(payload.buffer, payload.byteOffset, payload.length).getUint32(0, true);
  if (payload.length !== 4 + length + ranges) {
    throw broken(`ACCEPT has ${payload.length} bytes: ${length} of text and ${ranges} ranges need another number`);
  }
  const { device } = parseJson(payload.subarray(4, 4 + length), 'ACCEPT');
  const fates = payload.slice(4 + length);
  if (fates.some((fate) => fate > FATE.LEFT)) throw broken('ACCEPT says something unknown of a range');
  return { device: readManifest(device, 'ACCEPT'), fates };
}
