import { badParameter, type Call, type Command, CommandError, command, SYNDROME } from '../command.js';
import { OPCODE, STATUS } from '../constants.js';
import { getNumber64, setNumber64 } from '../fields.js';
import type { VirtualParts } from '../hca.js';
import type { ImageBuffer } from '../vhca-migration.js';
import { initialized } from './states.js';

const VHCA = { vhca_id: [0x50, 16] } as const;
const BUFFER = { ...VHCA, va: [0x80, 64], mkey: [0xc0, 32], size: [0xe0, 32] } as const;

/** Which half of a function stops or runs. The numbers of SUSPEND and RESUME are not the same. */
const SUSPEND = { INITIATOR: 0, RESPONDER: 1 } as const;
const RESUME = { RESPONDER: 0, INITIATOR: 1 } as const;

/** The virtual function that the physical one may move. @throws CommandError where it may not. */
function movable(call: Call<'vhca_id'>): VirtualParts {
  const fn = initialized(call);
  if (fn.id !== 0 || fn.capabilities.general('migration') !== 1)
    throw new CommandError(STATUS.BAD_OP, SYNDROME.NOT_ALLOWED, 'the function moves no others');
  const target = fn.firmware.functionByVhca(call.get('vhca_id'));
  if (target?.virtual === undefined)
    throw new CommandError(
      STATUS.BAD_RESOURCE,
      SYNDROME.UNKNOWN_FUNCTION,
      `there is no function ${call.get('vhca_id')}`,
    );
  if (target.capabilities.general2('migratable') !== 1)
    throw new CommandError(STATUS.BAD_RES_STATE, SYNDROME.NOT_ALLOWED, 'the function is not migratable');
  return target.virtual;
}

function buffer(call: Call<keyof typeof BUFFER>): ImageBuffer {
  const address = getNumber64(call.input, 0x10);
  if (address === undefined) throw badParameter('va', 0);
  const key = call.fn.memoryKey(call.get('mkey'));
  const size = call.get('size');
  key.check(address, size);
  return { dma: call.fn.dma, key, address, size };
}

/** Stopping virtual functions and moving their state. */
export const migrationCommands: readonly Command[] = [
  command(OPCODE.SUSPEND_VHCA, 'SUSPEND_VHCA', { bytes: 16, fields: VHCA }, 16, async (call) => {
    const { migration } = movable(call);
    switch (call.get('op_mod')) {
      case SUSPEND.INITIATOR:
        await migration.suspendInitiator();
        return;
      case SUSPEND.RESPONDER:
        migration.suspendResponder();
        return;
      default:
        throw badParameter('op_mod', call.get('op_mod'));
    }
  }),
  command(OPCODE.RESUME_VHCA, 'RESUME_VHCA', { bytes: 16, fields: VHCA }, 16, (call) => {
    const { migration } = movable(call);
    switch (call.get('op_mod')) {
      case RESUME.RESPONDER:
        migration.resumeResponder();
        return;
      case RESUME.INITIATOR:
        migration.resumeInitiator();
        return;
      default:
        throw badParameter('op_mod', call.get('op_mod'));
    }
  }),
  command(
    OPCODE.QUERY_VHCA_MIGRATION_STATE,
    'QUERY_VHCA_MIGRATION_STATE',
    { bytes: 16, fields: { ...VHCA, incremental: [0x40, 1], chunk: [0x41, 1] } },
    64,
    (call) => {
      const query = movable(call).migration.query(call.get('incremental') === 1, call.get('chunk') === 1);
      if (query.requiredBytes > 0xffffffff)
        throw new CommandError(STATUS.LIMIT, SYNDROME.EXHAUSTED, 'the image is too large for one command: use chunks');
      call.set([0x60, 4], query.state);
      call.set([0x80, 32], query.requiredBytes);
      setNumber64(call.output, 0x18, query.remainingBytes);
    },
  ),
  command(
    OPCODE.SAVE_VHCA_STATE,
    'SAVE_VHCA_STATE',
    { bytes: 32, fields: { ...BUFFER, incremental: [0x40, 1], set_track: [0x41, 1] } },
    16,
    async (call) => {
      const { migration } = movable(call);
      const result = await migration.save(call.get('incremental') === 1, call.get('set_track') === 1, buffer(call));
      call.set([0x40, 32], result.imageBytes);
      call.set([0x60, 32], result.nextBytes);
    },
  ),
  command(OPCODE.LOAD_VHCA_STATE, 'LOAD_VHCA_STATE', { bytes: 32, fields: BUFFER }, 16, async (call) => {
    await movable(call).migration.load(buffer(call));
  }),
];
