import { PORT_STATE, UART } from '@vfio/emulated';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  checkHeader,
  decodeStream,
  encodeHeader,
  encodePorts,
  HEADER_BYTES,
  MINOR,
  maxStreamBytes,
  type StreamMinor,
  streamBytes,
} from '../src/stream.js';

const PORT_BYTES = PORT_STATE.BYTES;
/** Of a port in version 1.0. */
const OLD_BYTES = 36;

function join(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

const stream = (minor: StreamMinor, ports: number, image: Uint8Array): Uint8Array =>
  join(encodeHeader(minor, ports), encodePorts(minor, image));

/** A change of a u32, little-endian. */
function with32(bytes: Uint8Array, at: number, value: number): Uint8Array {
  const changed = bytes.slice();
  new DataView(changed.buffer).setUint32(at, value, true);
  return changed;
}

/** A port that version 1.0 has a place for: it sends nothing, and no received character has an error. */
const quietPort = fc
  .record({
    ier: fc.nat(0x0f),
    fcr: fc.constantFrom(0, 0x01, 0x41, 0x81, 0xc1, 0xc9),
    lcr: fc.nat(0xff),
    mcr: fc.nat(0x1f),
    overrun: fc.boolean(),
    scr: fc.nat(0xff),
    divisor: fc.tuple(fc.nat(0xff), fc.nat(0xff)),
    received: fc.uint8Array({ maxLength: 16 }),
  })
  .map(({ ier, fcr, lcr, mcr, overrun, scr, divisor, received }) => {
    const port = new Uint8Array(PORT_BYTES);
    const characters = received.subarray(0, fcr === 0 ? 1 : 16);
    port.set([ier, fcr, lcr, mcr, overrun ? UART.LSR_OE : 0, 0, scr]);
    port.set(divisor, PORT_STATE.DIVISOR);
    port[PORT_STATE.RECEIVED] = characters.length;
    port.set(characters, PORT_STATE.RECEIVER_FIFO);
    return port;
  });

describe.each([0, 1] as const)('version 1.%i', (minor) => {
  test('gives back what was put in, and is as long as it says', () => {
    fc.assert(
      fc.property(fc.array(quietPort, { minLength: 1, maxLength: 2 }), (ports) => {
        const image = join(...ports);
        const bytes = stream(minor, ports.length, image);
        expect(bytes.length).toBe(streamBytes(minor, ports.length));
        expect(bytes.length).toBeLessThanOrEqual(maxStreamBytes(ports.length));
        expect(decodeStream(bytes, ports.length)).toEqual(image);
      }),
    );
  });

  test('cut anywhere, or longer by a byte, it is refused', () => {
    const bytes = stream(minor, 2, new Uint8Array(2 * PORT_BYTES));
    for (let length = 0; length < bytes.length; length++)
      expect(() => decodeStream(bytes.subarray(0, length), 2)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
    expect(() => decodeStream(join(bytes, new Uint8Array(1)), 2)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
  });

  test('any bytes behind the header are refused with EINVAL, or are ports', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.boolean(), (body, isFitting) => {
        const wanted = streamBytes(minor, 1) - HEADER_BYTES;
        const bytes = join(encodeHeader(minor, 1), isFitting ? body.slice(0, wanted) : body);
        try {
          expect(decodeStream(bytes, 1).length).toBe(PORT_BYTES);
        } catch (error) {
          expect(error).toMatchObject({ name: 'VfioError', errno: 'EINVAL' });
        }
      }),
    );
  });
});

describe('the header', () => {
  const header = encodeHeader(MINOR, 2);

  test.each([
    ['another magic', with32(header, 0, 1), /it begins with 0x7e9d098900000001, which is not that of a serial card/],
    ['an older major version', with32(header, 8, 0), /its version is 0\.1, 1 is known/],
    ['a newer major version', with32(header, 8, 2), /its version is 2\.1, 1 is known/],
    ['a card with one port', with32(header, 16, 1), /a card with 1 ports, this one has 2/],
    ['no port', with32(header, 16, 0), /a card with 0 ports/],
    ['a flag that nobody knows', with32(header, 20, 4), /flags 0x4 are not known/],
  ])('with %s is refused as soon as it is there', (_what, bytes, message) => {
    expect(() => checkHeader(bytes, 2)).toThrow(message);
    expect(() => checkHeader(bytes, 2)).toThrow(expect.objectContaining({ errno: 'EINVAL' }));
  });

  test('of a newer minor version is taken', () => {
    expect(() => checkHeader(with32(header, 12, 99), 2)).not.toThrow();
  });
});

