import type { TrackedDma } from '../tracked-dma.js';
import { CommandError, SYNDROME } from './command.js';
import { STATUS } from './constants.js';
import { type DeviceMemory, MEMORY_PAGE } from './device-memory.js';
import { Engine } from './engine.js';
import type { HcaFunction } from './hca.js';
import type { MemoryKey } from './memory-key.js';
import {
  badImage,
  CHUNK_BYTES,
  decodeHead,
  encodeHead,
  HEADER_BYTES,
  headLength,
  imageBytes,
  pagesThatFit,
} from './vhca-image.js';

/** What QUERY_VHCA_MIGRATION_STATE says of the state since tracking began. */
export const MIGRATION_STATE = { UNINITIALIZED: 0, IDLE: 1, READY: 2, DIRTY: 3, INIT: 4 } as const;

/** Where an image goes to or comes from. */
export interface ImageBuffer {
  readonly dma: TrackedDma;
  readonly key: MemoryKey;
  readonly address: number;
  readonly size: number;
}

export interface MigrationQuery {
  readonly state: number;
  readonly requiredBytes: number;
  readonly remainingBytes: number;
}

export interface SaveResult {
  readonly imageBytes: number;
  /** Not 0: there is more, which the next command saves. */
  readonly nextBytes: number;
}

/** Stopping a virtual function, and moving its state: what the firmware does for SUSPEND, RESUME, SAVE and LOAD_VHCA. */
export class VhcaMigration {
  readonly #fn: HcaFunction;
  readonly #engine: Engine;
  readonly #memory: DeviceMemory;
  #initiatorStopped = false;
  #responderStopped = false;
  /** Changes are remembered for incremental images. */
  #tracking = false;
  #lastResources = '';
  /** The next incremental image has everything again: what was sent before is worth nothing. */
  #startsAnew = false;
  #session = 0;
  #nextIndex = 0;
  /** Pages of a state that is saved in chunks which have not been saved. */
  #pending: number[] | undefined;
  /** What was loaded: its session and the index that must come next. */
  #loaded: { readonly session: number; readonly next: number } | undefined;
  /** A LOAD failed in the middle: the function must not run on what it has. */
  #isHalfLoaded = false;
  #busy = false;

  constructor(fn: HcaFunction, engine: Engine, memory: DeviceMemory) {
    this.#fn = fn;
    this.#engine = engine;
    this.#memory = memory;
  }

  get isRunning(): boolean {
    return !this.#initiatorStopped;
  }

  /** The function can neither act nor be changed. */
  get isStopped(): boolean {
    return this.#responderStopped;
  }

  get isTracking(): boolean {
    return this.#tracking;
  }

  reset(): void {
    this.#initiatorStopped = false;
    this.#responderStopped = false;
    this.#endTracking();
    this.#pending = undefined;
    this.#loaded = undefined;
    this.#isHalfLoaded = false;
    this.#startsAnew = false;
  }

