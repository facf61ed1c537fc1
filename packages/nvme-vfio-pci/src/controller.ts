import { errnoError, hex } from '@vfio/uapi';
import {
  NVME_CAP_HIGH_CSS_NVM,
  NVME_CAP_TO_UNIT_MS,
  NVME_CC_CSS_ADMIN,
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

/** Between two looks at a status that takes longer than a moment. */
const POLL_MS = 2;

/** A 32-bit value that a function which is gone, or has memory decode off, reads as. */
const ALL_ONES = 0xffffffff;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const isShutDown = (csts: number): boolean =>
  (csts & (NVME_CSTS_SHST_MASK | NVME_CSTS_CFS)) === NVME_CSTS_SHST_COMPLETE;

/** BAR 0 of a function: how many bytes were read or written, fewer where it ends before. */
export interface RegisterAccess {
  readonly address: string;
  read(register: number, into: Uint8Array): number | Promise<number>;
  write(register: number, from: Uint8Array): number | Promise<number>;
}

/** Where the admin queues are, and how many entries each has. */
export interface AdminQueues {
  readonly asq: number;
  readonly acq: number;
  readonly entries: number;
}

/** The registers of one controller, wherever they are: hardware, the kernel or a peer. */
export class Controller {
  readonly #access: RegisterAccess;
  readonly #bytes = new Uint8Array(4);
  readonly #view = new DataView(this.#bytes.buffer);

  constructor(access: RegisterAccess) {
    this.#access = access;
  }

  /**
   * Takes the controller from whatever state it was left in to disabled (CC.EN and CSTS.RDY 0). This is a controller
   * reset: it ends the fatal state too, and keeps the volatile write cache.
   *
   * @throws EIO where it is gone or does not get there within its own time-out (CAP.TO).
   */
  async disable(): Promise<void> {
    const timeoutMs = await this.#readyTimeout();
    const cc = await this.#read(NVME_REG_CC);
    // What comes of clearing EN before the controller has become ready is undefined (3.1.5). One that never does is
    // told all the same: nothing else is left to try.
    if ((cc & NVME_CC_EN) !== 0)
      await this.#reaches((csts) => (csts & (NVME_CSTS_RDY | NVME_CSTS_CFS)) !== 0, timeoutMs);
    if ((cc & (NVME_CC_EN | NVME_CC_SHN_MASK)) !== 0)
      await this.#write(NVME_REG_CC, cc & ~(NVME_CC_EN | NVME_CC_SHN_MASK));
    await this.#until((csts) => (csts & (NVME_CSTS_RDY | NVME_CSTS_CFS)) === 0, timeoutMs, 'become disabled');
  }

  /**
   * Shuts the controller down in order: after it nothing that a user was told is written is only in a volatile cache.
   * Does no DMA. Nothing is done where the user has shut it down already.
   *
   * @throws EIO where the controller is gone, stays in fatal state, or does not end in time.
   */
  async shutdown(timeoutMs: number): Promise<void> {
    if (isShutDown(await this.#read(NVME_REG_CSTS))) return;
    const isEnabled = ((await this.#read(NVME_REG_CC)) & NVME_CC_EN) !== 0;
    // Completions of what was under way have nowhere to go any more, which a controller may take for fatal: then, and
    // where it is disabled with its last user's data still in its cache, a fresh start meets no command.
    if (isEnabled && (await this.#notify(timeoutMs))) return;
    await this.#enableIdle();
    if (!(await this.#notify(timeoutMs))) throw this.#error('the controller fell into fatal state in its shutdown');
  }

  /** Gives the shutdown notification, unless the user did, and waits for its end; false where that is the fatal state. */
  async #notify(timeoutMs: number): Promise<boolean> {
    const csts = await this.#until(
      (now) => (now & (NVME_CSTS_RDY | NVME_CSTS_CFS)) !== 0,
      await this.#readyTimeout(),
      'become ready',
    );
    if ((csts & NVME_CSTS_CFS) !== 0) return false;
    if ((csts & NVME_CSTS_SHST_MASK) === 0) {
      const cc = await this.#read(NVME_REG_CC);
      await this.#write(NVME_REG_CC, (cc & ~NVME_CC_SHN_MASK) | NVME_CC_SHN_NORMAL);
    }
    return isShutDown(
      await this.#until((now) => isShutDown(now) || (now & NVME_CSTS_CFS) !== 0, timeoutMs, 'end its shutdown'),
    );
  }

  /** Enables a disabled controller. @throws EIO where it does not become ready, and where its smallest page is not 4 KiB. */
  async enable(queues: AdminQueues): Promise<void> {
    if ((((await this.#read(NVME_REG_CAP_HIGH)) >>> 16) & 0xf) !== 0)
      throw this.#error('the smallest memory page of the controller is larger than 4 KiB');
    await this.#configure(queues);
    const csts = await this.#until(
      (now) => (now & (NVME_CSTS_RDY | NVME_CSTS_CFS)) !== 0,
      await this.#readyTimeout(),
      'become ready',
    );
    if ((csts & NVME_CSTS_CFS) !== 0) throw this.#error('the controller fell into fatal state when it was enabled');
  }

  /** Bytes from one doorbell to the next: CAP.DSTRD. */
  async doorbellStride(): Promise<number> {
    return 4 << ((await this.#read(NVME_REG_CAP_HIGH)) & 0xf);
  }

  /** Why the controller does nothing any more, if it does not. @throws EIO where it is gone */
  async ailment(): Promise<string | undefined> {
    const csts = await this.#read(NVME_REG_CSTS);
    if ((csts & NVME_CSTS_CFS) !== 0) return `it is in fatal state (CSTS ${hex(csts)})`;
    return (csts & NVME_CSTS_RDY) === 0 ? `it is not ready (CSTS ${hex(csts)})` : undefined;
  }

  /** Writes a doorbell. */
  async ring(register: number, value: number): Promise<void> {
    await this.#write(register, value);
  }

  /**
   * A disabled controller takes no shutdown notification (CC.SHN has a meaning only between enabling and reset, 7.6.2).
   * It is enabled with admin queues that nobody rings, so that it touches no memory.
   */
  async #enableIdle(): Promise<void> {
    await this.disable();
    await this.#configure({ asq: 0, acq: 0, entries: 2 });
  }

  async #configure({ asq, acq, entries }: AdminQueues): Promise<void> {
    await this.#write(NVME_REG_AQA, ((entries - 1) << 16) | (entries - 1));
    for (const [register, address] of [
      [NVME_REG_ASQ, asq],
      [NVME_REG_ACQ, acq],
    ] as const) {
      await this.#write(register, address % 0x100000000);
      await this.#write(register + 4, Math.floor(address / 0x100000000));
    }
    const capabilities = await this.#read(NVME_REG_CAP_HIGH);
    const commandSet = (capabilities & NVME_CAP_HIGH_CSS_NVM) !== 0 ? 0 : NVME_CC_CSS_ADMIN;
    const smallestPage = ((capabilities >>> 16) & 0xf) << NVME_CC_MPS_SHIFT;
    await this.#write(NVME_REG_CC, NVME_CC_IOCQES | NVME_CC_IOSQES | smallestPage | commandSet | NVME_CC_EN);
  }

  async #readyTimeout(): Promise<number> {
    const timeouts = (await this.#read(NVME_REG_CAP)) >>> 24;
    return Math.max(timeouts, 1) * NVME_CAP_TO_UNIT_MS;
  }

  /** Waits for a status, which is returned. @throws EIO when the time is up. */
  async #until(reached: (csts: number) => boolean, timeoutMs: number, what: string): Promise<number> {
    const csts = await this.#reaches(reached, timeoutMs);
    if (reached(csts)) return csts;
    const state = (csts & NVME_CSTS_CFS) !== 0 ? 'in fatal state, ' : '';
    throw this.#error(`the controller did not ${what} within ${timeoutMs} ms (${state}CSTS ${hex(csts)})`);
  }

  /** Waits for a status, or until the time is up; gives the last one that was seen. */
  async #reaches(reached: (csts: number) => boolean, timeoutMs: number): Promise<number> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const isLast = performance.now() >= end;
      const csts = await this.#read(NVME_REG_CSTS);
      if (isLast || reached(csts)) return csts;
      await sleep(POLL_MS);
    }
  }

  async #read(register: number): Promise<number> {
    const done = await this.#access.read(register, this.#bytes);
    if (done !== this.#bytes.length) throw this.#error(`register ${hex(register)} is past the end of BAR 0`);
    const value = this.#view.getUint32(0, true);
    if (value === ALL_ONES) throw this.#error(`register ${hex(register)} reads all ones: the controller is gone`);
    return value;
  }

  async #write(register: number, value: number): Promise<void> {
    this.#view.setUint32(0, value >>> 0, true);
    await this.#access.write(register, this.#bytes);
  }

  #error(message: string): Error {
    return errnoError('EIO', message, { op: 'nvme', device: this.#access.address });
  }
}
