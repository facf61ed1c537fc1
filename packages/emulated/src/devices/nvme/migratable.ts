import { CC, CSTS } from './constants.js';
import type { ControllerState, QueuesState, VendorState } from './controller-state.js';
import type { QueueEngine } from './engine.js';
import type { AsyncEvents } from './events.js';
import type { NvmeFeatures } from './features.js';
import type { NvmeHealth } from './health.js';
import type { ErrorLog } from './logs.js';
import { CompletionQueue, SubmissionQueue } from './queues.js';
import type { ControllerRegisters } from './registers.js';
import { BadState } from './state-codec.js';
import type { PrpTransfer } from './transfer.js';

/** What a controller's state is spread over, and what its restoring needs of it. */
export interface MigratableHost {
  readonly registers: ControllerRegisters;
  readonly engine: QueueEngine;
  readonly events: AsyncEvents;
  readonly features: NvmeFeatures;
  readonly errors: ErrorLog;
  readonly health: NvmeHealth;
  readonly transfer: PrpTransfer;
  readonly changedNamespaces: Set<number>;
  readonly maxEntries: number;
  readonly maxQueues: number;
  readonly vectors: number;
  readonly asyncEvents: number;
  /** There are I/O queues. */
  readonly hasQueues: boolean;
  /** A reset that CC asked for has not ended. */
  readonly isResetting: boolean;
  /** Makes what the caches hold durable. */
  writeBack(): number | Promise<number>;
  /** Ends everything that is under way, as a reset does. */
  stop(): void;
  /** The registers have other values now: what they ask for is carried out. */
  adopted(): void;
  /** The controller may do again what it was asked for meanwhile. */
  resumed(): void;
}

/** A controller as the one that manages its migration sees it (NVM Express Base 2.1, 8.1.12). */
export class Migratable {
  readonly #host: MigratableHost;

  constructor(host: MigratableHost) {
    this.#host = host;
  }

  get isSuspended(): boolean {
    return this.#host.engine.isSuspended;
  }

  get isEnabled(): boolean {
    return (this.#host.registers.cc & CC.EN) !== 0;
  }

  get hasIoQueues(): boolean {
    return this.#host.hasQueues;
  }

  /**
   * Stops fetching, ends what was fetched (5.1.17.1.1), and writes the caches back: the media may be shared with the
   * subsystem that goes on with this controller, which does not see the caches of this one.
   *
   * @returns a status
   */
  async suspend(): Promise<number> {
    await this.#host.engine.suspend();
    return this.#host.writeBack();
  }

  resume(): void {
    this.#host.engine.resume();
    this.#host.resumed();
  }

  /** The state as it is now; consistent where the controller is suspended. */
  capture(): ControllerState {
    return { queues: this.#captureQueues(), vendor: this.#captureVendor() };
  }

  /** Checks a state against what this controller is like. @throws BadState; then nothing is changed. */
  check({ queues, vendor }: ControllerState): void {
    if (vendor !== undefined) this.#checkVendor(vendor, queues);
    if (queues !== undefined) this.#checkQueues(queues, vendor);
  }

  /** Takes over a state that was checked. */
  adopt({ queues, vendor }: ControllerState): void {
    const { engine } = this.#host;
    const isSuspended = this.isSuspended;
    if (vendor !== undefined) this.#adoptVendor(vendor);
    if (queues !== undefined) this.#adoptQueues(queues);
    for (const { cqId, ...completion } of vendor?.backlog ?? []) engine.cqs[cqId]?.backlog.push(completion);
    if (isSuspended) void engine.suspend();
    this.#host.adopted();
  }

  #captureQueues(): QueuesState {
    const { sqs, cqs } = this.#host.engine;
    return {
      sqs: sqs
        .slice(1)
        .filter((sq) => sq !== undefined)
        .map(({ id, base, size, cq, head, tail }) => ({ id, base, size, cqId: cq.id, head, tail })),
      cqs: cqs
        .slice(1)
        .filter((cq) => cq !== undefined)
        .map(({ id, base, size, head, tail, vector, interrupts, phase }) => ({
          id,
          base,
          size,
          head,
          tail,
          vector,
          interrupts,
          phase,
        })),
    };
  }

  #captureVendor(): VendorState {
    const { registers, engine, events, features, errors, health, changedNamespaces, isResetting } = this.#host;
    const [sq, cq] = [engine.sqs[0], engine.cqs[0]];
    return {
      cc: registers.cc,
      csts: isResetting ? 0 : registers.csts,
      aqa: registers.aqa,
      asq: [registers.asq[0] ?? 0, registers.asq[1] ?? 0],
      acq: [registers.acq[0] ?? 0, registers.acq[1] ?? 0],
      interruptMask: engine.mask,
      admin:
        sq === undefined || cq === undefined
          ? undefined
          : { sqHead: sq.head, sqTail: sq.tail, cqHead: cq.head, cqTail: cq.tail, cqPhase: cq.phase },
      features: features.entries,
      held: events.held.map(({ cid }) => cid),
      pending: events.pending,
      quiet: [...events.quiet],
      changedNamespaces: [...changedNamespaces],
      backlog: engine.cqs.flatMap((each) => (each?.backlog ?? []).map((entry) => ({ ...entry, cqId: each?.id ?? 0 }))),
      errors: errors.entries,
      errorCount: health.errorLogEntries,
    };
  }

