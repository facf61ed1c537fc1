import type { VfioDeviceOps, VfioPciCoreDevice } from '@vfio/core';
import { errnoError, hex, VFIO_PCI_BAR0_REGION_INDEX } from '@vfio/uapi';
import {
  NVME_CAP_TO_UNIT_MS,
  NVME_CC_EN,
  NVME_CC_IOCQES,
  NVME_CC_IOSQES,
  NVME_CC_MPS_SHIFT,
  NVME_CC_SHN_MASK,
  NVME_CC_SHN_NORMAL,
  NVME_CSTS_CFS,
  NVME_CSTS_RDY,
  NVME_CSTS_SHST_COMPLETE,
  NVME_CSTS_SHST_MASK,
  NVME_REG_ACQ,
  NVME_REG_AQA,
  NVME_REG_ASQ,
  NVME_REG_CAP,
  NVME_REG_CAP_HIGH,
  NVME_REG_CC,
  NVME_REG_CSTS,
} from './registers.js';

/** How long a controller may take to write its cache back, as Linux's nvme driver waits (its `shutdown_timeout`). */
export const SHUTDOWN_TIMEOUT_MS = 5000;

/** Between two looks at a status that takes longer than a moment. */
const POLL_MS = 2;

/** A 32-bit value that a function which is gone, or has memory decode off, reads as. */
const ALL_ONES = 0xffffffff;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** The registers of one controller, reached through the ops that the driver stands on: hardware, the kernel or a peer. */
export class Controller {
  readonly #dev: VfioPciCoreDevice;
  readonly #base: VfioDeviceOps;
  readonly #bytes = new Uint8Array(4);
  readonly #view = new DataView(this.#bytes.buffer);

  constructor(dev: VfioPciCoreDevice, base: VfioDeviceOps) {
    this.#dev = dev;
    this.#base = base;
  }

  /**
   * Takes the controller from whatever state it was left in to disabled (CC.EN and CSTS.RDY 0).
   *
   * @throws EIO where it is gone or does not get there within its own time-out (CAP.TO).
   */
  async disable(): Promise<void> {
    const cc = await this.#read(NVME_REG_CC);
    // A shutdown that was asked for stays asked for until CC is written without it (3.1.5).
    if ((cc & (NVME_CC_EN | NVME_CC_SHN_MASK)) !== 0)
      await this.#write(NVME_REG_CC, cc & ~(NVME_CC_EN | NVME_CC_SHN_MASK));
    await this.#until((csts) => (csts & NVME_CSTS_RDY) === 0, await this.#readyTimeout(), 'disable');
  }

  /**
   * Shuts the controller down in order: after it nothing that a user was told is written is only in a volatile cache.
   * Does no DMA. Nothing is done where the user has shut it down already.
   *
   * @throws EIO where the controller is gone, in fatal state, or does not end in time.
   */
  async shutdown(): Promise<void> {
    const csts = await this.#status();
    if ((csts & NVME_CSTS_SHST_MASK) === 0) {
      const cc = await this.#read(NVME_REG_CC);
      if ((cc & NVME_CC_EN) === 0) await this.#enableIdle();
      else await this.#until((now) => (now & NVME_CSTS_RDY) !== 0, await this.#readyTimeout(), 'become ready');
      await this.#write(NVME_REG_CC, ((await this.#read(NVME_REG_CC)) & ~NVME_CC_SHN_MASK) | NVME_CC_SHN_NORMAL);
    }
    await this.#until(
      (now) => (now & NVME_CSTS_SHST_MASK) === NVME_CSTS_SHST_COMPLETE,
      SHUTDOWN_TIMEOUT_MS,
      'end its shutdown',
    );
  }

  /**
   * A disabled controller may still hold its last user's data in its cache, and takes no shutdown notice while disabled
   * (CC.SHN has a meaning only between enabling and reset, 7.6.2). It is enabled with admin queues that nobody rings, so
   * that it touches no memory.
   */
  async #enableIdle(): Promise<void> {
    await this.disable();
    await this.#write(NVME_REG_AQA, (1 << 16) | 1);
    for (const register of [NVME_REG_ASQ, NVME_REG_ACQ]) {
      await this.#write(register, 0);
      await this.#write(register + 4, 0);
    }
    const smallestPage = ((await this.#read(NVME_REG_CAP_HIGH)) >>> 16) & 0xf;
    await this.#write(NVME_REG_CC, NVME_CC_IOCQES | NVME_CC_IOSQES | (smallestPage << NVME_CC_MPS_SHIFT) | NVME_CC_EN);
    await this.#until((csts) => (csts & NVME_CSTS_RDY) !== 0, await this.#readyTimeout(), 'become ready');
  }

  async #readyTimeout(): Promise<number> {
    const timeouts = (await this.#read(NVME_REG_CAP)) >>> 24;
    return Math.max(timeouts, 1) * NVME_CAP_TO_UNIT_MS;
  }

  async #until(reached: (csts: number) => boolean, timeoutMs: number, what: string): Promise<void> {
    const end = Date.now() + timeoutMs;
    for (;;) {
      const csts = await this.#status();
      if (reached(csts)) return;
      if (Date.now() >= end)
        throw this.#error(`the controller did not ${what} within ${timeoutMs} ms (CSTS ${hex(csts)})`);
      await sleep(POLL_MS);
    }
  }

  async #status(): Promise<number> {
    const csts = await this.#read(NVME_REG_CSTS);
    if ((csts & NVME_CSTS_CFS) !== 0)
      throw this.#error(`the controller is in fatal state (CSTS ${hex(csts)}), only a reset helps`);
    return csts;
  }

  async #read(register: number): Promise<number> {
    await this.#base.read(this.#dev, VFIO_PCI_BAR0_REGION_INDEX, register, this.#bytes);
    const value = this.#view.getUint32(0, true);
    if (value === ALL_ONES) throw this.#error(`register ${hex(register)} reads all ones: the controller is gone`);
    return value;
  }

  async #write(register: number, value: number): Promise<void> {
    this.#view.setUint32(0, value >>> 0, true);
    await this.#base.write(this.#dev, VFIO_PCI_BAR0_REGION_INDEX, register, this.#bytes);
  }

  #error(message: string): Error {
    return errnoError('EIO', message, { op: 'nvme', device: this.#dev.address });
  }
}
