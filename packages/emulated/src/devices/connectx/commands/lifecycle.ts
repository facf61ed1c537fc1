import { badParameter, type Command, CommandError, command, SYNDROME } from '../command.js';
import { OPCODE, STATUS } from '../constants.js';

/** The function of ENABLE_HCA and DISABLE_HCA: 0 is the sender. */
const FUNCTION_ID = { function_id: [0x50, 16] } as const;

/** Interface step sequences that software may choose. Bit n of the mask: sequence n. */
const SUPPORTED_ISSI = 0b10;

function wrongState(message: string): CommandError {
  return new CommandError(STATUS.BAD_SYS_STATE, SYNDROME.WRONG_STATE, message);
}

/** Bringing a function up and down. */
export const lifecycleCommands: readonly Command[] = [
  command(OPCODE.ENABLE_HCA, 'ENABLE_HCA', { bytes: 16, fields: FUNCTION_ID, early: true }, 12, (call) => {
    const target = call.target(call.get('function_id'));
    if (target !== call.fn.record) {
      target.isAdmitted = true;
      return;
    }
    if (call.fn.phase !== 'disabled') throw wrongState(`the function is ${call.fn.phase} already`);
    call.fn.phase = 'enabled';
  }),
  command(OPCODE.DISABLE_HCA, 'DISABLE_HCA', { bytes: 16, fields: FUNCTION_ID, early: true }, 12, (call) => {
    const target = call.target(call.get('function_id'));
    if (target !== call.fn.record) {
      // Whatever its driver does.
      target.shutOut();
      return;
    }
    if (call.fn.phase === 'initialized') throw wrongState('the function is initialized: TEARDOWN_HCA comes first');
    call.fn.phase = 'disabled';
  }),
  command(
    OPCODE.INIT_HCA,
    'INIT_HCA',
    { bytes: 32, fields: { sw_vhca_id: [0x62, 14], sw_owner_id: [0x80, 128] } },
    16,
    (call) => {
      const { fn } = call;
      if (fn.phase === 'initialized') throw wrongState('the function is initialized already');
      const missing = fn.pages.missing('init');
      if (missing > 0)
        throw new CommandError(STATUS.BAD_SYS_STATE, SYNDROME.PAGES_MISSING, `${missing} pages are missing`);
      fn.phase = 'initialized';
      fn.pages.setPhase('init');
      fn.firmware.askForPages(fn.record);
    },
  ),
  command(OPCODE.TEARDOWN_HCA, 'TEARDOWN_HCA', { bytes: 16, fields: { profile: [0x50, 16] } }, 16, (call) => {
    const profile = call.get('profile');
    // 0: in order. The forced and the fast way out are capabilities that the model does not have.
    if (profile !== 0) throw badParameter('profile', profile);
    if (call.fn.phase !== 'initialized') throw wrongState('the function is not initialized');
    call.fn.dropResources();
    call.fn.phase = 'enabled';
    // Nothing needs the pages any more: software takes them before DISABLE_HCA.
    call.fn.pages.setPhase('off');
  }),
  command(OPCODE.QUERY_ISSI, 'QUERY_ISSI', { bytes: 16, fields: {} }, 112, (call) => {
    call.set([0x50, 16], call.fn.issi);
    call.set([0x360, 32], SUPPORTED_ISSI);
  }),
  command(OPCODE.SET_ISSI, 'SET_ISSI', { bytes: 16, fields: { current_issi: [0x50, 16] } }, 16, (call) => {
    const issi = call.get('current_issi');
    if (issi > 31 || (SUPPORTED_ISSI & (1 << issi)) === 0) throw badParameter('ISSI', issi);
    call.fn.issi = issi;
  }),
  command(
    OPCODE.SET_DRIVER_VERSION,
    'SET_DRIVER_VERSION',
    { bytes: 80, fields: { driver_version: [0x80, 512] } },
    16,
    (call) => {
      const text = call.bytes.subarray(16, 80);
      const end = text.indexOf(0);
      call.fn.driverVersion = new TextDecoder('latin1').decode(end < 0 ? text : text.subarray(0, end));
    },
  ),
  command(OPCODE.NOP, 'NOP', { bytes: 16, fields: {} }, 16, () => {}),
];