describe('a newer minor version', () => {
  /** As a driver would write that has added to the ports. */
  const newer = (minor: number, portBytes: number, reserved = 0): Uint8Array => {
    const lengths = with32(with32(new Uint8Array(8), 0, portBytes), 4, reserved);
    const port = new Uint8Array(portBytes).fill(0xee, PORT_BYTES);
    port[PORT_STATE.SCR] = 0x77;
    return join(with32(encodeHeader(MINOR, 1), 12, minor), lengths, port);
  };

  test('is read as far as it is known', () => {
    const image = new Uint8Array(PORT_BYTES);
    image[PORT_STATE.SCR] = 0x77;
    expect(decodeStream(newer(2, 100), 1)).toEqual(image);
  });

  test.each([
    ['shorter ports than the known ones', newer(2, PORT_BYTES - 1), /a port of 63 bytes in version 1\.2/],
    ['longer ports than any', newer(2, 257), /a port of 257 bytes/],
    ['a known version with longer ports', newer(1, 100), /a port of 100 bytes in version 1\.1/],
    ['a reserved field that is not 0', newer(2, 100, 1), /a reserved field is not 0/],
  ])('with %s is refused', (_what, bytes, message) => {
    expect(() => decodeStream(bytes, 1)).toThrow(message);
  });
});

describe('version 1.0', () => {
  const old = stream(0, 1, new Uint8Array(PORT_BYTES));

  test.each([
    ['an IER with bits that there are not', 1, 0x10, /the IER of port 0/],
    ['an MCR with bits that there are not', 4, 0x20, /the MCR of port 0/],
    ['a DLAB that is not that of the LCR', 27, 1, /the DLAB of port 0/],
    ['an overrun that is neither 0 nor 1', 28, 2, /the overrun of port 0/],
    ['a FIFO of 5', 33, 5, /the size of the FIFO of port 0/],
    ['a trigger level of 3', 34, 3, /the trigger level of port 0/],
    ['2 characters without a FIFO', 26, 2, /the count of characters of port 0/],
    ['a character that is nowhere', 26, 1, /the place of the characters of port 0/],
    ['characters behind the end of the FIFO', 25, 16, /the place of the characters of port 0/],
  ])('with %s is refused', (_what, at, byte, message) => {
    const bytes = old.slice();
    bytes[HEADER_BYTES + at] = byte;
    expect(() => decodeStream(bytes, 1)).toThrow(message);
  });

  test('has place for a FIFO that is full', () => {
    const image = new Uint8Array(PORT_BYTES);
    image[PORT_STATE.FCR] = UART.FCR_ENABLE;
    image[PORT_STATE.RECEIVED] = 16;
    image.set(
      Array.from({ length: 16 }, (_, n) => n),
      PORT_STATE.RECEIVER_FIFO,
    );
    expect(decodeStream(stream(0, 1, image), 1)).toEqual(image);
  });

  test('has characters wherever they are in its ring', () => {
    const bytes = old.slice();
    bytes.set([0x41], HEADER_BYTES + 8 + 15);
    bytes.set([0x42], HEADER_BYTES + 8);
    bytes.set([1, 15, 2], HEADER_BYTES + 24); // head, tail, count
    bytes[HEADER_BYTES + 32] = UART.FCR_ENABLE | UART.FCR_CLEAR_RECEIVER; // mtty keeps what was written
    const image = decodeStream(bytes, 1);
    expect(image[PORT_STATE.FCR]).toBe(UART.FCR_ENABLE);
    expect([...image.subarray(PORT_STATE.RECEIVER_FIFO, PORT_STATE.RECEIVER_FIFO + 2)]).toEqual([0x41, 0x42]);
  });

  test.each([
    ['a character that is being sent', PORT_STATE.FLAGS, PORT_STATE.FLAG_SHIFTING],
    ['a time-out', PORT_STATE.FLAGS, PORT_STATE.FLAG_TIMEOUT],
    ['an error of a received character', PORT_STATE.RECEIVER_ERRORS, UART.LSR_PE],
  ])('has no place for %s: EBUSY', (_what, at, byte) => {
    const image = new Uint8Array(PORT_BYTES);
    image[PORT_STATE.RECEIVED] = 1;
    image[at] = byte;
    expect(() => encodePorts(0, image)).toThrow(expect.objectContaining({ errno: 'EBUSY' }));
  });

  test('is as long as the ports of mtty are', () => {
    expect([streamBytes(0, 1), streamBytes(0, 2)]).toEqual([HEADER_BYTES + OLD_BYTES, HEADER_BYTES + 2 * OLD_BYTES]);
  });
});
