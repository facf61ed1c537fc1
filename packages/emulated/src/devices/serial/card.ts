import type { AccessWidth } from '@vfio/core';
import { PCI_CLASS_COMMUNICATION_SERIAL, PCI_DEVICE_ID_WCH_CH352_2S, PCI_VENDOR_ID_WCH } from '@vfio/uapi';
import type { BarHandler } from '../../host/bar.js';
import type { DeviceModel, FunctionContext } from '../../model.js';
import { UART } from './constants.js';
import { StateWindow } from './state-window.js';
import { Uart } from './uart.js';

/** Programming interface of a serial controller that is a 16550. */
const INTERFACE_16550 = 0x02;

export interface SerialCardOptions {
  /** @default 2 */
  readonly ports?: 1 | 2;
}

/** The registers of one port, each a byte. A wider access is one for each byte, as on an 8-bit bus. */
class PortRegisters implements BarHandler {
  readonly #uart: Uart;

  constructor(uart: Uart) {
    this.#uart = uart;
  }

  read(offset: number, width: AccessWidth): number {
    let value = 0;
    for (let i = 0; i < width; i++) value |= this.#uart.read(offset + i) << (8 * i);
    return value;
  }

  write(offset: number, width: AccessWidth, value: number): void {
    for (let i = 0; i < width; i++) this.#uart.write(offset + i, value >>> (8 * i));
  }
}

/**
 * A conventional PCI card with one or two serial ports: the ids of a CH352, each port a 16550 behind an I/O BAR of 8
 * bytes, INTA or one MSI for both, FLR by Advanced Features. It never reaches memory but for that message.
 *
 * What a CH352 does not have is a {@link STATE_WINDOW}, through which a driver holds, saves and loads the ports.
 */
export class SerialCard implements DeviceModel {
  readonly ports: readonly Uart[];
  readonly #ctx: FunctionContext;
  readonly #window: StateWindow;
  readonly #pins: boolean[];
  #isSignalling = false;

  constructor(ctx: FunctionContext, options: SerialCardOptions = {}) {
    this.#ctx = ctx;
    ctx.identity({
      vendor: PCI_VENDOR_ID_WCH,
      device: PCI_DEVICE_ID_WCH_CH352_2S,
      subvendor: PCI_VENDOR_ID_WCH,
      subdevice: PCI_DEVICE_ID_WCH_CH352_2S,
      class: (PCI_CLASS_COMMUNICATION_SERIAL << 8) | INTERFACE_16550,
      revision: 0x10,
    });
    ctx.intx();
    const count = options.ports ?? 2;
    this.#pins = new Array<boolean>(count).fill(false);
    this.ports = this.#pins.map((_, index) => {
      const uart = new Uart({
        clock: ctx.clock,
        interrupt: (level) => {
          this.#pins[index] = level;
          this.#signal();
        },
      });
      ctx.bar(index, { size: UART.REGISTERS, io: true, handler: new PortRegisters(uart) });
      return uart;
    });
    ctx.msi({ vectors: 1, is64Bit: true });
    ctx.af();
    this.#window = new StateWindow(ctx, this.ports, () => this.#signal());
  }

  reset(): void {
    this.#window.reset();
    // All at once: no port signals because another has not been reset yet.
    this.#pins.fill(false);
    for (const port of this.ports) port.reset();
  }

  removed(): void {
    this.reset();
  }

  /** Both ports share one interrupt; a message is sent where its level rises. */
  #signal(): void {
    const level = !this.#window.isHeld && this.#pins.includes(true);
    if (level === this.#isSignalling) return;
    this.#isSignalling = level;
    this.#ctx.irq.setIntx(level);
    if (level) this.#ctx.irq.send(0);
  }
}
