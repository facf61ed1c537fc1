import type { AccessWidth } from '@vfio/core';
import type { Clock } from '../../clock.js';
import { ADAPTER_PAGE } from './constants.js';

/** Offsets in the initialization segment, which is the start of BAR 0. All dwords are big-endian. */
const REG = {
  FW_REV: 0x0,
  CMDIF_REV: 0x4,
  CMDQ_ADDRESS_HIGH: 0x10,
  CMDQ_ADDRESS_LOW: 0x14,
  COMMAND_DOORBELL: 0x18,
  INITIALIZING: 0x1fc,
  HEALTH_BUFFER: 0x200,
  HEALTH_BUFFER_END: 0x240,
  COMMAND_QUEUE_INIT_TIMEOUT: 0xff8,
  COMMAND_EXEC_TIMEOUT: 0xffc,
  TIMER_HIGH: 0x1000,
  TIMER_LOW: 0x1004,
  CLEAR_INTERRUPT: 0x100c,
  HEALTH_COUNTER: 0x1010,
} as const;

/** Revision of the command interface that the model speaks; drivers insist on it. */
const CMDIF_REVISION = 5;

/** States of the function's interface to software, bits 9:8 of the command queue's low address. */
export const NIC_INTERFACE = { FULL: 0, DISABLED: 1, NO_DRAM: 2, SOFTWARE_RESET: 3 } as const;

/** Ticks of the health counter. A driver that polls every second or two sees it move. */
const HEALTH_TICK_MS = 10;

/** Seconds, in the format of the time-out registers: multiplier 1 in bits 31:29. */
const seconds = (count: number): number => (1 << 29) | count;

/** The version that the firmware gives itself. */
export interface FirmwareVersion {
  readonly major: number;
  readonly minor: number;
  readonly subminor: number;
}

/** What the function does when software writes to the segment. */
export interface SegmentOwner {
  readonly isInitializing: boolean;
  /** Bits of slots that have a new command. */
  doorbell(slots: number): void;
  interfaceWritten(state: number): void;
}

const swap32 = (value: number): number =>
  ((value & 0xff) << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24);

/** The initialization segment: how software finds the firmware, and how it sees that it is well. */
export class InitSegment {
  /** 2^n command entries, 2^m bytes each. */
  readonly logQueueSize = 5;
  readonly logStride = 6;
  readonly #version: FirmwareVersion;
  readonly #clock: Clock;
  readonly #frequencyKhz: number;
  readonly #owner: SegmentOwner;
  readonly #health = new DataView(new ArrayBuffer(REG.HEALTH_BUFFER_END - REG.HEALTH_BUFFER));
  #addressHigh = 0;
  #addressLow = 0;
  #nicInterface: number = NIC_INTERFACE.FULL;
  /** Not undefined: the health counter stopped here. */
  #stoppedCounter: number | undefined;
  #syndrome = 0;

  constructor(owner: SegmentOwner, version: FirmwareVersion, clock: Clock, frequencyKhz: number) {
    this.#owner = owner;
    this.#version = version;
    this.#clock = clock;
    this.#frequencyKhz = frequencyKhz;
    this.#describeFirmware();
  }

  /** Bus address of the command queue; undefined before software has set one. */
  get queueAddress(): number | undefined {
    const address = this.#addressHigh * 0x100000000 + this.#addressLow;
    return address === 0 || !Number.isSafeInteger(address) ? undefined : address;
  }

  get nicInterface(): number {
    return this.#nicInterface;
  }

  set nicInterface(state: number) {
    this.#nicInterface = state;
  }

  /** Puts the interface back as an image has it. */
  restore(queueAddress: number, nicInterface: number): void {
    this.#addressHigh = Math.floor(queueAddress / 0x100000000);
    this.#addressLow = queueAddress % 0x100000000;
    this.#nicInterface = nicInterface;
  }

  reset(): void {
    this.#addressHigh = 0;
    this.#addressLow = 0;
    this.#nicInterface = NIC_INTERFACE.FULL;
    this.#stoppedCounter = undefined;
    this.#syndrome = 0;
    this.#describeFirmware();
  }

  /** The firmware has met an error: the syndrome is shown, and the counter stands where the firmware does not run on. */
  reportHealth(syndrome: number, extended: number, isFatal: boolean): void {
    this.#syndrome = syndrome;
    this.#health.setUint8(0x3d, syndrome);
    this.#health.setUint16(0x3e, extended);
    // rfr (reset is needed), valid, severity: 0 emergency, 3 error.
    this.#health.setUint8(0x38, isFatal ? 0x80 | 0x08 : 0x08 | 3);
    if (isFatal) this.#stoppedCounter = this.#counter();
  }

  /** Value of a dword as the bus carries it. */
  read(offset: number, width: AccessWidth): number {
    const value = swap32(this.#dword(offset & ~3));
    if (width === 4) return value;
    return (value >>> (8 * (offset & 3))) & (width === 2 ? 0xffff : 0xff);
  }

  /** Only whole dwords can be written. */
  write(offset: number, width: AccessWidth, value: number): void {
    if (width !== 4) return;
    const dword = swap32(value) >>> 0;
    switch (offset) {
      case REG.CMDQ_ADDRESS_HIGH:
        this.#addressHigh = dword;
        break;
      case REG.CMDQ_ADDRESS_LOW:
        this.#addressLow = dword - (dword % ADAPTER_PAGE);
        this.#owner.interfaceWritten((dword >>> 8) & 3);
        break;
      case REG.COMMAND_DOORBELL:
        this.#owner.doorbell(dword);
        break;
      default:
    }
  }

  #dword(offset: number): number {
    const { major, minor, subminor } = this.#version;
    switch (offset) {
      case REG.FW_REV:
        return (minor << 16) | major;
      case REG.CMDIF_REV:
        return (CMDIF_REVISION << 16) | subminor;
      case REG.CMDQ_ADDRESS_HIGH:
        return this.#addressHigh;
      case REG.CMDQ_ADDRESS_LOW:
        return this.#addressLow | (this.#nicInterface << 8) | (this.logQueueSize << 4) | this.logStride;
      case REG.INITIALIZING:
        return this.#owner.isInitializing ? 1 << 31 : 0;
      case REG.COMMAND_QUEUE_INIT_TIMEOUT:
        return seconds(60);
      case REG.COMMAND_EXEC_TIMEOUT:
        return seconds(60);
      // The halves are not latched: software reads high, low and high again.
      case REG.TIMER_HIGH:
        return Math.floor(this.#ticks() / 0x100000000) | 0;
      case REG.TIMER_LOW:
        return this.#ticks() | 0;
      case REG.HEALTH_COUNTER:
        return (this.#syndrome << 24) | (this.#stoppedCounter ?? this.#counter());
      default:
        if (offset >= REG.HEALTH_BUFFER && offset < REG.HEALTH_BUFFER_END)
          return this.#health.getUint32(offset - REG.HEALTH_BUFFER);
        return 0;
    }
  }

  #ticks(): number {
    return Math.floor(this.#clock.now() * this.#frequencyKhz);
  }

  #counter(): number {
    return Math.floor(this.#clock.now() / HEALTH_TICK_MS) & 0xffffff;
  }

  #describeFirmware(): void {
    const { major, minor, subminor } = this.#version;
    for (let i = 0; i < this.#health.byteLength; i += 4) this.#health.setUint32(i, 0);
    this.#health.setUint32(0x30, ((major << 24) | (minor << 16) | subminor) >>> 0);
  }
}
