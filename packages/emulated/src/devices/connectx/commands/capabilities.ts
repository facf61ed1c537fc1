import { CAPABILITY_BYTES } from '../capabilities.js';
import { type Call, type Command, CommandError, command, SYNDROME } from '../command.js';
import { OPCODE, STATUS } from '../constants.js';
import type { FunctionRecord } from '../function-record.js';

/** Whose capabilities: with `other_function` those of function_id, as ENABLE_HCA numbers them. */
const WHOSE = { other_function: [0x40, 1], function_id: [0x50, 16] } as const;
const BLOB = 16;

/** With `other_function` every number is another function's, 0 the physical function's own. */
function whose(call: Call<keyof typeof WHOSE>): FunctionRecord {
  if (call.get('other_function') === 0) return call.fn.record;
  if (call.fn.id !== 0)
    throw new CommandError(STATUS.BAD_PARAM, SYNDROME.NOT_ALLOWED, 'only the physical function may look at others');
  return call.target(call.get('function_id'));
}

export const capabilityCommands: readonly Command[] = [
  command(OPCODE.QUERY_HCA_CAP, 'QUERY_HCA_CAP', { bytes: 16, fields: WHOSE }, BLOB + CAPABILITY_BYTES, (call) => {
    const opMod = call.get('op_mod');
    const values = whose(call).capabilities.read(opMod >>> 1, (opMod & 1) === 1 ? 'current' : 'max');
    for (const [i, byte] of values.entries()) call.output.setUint8(BLOB + i, byte);
  }),
  command(
    OPCODE.SET_HCA_CAP,
    'SET_HCA_CAP',
    { bytes: BLOB + CAPABILITY_BYTES, fields: { ...WHOSE, capability: [8 * BLOB, 8 * CAPABILITY_BYTES] } },
    16,
    (call) => {
      const target = whose(call);
      const type = call.get('op_mod') >>> 1;
      const wanted = call.bytes.subarray(BLOB, BLOB + CAPABILITY_BYTES);
      if (target !== call.fn.record) {
        target.capabilities.setByOwner(type, wanted);
        return;
      }
      if (call.fn.phase === 'initialized')
        throw new CommandError(STATUS.BAD_SYS_STATE, SYNDROME.WRONG_STATE, 'the function is initialized');
      target.capabilities.set(type, wanted);
    },
  ),
];
