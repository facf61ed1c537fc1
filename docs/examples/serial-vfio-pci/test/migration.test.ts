import { callbackTrigger, type MigrationData } from '@vfio/core';
import { ManualClock, PORT_STATE, STATE_WINDOW, UART } from '@vfio/emulated';
import {
  PCI_CAP_ID_VNDR,
  PCI_CAPABILITY_LIST,
  VFIO_DEVICE_STATE_ERROR,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_MSI_IRQ_INDEX,
} from '@vfio/uapi';
import { describe, expect, test } from 'vitest';
import { Card, STATE, stateOf } from './helpers/setup.js';

const SCR = UART.SCR;

/** Moves what is in a stream, in pieces of `size`. */
async function pipe(from: MigrationData, to: MigrationData, size: number): Promise<void> {
  const piece = new Uint8Array(size);
  for (;;) {
    const count = await from.read(piece);
    if (count === 0) return;
    await to.write(piece.subarray(0, count));
  }
}

/**
 * A guest with a program that sends through loopback and takes what comes back, each only when an interrupt says so: a
 * lost interrupt is the end of it, a lost character is seen.
 */
class Guest {
  readonly sent: number[] = [];
  readonly received: number[] = [];
  interrupts = 0;
  /** How often the transmitter has asked for more. */
  fills = 0;
  #card: Card | undefined;
  #isPending = false;

  constructor(total: number) {
    for (let n = 0; n < total; n++) this.sent.push((n * 7 + 3) & 0xff);
  }

  /** Its VMM connects the interrupt of a card. */
  attach(card: Card): void {
    card.config(4, [5, 0]); // I/O and bus mastering
    card.device.setIrqs({
      index: VFIO_PCI_MSI_IRQ_INDEX,
      flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
      start: 0,
      count: 1,
      triggers: [
        callbackTrigger(() => {
          this.interrupts += 1;
          this.#isPending = true;
        }),
      ],
    });
    this.#card = card;
  }

  detach(card: Card): void {
    const flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
    card.device.setIrqs({ index: VFIO_PCI_MSI_IRQ_INDEX, flags, start: 0, count: 0 });
  }

  start(): void {
    this.#write(UART.LCR, UART.LCR_DLAB | UART.LCR_8_BITS);
    this.#write(UART.DLL, 12);
    this.#write(UART.LCR, UART.LCR_8_BITS);
    this.#write(UART.MCR, UART.MCR_LOOP);
    this.#write(UART.FCR, UART.FCR_ENABLE | (2 << 6)); // at 8 characters
    this.#write(UART.IER, UART.IER_RDA | UART.IER_THRE);
  }

