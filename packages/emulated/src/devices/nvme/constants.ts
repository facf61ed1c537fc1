/**
 * NVM Express 1.4: registers, opcodes, identifiers. Names follow the specification's own abbreviations.
 */

/** Controller registers, offsets in BAR 0 (section 3.1). */
export const REG = {
  CAP: 0x00,
  CAP_HIGH: 0x04,
  VS: 0x08,
  INTMS: 0x0c,
  INTMC: 0x10,
  CC: 0x14,
  CSTS: 0x1c,
  NSSR: 0x20,
  AQA: 0x24,
  ASQ: 0x28,
  ASQ_HIGH: 0x2c,
  ACQ: 0x30,
  ACQ_HIGH: 0x34,
  CMBLOC: 0x38,
  CMBSZ: 0x3c,
  DOORBELLS: 0x1000,
} as const;

/** Version 1.4.0. */
export const NVME_VERSION = 0x00010400;

export const CC = {
  EN: 0x1,
  CSS_SHIFT: 4,
  CSS_MASK: 0x70,
  MPS_SHIFT: 7,
  MPS_MASK: 0x780,
  AMS_MASK: 0x3800,
  SHN_MASK: 0xc000,
  SHN_NORMAL: 0x4000,
  SHN_ABRUPT: 0x8000,
  IOSQES_SHIFT: 16,
  IOCQES_SHIFT: 20,
  /** Bits that are not reserved. */
  ALL: 0x00fffff1,
  /** What may not change while the controller is enabled. */
  FIXED: 0x3ff0,
} as const;

export const CSTS = {
  RDY: 0x1,
  CFS: 0x2,
  SHST_MASK: 0xc,
  SHST_OCCURRING: 0x4,
  SHST_COMPLETE: 0x8,
} as const;

/** Admin opcodes (figure 140). */
export const ADMIN = {
  DELETE_SQ: 0x00,
  CREATE_SQ: 0x01,
  GET_LOG_PAGE: 0x02,
  DELETE_CQ: 0x04,
  CREATE_CQ: 0x05,
  IDENTIFY: 0x06,
  ABORT: 0x08,
  SET_FEATURES: 0x09,
  GET_FEATURES: 0x0a,
  ASYNC_EVENT: 0x0c,
  FORMAT_NVM: 0x80,
} as const;

/** Admin opcodes of a controller that manages the migration of others (NVM Express Base 2.1, figure 141). */
export const MIGRATION_ADMIN = {
  TRACK_SEND: 0x3d,
  TRACK_RECEIVE: 0x3e,
  MIGRATION_SEND: 0x41,
  MIGRATION_RECEIVE: 0x42,
  CONTROLLER_DATA_QUEUE: 0x45,
} as const;

/** NVM command set opcodes (figure 365). */
export const IO = {
  FLUSH: 0x00,
  WRITE: 0x01,
  READ: 0x02,
  COMPARE: 0x05,
  WRITE_ZEROES: 0x08,
  DATASET_MANAGEMENT: 0x09,
  VERIFY: 0x0c,
} as const;

/** Feature identifiers (figure 271). */
export const FEATURE = {
  ARBITRATION: 0x01,
  POWER_MANAGEMENT: 0x02,
  TEMPERATURE_THRESHOLD: 0x04,
  ERROR_RECOVERY: 0x05,
  VOLATILE_WRITE_CACHE: 0x06,
  NUMBER_OF_QUEUES: 0x07,
  INTERRUPT_COALESCING: 0x08,
  INTERRUPT_VECTOR: 0x09,
  WRITE_ATOMICITY: 0x0a,
  ASYNC_EVENT: 0x0b,
  /** Of a controller that manages migration (Base 2.1, 5.1.25.1.23). */
  CONTROLLER_DATA_QUEUE: 0x21,
} as const;

/** Log page identifiers (figure 191). */
export const LOG = {
  ERROR: 0x01,
  SMART: 0x02,
  FIRMWARE: 0x03,
  CHANGED_NAMESPACES: 0x04,
  COMMANDS: 0x05,
} as const;

/** Identify CNS values (figure 244). */
export const CNS = {
  NAMESPACE: 0x00,
  CONTROLLER: 0x01,
  ACTIVE_NAMESPACES: 0x02,
  NAMESPACE_DESCRIPTORS: 0x03,
  COMMAND_SET_CONTROLLER: 0x06,
  SECONDARY_CONTROLLERS: 0x15,
  /** Base 2.1, 5.1.13.2.21; its section 8.1.12 says 21h, the list of values and later revisions say 20h. */
  CONTROLLER_STATE_FORMATS: 0x20,
} as const;

/** Asynchronous events: type and information (figures 146 to 149). */
export const EVENT = {
  TYPE_ERROR: 0,
  TYPE_SMART: 1,
  TYPE_NOTICE: 2,
  ERROR_INVALID_DOORBELL: 0x00,
  ERROR_INVALID_DOORBELL_VALUE: 0x01,
  SMART_TEMPERATURE: 0x01,
  NOTICE_NAMESPACE: 0x00,
} as const;

/** The namespace id that means all of them. */
export const NSID_ALL = 0xffffffff;

/** log2 of the sizes of queue entries. */
export const SQE_SHIFT = 6;
export const CQE_SHIFT = 4;
