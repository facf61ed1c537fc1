/** A 16550 by its data sheet (PC16550D, National Semiconductor): sections and tables are those of it. */
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { isPort } from '../src/devices/serial/uart.js';
import { ManualClock, PORT_STATE, UART, Uart } from '../src/index.js';

const { FCR, IER, IIR, LCR, LSR, MCR, MSR, RBR, SCR, THR } = UART;
/** A character of 10 bits with a divisor of 12 (9600 baud). */
const CHARACTER_MS = (10 * 16 * 12 * 1000) / 1_843_200;

function uart() {
  const clock = new ManualClock();
  const pins: boolean[] = [];
  const sent: number[] = [];
  let pin = false;
  const port = new Uart({
    clock,
    interrupt: (level) => {
      if (level !== pin) pins.push(level);
      pin = level;
    },
  });
  port.onTransmit = (byte) => void sent.push(byte);
  const setDivisor = (divisor: number): void => {
    const lcr = port.read(LCR);
    port.write(LCR, lcr | UART.LCR_DLAB);
    port.write(UART.DLL, divisor & 0xff);
    port.write(UART.DLM, divisor >> 8);
    port.write(LCR, lcr);
  };
  port.write(LCR, UART.LCR_8_BITS);
  setDivisor(12);
  return {
    port,
    clock,
    sent,
    setDivisor,
    /** How often the pin has risen. */
    interrupts: () => pins.filter((level) => level).length,
    pin: () => pin,
    receive: (...bytes: number[]) => {
      for (const byte of bytes) port.receive(byte);
    },
    characters: (count: number) => clock.advance(count * CHARACTER_MS + 0.001),
  };
}

describe('after a master reset (table I)', () => {
  test('nothing is enabled or pending, and the transmitter is empty', () => {
    const { port, pin } = uart();
    port.write(IER, 0x0f);
    port.write(FCR, UART.FCR_ENABLE);
    port.write(MCR, 0x1f);
    port.write(SCR, 0x5a);
    port.receive(1);
    port.reset();
    expect([IER, IIR, LCR, MCR, LSR, MSR, SCR].map((register) => port.read(register))).toEqual([
      0,
      UART.IIR_NONE,
      0,
      0,
      UART.LSR_THRE | UART.LSR_TEMT,
      0,
      0,
    ]);
    expect(pin()).toBe(false);
  });
});

describe('registers (table II)', () => {
  test.each([
    ['IER', IER, 0x0f],
    ['LCR', LCR, 0x7f],
    ['MCR', MCR, 0x1f],
    ['SCR', SCR, 0xff],
  ])('%s keeps the bits that it has', (_name, register, bits) => {
    const { port } = uart();
    port.write(register, 0xff & (register === LCR ? 0x7f : 0xff));
    expect(port.read(register)).toBe(bits);
    port.write(register, 0);
    expect(port.read(register)).toBe(0);
  });

  test('with DLAB the divisor is at 0 and 1; without, the data and the enables are', () => {
    const { port } = uart();
    port.write(IER, 0x05);
    port.write(LCR, UART.LCR_DLAB);
    port.write(UART.DLL, 0x34);
    port.write(UART.DLM, 0x12);
    expect([port.read(UART.DLL), port.read(UART.DLM)]).toEqual([0x34, 0x12]);
    port.write(LCR, 0);
    expect(port.read(IER)).toBe(0x05);
  });

  test.each([LSR, MSR])('register %i takes no writes', (register) => {
    const { port } = uart();
    port.write(register, 0xff);
    expect(port.read(register)).toBe(register === LSR ? 0x60 : 0);
  });
});

