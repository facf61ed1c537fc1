import { isVfioError, type MigrationData, type VfioMigrationOps, type VfioPciCoreDevice } from '@vfio/core';
import {
  VFIO_DEVICE_STATE_ERROR,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '@vfio/uapi';
import {
  allocPd,
  deallocPd,
  queryState,
  resumeInitiator,
  resumeResponder,
  suspendInitiator,
  suspendResponder,
  type Vhca,
} from './cmd.js';
import { wasLost } from './hca/errors.js';
import { ResumeSession } from './resume-session.js';
import { SaveSession, type SaveSessionOptions } from './save-session.js';

const RUNNING = VFIO_DEVICE_STATE_RUNNING;
const RUNNING_P2P = VFIO_DEVICE_STATE_RUNNING_P2P;
const STOP = VFIO_DEVICE_STATE_STOP;
const STOP_COPY = VFIO_DEVICE_STATE_STOP_COPY;
const RESUMING = VFIO_DEVICE_STATE_RESUMING;
const PRE_COPY = VFIO_DEVICE_STATE_PRE_COPY;
const PRE_COPY_P2P = VFIO_DEVICE_STATE_PRE_COPY_P2P;
const ERROR = VFIO_DEVICE_STATE_ERROR;

export interface MigrationSupport {
  readonly vhca: Vhca;
  readonly inChunks: boolean;
  /** The firmware says when a pre-copy begins anew. */
  readonly hasMigrationState: boolean;
}

/** Carries out one arc. */
type Step = (dev: VfioPciCoreDevice) => Promise<MigrationData | undefined>;

/** The migration of one virtual function: its state, and the arcs that the firmware carries out. */
export class Mlx5Migration {
  readonly ops: VfioMigrationOps<VfioPciCoreDevice> = {
    setState: (dev, next) => this.#setState(dev, next),
    getState: () => this.#state,
    getDataSize: (dev) => this.#dataSize(dev),
  };
  readonly #support: MigrationSupport;
  readonly #arcs: ReadonlyMap<string, Step>;
  #state: number = RUNNING;
  #saving: SaveSession | undefined;
  #resuming: ResumeSession | undefined;
  #detached = false;
  /** Sessions whose buffers are being given back. */
  #releasing: Promise<void> = Promise.resolve();

  constructor(support: MigrationSupport) {
    this.#support = support;
    const { vhca } = support;
    const none = (step: Promise<void>): Promise<undefined> => step.then(() => undefined);
    this.#arcs = new Map<string, Step>([
      [arc(RUNNING, RUNNING_P2P), () => none(suspendInitiator(vhca))],
      [arc(RUNNING_P2P, RUNNING), () => none(resumeInitiator(vhca))],
      [arc(RUNNING_P2P, STOP), () => none(suspendResponder(vhca))],
      [arc(STOP, RUNNING_P2P), () => none(resumeResponder(vhca))],
      [arc(RUNNING, PRE_COPY), (dev) => this.#save(dev, (options) => SaveSession.preCopy(options))],
      [arc(RUNNING_P2P, PRE_COPY_P2P), (dev) => this.#save(dev, (options) => SaveSession.preCopy(options))],
      [arc(STOP, STOP_COPY), (dev) => this.#save(dev, (options) => SaveSession.stopCopy(options))],
      [arc(PRE_COPY, PRE_COPY_P2P), () => none(this.#quiet())],
      [arc(PRE_COPY_P2P, PRE_COPY), () => none(resumeInitiator(vhca))],
      [arc(PRE_COPY_P2P, STOP_COPY), () => none(this.#stopAndFinish())],
      [arc(PRE_COPY, RUNNING), () => none(this.#abandon())],
      [arc(PRE_COPY_P2P, RUNNING_P2P), () => none(this.#abandon())],
      [arc(STOP_COPY, STOP), () => none(this.#endSave())],
      [arc(STOP, RESUMING), () => this.#resume()],
      [arc(RESUMING, STOP), () => none(this.#endResume())],
    ]);
  }

  /** The function was reset: it runs, and nothing of a session is left. `raced`: a SUSPEND may have come after that. */
  reset(raced: boolean): Promise<void> | undefined {
    this.#state = RUNNING;
    this.#dropSessions();
    return raced && !this.#detached ? this.#resumeAll() : undefined;
  }

  /** The physical function is gone: nobody can be asked for anything. */
  detach(): void {
    this.#detached = true;
    this.#dropSessions();
  }

  /** The last user has gone: its sessions end. */
  close(): Promise<void> {
    this.#dropSessions();
    return this.#releasing;
  }

  /** Settles when no memory is with the firmware any more. */
  get released(): Promise<void> {
    return this.#releasing;
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
      if (error instanceof HalfDone) {
        if (!error.isStillThere) this.#fail();
        throw error.reason;
      }
      // What was refused has not happened. What was not answered has, or not: nobody can say where the function stands.
      if (!isVfioError(error) || wasLost(error)) this.#fail();
      throw error;
    }
  }

  async #dataSize(dev: VfioPciCoreDevice): Promise<bigint> {
    this.#checkAttached(dev);
    const { vhca, inChunks } = this.#support;
    return BigInt((await queryState(vhca, { incremental: false, chunk: inChunks })).total);
  }

  async #save(
    dev: VfioPciCoreDevice,
    begin: (options: SaveSessionOptions) => Promise<SaveSession>,
  ): Promise<MigrationData> {
    const { vhca, inChunks, hasMigrationState } = this.#support;
    const pd = await allocPd(vhca.hca);
    try {
      this.#saving = await begin({
        vhca,
        pd,
        inChunks,
        hearsReinit: () => hasMigrationState && dev.precopyInfoV2,
        isPreCopy: () => this.#state === PRE_COPY,
      });
      return this.#saving;
    } catch (error) {
      await deallocPd(vhca.hca, pd).catch(() => undefined);
      throw error;
    }
  }

  async #quiet(): Promise<void> {
    // Tracking cannot be switched on for a function that has stopped meanwhile.
    await this.#saving?.idle();
    await suspendInitiator(this.#support.vhca);
  }

  async #stopAndFinish(): Promise<void> {
    const { vhca } = this.#support;
    await this.#saving?.idle();
    await suspendResponder(vhca);
    try {
      await this.#saving?.finish();
    } catch (error) {
      // Back to where it was, where the firmware lets it: its user decides again.
      const isBack = await resumeResponder(vhca).then(
        () => true,
        () => false,
      );
      throw new HalfDone(error, isBack);
    }
  }

  async #abandon(): Promise<void> {
    const saving = this.#saving;
    const hadError = saving?.error;
    await saving?.abandon();
    this.#dropSessions();
    await saving?.released;
    // The function runs on as it did; that its stream was broken is said once.
    if (hadError !== undefined) throw new HalfDone(hadError, true);
  }

  async #endSave(): Promise<void> {
    const saving = this.#saving;
    this.#dropSessions();
    await saving?.released;
  }

  async #resume(): Promise<MigrationData> {
    const { vhca } = this.#support;
    this.#resuming = new ResumeSession(vhca, await allocPd(vhca.hca));
    return this.#resuming;
  }

  async #endResume(): Promise<void> {
    const resuming = this.#resuming;
    try {
      await resuming?.finish();
    } catch (error) {
      // Some of it was loaded: that is no state to run from.
      throw new HalfDone(error, false);
    } finally {
      this.#dropSessions();
      await resuming?.released;
    }
  }

  /** Lets the function run whatever it stands at: half of it that runs already is refused. */
  async #resumeAll(): Promise<void> {
    const { vhca } = this.#support;
    for (const resume of [resumeResponder, resumeInitiator])
      await resume(vhca).catch((error: unknown) => {
        if (wasLost(error)) this.#fail();
      });
  }

  #fail(): void {
    this.#state = ERROR;
    this.#dropSessions();
  }

  #dropSessions(): void {
    const sessions = [this.#saving, this.#resuming];
    this.#saving = undefined;
    this.#resuming = undefined;
    for (const session of sessions) {
      if (session === undefined) continue;
      session.close();
      const before = this.#releasing;
      this.#releasing = before.then(() => session.released);
    }
  }

  #checkAttached(dev: VfioPciCoreDevice): void {
    if (this.#detached)
      throw dev.error(
        'ENOTCONN',
        'MIG_DEVICE_STATE',
        'the physical function is gone, and with it the way to the firmware',
      );
  }
}

/** An arc failed on its way. */
class HalfDone extends Error {
  readonly reason: unknown;
  /** The function is where the arc began, and otherwise nobody can say where. */
  readonly isStillThere: boolean;

  constructor(reason: unknown, isStillThere: boolean) {
    super('an arc was not carried out to its end');
    this.reason = reason;
    this.isStillThere = isStillThere;
  }
}

function arc(from: number, to: number): string {
  return `${from}>${to}`;
}