  async suspendInitiator(): Promise<void> {
    if (this.#initiatorStopped) throw wrongState('it does not act as an initiator already');
    this.#initiatorStopped = true;
    await this.#engine.suspendInitiator();
    await this.#fn.holdCommands();
  }

  suspendResponder(): void {
    if (!this.#initiatorStopped || this.#responderStopped) throw wrongState('it must be stopped as an initiator only');
    this.#responderStopped = true;
    this.#engine.suspendResponder();
    this.#loaded = undefined;
  }

  resumeResponder(): void {
    if (!this.#responderStopped) throw wrongState('it is not stopped as a responder');
    if (this.#isHalfLoaded) throw wrongState('its state was loaded in part');
    this.#responderStopped = false;
    this.#endTracking();
    this.#pending = undefined;
    this.#engine.resumeResponder();
  }

  resumeInitiator(): void {
    if (!this.#initiatorStopped || this.#responderStopped) throw wrongState('it must be stopped as an initiator only');
    this.#initiatorStopped = false;
    this.#engine.resumeInitiator();
    this.#fn.releaseCommands();
  }

  /** Something happened that makes what was saved so far useless: the next incremental image is a whole one. */
  startAnew(): void {
    this.#startsAnew = true;
  }

  query(isIncremental: boolean, isChunked: boolean): MigrationQuery {
    if (isIncremental && !this.#tracking) throw notTracked();
    const bytes = this.#bytesToSave(isIncremental);
    return {
      state: this.#state(bytes),
      requiredBytes: isChunked ? Math.min(bytes, CHUNK_BYTES) : bytes,
      remainingBytes: bytes,
    };
  }

  async save(isIncremental: boolean, track: boolean, buffer: ImageBuffer): Promise<SaveResult> {
    if (this.#busy) throw new CommandError(STATUS.RESOURCE_BUSY, SYNDROME.IN_USE, 'its state is being moved already');
    if (isIncremental && !this.#tracking) throw notTracked();
    if (this.#responderStopped && track) throw wrongState('it is stopped: there is nothing to track');
    if (!this.#responderStopped && !track) {
      if (!this.#tracking || isIncremental) throw wrongState('it runs and would not be tracked');
      // The saver has given up.
      this.#endTracking();
      return { imageBytes: 0, nextBytes: 0 };
    }
    this.#busy = true;
    try {
      return await this.#saveImage(isIncremental, track, buffer);
    } finally {
      this.#busy = false;
    }
  }

  async load(buffer: ImageBuffer): Promise<void> {
    if (!this.#responderStopped) throw wrongState('it runs');
    if (this.#busy) throw new CommandError(STATUS.RESOURCE_BUSY, SYNDROME.IN_USE, 'its state is being moved already');
    this.#busy = true;
    try {
      await this.#loadImage(buffer);
    } finally {
      this.#busy = false;
    }
  }

  async #saveImage(
    isIncremental: boolean,
    track: boolean,
    { dma, key, address, size }: ImageBuffer,
  ): Promise<SaveResult> {
    const resumed = this.#pending;
    const wholeAgain = isIncremental && this.#startsAnew;
    const resources = resumed === undefined ? this.#resources(isIncremental && !wholeAgain) : new Uint8Array(0);
    const engine = resumed === undefined ? this.#engine.save() : new Uint8Array(0);
    const all = resumed ?? (isIncremental && !wholeAgain ? this.#memory.takeDirty() : this.#memory.usedPages());
    const fit = pagesThatFit(size, resources.length, engine.length);
    const inChunks = this.#responderStopped && this.#fn.capabilities.general2('migration_in_chunks') === 1;
    if (fit < 0 || (fit < all.length && (!inChunks || fit === 0))) {
      if (isIncremental && resumed === undefined) this.#memory.markDirty(all);
      throw new CommandError(
        STATUS.BAD_PARAM,
        SYNDROME.TOO_SMALL,
        `${size} bytes for ${imageBytes(resources.length, engine.length, all.length)}`,
      );
    }
    const isFirst = resumed === undefined && (!isIncremental || wholeAgain);
    if (isFirst) {
      this.#session = (this.#session + 0x9e3779b9 + this.#fn.epoch) >>> 0;
      this.#nextIndex = 0;
    }
    if (track || this.#tracking) this.#beginTracking(isFirst, track);
    const pages = all.slice(0, fit);
    const head = encodeHead({
      isIncremental: !isFirst,
      session: this.#session,
      index: this.#nextIndex,
      firmware: this.#fn.firmware.versionNumber,
      memoryPages: this.#memory.size / MEMORY_PAGE,
      resources,
      engine,
      pages,
    });
    try {
      await key.write(dma, address, head);
      for (const [i, page] of pages.entries())
        await key.write(dma, address + head.length + i * MEMORY_PAGE, this.#memory.page(page));
    } catch (error) {
      // Nobody has it: it is to be saved again.
      this.#memory.markDirty(all);
      throw error;
    }
    this.#nextIndex++;
    this.#startsAnew = false;
    const rest = all.slice(pages.length);
    this.#pending = rest.length > 0 ? rest : undefined;
    if (rest.length === 0 && this.#responderStopped) this.#endTracking();
    return {
      imageBytes: head.length + pages.length * MEMORY_PAGE,
      nextBytes: rest.length === 0 ? 0 : Math.min(CHUNK_BYTES, imageBytes(0, 0, rest.length)),
    };
  }

  async #loadImage({ dma, key, address, size }: ImageBuffer): Promise<void> {
    if (size < HEADER_BYTES) throw badImage(`${size} bytes are no image`);
    const start = new Uint8Array(HEADER_BYTES);
    await key.read(dma, address, start);
    const head = new Uint8Array(headLength(start, size));
    await key.read(dma, address, head);
    const image = decodeHead(head);
    if (image.memoryPages * MEMORY_PAGE !== this.#memory.size)
      throw badImage(`of a function with ${image.memoryPages} pages of memory`);
    if (image.isIncremental) {
      if (this.#loaded?.session !== image.session || this.#loaded.next !== image.index)
        throw badImage('it does not continue what was loaded');
    } else if (image.index !== 0) throw badImage('the first is missing');
    this.#isHalfLoaded = true;
    this.#loaded = undefined;
    if (!image.isIncremental) this.#memory.clear();
    for (const [i, page] of image.pages.entries()) {
      const bytes = new Uint8Array(MEMORY_PAGE);
      await key.read(dma, address + head.length + i * MEMORY_PAGE, bytes);
      this.#memory.write(page * MEMORY_PAGE, bytes);
    }
    if (image.resources.length > 0) this.#fn.loadResources(image.resources);
    if (image.engine.length > 0) {
      if (image.engine.length !== Engine.SAVED_BYTES) throw badImage('its registers are not those of this function');
      this.#engine.load(image.engine);
    }
    this.#memory.takeDirty();
    this.#isHalfLoaded = false;
    this.#loaded = { session: image.session, next: image.index + 1 };
  }

  /** Bytes that the next image would have: 0 where nothing has changed. */
  #bytesToSave(isIncremental: boolean): number {
    if (this.#pending !== undefined) return imageBytes(0, 0, this.#pending.length);
    if (!isIncremental || this.#startsAnew)
      return imageBytes(this.#resources(false).length, Engine.SAVED_BYTES, this.#memory.usedPages().length);
    const resources = this.#resources(true).length;
    const unchanged = resources === 0 && this.#memory.dirtyPages === 0 && !this.#engine.isDirty;
    // The last image of a stopped function is never empty.
    if (unchanged && !this.#responderStopped) return 0;
    return imageBytes(resources, Engine.SAVED_BYTES, this.#memory.dirtyPages);
  }

  #state(bytes: number): number {
    if (this.#startsAnew && this.#tracking) return MIGRATION_STATE.INIT;
    if (!this.#tracking) return MIGRATION_STATE.IDLE;
    return bytes === 0 ? MIGRATION_STATE.READY : MIGRATION_STATE.DIRTY;
  }

  /** The function's resources as bytes; none where they are as they were in the image before. */
  #resources(unlessSame: boolean): Uint8Array {
    const resources = this.#fn.saveResources();
    return unlessSame && resources === this.#lastResources ? new Uint8Array(0) : new TextEncoder().encode(resources);
  }

  #beginTracking(isFirst: boolean, track: boolean): void {
    if (isFirst) this.#memory.takeDirty();
    this.#engine.isDirty = false;
    this.#lastResources = this.#fn.saveResources();
    this.#tracking = track || this.#tracking;
  }

  #endTracking(): void {
    this.#tracking = false;
    this.#lastResources = '';
  }
}

function wrongState(message: string): CommandError {
  return new CommandError(STATUS.BAD_RES_STATE, SYNDROME.WRONG_STATE, `the function: ${message}`);
}

function notTracked(): CommandError {
  return new CommandError(STATUS.BAD_RES_STATE, SYNDROME.NOT_TRACKED, 'changes of the function are not tracked');
}