describe('the transmitter', () => {
  test('takes as long as the baud rate and the bits of a character say', () => {
    const { port, clock, sent } = uart();
    port.write(THR, 0x41);
    clock.advance(CHARACTER_MS - 0.01);
    expect(sent).toEqual([]);
    clock.advance(0.02);
    expect(sent).toEqual([0x41]);
  });

  test.each([
    ['5 bits, 1 stop bit', 0x00, 7],
    ['5 bits, 1.5 stop bits', 0x04, 7.5],
    ['7 bits, parity, 2 stop bits', 0x02 | 0x04 | 0x08, 11],
    ['8 bits, 1 stop bit', 0x03, 10],
  ])('%s: the time of as many bits', (_what, lcr, bits) => {
    const { port, clock, sent } = uart();
    port.write(LCR, lcr);
    port.write(THR, 0xff);
    clock.advance((bits / 10) * CHARACTER_MS - 0.01);
    expect(sent).toEqual([]);
    clock.advance(0.02);
    expect(sent).toEqual([0xff >> (3 - (lcr & 3))]);
  });

  test('THRE is set when the holding register is empty, TEMT when the shift register is too', () => {
    const { port, characters } = uart();
    port.write(THR, 1);
    expect(port.read(LSR) & 0x60).toBe(UART.LSR_THRE);
    port.write(THR, 2);
    expect(port.read(LSR) & 0x60).toBe(0);
    characters(1);
    expect(port.read(LSR) & 0x60).toBe(UART.LSR_THRE);
    characters(1);
    expect(port.read(LSR) & 0x60).toBe(UART.LSR_THRE | UART.LSR_TEMT);
  });

  test('16 characters wait in the FIFO beside the one that is being sent; another is lost', () => {
    const { port, sent, characters } = uart();
    port.write(FCR, UART.FCR_ENABLE);
    for (let n = 0; n < 18; n++) port.write(THR, n);
    characters(20);
    expect(sent).toEqual(Array.from({ length: 17 }, (_, n) => n));
  });

  test('without a FIFO the holding register takes the newer character', () => {
    const { port, sent, characters } = uart();
    for (const byte of [1, 2, 3]) port.write(THR, byte);
    characters(4);
    expect(sent).toEqual([1, 3]);
  });

  test('its interrupt is pending when the register becomes empty, or is and gets enabled; IIR or THR ends it', () => {
    const { port, characters, interrupts } = uart();
    port.write(IER, UART.IER_THRE);
    expect(port.read(IIR)).toBe(UART.IIR_THRE);
    expect(port.read(IIR)).toBe(UART.IIR_NONE);
    port.write(THR, 1);
    expect(port.read(IIR)).toBe(UART.IIR_THRE);
    port.write(THR, 2);
    expect(port.read(IIR)).toBe(UART.IIR_NONE);
    characters(1);
    expect(port.read(IIR)).toBe(UART.IIR_THRE);
    expect(interrupts()).toBe(3);
  });

  test('each empty register is an interrupt of its own, though the one before was not asked about', () => {
    const { port, characters, interrupts } = uart();
    port.write(IER, UART.IER_THRE);
    for (let n = 0; n < 3; n++) {
      port.write(THR, n);
      characters(1);
    }
    expect(interrupts()).toBe(4);
  });

  test('enabling again what is enabled is no new interrupt', () => {
    const { port } = uart();
    port.write(IER, UART.IER_THRE);
    port.read(IIR);
    port.write(IER, UART.IER_THRE | UART.IER_RDA);
    expect(port.read(IIR)).toBe(UART.IIR_NONE);
  });

  test('with a divisor of 0 nothing moves, until one is set', () => {
    const { port, clock, sent, setDivisor, characters } = uart();
    setDivisor(0);
    port.write(THR, 7);
    clock.advance(1_000_000);
    expect(sent).toEqual([]);
    expect(clock.pending).toBe(0);
    setDivisor(12);
    characters(1);
    expect(sent).toEqual([7]);
  });
});

