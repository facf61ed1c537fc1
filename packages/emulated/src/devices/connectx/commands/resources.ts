import { type Command, command } from '../command.js';
import { OPCODE } from '../constants.js';
import { initialized } from './states.js';

const UAR = { uar: [0x48, 24] } as const;
const PD = { pd: [0x48, 24] } as const;

/** Resources that are no more than a number. */
export const resourceCommands: readonly Command[] = [
  command(OPCODE.ALLOC_UAR, 'ALLOC_UAR', { bytes: 16, fields: {} }, 16, (call) => {
    call.set(
      UAR.uar,
      initialized(call).uars.add(() => true),
    );
  }),
  command(OPCODE.DEALLOC_UAR, 'DEALLOC_UAR', { bytes: 16, fields: UAR }, 16, (call) => {
    initialized(call).uars.remove(call.get('uar'));
  }),
  command(OPCODE.ALLOC_PD, 'ALLOC_PD', { bytes: 16, fields: {} }, 16, (call) => {
    call.set(
      PD.pd,
      initialized(call).protectionDomains.add(() => true),
    );
  }),
  command(OPCODE.DEALLOC_PD, 'DEALLOC_PD', { bytes: 16, fields: PD }, 16, (call) => {
    initialized(call).protectionDomains.remove(call.get('pd'));
  }),
];
