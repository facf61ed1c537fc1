/** Do not retry. */
export const DNR = 0x4000;
/** More about the error is in the error log. */
export const MORE = 0x2000;

/**
 * Status fields of completions (NVM Express 1.4, 4.6.1) without the phase bit: code, type << 8, and DNR where the same
 * command would fail again.
 */
export const STATUS = {
  SUCCESS: 0x0000,
  INVALID_OPCODE: 0x0001 | DNR,
  INVALID_FIELD: 0x0002 | DNR,
  DATA_TRANSFER_ERROR: 0x0004,
  INTERNAL_ERROR: 0x0006,
  ABORT_REQUESTED: 0x0007,
  ABORTED_SQ_DELETION: 0x0008,
  INVALID_NAMESPACE: 0x000b | DNR,
  COMMAND_SEQUENCE: 0x000c | DNR,
  PRP_OFFSET_INVALID: 0x0013 | DNR,
  LBA_OUT_OF_RANGE: 0x0080 | DNR,

  COMPLETION_QUEUE_INVALID: 0x0100 | DNR,
  INVALID_QUEUE_ID: 0x0101 | DNR,
  INVALID_QUEUE_SIZE: 0x0102 | DNR,
  ASYNC_EVENT_LIMIT: 0x0105 | DNR,
  INVALID_INTERRUPT_VECTOR: 0x0108 | DNR,
  INVALID_LOG_PAGE: 0x0109 | DNR,
  INVALID_FORMAT: 0x010a | DNR,
  INVALID_QUEUE_DELETION: 0x010c | DNR,
  FEATURE_NOT_SAVEABLE: 0x010d | DNR,
  FEATURE_NOT_CHANGEABLE: 0x010e | DNR,
  FEATURE_NOT_NAMESPACE_SPECIFIC: 0x010f | DNR,

  WRITE_FAULT: 0x0280,
  UNRECOVERED_READ_ERROR: 0x0281,
  COMPARE_FAILURE: 0x0285 | DNR,
} as const;

/** Not a status: the command is not completed now (an asynchronous event request waits for its event). */
export const HELD = -1;
