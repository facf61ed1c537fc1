import {
  PCI_CAP_ID_AF,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_VNDR,
  PCI_COMMAND_MASTER,
  PCI_STATUS,
  PCI_STATUS_INTERRUPT,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { PORT_STATE, SerialCard, type SerialCardOptions, STATE_WINDOW, UART } from '../src/index.js';
import { findCapability, setCommand, singleFunction } from './helpers/setup.js';

function card(options: SerialCardOptions = {}) {
  const setup = singleFunction((ctx) => new SerialCard(ctx, options));
  const { fn } = setup;
  const window = findCapability(fn, PCI_CAP_ID_VNDR);
  const register = (offset: number): number => fn.config.read(window + offset, 1);
  const control = (value: number): void => fn.config.write(window + STATE_WINDOW.CONTROL, 1, value);
  return {
    ...setup,
    window,
    register,
    control,
    hold: () => control(STATE_WINDOW.CONTROL_HOLD),
    isPinHigh: () => (fn.config.read(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT) !== 0,
    image(): Uint8Array {
      control(register(STATE_WINDOW.CONTROL) | STATE_WINDOW.CONTROL_SAVE);
      const length = register(STATE_WINDOW.PORTS) * register(STATE_WINDOW.PORT_BYTES);
      return Uint8Array.from({ length }, (_, at) => register(STATE_WINDOW.STATE + at));
    },
    /** Gives whether it was taken. */
    load(image: Uint8Array): boolean {
      for (const [at, byte] of image.entries()) fn.config.write(window + STATE_WINDOW.STATE + at, 1, byte);
      control(register(STATE_WINDOW.CONTROL) | STATE_WINDOW.CONTROL_LOAD);
      return (register(STATE_WINDOW.STATUS) & STATE_WINDOW.STATUS_REFUSED) === 0;
    },
  };
}

/** Arms MSI and counts its messages. */
function countMsi({ fn, host }: ReturnType<typeof card>): () => number {
  let count = 0;
  const id = host.irqs.allocate(1);
  host.irqs.setTarget(id, () => {
    count += 1;
  });
  const at = findCapability(fn, PCI_CAP_ID_MSI);
  const message = host.irqs.message(id);
  fn.config.write(at + 4, 4, message.address);
  fn.config.write(at + 8, 4, message.addressHigh);
  fn.config.write(at + 12, 2, message.data);
  fn.config.write(at + 2, 2, fn.config.read(at + 2, 2) | 1);
  return () => count;
}

describe('identity', () => {
  test.each([1, 2] as const)(
    'with %i ports it is 4348:3253 of class 070002 with as many I/O BARs of 8 bytes',
    (ports) => {
      const { fn } = card({ ports });
      expect([fn.vendor, fn.device, fn.subvendor, fn.subdevice, fn.class, fn.revision]).toEqual([
        0x4348, 0x3253, 0x4348, 0x3253, 0x070002, 0x10,
      ]);
      const bars = fn.resources.filter((resource) => resource !== undefined);
      expect(bars.map(({ size, io }) => [size, io])).toEqual(Array.from({ length: ports }, () => [8, true]));
      expect(fn.config.size).toBe(256);
      expect(fn.config.read(0x3d, 1)).toBe(1);
      expect(findCapability(fn, PCI_CAP_ID_MSI)).not.toBe(0);
      expect(findCapability(fn, PCI_CAP_ID_AF)).not.toBe(0);
    },
  );
});

describe('registers', () => {
  test('each port has its own', () => {
    const { fn } = card();
    fn.open(0).write(UART.SCR, 1, 0x11);
    fn.open(1).write(UART.SCR, 1, 0x22);
    expect([fn.open(0).read(UART.SCR, 1), fn.open(1).read(UART.SCR, 1)]).toEqual([0x11, 0x22]);
  });

  test('a wider access is one for each byte, from the lowest on', () => {
    const { fn } = card();
    const bar = fn.open(0);
    bar.write(UART.LCR, 1, UART.LCR_DLAB);
    bar.write(UART.DLL, 2, 0x1234);
    expect(bar.read(UART.DLL, 2)).toBe(0x1234);
    bar.write(UART.LCR, 1, 0);
    bar.write(UART.MCR, 4, 0x5a000003 | 0);
    expect(bar.read(UART.MCR, 4) >>> 0).toBe(0x5a006003);
  });
});

describe('the interrupt', () => {
  const enable = (setup: ReturnType<typeof card>, port: number) => setup.fn.open(port).write(UART.IER, 1, UART.IER_RDA);

  test('of both ports is one pin, high while one of them asks', () => {
    const setup = card();
    const { fn, isPinHigh } = setup;
    for (const port of [0, 1]) enable(setup, port);
    const [first, second] = fn.model.ports;
    first?.receive(1);
    expect(isPinHigh()).toBe(true);
    second?.receive(2);
    fn.open(0).read(UART.RBR, 1);
    expect(isPinHigh()).toBe(true);
    fn.open(1).read(UART.RBR, 1);
    expect(isPinHigh()).toBe(false);
  });

  test('by MSI is a message each time that the level rises, with bus mastering only', () => {
    const setup = card();
    const { fn } = setup;
    const messages = countMsi(setup);
    for (const port of [0, 1]) enable(setup, port);
    const [first, second] = fn.model.ports;
    first?.receive(1);
    second?.receive(2);
    expect(messages()).toBe(1);
    fn.open(0).read(UART.RBR, 1);
    fn.open(1).read(UART.RBR, 1);
    first?.receive(1);
    expect(messages()).toBe(2);
    fn.open(0).read(UART.RBR, 1);
    setCommand(fn, 0, PCI_COMMAND_MASTER);
    first?.receive(1);
    expect(messages()).toBe(2);
  });
});

describe('the state window', () => {
  test('says what it is: version, ports and their length; only the state and the control bits can be written', () => {
    const { fn, window, register } = card();
    expect([STATE_WINDOW.VERSION, STATE_WINDOW.PORTS, STATE_WINDOW.PORT_BYTES].map(register)).toEqual([1, 2, 64]);
    expect(register(2)).toBe(STATE_WINDOW.STATE + 2 * PORT_STATE.BYTES);
    for (let at = 0; at < STATE_WINDOW.STATE; at++)
      if (at !== STATE_WINDOW.CONTROL) {
        const before = register(at);
        fn.config.write(window + at, 1, ~before & 0xff);
        expect(register(at)).toBe(before);
      }
  });

  test('commands read as 0; what was done is in the status', () => {
    const { register, control } = card();
    control(0xff);
    expect(register(STATE_WINDOW.CONTROL)).toBe(STATE_WINDOW.CONTROL_HOLD);
    expect(register(STATE_WINDOW.STATUS)).toBe(0);
  });

  test('held, the card neither moves a character nor signals; let go of, it does both', () => {
    const setup = card();
    const { fn, clock, hold, control, isPinHigh } = setup;
    const messages = countMsi(setup);
    const bar = fn.open(0);
    bar.write(UART.LCR, 1, UART.LCR_DLAB | UART.LCR_8_BITS);
    bar.write(UART.DLL, 1, 1);
    bar.write(UART.LCR, 1, UART.LCR_8_BITS);
    bar.write(UART.MCR, 1, UART.MCR_LOOP);
    bar.write(UART.IER, 1, UART.IER_RDA);
    bar.write(UART.THR, 1, 0x5a);
    hold();
    clock.advance(1000);
    expect([bar.read(UART.LSR, 1) & UART.LSR_DR, messages()]).toEqual([0, 0]);
    control(0);
    clock.advance(1);
    expect(messages()).toBe(1);
    hold();
    expect(isPinHigh()).toBe(false);
    control(0);
    expect(messages()).toBe(2);
    expect(bar.read(UART.RBR, 1)).toBe(0x5a);
  });

  test('what one card saves another loads, and signals when it is let go of', () => {
    const from = card();
    from.fn.open(1).write(UART.IER, 1, UART.IER_RDA);
    from.fn.model.ports[1]?.receive(0x42);
    const image = from.image();
    const to = card();
    const messages = countMsi(to);
    to.hold();
    expect(to.load(image)).toBe(true);
    expect(messages()).toBe(0);
    to.control(0);
    expect(messages()).toBe(1);
    expect(to.fn.open(1).read(UART.RBR, 1)).toBe(0x42);
  });

  test('a card that runs is not loaded', () => {
    const { fn, image, load } = card();
    const state = image();
    fn.open(0).write(UART.SCR, 1, 9);
    expect(load(state)).toBe(false);
    expect(fn.open(0).read(UART.SCR, 1)).toBe(9);
  });

  test.each([
    ['an IER with bits that there are not', PORT_STATE.IER, 0x10],
    ['an FCR without FIFOs that is not 0', PORT_STATE.FCR, 0x40],
    ['an MCR with bits that there are not', PORT_STATE.MCR, 0x20],
    ['a bit of LSR that follows from the rest', PORT_STATE.LSR, 0x01],
    ['flags that there are not', PORT_STATE.FLAGS, 0x08],
    ['a time-out without a character', PORT_STATE.FLAGS, PORT_STATE.FLAG_TIMEOUT],
    ['more characters than there is room', PORT_STATE.RECEIVED, 2],
    ['a character that waits for nothing', PORT_STATE.WAITING, 1],
    ['a character in a shift register that is idle', PORT_STATE.SHIFTED, 1],
    ['a byte that means nothing', PORT_STATE.SHIFTED + 1, 1],
    ['a received character that is not counted', PORT_STATE.RECEIVER_FIFO, 1],
    ['an error of no character', PORT_STATE.RECEIVER_ERRORS, UART.LSR_PE],
    ['a waiting character that is not counted', PORT_STATE.TRANSMITTER_FIFO, 1],
  ])('%s is refused, and nothing is changed, in the other port neither', (_what, at, byte) => {
    const { fn, hold, image, load } = card();
    const state = image();
    fn.open(0).write(UART.SCR, 1, 9);
    hold();
    state[PORT_STATE.BYTES + at] = byte;
    expect(load(state)).toBe(false);
    expect(fn.open(0).read(UART.SCR, 1)).toBe(9);
  });

  test.each(['flr', 'bus', 'power'] as const)(
    'after a reset (%s) the card runs, and nothing of its user is left',
    (kind) => {
      const setup = card();
      const { fn, hold, register, image } = setup;
      const fresh = image();
      fn.open(0).write(UART.IER, 1, UART.IER_RDA);
      fn.model.ports[0]?.receive(1);
      fn.open(1).write(UART.SCR, 1, 9);
      const messages = countMsi(setup);
      hold();
      fn.reset(kind);
      expect(register(STATE_WINDOW.CONTROL)).toBe(0);
      expect(image()).toEqual(fresh);
      expect(messages()).toBe(0);
    },
  );
});
