/** Numbers of the ConnectX command interface (Ethernet Adapters Programming Manual, "Command Interface" and "Events"). */

/** Bytes of a page of the adapter, whatever the host's page size is. */
export const ADAPTER_PAGE = 4096;

/** Commands that the model knows. */
export const OPCODE = {
  QUERY_HCA_CAP: 0x100,
  QUERY_ADAPTER: 0x101,
  INIT_HCA: 0x102,
  TEARDOWN_HCA: 0x103,
  ENABLE_HCA: 0x104,
  DISABLE_HCA: 0x105,
  QUERY_PAGES: 0x107,
  MANAGE_PAGES: 0x108,
  SET_HCA_CAP: 0x109,
  QUERY_ISSI: 0x10a,
  SET_ISSI: 0x10b,
  SET_DRIVER_VERSION: 0x10d,
  SUSPEND_VHCA: 0x115,
  RESUME_VHCA: 0x116,
  QUERY_VHCA_MIGRATION_STATE: 0x117,
  SAVE_VHCA_STATE: 0x118,
  LOAD_VHCA_STATE: 0x119,
  CREATE_MKEY: 0x200,
  QUERY_MKEY: 0x201,
  DESTROY_MKEY: 0x202,
  QUERY_SPECIAL_CONTEXTS: 0x203,
  CREATE_EQ: 0x301,
  DESTROY_EQ: 0x302,
  QUERY_EQ: 0x303,
  CREATE_CQ: 0x400,
  DESTROY_CQ: 0x401,
  CREATE_QP: 0x500,
  DESTROY_QP: 0x501,
  RST2INIT_QP: 0x502,
  INIT2RTR_QP: 0x503,
  RTR2RTS_QP: 0x504,
  QUERY_HCA_VPORT_CONTEXT: 0x762,
  ALLOC_PD: 0x800,
  DEALLOC_PD: 0x801,
  ALLOC_UAR: 0x802,
  DEALLOC_UAR: 0x803,
  ACCESS_REG: 0x805,
  NOP: 0x80d,
  CREATE_GENERAL_OBJECT: 0xa00,
  MODIFY_GENERAL_OBJECT: 0xa01,
  QUERY_GENERAL_OBJECT: 0xa02,
  DESTROY_GENERAL_OBJECT: 0xa03,
} as const;

/** What became of a command's delivery; in bits 7:1 of the last byte of its entry. */
export const DELIVERY = {
  OK: 0x0,
  SIGNATURE: 0x1,
  TOKEN: 0x2,
  BLOCK_NUMBER: 0x3,
  OUTPUT_POINTER: 0x4,
  INPUT_POINTER: 0x5,
  FIRMWARE: 0x6,
  INPUT_LENGTH: 0x7,
  OUTPUT_LENGTH: 0x8,
  RESERVED_NOT_CLEAR: 0x9,
  BAD_DESCRIPTOR: 0x10,
} as const;

/** What became of a command that was delivered; its first output byte. */
export const STATUS = {
  OK: 0x0,
  INTERNAL: 0x1,
  BAD_OP: 0x2,
  BAD_PARAM: 0x3,
  BAD_SYS_STATE: 0x4,
  BAD_RESOURCE: 0x5,
  RESOURCE_BUSY: 0x6,
  LIMIT: 0x8,
  BAD_RES_STATE: 0x9,
  INDEX: 0xa,
  NO_RESOURCES: 0xf,
  BAD_QP_STATE: 0x10,
  INPUT_LENGTH: 0x50,
  OUTPUT_LENGTH: 0x51,
} as const;

/** Events that an event queue can be created for. */
export const EVENT = {
  COMPLETION: 0x00,
  CQ_ERROR: 0x04,
  INTERNAL_ERROR: 0x08,
  PORT_CHANGE: 0x09,
  COMMAND: 0x0a,
  PAGE_REQUEST: 0x0b,
} as const;

/** Kinds of capabilities of QUERY_HCA_CAP and SET_HCA_CAP: bits 15:1 of their op_mod. */
export const CAP_TYPE = { GENERAL: 0x00, ADV_VIRTUALIZATION: 0x26, GENERAL_2: 0x20 } as const;

/** General objects. */
export const OBJECT = { PAGE_TRACK: 0x46 } as const;