  /** The interrupt handler, as often as the interrupt has come. */
  service(): void {
    if (!this.#isPending) return;
    this.#isPending = false;
    for (;;) {
      const id = this.#read(UART.IIR) & UART.IIR_ID;
      if (id === UART.IIR_NONE) return;
      if (id === UART.IIR_THRE) this.#fill();
      else while ((this.#read(UART.LSR) & UART.LSR_DR) !== 0) this.received.push(this.#read(UART.RBR));
    }
  }

  get isDone(): boolean {
    return this.received.length >= this.sent.length;
  }

  #next = 0;

  #fill(): void {
    this.fills += 1;
    for (let n = 0; n < 11 && this.#next < this.sent.length; n++) this.#write(UART.THR, this.sent[this.#next++] ?? 0);
  }

  #read(register: number): number {
    return this.#card?.read(1, register) ?? 0;
  }

  #write(register: number, value: number): void {
    this.#card?.write(1, register, value);
  }
}

describe('a program with characters in flight', () => {
  /** Runs the program; every `every` steps of time it is moved to the other card. Gives how often. */
  async function run(guest: Guest, every: number): Promise<number> {
    const clock = new ManualClock();
    const cards = [await Card.open({ clock }), await Card.open({ clock })] as const;
    let moves = 0;
    guest.attach(cards[0]);
    guest.start();
    for (let step = 1; !guest.isDone && step < 20_000; step++) {
      guest.service();
      clock.advance(0.37);
      if (step % every !== 0) continue;
      const [source, target] = moves % 2 === 0 ? cards : ([cards[1], cards[0]] as const);
      const out = await source.stream(STATE.PRE_COPY);
      await source.set(STATE.STOP_COPY);
      const into = await target.stream(STATE.RESUMING);
      await pipe(out, into, 1 + (moves % 50));
      await target.set(STATE.STOP);
      guest.detach(source);
      guest.attach(target);
      await target.set(STATE.RUNNING);
      await source.set(STATE.RUNNING);
      await source.device.reset();
      moves += 1;
    }
    return moves;
  }

  test('goes on in another card, as often as it is moved: no character is lost or comes twice, nor an interrupt', async () => {
    const still = new Guest(400);
    expect(await run(still, Number.POSITIVE_INFINITY)).toBe(0);
    expect(still.received).toEqual(still.sent);
    for (const every of [3, 7, 50]) {
      const moved = new Guest(400);
      expect(await run(moved, every)).toBeGreaterThan(10);
      expect(moved.received).toEqual(moved.sent);
      expect(moved.fills).toBe(still.fills);
      // One that has come and was not yet taken notice of when the guest stopped comes again.
      expect(moved.interrupts).toBeGreaterThanOrEqual(still.interrupts);
    }
  });
});

describe('streams across versions', () => {
  test.each([
    ['an old driver to a new one', 0, 1],
    ['a new driver to an old one, in the version that it knows', 0, 0],
    ['a new driver to a new one', 1, 1],
  ] as const)('from %s: registers, and characters that wait to be read', async (_what, from, to) => {
    const source = await Card.open({ minor: from });
    source.write(1, UART.FCR, UART.FCR_ENABLE);
    source.write(1, SCR, 0x5a);
    source.fn.model.ports[1]?.receive(0x42);
    const target = await Card.open({ minor: to });
    await target.load(await source.save());
    await target.set(STATE.RUNNING);
    expect([target.read(1, SCR), target.read(1, UART.RBR)]).toEqual([0x5a, 0x42]);
  });

  test('a state that an old version has no place for stays where it is: EBUSY, and the card runs on', async () => {
    const card = await Card.open({ minor: 0 });
    card.write(0, UART.LCR, UART.LCR_DLAB);
    card.write(0, UART.DLL, 1);
    card.write(0, UART.DLM, 0xff);
    card.write(0, UART.LCR, 0);
    card.write(0, UART.THR, 1);
    const stream = await card.stream(STATE.PRE_COPY);
    await expect(card.set(STATE.STOP_COPY)).rejects.toMatchObject({ errno: 'EBUSY' });
    expect(await card.state()).toBe(STATE.PRE_COPY_P2P);
    expect(card.fn.config.read(windowOf(card) + STATE_WINDOW.CONTROL, 1)).toBe(0);
    // The character goes; then it works, on the same stream.
    card.write(0, UART.FCR, 0);
    card.write(0, UART.LCR, UART.LCR_DLAB);
    card.write(0, UART.DLM, 0);
    await expect.poll(() => card.fn.open(0).read(UART.LSR, 1) & UART.LSR_TEMT).toBe(UART.LSR_TEMT);
    await card.set(STATE.STOP_COPY);
    expect(await stream.read(new Uint8Array(200))).toBe(24 + 2 * 36);
  });
});

/** Where the hardware has the window. */
function windowOf({ fn }: Card): number {
  let at = fn.config.read(PCI_CAPABILITY_LIST, 1);
  while (fn.config.read(at, 1) !== PCI_CAP_ID_VNDR) at = fn.config.read(at + 1, 1);
  return at;
}

describe('a stream that is refused', () => {
  test('by its header is refused with the byte that completes that', async () => {
    const image = await (await Card.open()).save();
    const card = await Card.open();
    const stream = await card.stream(STATE.RESUMING);
    const wrong = image.slice(0, 24);
    wrong[8] = 2;
    await stream.write(wrong.subarray(0, 23));
    await expect((async () => stream.write(wrong.subarray(23)))()).rejects.toMatchObject({ errno: 'EINVAL' });
    await card.device.reset();
    await card.load(image);
  });

  test('that is longer than any: ENOMEM', async () => {
    const card = await Card.open();
    const stream = await card.stream(STATE.RESUMING);
    await expect((async () => stream.write(new Uint8Array(1000)))()).rejects.toMatchObject({ errno: 'ENOMEM' });
  });

  test('by the card leaves it in RESUMING, as it was; a reset makes it run', async () => {
    const card = await Card.open();
    card.write(0, SCR, 0x11);
    const image = await card.save();
    await card.set(STATE.RUNNING);
    const wrong = image.slice();
    wrong[24 + 8 + PORT_STATE.MCR] = 0x80;
    wrong[24 + 8 + PORT_STATE.SCR] = 0x22;
    await expect(card.load(wrong)).rejects.toMatchObject({
      errno: 'EINVAL',
      message: expect.stringContaining('the card refuses the state of its ports'),
    });
    expect([await card.state(), card.read(0, SCR)]).toEqual([STATE.RESUMING, 0x11]);
    await card.device.reset();
    expect(await card.state()).toBe(STATE.RUNNING);
  });

  test('is refused whole, or loaded whole: whatever bit of a stream is changed, a card that took it saves the same again', async () => {
    const source = await Card.open();
    source.write(0, UART.FCR, UART.FCR_ENABLE);
    for (const byte of [1, 2, 3]) source.write(0, UART.THR, byte); // wait: the divisor is 0
    for (const byte of [4, 5]) source.fn.model.ports[0]?.receive(byte, UART.LSR_FE);
    const image = await source.save();
    const card = await Card.open();
    // The modem lines are those of the cable that the card is on, not of the one that it was on.
    const msr = [0, 1].map((port) => 24 + 8 + port * PORT_STATE.BYTES + PORT_STATE.MSR);
    let loaded = 0;
    for (let bit = 0; bit < 8 * image.length; bit++) {
      if (msr.includes(bit >> 3)) continue;
      const changed = image.slice();
      changed[bit >> 3]! ^= 1 << (bit & 7);
      let isRefused = false;
      await card.load(changed).catch(async (error: unknown) => {
        expect(error).toMatchObject({ name: 'VfioError', errno: 'EINVAL' });
        isRefused = true;
        await card.device.reset();
      });
      if (isRefused) continue;
      loaded += 1;
      const again = await card.save();
      // A newer minor version is read, and the own one written.
      if (bit >> 3 < 24) again.set(changed.subarray(0, 24));
      expect(again).toEqual(changed);
      await card.set(STATE.RUNNING);
    }
    expect(loaded).toBeGreaterThan(100);
  });

  test('because it is cut may be completed', async () => {
    const source = await Card.open();
    source.write(0, SCR, 0x33);
    const image = await source.save();
    const card = await Card.open();
    const stream = await card.stream(STATE.RESUMING);
    await stream.write(image.subarray(0, 30));
    await expect(card.set(STATE.STOP)).rejects.toMatchObject({ errno: 'EINVAL' });
    await stream.write(image.subarray(30));
    await card.set(STATE.STOP);
    expect(card.read(0, SCR)).toBe(0x33);
  });
});

describe('a stopped card', () => {
  test('stands still from STOP to RUNNING_P2P', async () => {
    const clock = new ManualClock();
    const card = await Card.open({ clock });
    card.write(0, UART.LCR, UART.LCR_DLAB | UART.LCR_8_BITS);
    card.write(0, UART.DLL, 1);
    card.write(0, UART.LCR, UART.LCR_8_BITS);
    card.write(0, UART.MCR, UART.MCR_LOOP);
    card.write(0, UART.THR, 0x42);
    await card.set(STATE.STOP);
    clock.advance(1000);
    expect(card.read(0, UART.LSR) & UART.LSR_DR).toBe(0);
    await card.set(STATE.RUNNING_P2P);
    clock.advance(1);
    expect(card.read(0, UART.RBR)).toBe(0x42);
  });

  test.each([
    ['RUNNING', 'STOP'],
    ['PRE_COPY', 'STOP_COPY'],
    ['STOP', 'STOP_COPY'],
    ['STOP', 'RUNNING'],
  ] as const)('that is reset on the way from %s to %s runs', async (from, to) => {
    for (let turns = 0; turns < 6; turns++) {
      const card = await Card.open();
      await card.set(STATE[from]);
      const step = card.set(STATE[to]).catch(() => undefined);
      for (let n = 0; n < turns; n++) await Promise.resolve();
      card.fn.resetByHost();
      await step;
      expect(await card.state()).toBe(STATE.RUNNING);
      expect(card.fn.config.read(windowOf(card) + STATE_WINDOW.CONTROL, 1)).toBe(0);
    }
  });

  test('is saved whatever its guest has switched off', async () => {
    const card = await Card.open();
    card.write(0, SCR, 0x44);
    card.config(4, [0, 0]);
    const target = await Card.open();
    await target.load(await card.save());
    expect(target.read(0, SCR)).toBe(0x44);
  });
});

describe('the state window', () => {
  test('is an empty capability to a user, who can neither hold nor change the card', async () => {
    const card = await Card.open();
    const at = windowOf(card);
    card.write(0, SCR, 0x55);
    await card.set(STATE.STOP);
    const body = new Uint8Array(STATE_WINDOW.STATE + 2 * PORT_STATE.BYTES);
    card.device.read(7, at, body);
    expect([...body.subarray(0, 3)]).toEqual([PCI_CAP_ID_VNDR, 0, body.length]);
    expect(body.subarray(3).every((byte) => byte === 0)).toBe(true);
    const control = at + STATE_WINDOW.CONTROL;
    card.config(control, [STATE_WINDOW.CONTROL_LOAD]);
    card.config(
      at + STATE_WINDOW.VERSION,
      Array.from({ length: 5 }, () => 0xff),
    );
    expect(card.fn.config.read(control, 1)).toBe(STATE_WINDOW.CONTROL_HOLD);
    expect(card.read(0, SCR)).toBe(0x55);
  });

  test('takes nothing of an access that begins before it or ends behind it but what is its own', async () => {
    const card = await Card.open();
    const at = windowOf(card);
    const all = new Uint8Array(256);
    card.device.read(7, 0, all);
    expect([...all.subarray(0, 4)]).toEqual([0x48, 0x43, 0x53, 0x32]);
    const written = all.slice();
    written[0x3c] = 0x0b; // the interrupt line, which a guest may write
    written.fill(0xff, at + 3, at + 8 + 2 * PORT_STATE.BYTES);
    expect(await card.device.write(7, 0, written)).toBe(256);
    const again = new Uint8Array(256);
    card.device.read(7, 0, again);
    all[0x3c] = 0x0b;
    expect(again).toEqual(all);
    expect(card.fn.config.read(at + STATE_WINDOW.CONTROL, 1)).toBe(0);
  });
});

describe('a card that fails', () => {
  test('without a window cannot be opened, and is closed again', async () => {
    const card = await Card.open();
    await card.device.close();
    card.fn.config.define(windowOf(card) + STATE_WINDOW.VERSION, 1, 2);
    const again = card.provider.open();
    await expect(again).rejects.toMatchObject({ errno: 'ENODEV', message: expect.stringContaining('no state window') });
    card.fn.config.define(windowOf(card) + STATE_WINDOW.VERSION, 1, 1);
    await (await card.provider.open()).close();
  });

  test('to be reset runs all the same for its next user, however the last one left it', async () => {
    const card = await Card.open();
    card.fn.offsets.af = 0;
    await card.set(STATE.STOP);
    await card.device.close();
    const device = await card.provider.open();
    expect(card.fn.config.read(windowOf(card) + STATE_WINDOW.CONTROL, 1)).toBe(0);
    expect(await stateOf(device)).toBe(STATE.RUNNING);
    await device.close();
  });

  test('to answer while it is told something is in ERROR: EIO; a reset leaves that', async () => {
    const card = await Card.open();
    const inError = async (to: number): Promise<void> => {
      card.fn.config.present = false;
      await expect(card.set(to)).rejects.toMatchObject({ errno: 'EIO' });
      card.fn.config.present = true;
      expect(await card.state()).toBe(VFIO_DEVICE_STATE_ERROR);
      await expect(card.set(STATE.STOP)).rejects.toMatchObject({ errno: 'EINVAL' });
      await card.device.reset();
      expect(await card.state()).toBe(STATE.RUNNING);
    };
    await inError(STATE.STOP);
    await card.set(STATE.STOP);
    await inError(STATE.STOP_COPY);
    await card.set(STATE.STOP);
    await inError(STATE.RUNNING);
  });

  test('to go on after a save that an old version has no place for is in ERROR', async () => {
    const card = await Card.open({ minor: 0 });
    card.write(0, UART.FCR, UART.FCR_ENABLE);
    card.fn.model.ports[0]?.receive(1, UART.LSR_PE);
    await card.set(STATE.PRE_COPY);
    let writes = 0;
    card.fn.config.onWrite(windowOf(card) + STATE_WINDOW.CONTROL, () => {
      writes += 1;
      if (writes === 3) card.fn.config.present = false;
    });
    await expect(card.set(STATE.STOP_COPY)).rejects.toMatchObject({ errno: 'EBUSY' });
    card.fn.config.present = true;
    expect(await card.state()).toBe(VFIO_DEVICE_STATE_ERROR);
  });
});
