import {
  type EventTrigger,
  type MigrationData,
  restoreVirtualState,
  resumeVirtualState,
  type VfioDevice,
  type VfioPciCoreDevice,
} from '@vfio/core';
import { closeFd, dupFd, eventfdRead, eventfdWrite } from '@vfio/native';
import {
  decodeVfioUserDmaMap,
  decodeVfioUserDmaUnmap,
  errnoError,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VFIO_USER_DMA_MAP,
  VFIO_USER_DMA_UNMAP,
  VFIO_USER_HEADER_SIZE,
  VfioError,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { ChunkedVectors } from '../chunked-vectors.js';
import { closeAll } from '../connection.js';
import { checkEventfd, EventfdTrigger } from '../eventfd-trigger.js';
import { MAX_WAITING_MESSAGES } from '../limits.js';
import { asVfioError } from '../region-access.js';
import { Request } from '../request.js';
import type { ServiceLoop } from '../service-loop.js';
import type { ServerSession } from '../session.js';
import { Channel } from './channel.js';
import {
  checkSameShape,
  decodeOffer,
  decodeTakeover,
  MAX_FDS,
  type Offer,
  shapeOf,
  type Takeover,
} from './documents.js';
import { encodeProblem, HANDOVER, WAITING_FLAGS } from './protocol.js';

/** A client that was taken over, with the socket on which the next one comes. */
export interface Taken {
  readonly session: ServerSession;
  readonly listener: { readonly fd: number; readonly file: Offer['file'] } | undefined;
}

export interface TargetOptions {
  readonly loop: ServiceLoop;
  readonly device: VfioPciCoreDevice;
  /** Opens the device. */
  readonly open: () => Promise<VfioDevice>;
  /** A session over a connected socket, which is its. It does not begin before it is told to. */
  readonly makeSession: (fd: number) => ServerSession;
  /** The client is this side's from now on. Called right before its device runs. */
  readonly onTaken: (taken: Taken) => void;
  /** It ended without that: what there was is gone, the device is closed. */
  readonly onFailed: (error: VfioError) => void;
  readonly warn: (message: string) => void;
}

const SET_STATE = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;

/**
 * The end to which a client is handed over, for one connection of another server. It makes everything ready, touches nothing of the
 * client before it has the token, and drops everything where something fails before.
 */
export class HandoverTarget {
  readonly #options: TargetOptions;
  readonly #channel: Channel;
  /** Requests are carried out one after the other. */
  #last: Promise<void> = Promise.resolve();
  #token: number | undefined;
  #session: ServerSession | undefined;
  #listener: Taken['listener'];
  #stream: MigrationData | undefined;
  readonly #fds: number[] = [];
  #isTaken = false;
  #failure: VfioError | undefined;

  /** Takes the descriptor. @throws ERR_VFIO_SYSCALL; it is then still the caller's */
  constructor(fd: number, options: TargetOptions) {
    this.#options = options;
    this.#channel = new Channel(options.loop, fd, {
      onRequest: (request) => this.#enqueue(request),
      onLost: (reason) => {
        this.#last = this.#last.then(() => this.#fail(errnoError('ENOTCONN', reason, { op: 'handover' })));
      },
    });
  }

  /** Ends it; nothing happens where the client was taken already. Resolves when the device is closed. Never rejects. */
  close(): Promise<void> {
    this.#channel.close();
    this.#last = this.#last.then(() => this.#fail(errnoError('ENOTCONN', 'the server is closing', { op: 'handover' })));
    return this.#last;
  }

  #enqueue(request: Request): void {
    const { loop } = this.#options;
    loop.addPending(1);
    this.#last = this.#last
      .then(() => this.#carryOut(request))
      .finally(() => {
        request.closeFds();
        loop.addPending(-1);
      });
  }

  async #carryOut(request: Request): Promise<void> {
    if (this.#failure !== undefined) return;
    const { id, command } = request;
    try {
      await this.#handle(request);
      this.#channel.connection.reply(id, command, []);
    } catch (error) {
      const problem = asVfioError(error);
      this.#channel.connection.reply(id, command, [encodeProblem(problem)]);
      await this.#fail(problem);
    }
  }

  #handle(request: Request): void | Promise<void> {
    if (request.truncated) {
      throw errnoError('EMFILE', 'this process has no room for the descriptors', { op: 'handover' });
    }
    if (this.#session === undefined) {
      if (request.command === HANDOVER.OFFER) return this.#accept(request);
      throw malformed('no offer came first');
    }
    switch (request.command) {
      case VFIO_USER_DMA_MAP: {
        const map = decodeVfioUserDmaMap(request.payload, request.fds.length, LITTLE_ENDIAN);
        this.#session.memory.map(map, request.fds.length === 1 ? request.takeFd(0) : undefined);
        return;
      }
      case VFIO_USER_DMA_UNMAP: {
        const { iova, size } = decodeVfioUserDmaUnmap(request.payload, LITTLE_ENDIAN);
        return this.#session.memory.unmap(iova, size);
      }
      case HANDOVER.DATA:
        return this.#load(request.payload);
      case HANDOVER.FDS:
        if (this.#fds.length + request.fds.length > MAX_FDS) throw malformed('too many descriptors');
        for (const [index] of request.fds.entries()) this.#fds.push(request.takeFd(index));
        return;
      case HANDOVER.WAITING:
        return this.#keep(request);
      case HANDOVER.TAKE:
        return this.#take(decodeTakeover(request.payload));
      default:
        throw malformed(`message ${request.command} is not known`);
    }
  }

  /** Opens the device and makes a session that does nothing yet. */
  async #accept(request: Request): Promise<void> {
    const offer = decodeOffer(request.payload);
    const count = 2 + (offer.hasTwin ? 1 : 0) + (offer.hasListener ? 1 : 0);
    if (request.fds.length !== count) throw malformed(`${request.fds.length} descriptors came, ${count} are wanted`);
    checkEventfd(request.fds[0]!, 'handover');
    const device = await this.#options.open();
    let isAdopted = false;
    try {
      checkSameShape(shapeOf(device), offer.shape);
      const resumed = await device.deviceFeature({ flags: SET_STATE, value: { state: VFIO_DEVICE_STATE_RESUMING } });
      this.#stream = (resumed as { data: MigrationData }).data;
      this.#adopt(request, offer, device);
      isAdopted = true;
    } finally {
      // Else it is the session's.
      if (!isAdopted) await device.close();
    }
  }

  #adopt(request: Request, offer: Offer, device: VfioDevice): void {
    const session = this.#options.makeSession(request.fds[1]!);
    request.takeFd(1);
    this.#session = session;
    this.#token = request.takeFd(0);
    const twin = offer.hasTwin ? request.takeFd(2) : undefined;
    try {
      session.adopt(device, offer.agreement, twin);
    } catch (error) {
      if (twin !== undefined) closeFd(twin);
      throw error;
    }
    if (offer.hasListener) this.#listener = { fd: request.takeFd(offer.hasTwin ? 3 : 2), file: offer.file };
  }

  async #load(data: Uint8Array): Promise<void> {
    for (let done = 0; done < data.length; ) {
      const taken = await this.#stream!.write(data.subarray(done));
      if (taken === 0) throw errnoError('EIO', 'the device takes no more of its state', { op: 'handover' });
      done += taken;
    }
  }

  #keep({ payload, fds, view }: Request): void {
    const session = this.#session!;
    if (payload.length < 8 + VFIO_USER_HEADER_SIZE) throw malformed('a command that waits is cut');
    if (session.waiting.length > 2 * MAX_WAITING_MESSAGES) throw malformed('too many commands wait');
    const message = payload.slice(8);
    const header = new DataView(message.buffer);
    const flags = view.getUint32(4, LITTLE_ENDIAN);
    const kept = new Request(
      header.getUint16(0, LITTLE_ENDIAN),
      header.getUint16(2, LITTLE_ENDIAN),
      header.getUint32(8, LITTLE_ENDIAN),
      message,
      fds.splice(0),
      (flags & WAITING_FLAGS.TRUNCATED) !== 0,
      performance.now() - view.getUint32(0, LITTLE_ENDIAN),
    );
    kept.answered = (flags & WAITING_FLAGS.ANSWERED) !== 0;
    session.adoptRequest(kept);
  }

  async #take(takeover: Takeover): Promise<void> {
    const { device, loop, onTaken } = this.#options;
    const session = this.#session!;
    const state = this.#interrupts(session, loop, takeover);
    await restoreVirtualState(device, { config: takeover.config, irqs: state });
    // Here the driver says whether what came is a whole state.
    await session.device.deviceFeature({ flags: SET_STATE, value: { state: VFIO_DEVICE_STATE_STOP } });
    for (const index of takeover.irqsGiven) session.irqsGiven.add(index);
    (session.attachment!.twin?.connection ?? session.connection).nextId = takeover.lastId;
    session.attachment!.dma.isLegacy = takeover.isLegacyDma ?? undefined;
    if (eventfdRead(this.#token!) === 0) throw errnoError('ECANCELED', 'the other server goes on', { op: 'handover' });
    try {
      await session.device.deviceFeature({ flags: SET_STATE, value: { state: VFIO_DEVICE_STATE_RUNNING } });
    } catch (error) {
      await this.#giveBack(session, error);
      throw error;
    }
    this.#isTaken = true;
    resumeVirtualState(device);
    onTaken({ session, listener: this.#listener });
    this.#listener = undefined;
    session.thaw();
    this.#dropRest();
  }

  /** The device does not run here. The other one may go on only where it has not run at all. */
  async #giveBack(session: ServerSession, error: unknown): Promise<void> {
    const get = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
    const { state } = (await session.device.deviceFeature({ flags: get })) as { state: number };
    if (state !== VFIO_DEVICE_STATE_RUNNING) eventfdWrite(this.#token!);
    else this.#options.warn(`the device runs, but: ${asVfioError(error).message}`);
  }

  /** Triggers of the descriptors that came; the caller's, all of them. @throws EINVAL: a number of none, or no eventfd */
  #interrupts(session: ServerSession, loop: ServiceLoop, { irqs, chunked }: Takeover) {
    const made: EventTrigger[] = [];
    const trigger = (place: number | null): EventTrigger | null => {
      if (place === null) return null;
      const fd = this.#fds[place];
      if (fd === undefined) throw malformed(`descriptor ${place} of ${this.#fds.length}`);
      checkEventfd(fd, 'handover');
      // One that is named twice stands for two.
      const one = new EventfdTrigger(loop, dupFd(fd));
      made.push(one);
      return one;
    };
    try {
      const vectors = irqs.vectors.map(trigger);
      const rest = { unmask: trigger(irqs.unmask), err: trigger(irqs.err), req: trigger(irqs.req) };
      const { allocated, intxMasked } = irqs;
      const common = { type: irqs.type ?? undefined, allocated, intxMasked, ...rest };
      if (chunked === null || irqs.type === null) return { ...common, vectors };
      const all = new ChunkedVectors(session.limits.maxReceiveFds);
      session.chunkedVectors.set(irqs.type, all);
      return { ...common, vectors: all.adopt(vectors, chunked) };
    } catch (error) {
      for (const one of made) one.release();
      throw error;
    }
  }

  /** Drops everything: the client is the other server's. */
  async #fail(error: VfioError): Promise<void> {
    if (this.#isTaken || this.#failure !== undefined) return;
    this.#failure = error;
    const session = this.#session;
    session?.leave('it was not handed over');
    this.#dropRest();
    if (this.#listener !== undefined) closeFd(this.#listener.fd);
    this.#listener = undefined;
    await session?.closed;
    this.#options.onFailed(error);
  }

  #dropRest(): void {
    closeAll(this.#fds.splice(0));
    if (this.#token !== undefined) closeFd(this.#token);
    this.#token = undefined;
    this.#stream?.close();
    this.#stream = undefined;
  }
}

function malformed(why: string): VfioError {
  return new VfioError('ERR_VFIO_PROTOCOL', `the other server: ${why}`, { errno: 'EINVAL', op: 'handover' });
}
