import type { PendingEvent } from './events.js';
import type { FeatureEntry } from './features.js';
import type { CountedError } from './logs.js';
import type { Completion } from './queues.js';
import { BadState, StateReader, StateWriter } from './state-codec.js';

/** An I/O submission queue (NVM Express Base 2.1, figure 360). */
export interface SubmissionQueueState {
  readonly base: number;
  readonly size: number;
  readonly id: number;
  readonly cqId: number;
  readonly head: number;
  readonly tail: number;
}

/** An I/O completion queue (figure 361). */
export interface CompletionQueueState {
  readonly base: number;
  readonly size: number;
  readonly id: number;
  readonly head: number;
  readonly tail: number;
  readonly vector: number;
  readonly interrupts: boolean;
  /** The phase tag of the next entry. */
  readonly phase: number;
}

/** The I/O queues: what the specification's own format has (figure 359). */
export interface QueuesState {
  readonly sqs: readonly SubmissionQueueState[];
  readonly cqs: readonly CompletionQueueState[];
}

/** Everything else: what the specification leaves to vendors. */
export interface VendorState {
  readonly cc: number;
  readonly csts: number;
  readonly aqa: number;
  readonly asq: readonly [number, number];
  readonly acq: readonly [number, number];
  readonly interruptMask: number;
  /** The admin queue pair, which is described by the registers; absent while the controller is not ready. */
  readonly admin:
    | {
        readonly sqHead: number;
        readonly sqTail: number;
        readonly cqHead: number;
        readonly cqTail: number;
        readonly cqPhase: number;
      }
    | undefined;
  readonly features: readonly FeatureEntry[];
  /** Ids of the requests that wait for an event. */
  readonly held: readonly number[];
  readonly pending: readonly PendingEvent[];
  readonly quiet: readonly number[];
  readonly changedNamespaces: readonly number[];
  /** Completions for which there was no room in their queue. */
  readonly backlog: readonly (Completion & { readonly cqId: number })[];
  readonly errors: readonly CountedError[];
  readonly errorCount: number;
}

export interface ControllerState {
  readonly queues: QueuesState | undefined;
  readonly vendor: VendorState | undefined;
}

/** Identifies the vendor specific part as this model's: 76666e76-6d65-8d69-8001-000000000001. */
export const VENDOR_STATE_UUID = Uint8Array.of(
  ...[0x76, 0x66, 0x6e, 0x76, 0x6d, 0x65, 0x8d, 0x69],
  ...[0x80, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01],
);

/** The version of the specification's own format. */
export const QUEUES_STATE_VERSION = 0;

/** Bytes before the two parts (figure 358). */
const HEADER = 48;
const QUEUE = 24;
const CONTIGUOUS = 1;
const INTERRUPTS = 2;
const SLOT_0_PHASE = 4;

/** Lists of a vendor part that no controller of this model exceeds. */
const MOST = { features: 1024, held: 16, pending: 16, quiet: 8, namespaces: 1024, backlog: 0x20000, errors: 256 };

/** The Controller State data structure (figure 358) with the parts that are there. */
export function encodeControllerState({ queues, vendor }: ControllerState, wasSuspended: boolean): Uint8Array {
  const standard = queues === undefined ? new Uint8Array(0) : encodeQueues(queues);
  const specific = vendor === undefined ? new Uint8Array(0) : encodeVendor(vendor);
  const writer = new StateWriter().u16(0, wasSuspended ? 1 : 0).bytes(new Uint8Array(12));
  for (const { length } of [standard, specific]) writer.u32(length / 4, 0, 0, 0);
  return writer.bytes(standard).bytes(specific).finish();
}

/** @throws BadState where the structure is not whole, or a part is not what it should be */
export function decodeControllerState(bytes: Uint8Array): ControllerState {
  const reader = new StateReader(bytes);
  if (reader.u16() !== 0) throw new BadState('a version that is not known');
  if ((reader.u16() & ~1) !== 0) throw new BadState('attributes that are reserved');
  reader.reserved(12);
  const [standard, specific] = [sizeOf(reader), sizeOf(reader)];
  const queues = standard === 0 ? undefined : decodeQueues(reader.bytes(standard));
  const vendor = specific === 0 ? undefined : decodeVendor(reader.bytes(specific));
  reader.end();
  return { queues, vendor };
}

/** The sizes that a header tells, in bytes; undefined where it is not whole. */
export function partSizes(bytes: Uint8Array): { readonly queues: number; readonly vendor: number } | undefined {
  if (bytes.length < HEADER) return undefined;
  const reader = new StateReader(bytes.subarray(16, HEADER));
  return { queues: sizeOf(reader), vendor: sizeOf(reader) };
}

/** A size of 128 bits in dwords, as bytes. */
function sizeOf(reader: StateReader): number {
  const dwords = reader.u32();
  reader.reserved(12);
  return 4 * dwords;
}

