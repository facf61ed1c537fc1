export { SerialCard, type SerialCardOptions } from './card.js';
export { PORT_STATE, STATE_WINDOW, UART, UART_CLOCK_HZ } from './constants.js';
export { Uart, type UartEnds } from './uart.js';
