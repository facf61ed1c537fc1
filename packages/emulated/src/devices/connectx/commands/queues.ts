import { badParameter, type Call, type Command, CommandError, command, SYNDROME } from '../command.js';
import { CompletionQueue } from '../completion-queue.js';
import { OPCODE, STATUS } from '../constants.js';
import { type Field, getNumber64 } from '../fields.js';
import { QP_STATE, QueuePair, type ReceiveQueueShape } from '../queue-pair.js';
import { LIST, pagesOf, readPages } from './page-list.js';
import { initialized } from './states.js';

const CQ_CONTEXT = 0x80;
const QP_CONTEXT = 0xc0;
const CQN = { cqn: [0x48, 24] } as const;
const QPN = { qpn: [0x48, 24] } as const;

/** Reliable connection, the only service that is modelled. */
const SERVICE_RC = 0;

/** Where a queue pair's receives are: a queue of its own, or nowhere. */
const RQ_TYPE = { OWN: 0, ZERO_SIZE: 3 } as const;

/** The pages behind a command, as many as `bytes` from the start of the first need. */
function pageList(call: Call, bytes: number, logPageSize: number): number[] {
  const pages = readPages(call, pagesOf(bytes, logPageSize));
  if (pages.includes(0)) throw badParameter('page', 0);
  return pages;
}

function address(call: Call, offset: number, what: string): number {
  const value = getNumber64(call.input, offset);
  if (value === undefined || value === 0 || value % 4 !== 0) throw badParameter(what, value ?? 0);
  return value;
}

/** Fields of a queue pair's context that software may set where the queue pair is made or moved on. */
const QP_FIELDS = {
  st: [QP_CONTEXT + 0x08, 8],
  pm_state: [QP_CONTEXT + 0x13, 2],
  pd: [QP_CONTEXT + 0x28, 24],
  mtu: [QP_CONTEXT + 0x40, 3],
  log_msg_max: [QP_CONTEXT + 0x43, 5],
  log_rq_size: [QP_CONTEXT + 0x49, 4],
  log_rq_stride: [QP_CONTEXT + 0x4d, 3],
  no_sq: [QP_CONTEXT + 0x50, 1],
  ts_format: [QP_CONTEXT + 0x58, 2],
  uar_page: [QP_CONTEXT + 0x68, 24],
  user_index: [QP_CONTEXT + 0x88, 24],
  log_page_size: [QP_CONTEXT + 0xa3, 5],
  remote_qpn: [QP_CONTEXT + 0xa8, 24],
  fl: [QP_CONTEXT + 0xc0, 1],
  ack_timeout: [QP_CONTEXT + 0xc0 + 0x40, 5],
  vhca_port_num: [QP_CONTEXT + 0xc0 + 0x128, 8],
  retry_count: [QP_CONTEXT + 0x38d, 3],
  rnr_retry: [QP_CONTEXT + 0x390, 3],
  rre: [QP_CONTEXT + 0x490, 1],
  rwe: [QP_CONTEXT + 0x491, 1],
  min_rnr_nak: [QP_CONTEXT + 0x4a3, 5],
  cqn_rcv: [QP_CONTEXT + 0x4e8, 24],
  dbr_addr: [QP_CONTEXT + 0x500, 64],
  rq_type: [QP_CONTEXT + 0x565, 3],
} as const satisfies Record<string, Field>;

/** A step of a queue pair from one state to the next. */
function transition(
  opcode: number,
  name: string,
  from: number,
  to: number,
  apply?: (pair: QueuePair, call: QpCall) => void,
) {
  return command(
    opcode,
    name,
    { bytes: LIST, fields: { ...QPN, opt_param_mask: [0x80, 32], ...QP_FIELDS } },
    16,
    (call) => {
      const pair = initialized(call).queuePairs.get(call.get('qpn'));
      pair.move(from, to);
      apply?.(pair, call);
    },
  );
}

type QpCall = Call<keyof typeof QP_FIELDS | 'qpn' | 'opt_param_mask'>;

