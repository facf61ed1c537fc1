import type { MaybePromise, MigrationData, PrecopyInfo, VfioMigrationOps, VfioPciCoreDevice } from '@vfio/core';
import {
  errnoError,
  VFIO_DEVICE_STATE_ERROR,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '@vfio/uapi';

/** What moves: registers that can be copied at any time, and an engine that can be held. */
export interface Movable {
  readonly registers: Uint8Array;
  /** A promise where something is under way that ends first. */
  hold(isHeld: boolean): Promise<void> | undefined;
}

/** A record: what it is, bytes that follow, their sum; all u32. The last one of a stream has no bytes. */
const MAGIC = 0x4c4f4857;
const HEADER = 12;
/** A record that says nothing of the device, and may be skipped. */
const NOTE = 0x45544f4e;

/** Of the driver, and so of its streams: 2 begins with a note, which 1 skips; 3 has records of its own. */
export type StreamVersion = 1 | 2 | 3;

const magicOf = (version: StreamVersion): number => (version === 3 ? MAGIC + 1 : MAGIC);

/** A sum that tells a byte, its change, and its place. */
function sum(bytes: Uint8Array): number {
  let value = 0x811c9dc5;
  for (const byte of bytes) value = Math.imul(value ^ byte, 0x01000193) >>> 0;
  return value;
}

function record(payload: Uint8Array, magic: number): Uint8Array {
  const bytes = new Uint8Array(HEADER + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, magic, true);
  view.setUint32(4, payload.length, true);
  view.setUint32(8, sum(payload), true);
  bytes.set(payload, HEADER);
  return bytes;
}

class SaveStream implements MigrationData {
  readonly #device: Movable;
  readonly #magic: number;
  #unread: Uint8Array = new Uint8Array(0);
  #initialBytes = 0;
  #last: Uint8Array = new Uint8Array(0);
  #isWhole = false;

  constructor(device: Movable, version: StreamVersion) {
    this.#device = device;
    this.#magic = magicOf(version);
    if (version === 2) this.#append(record(Uint8Array.of(version), NOTE));
    this.#push();
    this.#initialBytes = this.#unread.length;
  }

  /** The device has stopped: what it is now, and the end. */
  finish(): void {
    if (this.#hasChanged()) this.#push();
    this.#append(record(new Uint8Array(0), this.#magic));
    this.#isWhole = true;
  }

  read(into: Uint8Array): number {
    const part = this.#unread.subarray(0, into.length);
    if (part.length === 0 && into.length > 0 && !this.#isWhole)
      throw errnoError('ENOMSG', 'nothing new for now', { op: 'read' });
    into.set(part);
    this.#unread = this.#unread.subarray(part.length);
    this.#initialBytes = Math.max(0, this.#initialBytes - part.length);
    return part.length;
  }

  write(): number {
    throw errnoError('EINVAL', 'the stream is for reading', { op: 'write' });
  }

  precopyInfo(): PrecopyInfo {
    if (this.#unread.length === 0 && this.#hasChanged()) this.#push();
    return {
      flags: 0,
      initialBytes: BigInt(this.#initialBytes),
      dirtyBytes: BigInt(this.#unread.length - this.#initialBytes),
    };
  }

  close(): void {}

  #hasChanged(): boolean {
    return this.#device.registers.some((byte, at) => byte !== this.#last[at]);
  }

  #push(): void {
    this.#last = this.#device.registers.slice();
    this.#append(record(this.#last, this.#magic));
  }

  #append(bytes: Uint8Array): void {
    const all = new Uint8Array(this.#unread.length + bytes.length);
    all.set(this.#unread);
    all.set(bytes, this.#unread.length);
    this.#unread = all;
  }
}

class ResumeStream implements MigrationData {
  readonly #device: Movable;
  readonly #magic: number;
  #taken: Uint8Array = new Uint8Array(0);
  #hasEnded = false;
  #isRefused = false;

  constructor(device: Movable, version: StreamVersion) {
    this.#device = device;
    this.#magic = magicOf(version);
  }

  /** @throws EINVAL where something is missing */
  finish(): void {
    if (this.#isRefused || !this.#hasEnded || this.#taken.length > 0) throw refused('it is not whole');
  }

  write(from: Uint8Array): number {
    if (this.#isRefused) throw errnoError('ENODEV', 'the stream was refused before', { op: 'write' });
    const all = new Uint8Array(this.#taken.length + from.length);
    all.set(this.#taken);
    all.set(from, this.#taken.length);
    this.#taken = all;
    try {
      while (this.#takeRecord());
    } catch (error) {
      this.#isRefused = true;
      throw error;
    }
    return from.length;
  }

  read(): number {
    throw errnoError('EINVAL', 'the stream is for writing', { op: 'read' });
  }

  precopyInfo(): PrecopyInfo {
    throw errnoError('EINVAL', 'a device that is being resumed has no precopy info', { op: 'MIG_GET_PRECOPY_INFO' });
  }

  close(): void {}

  #takeRecord(): boolean {
    const taken = this.#taken;
    if (taken.length < HEADER) return false;
    const view = new DataView(taken.buffer, taken.byteOffset);
    const length = view.getUint32(4, true);
    const magic = view.getUint32(0, true);
    if (this.#hasEnded || (magic !== this.#magic && magic !== NOTE)) throw refused('no record where one should be');
    if (magic === NOTE && length > HEADER) throw refused(`a note of ${length} bytes`);
    if (magic !== NOTE && length !== 0 && length !== this.#device.registers.length)
      throw refused(`a record of ${length} bytes`);
    if (taken.length < HEADER + length) return false;
    const payload = taken.subarray(HEADER, HEADER + length);
    if (view.getUint32(8, true) !== sum(payload)) throw refused('a byte was changed');
    if (magic === NOTE) return this.#drop(HEADER + length);
    if (length === 0) this.#hasEnded = true;
    else this.#device.registers.set(payload);
    return this.#drop(HEADER + length);
  }

  #drop(bytes: number): boolean {
    this.#taken = this.#taken.subarray(bytes);
    return true;
  }
}

const refused = (why: string) => errnoError('EINVAL', `the migration stream: ${why}`, { op: 'write' });

/** The engine cannot tell the memory of a peer from other memory: it stands still where peers must be left alone, too. */
const WORKING: readonly number[] = [VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_PRE_COPY];
const SAVING: readonly number[] = [
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
];

/** Migration of a device whose state is its registers, with whatever states its flags say. */
export class WholeMigration {
  readonly #device: Movable;
  readonly #version: StreamVersion;
  #state: number = VFIO_DEVICE_STATE_RUNNING;
  #saving: SaveStream | undefined;
  #resuming: ResumeStream | undefined;

  constructor(device: Movable, version: StreamVersion) {
    this.#device = device;
    this.#version = version;
  }

  readonly ops: VfioMigrationOps<VfioPciCoreDevice> = {
    setState: (_, next) => this.#step(next),
    getState: () => this.#state,
    getDataSize: () => BigInt(2 * HEADER + this.#device.registers.length),
  };

  reset(): void {
    this.#enter(VFIO_DEVICE_STATE_RUNNING);
    this.#saving = undefined;
    this.#resuming = undefined;
  }

  #step(next: number): MaybePromise<MigrationData | undefined> {
    try {
      this.#resuming?.finish();
    } catch (error) {
      this.#resuming = undefined;
      this.#enter(VFIO_DEVICE_STATE_ERROR);
      throw error;
    }
    this.#resuming = undefined;
    const settled = this.#enter(next);
    return settled === undefined ? this.#arrive(next) : settled.then(() => this.#arrive(next));
  }

  #arrive(next: number): MigrationData | undefined {
    if (next === VFIO_DEVICE_STATE_RESUMING) {
      this.#resuming = new ResumeStream(this.#device, this.#version);
      return this.#resuming;
    }
    if (!SAVING.includes(next)) {
      this.#saving = undefined;
      return undefined;
    }
    const opened = this.#saving === undefined ? new SaveStream(this.#device, this.#version) : undefined;
    this.#saving ??= opened;
    if (next === VFIO_DEVICE_STATE_STOP_COPY) this.#saving?.finish();
    return opened;
  }

  #enter(state: number): Promise<void> | undefined {
    this.#state = state;
    return this.#device.hold(!WORKING.includes(state));
  }
}
