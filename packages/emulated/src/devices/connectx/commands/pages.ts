import { badParameter, type Command, CommandError, command, SYNDROME } from '../command.js';
import { ADAPTER_PAGE, OPCODE, STATUS } from '../constants.js';
import { getNumber64, setNumber64 } from '../fields.js';

/** Which pages QUERY_PAGES asks about. */
const PHASE = { BOOT: 1, INIT: 2, REGULAR: 3 } as const;

/** What MANAGE_PAGES does. */
const MANAGE = { CANT_GIVE: 0, GIVE: 1, TAKE: 2 } as const;

const LIST = 16;

/** Memory that software lends to the functions. */
export const pageCommands: readonly Command[] = [
  command(OPCODE.QUERY_PAGES, 'QUERY_PAGES', { bytes: 16, fields: { function_id: [0x50, 16] } }, 16, (call) => {
    const id = call.get('function_id');
    const { pages } = call.target(id);
    const phase = call.get('op_mod');
    if (phase < PHASE.BOOT || phase > PHASE.REGULAR) throw badParameter('phase', phase);
    const count = phase === PHASE.REGULAR ? 0 : pages.missing(phase === PHASE.BOOT ? 'boot' : 'init');
    call.set([0x50, 16], id);
    call.set([0x60, 32], count);
  }),
  command(
    OPCODE.MANAGE_PAGES,
    'MANAGE_PAGES',
    { bytes: 16, fields: { function_id: [0x50, 16], input_num_entries: [0x60, 32] } },
    16,
    (call) => {
      const { fn } = call;
      const target = call.target(call.get('function_id'));
      const count = call.get('input_num_entries');
      switch (call.get('op_mod')) {
        case MANAGE.CANT_GIVE:
          target.pages.refused();
          return;
        case MANAGE.GIVE: {
          call.requireInput(LIST + 8 * count);
          const addresses = new Set<number>();
          for (let i = 0; i < count; i++) {
            const address = getNumber64(call.input, LIST + 8 * i);
            if (address === undefined || address === 0 || address % ADAPTER_PAGE !== 0)
              throw badParameter('page', address ?? 0);
            if (addresses.has(address) || target.pages.has(address))
              throw new CommandError(STATUS.BAD_PARAM, SYNDROME.IN_USE, `page ${address} was given already`);
            addresses.add(address);
          }
          target.pages.give(addresses);
          if (target.pages.missing('boot') === 0 && target.live?.phase !== 'initialized') target.pages.setPhase('boot');
          fn.firmware.askForPages(target);
          return;
        }
        case MANAGE.TAKE: {
          call.requireOutput(LIST + 8 * count);
          const taken = target.pages.take(count);
          for (const [i, address] of taken.entries()) setNumber64(call.output, LIST + 8 * i, address);
          call.set([0x40, 32], taken.length);
          return;
        }
        default:
          throw badParameter('operation', call.get('op_mod'));
      }
    },
  ),
];