describe('the receiver', () => {
  test('gives characters in their order; DR says whether there is one', () => {
    const { port, receive } = uart();
    port.write(FCR, UART.FCR_ENABLE);
    receive(3, 1, 2);
    const found: number[] = [];
    while ((port.read(LSR) & UART.LSR_DR) !== 0) found.push(port.read(RBR));
    expect(found).toEqual([3, 1, 2]);
  });

  test('without a FIFO a second character overwrites the first, and is an overrun', () => {
    const { port, receive } = uart();
    receive(1, 2);
    expect(port.read(LSR) & 0x1f).toBe(UART.LSR_DR | UART.LSR_OE);
    expect(port.read(RBR)).toBe(2);
  });

  test('a 17th character is lost and is an overrun; LSR says so once', () => {
    const { port, receive } = uart();
    port.write(FCR, UART.FCR_ENABLE);
    receive(...Array.from({ length: 17 }, (_, n) => n));
    expect(port.read(LSR) & UART.LSR_OE).toBe(UART.LSR_OE);
    expect(port.read(LSR) & UART.LSR_OE).toBe(0);
    expect(Array.from({ length: 16 }, () => port.read(RBR))).toEqual(Array.from({ length: 16 }, (_, n) => n));
  });

  test('says how many characters it has room for', () => {
    const { port, receive } = uart();
    expect(port.room).toBe(1);
    port.write(FCR, UART.FCR_ENABLE);
    expect(port.room).toBe(16);
    receive(1, 2, 3);
    expect(port.room).toBe(13);
  });

  test('an error is told with its character, when that is next; bit 7 tells that there is one anywhere', () => {
    const { port } = uart();
    port.write(FCR, UART.FCR_ENABLE);
    port.receive(1);
    port.receive(2, UART.LSR_PE | UART.LSR_FE);
    expect(port.read(LSR)).toBe(0x60 | UART.LSR_DR | UART.LSR_FIFO_ERROR);
    port.read(RBR);
    expect(port.read(LSR)).toBe(0x60 | UART.LSR_DR | UART.LSR_FIFO_ERROR | UART.LSR_PE | UART.LSR_FE);
    // Reading has cleared them; the character is still there.
    expect(port.read(LSR)).toBe(0x60 | UART.LSR_DR);
    expect(port.read(RBR)).toBe(2);
  });

  test.each([
    [0, 1],
    [1, 4],
    [2, 8],
    [3, 14],
  ])('with trigger level %i its interrupt comes with character %i and goes below it', (trigger, level) => {
    const { port, receive } = uart();
    port.write(IER, UART.IER_RDA);
    port.write(FCR, UART.FCR_ENABLE | (trigger << 6));
    receive(...Array.from({ length: level - 1 }, () => 0));
    expect(port.read(IIR) & UART.IIR_ID).toBe(UART.IIR_NONE);
    receive(0);
    expect(port.read(IIR)).toBe(UART.IIR_RDA | UART.IIR_FIFOS);
    port.read(RBR);
    expect(port.read(IIR) & UART.IIR_ID).toBe(UART.IIR_NONE);
  });

  test('fewer characters are asked about after the time of 4; reading one ends that', () => {
    const { port, receive, characters, interrupts } = uart();
    port.write(IER, UART.IER_RDA);
    port.write(FCR, UART.FCR_ENABLE | UART.FCR_TRIGGER_14);
    receive(1, 2);
    characters(3);
    receive(3);
    characters(3);
    expect(interrupts()).toBe(0);
    characters(1);
    expect(interrupts()).toBe(1);
    expect(port.read(IIR) & UART.IIR_ID).toBe(UART.IIR_TIMEOUT);
    port.read(RBR);
    expect(port.read(IIR) & UART.IIR_ID).toBe(UART.IIR_NONE);
    characters(4);
    expect(port.read(IIR) & UART.IIR_ID).toBe(UART.IIR_TIMEOUT);
  });

  test('without a FIFO there is no time-out', () => {
    const { port, receive, characters, clock } = uart();
    port.write(IER, UART.IER_RDA);
    receive(1);
    port.read(RBR);
    characters(100);
    expect(port.read(IIR)).toBe(UART.IIR_NONE);
    expect(clock.pending).toBe(0);
  });
});

