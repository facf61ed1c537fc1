import type { TrackedRange } from '../../dirty-pages.js';
import { badParameter, type Call, type Command, CommandError, command, SYNDROME } from '../command.js';
import { OBJECT, OPCODE, STATUS } from '../constants.js';
import { getNumber64, setNumber64 } from '../fields.js';
import type { HcaFunction } from '../hca.js';
import { PageTracker, TRACKER_STATE } from '../page-tracker.js';
import { initialized } from './states.js';

const CONTEXT = 0x80;
const HEADER = { obj_type: [0x30, 16], obj_id: [0x40, 32] } as const;
const OBJECT_FIELDS = {
  modify_field_select: [CONTEXT, 64],
  vhca_id: [CONTEXT + 0x50, 16],
  state: [CONTEXT + 0x80, 4],
  track_type: [CONTEXT + 0x84, 4],
  log_addr_space_size: [CONTEXT + 0x88, 8],
  log_page_size: [CONTEXT + 0x93, 5],
  log_msg_size: [CONTEXT + 0x9b, 5],
  reporting_qpn: [CONTEXT + 0xa8, 24],
  num_ranges: [CONTEXT + 0xd8, 8],
  range_start_address: [CONTEXT + 0x100, 64],
  length: [CONTEXT + 0x140, 64],
} as const;
const FIXED = 64;
const RANGE = 16;

/** Bits of modify_field_select: the state, and the range that it is about. */
const SELECT = { STATE: 1, RANGE: 2 } as const;

/** The only kind of tracking that there is. */
const TRACK_TYPE = 1;

function tracking(call: Call): HcaFunction {
  const fn = initialized(call);
  if (fn.capabilities.general('adv_virtualization') !== 1)
    throw new CommandError(STATUS.BAD_OP, SYNDROME.NOT_ALLOWED, 'the function tracks no others');
  return fn;
}

function objectType(call: Call<'obj_type'>): void {
  if (call.get('obj_type') !== OBJECT.PAGE_TRACK) throw badParameter('obj_type', call.get('obj_type'));
}

/** Commands that only name an object. */
const BY_NAME = { bytes: 16, fields: HEADER } as const;

/** Page trackers, which are general objects. */
export const pageTrackerCommands: readonly Command[] = [
  command(
    OPCODE.CREATE_GENERAL_OBJECT,
    'CREATE_GENERAL_OBJECT',
    { bytes: FIXED, fields: { ...HEADER, ...OBJECT_FIELDS } },
    16,
    (call) => {
      objectType(call);
      const fn = tracking(call);
      const target = fn.firmware.functionByVhca(call.get('vhca_id'));
      if (target?.virtual === undefined)
        throw new CommandError(STATUS.BAD_RESOURCE, SYNDROME.UNKNOWN_FUNCTION, 'there is no such virtual function');
      if (call.get('track_type') !== TRACK_TYPE) throw badParameter('track_type', call.get('track_type'));
      const limits = (name: 'page_size' | 'msg_size' | 'addr_space', value: number, what: string): number => {
        const low = fn.capabilities.advVirtualization(`pg_track_log_min_${name}`);
        const high = fn.capabilities.advVirtualization(`pg_track_log_max_${name}`);
        if (value < low || value > high) throw badParameter(what, value);
        return value;
      };
      const logPageSize = limits('page_size', call.get('log_page_size'), 'log_page_size');
      const logMessageSize = limits('msg_size', call.get('log_msg_size'), 'log_msg_size');
      limits('addr_space', call.get('log_addr_space_size'), 'log_addr_space_size');
      const count = call.get('num_ranges');
      if (count === 0 || count > fn.capabilities.advVirtualization('pg_track_max_num_range'))
        throw badParameter('num_ranges', count);
      call.requireInput(FIXED + RANGE * count);
      const ranges: TrackedRange[] = [];
      for (let i = 0; i < count; i++) {
        const start = getNumber64(call.input, FIXED + RANGE * i);
        const length = getNumber64(call.input, FIXED + RANGE * i + 8);
        if (start === undefined || length === undefined || length === 0) throw badParameter('range', start ?? 0);
        ranges.push({ start, length });
      }
      const reporter = fn.queuePairs.get(call.get('reporting_qpn'));
      for (const tracker of fn.trackers.values())
        if (tracker.shape.target === target)
          throw new CommandError(STATUS.RESOURCE_BUSY, SYNDROME.IN_USE, 'the function is tracked already');
      const shape = { target, ranges, logPageSize, logMessageSize, reporter };
      call.set(
        [0x40, 32],
        fn.create(fn.trackers, () => new PageTracker(shape)),
      );
    },
  ),
  command(
    OPCODE.MODIFY_GENERAL_OBJECT,
    'MODIFY_GENERAL_OBJECT',
    { bytes: FIXED, fields: { ...HEADER, ...OBJECT_FIELDS } },
    16,
    (call) => {
      objectType(call);
      const tracker = tracking(call).trackers.get(call.get('obj_id'));
      const select = call.input.getUint32(0x14);
      if (call.input.getUint32(0x10) !== 0 || select !== (SELECT.STATE | SELECT.RANGE))
        throw badParameter('modify_field_select', select);
      if (call.get('state') !== TRACKER_STATE.REPORTING) throw badParameter('state', call.get('state'));
      const start = getNumber64(call.input, 0x10 + 0x20);
      const length = getNumber64(call.input, 0x10 + 0x28);
      if (start === undefined || length === undefined || length === 0) throw badParameter('length', length ?? 0);
      if (tracker.state === TRACKER_STATE.REPORTING)
        throw new CommandError(STATUS.RESOURCE_BUSY, SYNDROME.IN_USE, 'it is reporting');
      call.set([0x40, 32], call.get('obj_id'));
      // The report goes through its queue pair; the command does not wait for it.
      void tracker.report(start, length);
    },
  ),
  command(OPCODE.QUERY_GENERAL_OBJECT, 'QUERY_GENERAL_OBJECT', BY_NAME, 64, (call) => {
    objectType(call);
    const tracker = tracking(call).trackers.get(call.get('obj_id'));
    const { shape } = tracker;
    call.set([0x40, 32], call.get('obj_id'));
    call.set(OBJECT_FIELDS.vhca_id, shape.target.vhcaId);
    call.set(OBJECT_FIELDS.state, tracker.state);
    call.set(OBJECT_FIELDS.track_type, TRACK_TYPE);
    call.set(OBJECT_FIELDS.log_page_size, shape.logPageSize);
    call.set(OBJECT_FIELDS.log_msg_size, shape.logMessageSize);
    call.set(OBJECT_FIELDS.reporting_qpn, shape.reporter.shape.number);
    call.set(OBJECT_FIELDS.num_ranges, shape.ranges.length);
    for (const [i, range] of shape.ranges.entries()) {
      if (call.output.byteLength < FIXED + RANGE * (i + 1)) break;
      setNumber64(call.output, FIXED + RANGE * i, range.start);
      setNumber64(call.output, FIXED + RANGE * i + 8, range.length);
    }
  }),
  command(OPCODE.DESTROY_GENERAL_OBJECT, 'DESTROY_GENERAL_OBJECT', BY_NAME, 16, (call) => {
    objectType(call);
    const fn = tracking(call);
    const tracker = fn.destroy(fn.trackers, call.get('obj_id'));
    tracker.destroy();
  }),
];
