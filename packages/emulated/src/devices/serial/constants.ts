/**
 * Registers of a 16550 and their bits, as the data sheet of the PC16550D names them (National Semiconductor, table II).
 * RBR and THR, IIR and FCR share an offset; with LCR.DLAB set DLL and DLM are at 0 and 1.
 */
export const UART = {
  RBR: 0,
  THR: 0,
  DLL: 0,
  IER: 1,
  DLM: 1,
  IIR: 2,
  FCR: 2,
  LCR: 3,
  MCR: 4,
  LSR: 5,
  MSR: 6,
  SCR: 7,
  REGISTERS: 8,
  FIFO_SIZE: 16,

  /** Received data, and characters that nobody reads. */
  IER_RDA: 0x01,
  IER_THRE: 0x02,
  IER_LINE_STATUS: 0x04,
  IER_MODEM_STATUS: 0x08,

  /** Nothing is pending. */
  IIR_NONE: 0x01,
  IIR_MODEM_STATUS: 0x00,
  IIR_THRE: 0x02,
  IIR_RDA: 0x04,
  IIR_LINE_STATUS: 0x06,
  IIR_TIMEOUT: 0x0c,
  IIR_ID: 0x0f,
  IIR_FIFOS: 0xc0,

  FCR_ENABLE: 0x01,
  FCR_CLEAR_RECEIVER: 0x02,
  FCR_CLEAR_TRANSMITTER: 0x04,
  FCR_DMA_MODE: 0x08,
  FCR_TRIGGER: 0xc0,
  FCR_TRIGGER_14: 0xc0,

  LCR_WORD_LENGTH: 0x03,
  LCR_8_BITS: 0x03,
  LCR_STOP: 0x04,
  LCR_PARITY: 0x08,
  LCR_DLAB: 0x80,

  MCR_DTR: 0x01,
  MCR_RTS: 0x02,
  MCR_OUT1: 0x04,
  MCR_OUT2: 0x08,
  MCR_LOOP: 0x10,

  LSR_DR: 0x01,
  LSR_OE: 0x02,
  LSR_PE: 0x04,
  LSR_FE: 0x08,
  LSR_BI: 0x10,
  LSR_THRE: 0x20,
  LSR_TEMT: 0x40,
  LSR_FIFO_ERROR: 0x80,

  MSR_DCTS: 0x01,
  MSR_DDSR: 0x02,
  MSR_TERI: 0x04,
  MSR_DDCD: 0x08,
  MSR_CTS: 0x10,
  MSR_DSR: 0x20,
  MSR_RI: 0x40,
  MSR_DCD: 0x80,
} as const;

/** The crystal of a serial card: the baud rate is this, divided by 16 and by the divisor. */
export const UART_CLOCK_HZ = 1_843_200;

/**
 * What a port is, as the state window of a {@link SerialCard} shows it. Bytes at these offsets; whatever they do not
 * name is 0.
 */
export const PORT_STATE = {
  IER: 0,
  FCR: 1,
  LCR: 2,
  MCR: 3,
  /** LSR.OE; the other bits of LSR follow from the rest. */
  LSR: 4,
  /** The four lines as they were, and that they changed. */
  MSR: 5,
  SCR: 6,
  /** FLAG_*. */
  FLAGS: 7,
  /** u16, little-endian. */
  DIVISOR: 8,
  RECEIVED: 10,
  WAITING: 11,
  /** The character in the transmitter's shift register. */
  SHIFTED: 12,
  /** Characters from the oldest on; for each LSR.PE, FE and BI; and those that wait to be sent. */
  RECEIVER_FIFO: 16,
  RECEIVER_ERRORS: 32,
  TRANSMITTER_FIFO: 48,
  BYTES: 64,

  /** The transmitter's interrupt has not been taken notice of. */
  FLAG_THRE: 0x01,
  /** Characters have waited for too long. */
  FLAG_TIMEOUT: 0x02,
  /** A character is being sent. */
  FLAG_SHIFTING: 0x04,
} as const;

/**
 * The state window: the body of the card's vendor-specific capability. Offsets from the capability. It is in config
 * space because that can be reached whatever else is switched off.
 */
export const STATE_WINDOW = {
  /** u8, 1. */
  VERSION: 3,
  /** u8, CONTROL_*. */
  CONTROL: 4,
  /** u8, STATUS_*. */
  STATUS: 5,
  /** u8 each: how many ports follow, and how long each is. */
  PORTS: 6,
  PORT_BYTES: 7,
  /** The ports, {@link PORT_STATE} each. */
  STATE: 8,

  /** While set the card stands still: no character moves, no time passes, no interrupt is signalled. */
  CONTROL_HOLD: 0x01,
  /** Written as 1: what the ports are is put into the window. Reads as 0. */
  CONTROL_SAVE: 0x02,
  /** Written as 1: the ports become what is in the window. Reads as 0. */
  CONTROL_LOAD: 0x04,
  /** The last LOAD was refused, and nothing was changed: the card was not held, or no port can be so. */
  STATUS_REFUSED: 0x01,
} as const;