describe('FIFO control (8.4)', () => {
  test('IIR shows whether the FIFOs are on; a change clears both', () => {
    const { port, receive, sent, characters } = uart();
    expect(port.read(IIR) & UART.IIR_FIFOS).toBe(0);
    port.write(FCR, UART.FCR_ENABLE);
    expect(port.read(IIR) & UART.IIR_FIFOS).toBe(UART.IIR_FIFOS);
    receive(1, 2);
    for (const byte of [3, 4]) port.write(THR, byte);
    port.write(FCR, 0);
    characters(3);
    expect(port.read(LSR)).toBe(UART.LSR_THRE | UART.LSR_TEMT);
    // What was in the shift register goes on.
    expect(sent).toEqual([3]);
  });

  test('each FIFO can be cleared alone, and not with bit 0 clear', () => {
    const { port, receive, sent, characters } = uart();
    port.write(FCR, UART.FCR_ENABLE);
    receive(1);
    for (const byte of [3, 4]) port.write(THR, byte);
    port.write(FCR, UART.FCR_ENABLE | UART.FCR_CLEAR_TRANSMITTER);
    characters(3);
    expect(sent).toEqual([3]);
    expect(port.read(LSR) & UART.LSR_DR).toBe(UART.LSR_DR);
    // The holding register has become empty.
    port.write(IER, UART.IER_THRE);
    expect(port.read(IIR) & UART.IIR_ID).toBe(UART.IIR_THRE);
    port.write(THR, 5);
    port.write(THR, 6);
    port.write(FCR, UART.FCR_ENABLE | UART.FCR_CLEAR_TRANSMITTER);
    expect(port.read(IIR) & UART.IIR_ID).toBe(UART.IIR_THRE);
    port.write(FCR, UART.FCR_ENABLE | UART.FCR_CLEAR_RECEIVER);
    expect(port.read(LSR) & UART.LSR_DR).toBe(0);
  });
});

describe('loopback (8.7)', () => {
  test('what is sent is received, and nothing goes out or comes in', () => {
    const { port, sent, receive, characters } = uart();
    port.write(FCR, UART.FCR_ENABLE);
    port.write(MCR, UART.MCR_LOOP);
    for (const byte of [1, 2]) port.write(THR, byte);
    receive(9);
    characters(3);
    expect([port.read(RBR), port.read(RBR), port.read(LSR) & UART.LSR_DR]).toEqual([1, 2, 0]);
    expect(sent).toEqual([]);
  });

  test.each([
    ['DTR is DSR', UART.MCR_DTR, UART.MSR_DSR, UART.MSR_DDSR],
    ['RTS is CTS', UART.MCR_RTS, UART.MSR_CTS, UART.MSR_DCTS],
    ['OUT1 is RI', UART.MCR_OUT1, UART.MSR_RI, 0],
    ['OUT2 is DCD', UART.MCR_OUT2, UART.MSR_DCD, UART.MSR_DDCD],
  ])('%s', (_what, output, input, change) => {
    const { port } = uart();
    port.setModemLines(UART.MSR_CTS | UART.MSR_DSR | UART.MSR_DCD);
    port.write(MCR, UART.MCR_LOOP);
    port.read(MSR);
    port.write(MCR, UART.MCR_LOOP | output);
    expect(port.read(MSR)).toBe(input | change);
    expect(port.read(MSR)).toBe(input);
  });
});

describe('modem lines (8.8)', () => {
  test('each change is told once; of the ring indicator only its end', () => {
    const { port } = uart();
    port.setModemLines(UART.MSR_CTS | UART.MSR_RI);
    expect(port.read(MSR)).toBe(UART.MSR_CTS | UART.MSR_RI | UART.MSR_DCTS);
    port.setModemLines(UART.MSR_CTS);
    expect(port.read(MSR)).toBe(UART.MSR_CTS | UART.MSR_TERI);
    expect(port.read(MSR)).toBe(UART.MSR_CTS);
  });

  test('a change is an interrupt until MSR is read', () => {
    const { port, pin } = uart();
    port.write(IER, UART.IER_MODEM_STATUS);
    port.setModemLines(UART.MSR_DCD);
    expect([pin(), port.read(IIR)]).toEqual([true, UART.IIR_MODEM_STATUS]);
    port.read(MSR);
    expect([pin(), port.read(IIR)]).toEqual([false, UART.IIR_NONE]);
  });
});

test('the most urgent source is told first (table IV)', () => {
  const { port } = uart();
  port.write(FCR, UART.FCR_ENABLE);
  port.write(IER, 0x0f);
  port.setModemLines(UART.MSR_CTS);
  port.receive(1, UART.LSR_BI);
  const told: number[] = [];
  const id = () => told.push(port.read(IIR) & UART.IIR_ID);
  id();
  port.read(LSR);
  id();
  port.read(RBR);
  id();
  id();
  port.read(MSR);
  id();
  expect(told).toEqual([UART.IIR_LINE_STATUS, UART.IIR_RDA, UART.IIR_THRE, UART.IIR_MODEM_STATUS, UART.IIR_NONE]);
});

