import { badParameter, type Command, CommandError, command, SYNDROME } from '../command.js';
import { OPCODE, STATUS } from '../constants.js';
import { EVENT_SIZE } from '../event-queue.js';
import { LIST, pagesOf, readPages } from './page-list.js';
import { initialized } from './states.js';

const CONTEXT = 0x80;
const EQ_NUMBER = { eq_number: [0x58, 8] } as const;

/** States that software may give a new queue. */
const NEW_STATES = [0x0, 0x9, 0xa];

export const eventQueueCommands: readonly Command[] = [
  command(
    OPCODE.CREATE_EQ,
    'CREATE_EQ',
    {
      bytes: LIST,
      fields: {
        ec: [CONTEXT + 0x0d, 1],
        oi: [CONTEXT + 0x0e, 1],
        st: [CONTEXT + 0x14, 4],
        page_offset: [CONTEXT + 0x54, 6],
        log_eq_size: [CONTEXT + 0x63, 5],
        uar_page: [CONTEXT + 0x68, 24],
        intr: [CONTEXT + 0xb4, 12],
        log_page_size: [CONTEXT + 0xc3, 5],
        event_bitmask: [0x2c0, 256],
      },
    },
    16,
    (call) => {
      const fn = initialized(call);
      const logSize = call.get('log_eq_size');
      if (logSize > fn.capabilities.general('log_max_eq_sz')) throw badParameter('log_eq_size', logSize);
      const uar = call.get('uar_page');
      fn.uars.get(uar);
      const vector = call.get('intr');
      if (vector >= fn.firmware.vectors) throw badParameter('intr', vector);
      const state = call.get('st');
      if (!NEW_STATES.includes(state)) throw badParameter('st', state);
      const logPageSize = call.get('log_page_size');
      const pageOffset = call.get('page_offset') * EVENT_SIZE;
      const pages = readPages(call, pagesOf(pageOffset + 2 ** logSize * EVENT_SIZE, logPageSize));
      // event_bitmask: four 64-bit words, the lowest types in the first.
      let events = 0n;
      for (let i = 0; i < 4; i++) events |= call.input.getBigUint64(0x58 + 8 * i) << BigInt(64 * i);
      const shape = { logSize, pages, logPageSize, pageOffset, vector, uar, events };
      call.set([0x58, 8], fn.createEventQueue({ ...shape, ignoresOverrun: call.get('oi') === 1 }));
    },
  ),
  command(OPCODE.DESTROY_EQ, 'DESTROY_EQ', { bytes: 16, fields: EQ_NUMBER }, 16, (call) => {
    const fn = initialized(call);
    const queue = fn.eventQueues.get(call.get('eq_number'));
    for (const { shape } of fn.completionQueues.values())
      if (shape.eventQueue === queue)
        throw new CommandError(STATUS.BAD_RES_STATE, SYNDROME.IN_USE, 'a completion queue tells it');
    fn.destroy(fn.eventQueues, queue.shape.number);
  }),
  command(OPCODE.QUERY_EQ, 'QUERY_EQ', { bytes: 16, fields: EQ_NUMBER }, LIST, (call) => {
    const queue = initialized(call).eventQueues.get(call.get('eq_number'));
    const { shape } = queue;
    // status: 0 is well, 0xa an event could not be written.
    call.set([CONTEXT, 4], queue.hasFailed ? 0xa : 0);
    call.set([CONTEXT + 0x0e, 1], shape.ignoresOverrun ? 1 : 0);
    call.set([CONTEXT + 0x14, 4], queue.state);
    call.set([CONTEXT + 0x54, 6], shape.pageOffset / EVENT_SIZE);
    call.set([CONTEXT + 0x63, 5], shape.logSize);
    call.set([CONTEXT + 0x68, 24], shape.uar);
    call.set([CONTEXT + 0xb4, 12], shape.vector);
    call.set([CONTEXT + 0xc3, 5], shape.logPageSize);
    call.set([CONTEXT + 0x148, 24], queue.consumer);
    call.set([CONTEXT + 0x168, 24], queue.producer & 0xffffff);
    for (let i = 0; i < 4; i++)
      call.output.setBigUint64(0x58 + 8 * i, (shape.events >> BigInt(64 * i)) & (2n ** 64n - 1n));
  }),
];
