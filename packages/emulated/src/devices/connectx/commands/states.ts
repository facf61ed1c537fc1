import { type Call, CommandError, SYNDROME } from '../command.js';
import { STATUS } from '../constants.js';
import type { HcaFunction } from '../hca.js';

/** The function of a command that needs INIT_HCA before it. */
export function initialized(call: Call): HcaFunction {
  if (call.fn.phase !== 'initialized')
    throw new CommandError(STATUS.BAD_SYS_STATE, SYNDROME.NOT_INITIALIZED, 'the function is not initialized');
  return call.fn;
}
