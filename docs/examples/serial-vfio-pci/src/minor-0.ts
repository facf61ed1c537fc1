import { errnoError } from '@vfio/core';
import { refused } from './errors.js';
import { PORT } from './window.js';

/**
 * A port in minor version 0, as the kernel's mtty has it (linux samples/vfio-mdev/mtty.c; offsets as recorded on
 * x86-64). Every character that a port sends is received by it at once there, so there is one FIFO and no transmitter.
 */
const OLD = {
  IER: 1,
  LCR: 3,
  MCR: 4,
  SCR: 7,
  FIFO: 8,
  HEAD: 24,
  TAIL: 25,
  COUNT: 26,
  DLAB: 27,
  OVERRUN: 28,
  DIVISOR: 30,
  FCR: 32,
  FIFO_SIZE: 33,
  TRIGGER: 34,
} as const;
export const MINOR_0_PORT_BYTES = 36;

const FIFO_SIZE = 16;
const TRIGGER_LEVELS = [1, 4, 8, 14];
const FCR_ENABLE = 0x01;
/** Enable, DMA mode, trigger level: what stays of a write to FCR. */
const FCR_KEPT = 0xc9;
const LCR_DLAB = 0x80;
const MCR_BITS = 0x1f;
const IER_BITS = 0x0f;
const LSR_OE = 0x02;

/** @throws EBUSY where a port has what the version has no place for: the driver's user may try again, or stay. */
export function encodeMinor0(image: Uint8Array): Uint8Array {
  const ports = image.length / PORT.BYTES;
  const bytes = new Uint8Array(ports * MINOR_0_PORT_BYTES);
  for (let port = 0; port < ports; port++) {
    const from = image.subarray(port * PORT.BYTES, (port + 1) * PORT.BYTES);
    encodePort(from, bytes.subarray(port * MINOR_0_PORT_BYTES, (port + 1) * MINOR_0_PORT_BYTES), port);
  }
  return bytes;
}

/** @throws EINVAL for a port that cannot be. */
export function decodeMinor0(bytes: Uint8Array): Uint8Array {
  const ports = bytes.length / MINOR_0_PORT_BYTES;
  const image = new Uint8Array(ports * PORT.BYTES);
  for (let port = 0; port < ports; port++) {
    const from = bytes.subarray(port * MINOR_0_PORT_BYTES, (port + 1) * MINOR_0_PORT_BYTES);
    decodePort(from, image.subarray(port * PORT.BYTES, (port + 1) * PORT.BYTES), port);
  }
  return image;
}

function encodePort(from: Uint8Array, into: Uint8Array, port: number): void {
  const byte = (at: number): number => from[at] ?? 0;
  const fcr = byte(PORT.FCR);
  const received = byte(PORT.RECEIVED);
  const errors = from.subarray(PORT.RECEIVER_ERRORS, PORT.RECEIVER_ERRORS + received);
  if ((byte(PORT.FLAGS) & ~1) !== 0 || errors.some((bits) => bits !== 0))
    throw errnoError(
      'EBUSY',
      `port ${port} sends, or has received errors: version 0 of the stream has no place for that`,
      {
        op: 'MIG_DEVICE_STATE',
      },
    );
  into[OLD.IER] = byte(PORT.IER);
  into[OLD.LCR] = byte(PORT.LCR);
  into[OLD.MCR] = byte(PORT.MCR);
  into[OLD.SCR] = byte(PORT.SCR);
  into.set(from.subarray(PORT.RECEIVER_FIFO, PORT.RECEIVER_FIFO + received), OLD.FIFO);
  into[OLD.HEAD] = received % FIFO_SIZE;
  into[OLD.COUNT] = received;
  into[OLD.DLAB] = (byte(PORT.LCR) & LCR_DLAB) === 0 ? 0 : 1;
  into[OLD.OVERRUN] = byte(PORT.LSR) === 0 ? 0 : 1;
  into.set(from.subarray(PORT.DIVISOR, PORT.DIVISOR + 2), OLD.DIVISOR);
  into[OLD.FCR] = fcr;
  into[OLD.FIFO_SIZE] = FIFO_SIZE;
  into[OLD.TRIGGER] = fcr === 0 ? 0 : (TRIGGER_LEVELS[fcr >> 6] ?? 0);
}

function decodePort(from: Uint8Array, into: Uint8Array, port: number): void {
  const byte = (at: number): number => from[at] ?? 0;
  const check = (isRight: boolean, what: string): void => {
    if (!isRight) throw refused(`${what} of port ${port} cannot be`);
  };
  const count = byte(OLD.COUNT);
  const tail = byte(OLD.TAIL);
  const isEnabled = (byte(OLD.FCR) & FCR_ENABLE) !== 0;
  check((byte(OLD.IER) & ~IER_BITS) === 0, 'the IER');
  check((byte(OLD.MCR) & ~MCR_BITS) === 0, 'the MCR');
  check(byte(OLD.DLAB) === ((byte(OLD.LCR) & LCR_DLAB) === 0 ? 0 : 1), 'the DLAB');
  check(byte(OLD.OVERRUN) <= 1, 'the overrun');
  check(byte(OLD.FIFO_SIZE) === 1 || byte(OLD.FIFO_SIZE) === FIFO_SIZE, 'the size of the FIFO');
  check(byte(OLD.TRIGGER) === 0 || TRIGGER_LEVELS.includes(byte(OLD.TRIGGER)), 'the trigger level');
  check(count <= (isEnabled ? FIFO_SIZE : 1), 'the count of characters');
  check(tail < FIFO_SIZE && byte(OLD.HEAD) === (tail + count) % FIFO_SIZE, 'the place of the characters');
  into[PORT.IER] = byte(OLD.IER);
  into[PORT.FCR] = isEnabled ? byte(OLD.FCR) & FCR_KEPT : 0;
  into[PORT.LCR] = byte(OLD.LCR);
  into[PORT.MCR] = byte(OLD.MCR);
  into[PORT.LSR] = byte(OLD.OVERRUN) === 0 ? 0 : LSR_OE;
  into[PORT.SCR] = byte(OLD.SCR);
  into.set(from.subarray(OLD.DIVISOR, OLD.DIVISOR + 2), PORT.DIVISOR);
  into[PORT.RECEIVED] = count;
  for (let i = 0; i < count; i++) into[PORT.RECEIVER_FIFO + i] = byte(OLD.FIFO + ((tail + i) % FIFO_SIZE));
}
