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
import { ResumeSession, SaveSession } from './session.js';
import { type StreamMinor, streamBytes } from './stream.js';
import type { StateWindow } from './window.js';

const ERROR = VFIO_DEVICE_STATE_ERROR;
const STOP = VFIO_DEVICE_STATE_STOP;
const RUNNING = VFIO_DEVICE_STATE_RUNNING;
const STOP_COPY = VFIO_DEVICE_STATE_STOP_COPY;
const RESUMING = VFIO_DEVICE_STATE_RESUMING;
const RUNNING_P2P = VFIO_DEVICE_STATE_RUNNING_P2P;
const PRE_COPY = VFIO_DEVICE_STATE_PRE_COPY;
const PRE_COPY_P2P = VFIO_DEVICE_STATE_PRE_COPY_P2P;

/** Carries out one arc: gives the stream where it opens one. */
type Step = (window: StateWindow) => Promise<MigrationData | undefined> | MigrationData | undefined;

const arc = (from: number, to: number): string => `${from}>${to}`;
const nothing: Step = () => undefined;

/** A step that was refused has changed nothing. After any other failure nobody can say where the card stands. */
const wasRefused = (error: unknown): boolean =>
  isVfioError(error) && (error.errno === 'EINVAL' || error.errno === 'EBUSY');

/** The migration of one card: its state, and what each arc does. Core asks for one arc at a time, and only for these. */
export class SerialMigration {
  readonly ops: VfioMigrationOps<VfioPciCoreDevice> = {
    setState: (dev, next) => this.#setState(dev, next),
    getState: () => this.#state,
    getDataSize: (dev) => BigInt(streamBytes(this.#minor, this.#windowOf(dev).ports)),
  };
  readonly #minor: StreamMinor;
  #state: number = RUNNING;
  #window: StateWindow | undefined;
  #saving: SaveSession | undefined;
  #resuming: ResumeSession | undefined;

  readonly #arcs: ReadonlyMap<string, Step> = new Map<string, Step>([
    // The card has no DMA, so there are no peers to be quiet for.
    [arc(RUNNING, RUNNING_P2P), nothing],
    [arc(RUNNING_P2P, RUNNING), nothing],
    [arc(PRE_COPY, PRE_COPY_P2P), nothing],
    [arc(PRE_COPY_P2P, PRE_COPY), nothing],
    [arc(RUNNING_P2P, STOP), (window) => window.hold(true).then(() => undefined)],
    [arc(STOP, RUNNING_P2P), (window) => window.hold(false).then(() => undefined)],
    [arc(RUNNING, PRE_COPY), (window) => this.#beginSave(window)],
    [arc(RUNNING_P2P, PRE_COPY_P2P), (window) => this.#beginSave(window)],
    [arc(PRE_COPY, RUNNING), () => this.#endSave()],
    [arc(PRE_COPY_P2P, RUNNING_P2P), () => this.#endSave()],
    [arc(PRE_COPY_P2P, STOP_COPY), (window) => this.#stopAndSave(window)],
    [arc(STOP, STOP_COPY), (window) => this.#save(window)],
    [arc(STOP_COPY, STOP), () => this.#endSave()],
    [arc(STOP, RESUMING), (window) => this.#beginResume(window)],
    [arc(RESUMING, STOP), (window) => this.#resume(window)],
  ]);

  constructor(minor: StreamMinor) {
    this.#minor = minor;
  }

  /** A user has opened the card. */
  open(window: StateWindow): void {
    this.#window = window;
  }

  /** The user is gone: nothing of its sessions is left. */
  close(): void {
    this.#window = undefined;
    this.#enter(RUNNING);
  }

  /** The card was reset, so it runs. `raced`: a step was under way, which may have stopped it after that. */
  reset(raced: boolean): Promise<void> | undefined {
    this.#enter(RUNNING);
    return raced ? this.#letGo() : undefined;
  }

  async #setState(dev: VfioPciCoreDevice, next: number): Promise<MigrationData | undefined> {
    const step = this.#arcs.get(arc(this.#state, next));
    if (step === undefined)
      throw dev.error('EINVAL', 'MIG_DEVICE_STATE', `there is no arc from ${this.#state} to ${next}`);
    try {
      const data = await step(this.#windowOf(dev));
      this.#state = next;
      return data;
    } catch (error) {
      if (!wasRefused(error)) this.#enter(ERROR);
      throw error;
    }
  }

  #beginSave({ ports }: StateWindow): MigrationData {
    this.#saving = new SaveSession(this.#minor, ports);
    return this.#saving;
  }

  /** The card stands still already. */
  async #save(window: StateWindow): Promise<MigrationData> {
    const saving = new SaveSession(this.#minor, window.ports);
    saving.finish(await window.save());
    this.#saving = saving;
    return saving;
  }

  /** The same stream goes on: what is in it stays to be read. */
  async #stopAndSave(window: StateWindow): Promise<undefined> {
    await window.hold(true);
    try {
      this.#saving?.finish(await window.save());
    } catch (error) {
      await this.#letGo();
      throw error;
    }
  }

  #endSave(): undefined {
    this.#saving = undefined;
  }

  #beginResume({ ports }: StateWindow): MigrationData {
    this.#resuming = new ResumeSession(ports);
    return this.#resuming;
  }

  /** Refused, the card stays in RESUMING as the kernel's mtty does: the rest may still come, or a reset. */
  async #resume(window: StateWindow): Promise<undefined> {
    if (this.#resuming !== undefined) await window.load(this.#resuming.finish());
    this.#resuming = undefined;
  }

  /** Lets the card go on. Where that fails nobody can say whether it runs. */
  async #letGo(): Promise<void> {
    await this.#window?.hold(false).catch(() => this.#enter(ERROR));
  }

  /** Without a session. */
  #enter(state: number): void {
    this.#state = state;
    this.#saving = undefined;
    this.#resuming = undefined;
  }

  #windowOf(dev: VfioPciCoreDevice): StateWindow {
    if (this.#window === undefined) throw dev.error('ENODEV', 'MIG_DEVICE_STATE', 'the card is not open');
    return this.#window;
  }
}
