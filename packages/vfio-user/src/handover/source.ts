import {
  type EventTrigger,
  holdVirtualState,
  type MigrationData,
  resumeVirtualState,
  saveVirtualState,
  type VfioPciCoreDevice,
} from '@vfio/core';
import { closeFd, connectUnix, eventfdCreate, eventfdRead, SCM_MAX_FD } from '@vfio/native';
import {
  encodeVfioUserDmaMap,
  encodeVfioUserDmaUnmap,
  errnoError,
  hex,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_USER_DMA_MAP,
  VFIO_USER_DMA_UNMAP,
  VfioError,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import type { ClientMapping } from '../dma.js';
import { HANDOVER_ANSWER_MS } from '../limits.js';
import { pidOf } from '../peer.js';
import { asVfioError } from '../region-access.js';
import type { Request } from '../request.js';
import type { ServiceLoop } from '../service-loop.js';
import type { ServerSession } from '../session.js';
import { Channel } from './channel.js';
import { encodeOffer, encodeTakeover, type Offer, shapeOf, type Takeover } from './documents.js';
import { decodeProblem, HANDOVER, WAITING_FLAGS } from './protocol.js';

/** What a handover came to. */
export interface HandoverReport {
  /** Milliseconds in which no command of the client was carried out. */
  readonly pauseMs: number;
  /** Bytes of the device's state. */
  readonly stateBytes: number;
  /** Mappings of the client. */
  readonly maps: number;
  /** Commands that came during the pause and went along. */
  readonly waiting: number;
  /** Process of the other server; undefined where its socket does not tell. */
  readonly pid: number | undefined;
}

export interface HandoverOptions {
  /** Milliseconds that the client may have to wait; after that all goes on here. QEMU gives a command up after 5000. @default 2000 */
  readonly maxPauseMs?: number;
  /** Ends it, as any failure does; too late once the other server has the client. */
  readonly signal?: AbortSignal | undefined;
}

const DEFAULT_MAX_PAUSE_MS = 2000;

export interface SourceOptions {
  readonly loop: ServiceLoop;
  readonly session: ServerSession;
  readonly device: VfioPciCoreDevice;
  readonly listener: { readonly fd: number; readonly file: Offer['file'] } | undefined;
  readonly maxPauseMs: number | undefined;
  readonly signal: AbortSignal | undefined;
  /** The client is the other server's from now on. */
  readonly onGone: () => void;
  readonly warn: (message: string) => void;
}

/**
 * Gives the client of a session to another server. Until that has taken the token (see `protocol.ts`) every failure ends with the
 * session going on as if nothing had been.
 */
export class HandoverSource {
  readonly #options: SourceOptions;
  readonly #channel: Channel;
  readonly #token: number;
  readonly #sent = new Set<ClientMapping>();
  #until = Number.POSITIVE_INFINITY;
  readonly #pid: number | undefined;
  #lost: string | undefined;
  #stateBytes = 0;

  /** @throws ERR_VFIO_SYSCALL where nobody listens at the path */
  constructor(path: string, options: SourceOptions) {
    this.#options = options;
    const fd = connectUnix(path);
    this.#pid = pidOf(fd);
    try {
      this.#token = eventfdCreate(1);
    } catch (error) {
      closeFd(fd);
      throw error;
    }
    this.#channel = new Channel(options.loop, fd, {
      onLost: (reason) => {
        this.#lost = reason;
      },
    });
  }

  /**
   * @throws what keeps the device here: EAGAIN (nobody is attached, or something does not end in time), EBUSY (it is being migrated,
   *   logs its writes, or has what cannot be set up anew), ENOTTY (it cannot be migrated), what the other server says. The client is
   *   served on then
   */
  async run(): Promise<HandoverReport> {
    const { session, loop } = this.#options;
    loop.addPending(1);
    try {
      this.#checkIdle();
      await this.#send(HANDOVER.OFFER, [encodeOffer(this.#offer())], this.#connections());
      await this.#sendMaps();
      return await this.#move();
    } finally {
      loop.addPending(-1);
      this.#channel.close();
      closeFd(this.#token);
      session.thaw();
    }
  }

  /** The part in which the client waits. */
  async #move(): Promise<HandoverReport> {
    const { session, device, maxPauseMs } = this.#options;
    const start = performance.now();
    this.#until = start + (maxPauseMs ?? DEFAULT_MAX_PAUSE_MS);
    await session.freeze(this.#until);
    // What ran until now may have changed what was looked at before.
    this.#checkIdle();
    holdVirtualState(device);
    let isStopped = false;
    try {
      const result = session.device.deviceFeature({ flags: SET_STATE, value: { state: VFIO_DEVICE_STATE_STOP_COPY } });
      isStopped = true;
      const { data } = (await this.#inTime(result, 'the device has not stopped')) as { data: MigrationData };
      await this.#sendMaps();
      await this.#sendState(data);
      await session.settle(this.#until);
      const takeover = await this.#sendTakeover();
      const waiting = await this.#sendWaiting();
      await this.#take(takeover);
      const pauseMs = performance.now() - start;
      this.#options.onGone();
      session.leave('the device was handed over');
      return { pauseMs, stateBytes: this.#stateBytes, maps: this.#sent.size, waiting, pid: this.#pid };
    } catch (error) {
      await this.#goOn(isStopped);
      throw error;
    }
  }

  /** @throws EAGAIN, EBUSY */
  #checkIdle(): void {
    const { session } = this.#options;
    const { attachment } = session;
    const busy = (why: string) => errnoError('EBUSY', why, { op: 'handover' });
    if (attachment === undefined) throw errnoError('EAGAIN', 'no client has attached', { op: 'handover' });
    const isRunning = [undefined, VFIO_DEVICE_STATE_RUNNING].includes(session.migrationState);
    if (!isRunning) throw busy('the client is migrating the device');
    if (session.isLogging) throw busy('the client has the device log its writes');
    const mapped = attachment.regions.given;
    if (mapped !== undefined)
      throw busy(`the client may have memory of region ${mapped} mapped, which cannot go along`);
    for (const mapping of attachment.memory.mappings()) {
      if (mapping.isLeaving) throw busy(`the mapping at ${hex(mapping.iova)} is being taken away and is still in use`);
      if (mapping.access !== 'message' && mapping.kept === undefined) {
        throw errnoError('EMFILE', `the mapping at ${hex(mapping.iova)}: too many files to keep a descriptor of each`, {
          op: 'handover',
        });
      }
    }
  }

  #offer(): Offer {
    const { session, listener } = this.#options;
    const { limits, compat, minor, twin } = session.attachment!;
    return {
      shape: shapeOf(session.device),
      agreement: { limits, compat, minor },
      hasTwin: twin !== undefined,
      hasListener: listener !== undefined,
      file: listener?.file ?? null,
    };
  }

  #connections(): number[] {
    const { session, listener, loop } = this.#options;
    const { twin } = session.attachment!;
    const fdOf = (id: number) => loop.messages.fdOf(id);
    const fds = [this.#token, fdOf(session.connection.socket.id)];
    if (twin !== undefined) fds.push(fdOf(twin.connection.socket.id));
    if (listener !== undefined) fds.push(listener.fd);
    return fds;
  }

  /** Brings the other server's mappings up to date. */
  async #sendMaps(): Promise<void> {
    const now = new Set(this.#options.session.attachment!.memory.mappings());
    for (const { iova, size } of [...this.#sent].filter((mapping) => !now.has(mapping))) {
      await this.#send(VFIO_USER_DMA_UNMAP, [
        encodeVfioUserDmaUnmap({ argsz: 24, flags: 0, iova, size, bitmap: undefined }, LITTLE_ENDIAN),
      ]);
    }
    for (const mapping of now) {
      if (this.#sent.has(mapping)) continue;
      const { flags, offset, iova, size, kept } = mapping;
      const map = encodeVfioUserDmaMap({ flags, offset, iova, size }, LITTLE_ENDIAN);
      await this.#send(VFIO_USER_DMA_MAP, [map], kept === undefined ? [] : [kept.fd]);
    }
    this.#sent.clear();
    for (const mapping of now) this.#sent.add(mapping);
  }

  /** Two pieces at a time: one is read while the other one is under way. */
  async #sendState(data: MigrationData): Promise<void> {
    const size = this.#options.loop.maxDataXferSize;
    const pieces = [new Uint8Array(size), new Uint8Array(size)] as const;
    let sending: Promise<void> = Promise.resolve();
    for (let turn = 0; ; turn ^= 1) {
      const piece = pieces[turn as 0 | 1];
      const read = await this.#inTime(data.read(piece), "the device's state cannot be read");
      await sending;
      if (read === 0) return;
      this.#stateBytes += read;
      sending = this.#send(HANDOVER.DATA, [piece.subarray(0, read)]);
      // It is waited for in the next turn.
      sending.catch(() => {});
    }
  }

  /** Descriptors first; what they are says the document that comes last. */
  async #sendTakeover(): Promise<Takeover> {
    const { session, device } = this.#options;
    const { config, irqs } = saveVirtualState(device);
    const fds: number[] = [];
    const place = (trigger: EventTrigger | null): number | null => {
      if (trigger === null) return null;
      if (trigger.fd === undefined) throw errnoError('EBUSY', 'an interrupt has no descriptor', { op: 'handover' });
      return fds.push(trigger.fd) - 1;
    };
    const placed = {
      type: irqs.type ?? null,
      vectors: irqs.vectors.map(place),
      allocated: irqs.allocated,
      intxMasked: irqs.intxMasked,
      unmask: place(irqs.unmask),
      err: place(irqs.err),
      req: place(irqs.req),
    };
    for (let at = 0; at < fds.length; at += SCM_MAX_FD) {
      await this.#send(HANDOVER.FDS, [new Uint8Array(4)], fds.slice(at, at + SCM_MAX_FD));
    }
    return {
      config,
      irqs: placed,
      irqsGiven: [...session.irqsGiven],
      chunked: session.chunkedVectors.get(irqs.type ?? -1)?.last ?? null,
      lastId: (session.attachment!.twin?.connection ?? session.connection).nextId,
      isLegacyDma: session.attachment!.dma.isLegacy ?? null,
    };
  }

  /** All at once: the other server answers them one after the other. */
  async #sendWaiting(): Promise<number> {
    const { waiting } = this.#options.session;
    await Promise.all(
      waiting.map((request) => this.#send(HANDOVER.WAITING, [waitingHead(request), request.message], request.fds)),
    );
    return waiting.length;
  }

  /** Resolves when the client is the other server's. @throws why it is not; the token is back then */
  async #take(takeover: Takeover): Promise<void> {
    const answer = this.#request(HANDOVER.TAKE, [encodeTakeover(takeover)]);
    try {
      await this.#inTime(answer, 'the other server has not taken the device');
    } catch (error) {
      if (eventfdRead(this.#token) > 0) throw error;
      await this.#whileTaken(answer);
    }
  }

  /** The other one has the token. It answers when its device runs, gives the token back where it does not, or dies. */
  async #whileTaken(answer: Promise<void>): Promise<void> {
    try {
      await answer;
    } catch (error) {
      if (eventfdRead(this.#token) > 0) throw error;
      this.#options.warn(`the device was handed over, but then: ${asVfioError(error).message}`);
    }
  }

  /** Everything is as it was. */
  async #goOn(isStopped: boolean): Promise<void> {
    const { session, device } = this.#options;
    // The other one hears nothing of a client that it does not get.
    this.#channel.close();
    try {
      if (isStopped) {
        await session.device.deviceFeature({ flags: SET_STATE, value: { state: VFIO_DEVICE_STATE_RUNNING } });
      }
    } catch (error) {
      this.#options.warn(`the device does not run again: ${asVfioError(error).message}`);
    }
    resumeVirtualState(device);
  }

  #send(command: number, pieces: readonly Uint8Array[], fds: readonly number[] = []): Promise<void> {
    return this.#inTime(this.#request(command, pieces, fds), 'the other server does not answer');
  }

  async #request(command: number, pieces: readonly Uint8Array[], fds: readonly number[] = []): Promise<void> {
    const problem = await this.#channel.connection.request(command, pieces, { fds }).then(
      ({ payload }) => decodeProblem(payload),
      (error: unknown) => (this.#lost === undefined ? asVfioError(error) : goneError(this.#lost)),
    );
    if (problem !== undefined) throw problem;
  }

  /** @throws EAGAIN where it takes longer than the client may wait, or a server to answer; the signal's reason where it is ended */
  async #inTime<T>(work: T | Promise<T>, why: string): Promise<T> {
    if (!(work instanceof Promise)) return work;
    const { signal } = this.#options;
    signal?.throwIfAborted();
    let timer: NodeJS.Timeout | undefined;
    let onAbort = (): void => {};
    const over = new Promise<never>((_, reject) => {
      onAbort = () => reject(signal?.reason);
      const left = Math.min(Math.max(1, this.#until - performance.now()), HANDOVER_ANSWER_MS);
      const error = errnoError('EAGAIN', `${why} within ${Math.round(left)} ms`, { op: 'handover' });
      timer = setTimeout(() => reject(error), left);
    });
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      return await Promise.race([work, over]);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }
}

function goneError(reason: string): VfioError {
  return new VfioError('ERR_VFIO_DISCONNECTED', reason, { errno: 'ENOTCONN', op: 'handover' });
}

const SET_STATE = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;

function waitingHead(request: Request): Uint8Array {
  const head = new Uint8Array(8);
  const view = new DataView(head.buffer);
  view.setUint32(0, Math.max(0, Math.round(performance.now() - request.arrivedAt)), LITTLE_ENDIAN);
  const flags = (request.answered ? WAITING_FLAGS.ANSWERED : 0) | (request.truncated ? WAITING_FLAGS.TRUNCATED : 0);
  view.setUint32(4, flags, LITTLE_ENDIAN);
  return head;
}
