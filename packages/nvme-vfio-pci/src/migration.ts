import {
  isVfioError,
  type MigrationData,
  type PrecopyInfo,
  type VfioMigrationOps,
  type VfioPciCoreDevice,
} from '@vfio/core';
import {
  errnoError,
  VFIO_DEVICE_STATE_ERROR,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '@vfio/uapi';
import { type FormatIndexes, getState, resume, setState, stateSize, suspend } from './cmd.js';
import { hasStatus, NVME_STATUS } from './parent/errors.js';
import { encodeStream, StateReader, type StreamFormat, streamBytes } from './stream.js';
import { type MigrationSupport, QUEUES_VERSION } from './support.js';

const RUNNING = VFIO_DEVICE_STATE_RUNNING;
const RUNNING_P2P = VFIO_DEVICE_STATE_RUNNING_P2P;
const STOP = VFIO_DEVICE_STATE_STOP;
const STOP_COPY = VFIO_DEVICE_STATE_STOP_COPY;
const RESUMING = VFIO_DEVICE_STATE_RESUMING;
const ERROR = VFIO_DEVICE_STATE_ERROR;

/** Brings the function's own controller to disabled, by its registers: what it was told is forgotten, queues are gone. */
export type ResetController = (dev: VfioPciCoreDevice) => Promise<void>;

/** Carries out one arc. */
type Step = (dev: VfioPciCoreDevice) => Promise<MigrationData | undefined>;

/**
 * The migration of one virtual function. A suspended controller fetches nothing and begins no transaction, while its
 * registers answer (NVM Express Base 2.1, 5.1.17.1.1): that is RUNNING_P2P, and STOP too, in which nobody accesses it.
 */
export class NvmeMigration {
  readonly ops: VfioMigrationOps<VfioPciCoreDevice> = {
    setState: (dev, next) => this.#setState(dev, next),
    getState: () => this.#state,
    getDataSize: (dev) => this.#dataSize(dev),
  };
  readonly #support: MigrationSupport;
  readonly #reset: ResetController;
  readonly #arcs: ReadonlyMap<string, Step>;
  /** The format that this side writes. */
  readonly #format: StreamFormat;
  #state: number = RUNNING;
  #saving: SaveSession | undefined;
  #resuming: ResumeSession | undefined;
  #detached = false;
  readonly #onRunning: () => Promise<void>;

  /** @param onRunning called whenever the controller goes on, or may have been reset */
  constructor(support: MigrationSupport, reset: ResetController, onRunning: () => Promise<void>) {
    this.#support = support;
    this.#reset = reset;
    this.#onRunning = onRunning;
    const { parent } = support.child;
    this.#format = {
      vendor: parent.capabilities.vendor,
      version: QUEUES_VERSION,
      uuid: support.formats.uuids[0] ?? '',
    };
    const none =
      (step: (dev: VfioPciCoreDevice) => void | Promise<void>): Step =>
      async (dev) => {
        await step(dev);
        return undefined;
      };
    this.#arcs = new Map<string, Step>([
      [arc(RUNNING, RUNNING_P2P), none(() => this.#suspend())],
      [arc(RUNNING_P2P, RUNNING), none(() => this.#resume())],
      [arc(RUNNING_P2P, STOP), none(() => {})],
      [arc(STOP, RUNNING_P2P), none(() => {})],
      [arc(STOP, STOP_COPY), () => this.#save()],
      [arc(STOP_COPY, STOP), none(() => this.#dropSessions())],
      [arc(STOP, RESUMING), (dev) => this.#beginLoad(dev)],
      [arc(RESUMING, STOP), none(() => this.#endLoad())],
    ]);
  }

  get isRunning(): boolean {
    return this.#state === RUNNING;
  }

  /** The function was reset: it runs, and nothing of a session is left. `raced`: a suspension may have come after that. */
  async reset(raced: boolean): Promise<void> {
    this.#state = RUNNING;
    this.#dropSessions();
    if (this.#detached) return;
    if (raced && !(await this.#runs())) this.#fail();
    await this.#onRunning();
  }

  /** The physical function is gone: nobody can be asked for anything. */
  detach(): void {
    this.#detached = true;
    this.#dropSessions();
  }

  async #setState(dev: VfioPciCoreDevice, next: number): Promise<MigrationData | undefined> {
    this.#checkAttached(dev);
    const step = this.#arcs.get(arc(this.#state, next));
    if (step === undefined)
      throw dev.error('EINVAL', 'MIG_DEVICE_STATE', `there is no arc from ${this.#state} to ${next}`);
    try {
      const data = await step(dev);
      this.#state = next;
      return data;
    } catch (error) {
      if (!(error instanceof StillThere)) this.#fail();
      throw error instanceof StillThere ? error.reason : error;
    }
  }

  async #dataSize(dev: VfioPciCoreDevice): Promise<bigint> {
    this.#checkAttached(dev);
    return BigInt(streamBytes(await stateSize(this.#support.child, this.#indexes(this.#format))));
  }

  async #suspend(): Promise<void> {
    try {
      await suspend(this.#support.child);
    } catch (error) {
      // A suspension that failed half-way is none where the controller runs again, or never stopped.
      if (await this.#runs()) throw new StillThere(error);
      throw error;
    }
  }

  async #resume(): Promise<void> {
    try {
      await resume(this.#support.child);
    } catch (error) {
      throw wasRefused(error) && !hasStatus(error, NVME_STATUS.CONTROLLER_NOT_SUSPENDED)
        ? new StillThere(error)
        : error;
    }
    await this.#onRunning();
  }

  /** Lets the controller go on; whether it does. */
  async #runs(): Promise<boolean> {
    try {
      await resume(this.#support.child);
      return true;
    } catch (error) {
      return hasStatus(error, NVME_STATUS.CONTROLLER_NOT_SUSPENDED);
    }
  }

  async #save(): Promise<MigrationData> {
    try {
      const state = await getState(this.#support.child, this.#indexes(this.#format));
      this.#saving = new SaveSession(encodeStream(this.#format, state));
      return this.#saving;
    } catch (error) {
      // Nothing was changed by reading: the function stands where it stood, where its parent still answers.
      throw isVfioError(error) && !wasLost(error) ? new StillThere(error) : error;
    }
  }

  /** The state that the function has is given up: a state is loaded where there is none (5.1.17.1.3). */
  async #beginLoad(dev: VfioPciCoreDevice): Promise<MigrationData> {
    // A controller reset ends the suspension (8.1.12); disabled it does nothing until it is suspended again.
    await this.#reset(dev);
    await suspend(this.#support.child);
    this.#resuming = new ResumeSession((format) => this.#whyNot(format));
    return this.#resuming;
  }

  async #endLoad(): Promise<void> {
    try {
      const loaded = await this.#resuming?.finish();
      if (loaded !== undefined) await setState(this.#support.child, this.#indexes(loaded.format), loaded.state);
    } finally {
      this.#dropSessions();
    }
  }

  /** Why a state in some format cannot be loaded here. */
  #whyNot({ vendor, version, uuid }: StreamFormat): string | undefined {
    const { formats } = this.#support;
    if (vendor !== this.#format.vendor)
      return `a state of vendor 0x${vendor.toString(16)}, this controller is of 0x${this.#format.vendor.toString(16)}`;
    if (!formats.versions.includes(version)) return `version ${version} of the queues’ state is not supported here`;
    return formats.uuids.includes(uuid) ? undefined : `the vendor’s format ${uuid} is not supported here`;
  }

  #indexes({ version, uuid }: StreamFormat): FormatIndexes {
    const { versions, uuids } = this.#support.formats;
    return { version: versions.indexOf(version) + 1, uuid: uuids.indexOf(uuid) + 1 };
  }

  #fail(): void {
    this.#state = ERROR;
    this.#dropSessions();
  }

  #dropSessions(): void {
    this.#saving?.close();
    this.#resuming?.close();
    this.#saving = undefined;
    this.#resuming = undefined;
  }

  #checkAttached(dev: VfioPciCoreDevice): void {
    if (this.#detached)
      throw dev.error(
        'ENOTCONN',
        'MIG_DEVICE_STATE',
        'the physical function is gone, and with it the one that manages the migration',
      );
  }
}

/** An arc failed, and the function is where it was before. */
class StillThere extends Error {
  readonly reason: unknown;

  constructor(reason: unknown) {
    super('the function is where it was');
    this.reason = reason;
  }
}

function wasRefused(error: unknown): boolean {
  return typeof (error as { readonly details?: { readonly status?: unknown } }).details?.status === 'number';
}

function wasLost(error: unknown): boolean {
  return (error as { readonly details?: { readonly lost?: unknown } }).details?.lost === true;
}

/** A stream that is there from its begin to its end. */
class SaveSession implements MigrationData {
  #unread: Uint8Array;
  #isClosed = false;

  constructor(stream: Uint8Array) {
    this.#unread = stream;
  }

  read(into: Uint8Array): number {
    if (this.#isClosed) throw errnoError('ENODEV', 'the session has ended', { op: 'read' });
    const part = this.#unread.subarray(0, into.length);
    into.set(part);
    this.#unread = this.#unread.subarray(part.length);
    return part.length;
  }

  write(): number {
    throw errnoError('EINVAL', 'the stream of a device that is being saved can only be read', { op: 'write' });
  }

  precopyInfo(): PrecopyInfo {
    throw errnoError('EINVAL', 'the device has no PRE_COPY', { op: 'MIG_GET_PRECOPY_INFO' });
  }

  close(): void {
    this.#isClosed = true;
    this.#unread = new Uint8Array(0);
  }
}

/** A stream on its way in: its state is given to the controller when all of it has come. */
class ResumeSession implements MigrationData {
  readonly #reader: StateReader;
  #error: unknown;
  #work: Promise<unknown> = Promise.resolve();

  constructor(whyNot: (format: StreamFormat) => string | undefined) {
    this.#reader = new StateReader(whyNot);
  }

  async write(from: Uint8Array): Promise<number> {
    if (this.#error !== undefined)
      throw errnoError('ENODEV', 'the stream was refused before', { op: 'write', cause: this.#error });
    const work = this.#work.then(() => this.#reader.write(from));
    this.#work = work.catch(() => undefined);
    try {
      await work;
    } catch (error) {
      this.#error ??= error;
      throw error;
    }
    return from.length;
  }

  read(): number {
    throw errnoError('EINVAL', 'the stream of a device that is being resumed can only be written', { op: 'read' });
  }

  precopyInfo(): PrecopyInfo {
    throw errnoError('EINVAL', 'a device that is being resumed has no precopy info', { op: 'MIG_GET_PRECOPY_INFO' });
  }

  /** All was written. @throws EINVAL where it was not, the error that was met before. */
  async finish(): Promise<{ readonly format: StreamFormat; readonly state: Uint8Array }> {
    await this.#work;
    if (this.#error !== undefined) throw this.#error;
    return this.#reader.finish();
  }

  close(): void {
    this.#error ??= errnoError('ENODEV', 'the session has ended', { op: 'write' });
  }
}

function arc(from: number, to: number): string {
  return `${from}>${to}`;
}