function encodeQueues({ sqs, cqs }: QueuesState): Uint8Array {
  const writer = new StateWriter().u16(QUEUES_STATE_VERSION, sqs.length, cqs.length, 0);
  for (const sq of sqs)
    writer
      .u64(sq.base)
      .u16(sq.size - 1, sq.id, sq.cqId, CONTIGUOUS, sq.head, sq.tail)
      .u32(0);
  for (const cq of cqs) {
    // The phase tag that stands in slot 0: that of this round, or of the one before where the round begins there.
    const slot0 = cq.tail > 0 ? cq.phase : cq.phase ^ 1;
    const attributes = CONTIGUOUS | (cq.interrupts ? INTERRUPTS : 0) | (slot0 === 1 ? SLOT_0_PHASE : 0);
    writer
      .u64(cq.base)
      .u16(cq.size - 1, cq.id, cq.head, cq.tail, attributes, cq.vector)
      .u32(0);
  }
  return writer.finish();
}

function decodeQueues(bytes: Uint8Array): QueuesState {
  const reader = new StateReader(bytes);
  if (reader.u16() !== QUEUES_STATE_VERSION) throw new BadState('a version of the queues that is not known');
  const [sqCount, cqCount] = [reader.u16(), reader.u16()];
  reader.reserved(2);
  if (reader.rest !== QUEUE * (sqCount + cqCount)) throw new BadState('more or fewer queues than are counted');
  const sqs = Array.from({ length: sqCount }, (): SubmissionQueueState => {
    const base = reader.u64();
    const size = reader.u16() + 1;
    const [id, cqId, attributes] = [reader.u16(), reader.u16(), reader.u16()];
    const [head, tail] = [reader.u16(), reader.u16()];
    reader.reserved(4);
    // Bits 2:1 are a priority, which counts for nothing in round robin.
    if ((attributes & ~6) !== CONTIGUOUS) throw new BadState(`attributes of submission queue ${id}`);
    return { base, size, id, cqId, head, tail };
  });
  const cqs = Array.from({ length: cqCount }, (): CompletionQueueState => {
    const base = reader.u64();
    const size = reader.u16() + 1;
    const [id, head, tail] = [reader.u16(), reader.u16(), reader.u16()];
    const [attributes, vector] = [reader.u16(), reader.u16()];
    reader.reserved(4);
    if ((attributes & ~(INTERRUPTS | SLOT_0_PHASE)) !== CONTIGUOUS)
      throw new BadState(`attributes of completion queue ${id}`);
    const slot0 = (attributes & SLOT_0_PHASE) !== 0 ? 1 : 0;
    const phase = tail > 0 ? slot0 : slot0 ^ 1;
    return { base, size, id, head, tail, vector, interrupts: (attributes & INTERRUPTS) !== 0, phase };
  });
  return { sqs, cqs };
}

/** The first words of a vendor part; the second is its version. */
const MAGIC = 0x53434e56;
const VERSION = 1;

function encodeVendor(state: VendorState): Uint8Array {
  const writer = new StateWriter();
  return writer
    .u32(MAGIC, VERSION)
    .u32(state.cc, state.csts, state.aqa, ...state.asq, ...state.acq, state.interruptMask)
    .list(state.admin === undefined ? [] : [state.admin], ({ sqHead, sqTail, cqHead, cqTail, cqPhase }) =>
      writer.u32(sqHead, sqTail, cqHead, cqTail, cqPhase),
    )
    .list(state.features, (entry) => writer.u32(...entry))
    .list(state.held, (cid) => writer.u32(cid))
    .list(state.pending, ({ type, info, log }) => writer.u32(type, info, log))
    .list(state.quiet, (type) => writer.u32(type))
    .list(state.changedNamespaces, (nsid) => writer.u32(nsid))
    .list(state.backlog, ({ cqId, result, sqId, sqHead, cid, status }) =>
      writer.u32(cqId, result, sqId, sqHead, cid, status),
    )
    .list(state.errors, ({ count, sqId, cid, status, at, lba, nsid }) =>
      writer.u64(count).u32(sqId, cid, status, at).u64(lba).u32(nsid),
    )
    .u64(state.errorCount)
    .finish();
}

function decodeVendor(bytes: Uint8Array): VendorState {
  const reader = new StateReader(bytes);
  const word = (): number => reader.u32();
  if (word() !== MAGIC || word() !== VERSION) throw new BadState('a vendor part of another model or version');
  const state: VendorState = {
    cc: word(),
    csts: word(),
    aqa: word(),
    asq: [word(), word()],
    acq: [word(), word()],
    interruptMask: word(),
    admin: reader.list(1, () => ({
      sqHead: word(),
      sqTail: word(),
      cqHead: word(),
      cqTail: word(),
      cqPhase: word(),
    }))[0],
    features: reader.list(MOST.features, (): FeatureEntry => [word(), word(), word()]),
    held: reader.list(MOST.held, word),
    pending: reader.list(MOST.pending, () => ({ type: word(), info: word(), log: word() })),
    quiet: reader.list(MOST.quiet, word),
    changedNamespaces: reader.list(MOST.namespaces, word),
    backlog: reader.list(MOST.backlog, () => ({
      cqId: word(),
      result: word(),
      sqId: word(),
      sqHead: word(),
      cid: word(),
      status: word(),
    })),
    errors: reader.list(MOST.errors, () => ({
      count: reader.u64(),
      sqId: word(),
      cid: word(),
      status: word(),
      at: word(),
      lba: reader.u64(),
      nsid: word(),
    })),
    errorCount: reader.u64(),
  };
  reader.end();
  return state;
}