  #checkQueues({ sqs, cqs }: QueuesState, vendor: VendorState | undefined): void {
    const { maxQueues, maxEntries, vectors, transfer } = this.#host;
    const { csts } = vendor ?? this.#host.registers;
    if (sqs.length + cqs.length > 0 && (csts & CSTS.RDY) === 0)
      throw new BadState('queues of a controller that is not ready');
    const pageSize = vendor === undefined ? transfer.pageSize : pageSizeOf(vendor.cc);
    const known = new Set<number>();
    for (const [queues, what] of [
      [cqs, 'completion'],
      [sqs, 'submission'],
    ] as const) {
      let last = 0;
      for (const { id, base, size, head, tail } of queues) {
        if (id <= last || id > maxQueues) throw new BadState(`${what} queue ${id} after ${last} of ${maxQueues}`);
        if (size < 2 || size > maxEntries || head >= size || tail >= size || base % pageSize !== 0)
          throw new BadState(`size, address or indexes of ${what} queue ${id}`);
        last = id;
      }
    }
    for (const { id, vector } of cqs) {
      if (vector >= vectors) throw new BadState(`vector ${vector} of completion queue ${id}`);
      known.add(id);
    }
    for (const { id, cqId } of sqs)
      if (!known.has(cqId)) throw new BadState(`submission queue ${id} completes to ${cqId}, which there is not`);
  }

  #checkVendor(state: VendorState, queues: QueuesState | undefined): void {
    const { asyncEvents, features } = this.#host;
    const { cc, csts, admin } = state;
    if (!features.knows(state.features)) throw new BadState('a feature that there is not');
    if ((cc & ~CC.ALL) !== 0 || (csts & ~(CSTS.RDY | CSTS.CFS | CSTS.SHST_MASK)) !== 0)
      throw new BadState('bits of CC or CSTS that there are not');
    const isReady = (csts & CSTS.RDY) !== 0;
    if (isReady !== (admin !== undefined) || (isReady && (cc & CC.EN) === 0))
      throw new BadState('a controller that is half ready');
    if (admin !== undefined) {
      const sqSize = (state.aqa & 0xfff) + 1;
      const cqSize = ((state.aqa >>> 16) & 0xfff) + 1;
      if (admin.sqHead >= sqSize || admin.sqTail >= sqSize || admin.cqHead >= cqSize || admin.cqTail >= cqSize)
        throw new BadState('an admin queue’s index past its end');
      if (admin.cqPhase > 1 || pageSizeOf(cc) > 0x10000) throw new BadState('phase or page size');
    }
    if (state.held.length > (isReady ? asyncEvents : 0)) throw new BadState('too many event requests');
    for (const { cqId } of state.backlog)
      if (!isReady || (cqId !== 0 && queues?.cqs.some(({ id }) => id === cqId) !== true))
        throw new BadState(`a completion for queue ${cqId}, which there is not`);
  }

  #adoptVendor(state: VendorState): void {
    const { registers, engine, events, features, errors, health, transfer, changedNamespaces } = this.#host;
    this.#host.stop();
    features.adopt(state.features);
    registers.cc = state.cc | 0;
    registers.csts = state.csts;
    registers.aqa = state.aqa;
    registers.asq.set(state.asq);
    registers.acq.set(state.acq);
    engine.mask = state.interruptMask | 0;
    changedNamespaces.clear();
    for (const nsid of state.changedNamespaces) changedNamespaces.add(nsid);
    errors.adopt(state.errors);
    health.errorLogEntries = state.errorCount;
    events.adopt(state.pending, state.quiet);
    const { admin } = state;
    if (admin === undefined) return;
    transfer.pageSize = pageSizeOf(state.cc);
    const cq = new CompletionQueue(0, registers.acqAddress, registers.adminCqSize, 0, true);
    cq.head = admin.cqHead;
    cq.tail = admin.cqTail;
    cq.phase = admin.cqPhase;
    const sq = new SubmissionQueue(0, registers.asqAddress, registers.adminSqSize, cq);
    sq.head = admin.sqHead;
    sq.tail = admin.sqTail;
    engine.cqs[0] = cq;
    engine.sqs[0] = sq;
    for (const cid of state.held) engine.adopt(sq, cid);
  }

  #adoptQueues({ sqs, cqs }: QueuesState): void {
    const { engine } = this.#host;
    for (const { id, base, size, vector, interrupts, head, tail, phase } of cqs) {
      const cq = new CompletionQueue(id, base, size, vector, interrupts);
      cq.head = head;
      cq.tail = tail;
      cq.phase = phase;
      engine.cqs[id] = cq;
    }
    for (const { id, base, size, cqId, head, tail } of sqs) {
      const cq = engine.cqs[cqId];
      if (cq === undefined) continue;
      const sq = new SubmissionQueue(id, base, size, cq);
      sq.head = head;
      sq.tail = tail;
      engine.sqs[id] = sq;
    }
  }
}

/** Bytes of a memory page (CC.MPS). */
export function pageSizeOf(cc: number): number {
  return 2 ** (12 + ((cc & CC.MPS_MASK) >> CC.MPS_SHIFT));
}
