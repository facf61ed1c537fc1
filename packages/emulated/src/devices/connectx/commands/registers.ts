import { badParameter, type Command, CommandError, command, SYNDROME } from '../command.js';
import { OPCODE, STATUS } from '../constants.js';

/** Registers of ACCESS_REG that the model has. */
const REGISTER = { HOST_ENDIANNESS: 0x7004, DTOR: 0xc00e } as const;
const DATA = 16;

/** What ACCESS_REG does. */
const ACCESS = { WRITE: 0, READ: 1 } as const;

/** Bytes of the device time-outs register (DTOR), and its fields in seconds: unit 1 in bits 31:29 of each dword. */
const DTOR_BYTES = 0x40;
const DTOR_SECONDS: Readonly<Record<number, number>> = {
  4: 10, // pcie_toggle_to
  20: 2, // health_poll_to
  24: 120, // full_crdump_to
  28: 30, // fw_reset_to
  32: 10, // flush_on_err_to
  36: 10, // pci_sync_update_to
  40: 60, // tear_down_to
  44: 5, // fsm_reactivate_to
  48: 10, // reclaim_pages_to
  52: 60, // reclaim_vfs_pages_to
  56: 60, // reset_unload_to
};

/** Board and registers that are not of one function's resources. */
export const registerCommands: readonly Command[] = [
  command(
    OPCODE.ACCESS_REG,
    'ACCESS_REG',
    { bytes: 16, fields: { register_id: [0x50, 16], argument: [0x60, 32] } },
    DATA,
    (call) => {
      const register = call.get('register_id');
      const isWrite = call.get('op_mod') === ACCESS.WRITE;
      switch (register) {
        case REGISTER.HOST_ENDIANNESS: {
          call.requireInput(DATA + 16);
          call.requireOutput(DATA + 16);
          const value = call.input.getUint8(DATA);
          if (isWrite) {
            // 0: little-endian; 0x80: big-endian.
            if (value !== 0 && value !== 0x80) throw badParameter('endianness', value);
            call.fn.firmware.hostEndianness = value;
          }
          call.output.setUint8(DATA, call.fn.firmware.hostEndianness);
          return;
        }
        case REGISTER.DTOR:
          if (isWrite) throw new CommandError(STATUS.BAD_PARAM, SYNDROME.NOT_ALLOWED, 'the register can only be read');
          call.requireOutput(DATA + DTOR_BYTES);
          for (const [offset, value] of Object.entries(DTOR_SECONDS))
            call.output.setUint32(DATA + Number(offset), (1 << 29) | value);
          return;
        default:
          throw badParameter('register', register);
      }
    },
  ),
  command(OPCODE.QUERY_ADAPTER, 'QUERY_ADAPTER', { bytes: 16, fields: {} }, 272, (call) => {
    const { boardId } = call.fn.firmware;
    // ieee_vendor_id: Mellanox's OUI.
    call.set([0x80 + 0xc8, 24], 0x0002c9);
    for (let i = 0; i < Math.min(boardId.length, 16); i++) call.output.setUint8(16 + 0xf0 + i, boardId.charCodeAt(i));
  }),
];