/** Completion queues and queue pairs: what a page tracker reports through. */
export const queueCommands: readonly Command[] = [
  command(
    OPCODE.CREATE_CQ,
    'CREATE_CQ',
    {
      bytes: LIST,
      fields: {
        cqe_sz: [CQ_CONTEXT + 0x08, 3],
        cc: [CQ_CONTEXT + 0x0b, 1],
        oi: [CQ_CONTEXT + 0x0e, 1],
        st: [CQ_CONTEXT + 0x14, 4],
        page_offset: [CQ_CONTEXT + 0x54, 6],
        log_cq_size: [CQ_CONTEXT + 0x63, 5],
        uar_page: [CQ_CONTEXT + 0x68, 24],
        c_eqn: [CQ_CONTEXT + 0xa0, 32],
        log_page_size: [CQ_CONTEXT + 0xc3, 5],
        dbr_addr: [CQ_CONTEXT + 0x1c0, 64],
      },
    },
    16,
    (call) => {
      const fn = initialized(call);
      if (call.get('cqe_sz') !== 0) throw badParameter('cqe_sz', call.get('cqe_sz'));
      const logSize = call.get('log_cq_size');
      if (logSize > fn.capabilities.general('log_max_cq_sz')) throw badParameter('log_cq_size', logSize);
      const uar = call.get('uar_page');
      fn.uars.get(uar);
      const eventQueue = fn.eventQueues.get(call.get('c_eqn'));
      const doorbellRecord = address(call, 0x10 + 0x38, 'dbr_addr');
      const logPageSize = call.get('log_page_size');
      const pageOffset = call.get('page_offset') * 64;
      const pages = pageList(call, pageOffset + 64 * 2 ** logSize, logPageSize);
      const shape = { logSize, pages, logPageSize, pageOffset, doorbellRecord, uar, eventQueue };
      call.set(
        CQN.cqn,
        fn.create(fn.completionQueues, (number) => new CompletionQueue(fn.dma, { ...shape, number })),
      );
    },
  ),
  command(OPCODE.DESTROY_CQ, 'DESTROY_CQ', { bytes: 16, fields: CQN }, 16, (call) => {
    const fn = initialized(call);
    const queue = fn.completionQueues.get(call.get('cqn'));
    for (const pair of fn.queuePairs.values())
      if (pair.shape.receive?.completions === queue)
        throw new CommandError(STATUS.BAD_RES_STATE, SYNDROME.IN_USE, 'a queue pair completes to it');
    fn.destroy(fn.completionQueues, queue.shape.number);
  }),
  command(
    OPCODE.CREATE_QP,
    'CREATE_QP',
    { bytes: LIST, fields: { opt_param_mask: [0x80, 32], ...QP_FIELDS } },
    16,
    (call) => {
      const fn = initialized(call);
      if (call.get('st') !== SERVICE_RC) throw badParameter('st', call.get('st'));
      if (call.get('no_sq') !== 1) throw badParameter('no_sq', 0);
      const pd = call.get('pd');
      fn.protectionDomains.get(pd);
      const uar = call.get('uar_page');
      fn.uars.get(uar);
      const type = call.get('rq_type');
      let receive: ReceiveQueueShape | undefined;
      if (type === RQ_TYPE.OWN) {
        const logSize = call.get('log_rq_size');
        // The stride is counted in units of 16 bytes.
        const logStride = call.get('log_rq_stride') + 4;
        const logPageSize = call.get('log_page_size');
        receive = {
          logSize,
          logStride,
          pages: pageList(call, 2 ** (logSize + logStride), logPageSize),
          logPageSize,
          doorbellRecord: address(call, 0x18 + 0xa0, 'dbr_addr'),
          completions: fn.completionQueues.get(call.get('cqn_rcv')),
        };
      } else if (type !== RQ_TYPE.ZERO_SIZE) throw badParameter('rq_type', type);
      call.set(
        QPN.qpn,
        fn.create(fn.queuePairs, (number) => new QueuePair(fn, { number, pd, uar, receive })),
      );
    },
  ),
  command(OPCODE.DESTROY_QP, 'DESTROY_QP', { bytes: 16, fields: QPN }, 16, (call) => {
    const fn = initialized(call);
    const pair = fn.queuePairs.get(call.get('qpn'));
    for (const tracker of fn.trackers.values())
      if (tracker.shape.reporter === pair)
        throw new CommandError(STATUS.BAD_RES_STATE, SYNDROME.IN_USE, 'a page tracker reports through it');
    fn.destroy(fn.queuePairs, pair.shape.number);
  }),
  transition(OPCODE.RST2INIT_QP, 'RST2INIT_QP', QP_STATE.RESET, QP_STATE.INIT),
  transition(OPCODE.INIT2RTR_QP, 'INIT2RTR_QP', QP_STATE.INIT, QP_STATE.RTR, (pair, call) => {
    pair.remote = call.get('remote_qpn');
  }),
  transition(OPCODE.RTR2RTS_QP, 'RTR2RTS_QP', QP_STATE.RTR, QP_STATE.RTS),
];