describe('its state', () => {
  /** What software, the cable and time do to a port. */
  const deed = fc.oneof(
    fc.tuple(fc.constant('write' as const), fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 255 })),
    fc.tuple(fc.constant('read' as const), fc.integer({ min: 0, max: 7 }), fc.constant(0)),
    fc.tuple(fc.constant('receive' as const), fc.integer({ min: 0, max: 255 }), fc.constantFrom(0, 0x04, 0x18)),
    fc.tuple(fc.constant('time' as const), fc.integer({ min: 1, max: 20 }), fc.constant(0)),
  );
  type Deed = readonly ['write' | 'read' | 'receive' | 'time', number, number];

  const done = ({ port, clock }: ReturnType<typeof uart>, [what, a, b]: Deed): number | undefined => {
    if (what === 'write') port.write(a, b);
    else if (what === 'read') return port.read(a);
    else if (what === 'receive') port.receive(a, b);
    else clock.advance(a);
    return undefined;
  };

  test('whatever has happened, another port that is loaded with it goes on in the same way', () => {
    fc.assert(
      fc.property(fc.array(deed, { maxLength: 60 }), fc.array(deed, { maxLength: 40 }), (before, after) => {
        const first = uart();
        for (const one of before) done(first, one);
        // A character on its way starts anew: in the first port, too.
        first.port.hold(true);
        const state = new Uint8Array(PORT_STATE.BYTES);
        first.port.save(state);
        expect(isPort(state)).toBe(true);
        const second = uart();
        second.port.hold(true);
        second.port.load(state);
        const again = new Uint8Array(PORT_STATE.BYTES);
        second.port.save(again);
        expect(again).toEqual(state);
        first.port.hold(false);
        second.port.hold(false);
        first.sent.length = 0;
        expect(second.pin()).toBe(first.pin());
        for (const one of after) {
          expect(done(second, one)).toBe(done(first, one));
          expect(second.pin()).toBe(first.pin());
        }
        expect(second.sent).toEqual(first.sent);
      }),
    );
  });

  test('that somebody was asked about characters is part of it', () => {
    const first = uart();
    first.port.write(IER, UART.IER_RDA);
    first.port.write(FCR, UART.FCR_ENABLE | UART.FCR_TRIGGER_14);
    first.receive(1);
    first.characters(4);
    const state = new Uint8Array(PORT_STATE.BYTES);
    first.port.save(state);
    const second = uart();
    second.port.load(state);
    expect(second.port.read(IIR) & UART.IIR_ID).toBe(UART.IIR_TIMEOUT);
  });

  test('held, nothing happens, and nothing is lost', () => {
    const { port, clock, sent, characters } = uart();
    port.write(FCR, UART.FCR_ENABLE);
    for (const byte of [1, 2, 3]) port.write(THR, byte);
    characters(1);
    port.hold(true);
    clock.advance(1_000_000);
    expect([sent, clock.pending]).toEqual([[1], 0]);
    port.hold(false);
    characters(2);
    expect(sent).toEqual([1, 2, 3]);
  });

  test('a modem line that is another after it was loaded has changed', () => {
    const first = uart();
    first.port.setModemLines(UART.MSR_CTS | UART.MSR_DCD);
    first.port.read(MSR);
    const state = new Uint8Array(PORT_STATE.BYTES);
    first.port.save(state);
    const second = uart();
    second.port.setModemLines(UART.MSR_DCD);
    second.port.load(state);
    expect(second.port.read(MSR)).toBe(UART.MSR_DCD | UART.MSR_DCTS);
  });

  test('an access arms no timer while one runs that is not too late', () => {
    const { port, clock } = uart();
    port.write(THR, 1);
    const arm = vi.spyOn(clock, 'setTimer');
    for (let n = 0; n < 10; n++) port.read(LSR);
    expect(arm).not.toHaveBeenCalled();
  });

  test('no timer is left where nothing can happen any more', () => {
    fc.assert(
      fc.property(fc.array(deed, { maxLength: 40 }), (deeds) => {
        const all = uart();
        for (const one of deeds) done(all, one);
        expect(all.clock.pending).toBeLessThanOrEqual(1);
        all.port.reset();
        expect(all.clock.pending).toBe(0);
      }),
    );
  });
});
