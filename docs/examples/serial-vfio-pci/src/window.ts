import type { VfioDeviceOps, VfioPciCoreDevice } from '@vfio/core';
import { PCI_CAP_ID_VNDR, PCI_CAPABILITY_LIST, VFIO_PCI_CONFIG_REGION_INDEX } from '@vfio/uapi';
import { refused } from './errors.js';

/** Registers of the state window, from the start of its vendor-specific capability. */
const WINDOW = { VERSION: 3, CONTROL: 4, PORTS: 6, STATE: 8 } as const;
const VERSION = 1;
const CONTROL = { HOLD: 1, SAVE: 2, LOAD: 4 } as const;
const STATUS_REFUSED = 1;

/** One port as the window shows it: bytes at these offsets. */
export const PORT = {
  IER: 0,
  FCR: 1,
  LCR: 2,
  MCR: 3,
  LSR: 4,
  MSR: 5,
  SCR: 6,
  FLAGS: 7,
  DIVISOR: 8,
  RECEIVED: 10,
  WAITING: 11,
  SHIFTED: 12,
  RECEIVER_FIFO: 16,
  RECEIVER_ERRORS: 32,
  TRANSMITTER_FIFO: 48,
  BYTES: 64,
} as const;

/** As many capabilities as config space has room for. */
const MAX_CAPABILITIES = 48;
/** The low bits of a pointer to one are reserved. */
const POINTER = 0xfc;

/**
 * The card's state window: how a driver stops the card, reads what it is and makes it another. It is in config space,
 * which can be reached whatever the guest has switched off, and it is reached by the base's ops, so that any base will do.
 */
export class StateWindow {
  readonly #dev: VfioPciCoreDevice;
  readonly #core: VfioDeviceOps;
  readonly #at: number;
  readonly ports: number;

  private constructor(dev: VfioPciCoreDevice, core: VfioDeviceOps, at: number, ports: number) {
    this.#dev = dev;
    this.#core = core;
    this.#at = at;
    this.ports = ports;
  }

  /** @throws ENODEV: the card has none, or another driver below hides it. */
  static find(dev: VfioPciCoreDevice, core: VfioDeviceOps): StateWindow {
    const read = (offset: number, length: number): Uint8Array => {
      const bytes = new Uint8Array(length);
      core.read(dev, VFIO_PCI_CONFIG_REGION_INDEX, offset, bytes);
      return bytes;
    };
    let at = (read(PCI_CAPABILITY_LIST, 1)[0] ?? 0) & POINTER;
    for (let n = 0; at !== 0 && n < MAX_CAPABILITIES; n++) {
      const [id, next = 0, length, version] = read(at, WINDOW.CONTROL);
      if (id === PCI_CAP_ID_VNDR && version === VERSION) {
        const [ports, portBytes] = read(at + WINDOW.PORTS, 2);
        const isKnown = (ports === 1 || ports === 2) && portBytes === PORT.BYTES;
        if (isKnown && length === WINDOW.STATE + ports * PORT.BYTES) return new StateWindow(dev, core, at, ports);
      }
      at = next & POINTER;
    }
    throw dev.error(
      'ENODEV',
      'openDevice',
      'the card has no state window: bind vfio-pci, which passes it through as it is',
    );
  }

  /** Where in config space what is hidden begins: the capability stays to be seen, and is empty. */
  get start(): number {
    return this.#at + WINDOW.VERSION;
  }

  get end(): number {
    return this.#at + WINDOW.STATE + this.ports * PORT.BYTES;
  }

  overlaps(offset: number, length: number): boolean {
    return offset < this.end && offset + length > this.start;
  }

  /** Takes what is the window's out of what was read. */
  hide(offset: number, data: Uint8Array): void {
    if (this.overlaps(offset, data.length)) data.fill(0, Math.max(0, this.start - offset), this.end - offset);
  }

  /** Stops the card, or lets it go on. */
  async hold(isHeld: boolean): Promise<void> {
    await this.#command(isHeld ? CONTROL.HOLD : 0);
  }

  /** What the ports of the card, which is held, are. */
  async save(): Promise<Uint8Array> {
    await this.#command(CONTROL.HOLD | CONTROL.SAVE);
    const image = new Uint8Array(this.ports * PORT.BYTES);
    this.#core.read(this.#dev, VFIO_PCI_CONFIG_REGION_INDEX, this.#at + WINDOW.STATE, image);
    return image;
  }

  /** Makes the card, which is held, what an image says. @throws EINVAL where no card can be so; it is as before then. */
  async load(image: Uint8Array): Promise<void> {
    await this.#core.write(this.#dev, VFIO_PCI_CONFIG_REGION_INDEX, this.#at + WINDOW.STATE, image);
    if (((await this.#command(CONTROL.HOLD | CONTROL.LOAD)) & STATUS_REFUSED) !== 0)
      throw refused('the card refuses the state of its ports');
  }

  /** Gives the status. @throws EIO where the card does not answer. */
  async #command(control: number): Promise<number> {
    const bytes = Uint8Array.of(control);
    await this.#core.write(this.#dev, VFIO_PCI_CONFIG_REGION_INDEX, this.#at + WINDOW.CONTROL, bytes);
    const after = new Uint8Array(2);
    this.#core.read(this.#dev, VFIO_PCI_CONFIG_REGION_INDEX, this.#at + WINDOW.CONTROL, after);
    const [found = 0, status = 0] = after;
    if (found !== (control & CONTROL.HOLD))
      throw this.#dev.error(
        'EIO',
        'MIG_DEVICE_STATE',
        'the state window does not do what it is told: is the card gone?',
      );
    return status;
  }
}
