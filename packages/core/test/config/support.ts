import type { ConfigSpaceHost, PciPowerState } from '../../src/device/config/host.js';
import { VirtualConfigSpace } from '../../src/device/config/virtual-config.js';
import type { AccessWidth, PciResource, RawConfigSpace, RawFunctionBase } from '../../src/pci/raw-function.js';

/** One access that reached hardware. */
export interface HardwareAccess {
  readonly kind: 'read' | 'write';
  readonly offset: number;
  readonly width: AccessWidth;
}

/**
 * Config registers in which every bit can be written unless a test says otherwise, so that a write that should not have
 * come through shows. Demands the contract of raw config space: aligned, in range.
 */
export class Hardware implements RawConfigSpace {
  readonly size: number;
  readonly bytes: Uint8Array;
  /** Bits that a write changes. */
  readonly mask: Uint8Array;
  readonly accesses: HardwareAccess[] = [];
  /** Called after each write, with the registers as they are then: behaviour of the model. */
  onWrite: ((offset: number, width: AccessWidth) => void) | undefined;
  /** Called before each read. */
  onRead: ((offset: number, width: AccessWidth) => void) | undefined;

  constructor(size: number) {
    this.size = size;
    this.bytes = new Uint8Array(size);
    this.mask = new Uint8Array(size).fill(0xff);
  }

  read(offset: number, width: AccessWidth): number {
    this.#demand('read', offset, width);
    this.onRead?.(offset, width);
    return this.peek(offset, width) | 0;
  }

  write(offset: number, width: AccessWidth, value: number): void {
    this.#demand('write', offset, width);
    for (let i = 0; i < width; i++) {
      const mask = this.mask[offset + i]!;
      this.bytes[offset + i] = (this.bytes[offset + i]! & ~mask) | ((value >> (8 * i)) & mask);
    }
    this.onWrite?.(offset, width);
  }

  /** Unsigned value, without an access. */
  peek(offset: number, width: AccessWidth): number {
    let value = 0;
    for (let i = 0; i < width; i++) value += this.bytes[offset + i]! * 2 ** (8 * i);
    return value;
  }

  poke(offset: number, width: AccessWidth, value: number): void {
    for (let i = 0; i < width; i++) this.bytes[offset + i] = Math.floor(value / 2 ** (8 * i));
  }

  get writes(): HardwareAccess[] {
    return this.accesses.filter(({ kind }) => kind === 'write');
  }

  #demand(kind: 'read' | 'write', offset: number, width: AccessWidth): void {
    if (offset % width !== 0 || offset < 0 || offset + width > this.size) {
      throw new Error(`hardware ${kind} of ${width} bytes at 0x${offset.toString(16)}`);
    }
    this.accesses.push({ kind, offset, width });
  }
}

/** What the registers of a capability list hold: id, next pointer, then its body. */
export interface CapSpec {
  readonly at: number;
  readonly id: number;
  /** Next pointer; by default the next in the list, 0 for the last. */
  readonly next?: number;
  /** Bytes from offset 2 (standard) or 4 (extended). */
  readonly body?: readonly number[];
  /** Extended only. */
  readonly version?: number;
}

export interface SpaceOptions {
  readonly size?: 256 | 4096;
  /** Standard capabilities in list order. */
  readonly caps?: readonly CapSpec[];
  /** Extended capabilities in list order. The first has to be at 0x100 for hardware to have a list. */
  readonly ecaps?: readonly CapSpec[];
  readonly resources?: readonly (PciResource | undefined)[];
  /** Last word on the registers before they are virtualised. */
  readonly setup?: (hw: Hardware) => void;
  readonly host?: Partial<Omit<FakeHost, 'raw' | 'events'>>;
}

/** A host that records what it is asked for. */
export class FakeHost implements ConfigSpaceHost {
  readonly raw: RawFunctionBase;
  readonly address = '0000:01:00.0';
  vendor = 0x1234;
  device = 0x5678;
  isVf = false;
  noCommandMemory = false;
  intxUsable = true;
  nointx = false;
  virqDisabled = false;
  msiActive = false;
  msiQmax = 0;
  powerState: PciPowerState = 0;
  /** Calls in order: `lock`, `lock+zap`, `unlock`, `mask`, `unmask`, `power N`, `reset`. */
  readonly events: string[] = [];
  readonly warnings: string[] = [];
  onReset: () => void | Promise<void> = () => {};
  onPower: (state: PciPowerState) => void | Promise<void> = (state) => {
    this.powerState = state;
  };

  constructor(raw: RawFunctionBase) {
    this.raw = raw;
  }

  maskIntx(): void {
    this.events.push('mask');
  }

  unmaskIntx(): void {
    this.events.push('unmask');
  }

  setPowerState(state: PciPowerState): void | Promise<void> {
    this.events.push(`power ${state}`);
    return this.onPower(state);
  }

  tryResetFunction(): void | Promise<void> {
    this.events.push('reset');
    return this.onReset();
  }

  lockMemory(zap: boolean): void {
    this.events.push(zap ? 'lock+zap' : 'lock');
  }

  unlockMemory(): void {
    this.events.push('unlock');
  }

  warn(message: string): void {
    this.warnings.push(message);
  }
}

function rawFunction(config: Hardware, resources: readonly (PciResource | undefined)[]): RawFunctionBase {
  const never = (): never => {
    throw new Error('config space has no business there');
  };
  return {
    kind: 'raw',
    config,
    resources,
    open: never,
    vga: undefined,
    interrupts: {
      intxLine: 1,
      requestIntx: never,
      freeIntx: never,
      setIntxLineEnabled: never,
      dynamicMsix: false,
      allocVectors: never,
      allocMsixAt: never,
      freeVectors: never,
      setVectorHandler: never,
      rewriteMessage: never,
    },
    resetMethods: [],
    tryResetFunction: never,
    resetScope: undefined,
    setPowerState: never,
    sriov: undefined,
    attachDma: never,
    onError: never,
  };
}

/** A BAR or ROM with the usual answers filled in. */
export function resource(init: Partial<PciResource> & { size: number }): PciResource {
  return { start: 0xf000_0000, io: false, prefetchable: false, is64Bit: false, ...init };
}

/** Writes capability lists into registers as hardware would have them. */
export function layOut(hw: Hardware, caps: readonly CapSpec[], ecaps: readonly CapSpec[]): void {
  if (caps.length > 0) {
    hw.poke(0x06, 2, hw.peek(0x06, 2) | 0x10);
    hw.poke(0x34, 1, caps[0]!.at);
  }
  for (const [index, { at, id, next = caps[index + 1]?.at ?? 0, body = [] }] of caps.entries()) {
    hw.bytes[at] = id;
    if (at + 1 < hw.size) hw.bytes[at + 1] = next;
    for (const [i, byte] of body.entries()) hw.bytes[at + 2 + i] = byte;
  }
  for (const [index, { at, id, version = 1, next = ecaps[index + 1]?.at ?? 0, body = [] }] of ecaps.entries()) {
    hw.poke(at, 4, id + version * 0x1_0000 + next * 0x10_0000);
    for (const [i, byte] of body.entries()) hw.bytes[at + 4 + i] = byte;
  }
}

/** A config space that was opened, with everything around it. */
export class TestSpace {
  readonly hw: Hardware;
  readonly host: FakeHost;
  readonly space: VirtualConfigSpace;

  constructor(options: SpaceOptions = {}) {
    const { size = 256, caps = [], ecaps = [], resources = [], setup } = options;
    this.hw = new Hardware(size);
    this.hw.poke(0x00, 4, 0x5678_1234);
    this.hw.poke(0x3d, 1, 1);
    layOut(this.hw, caps, ecaps);
    setup?.(this.hw);
    this.host = Object.assign(new FakeHost(rawFunction(this.hw, resources)), options.host);
    this.space = new VirtualConfigSpace(this.host);
    this.space.init();
    this.hw.accesses.length = 0;
  }

  bytes(offset: number, length: number): Uint8Array {
    const data = new Uint8Array(length);
    if (this.space.read(offset, data) !== length) throw new Error('read short');
    return data;
  }

  read(offset: number, width: AccessWidth): number {
    let value = 0;
    for (const [i, byte] of this.bytes(offset, width).entries()) value += byte * 2 ** (8 * i);
    return value;
  }

  write(offset: number, width: AccessWidth, value: number): number | Promise<number> {
    const data = new Uint8Array(width);
    for (let i = 0; i < width; i++) data[i] = Math.floor(value / 2 ** (8 * i));
    return this.space.write(offset, data);
  }

  /** Ids and positions of the standard list as a user walks it. */
  walk(): [at: number, id: number][] {
    const found: [number, number][] = [];
    if ((this.read(0x06, 2) & 0x10) === 0) return found;
    for (let at = this.read(0x34, 1); at !== 0 && found.length < 64; at = this.read(at + 1, 1)) {
      found.push([at, this.read(at, 1)]);
    }
    return found;
  }

  /** The same of the extended list: header dwords in order. */
  walkExtended(): [at: number, header: number][] {
    const found: [number, number][] = [];
    for (let at = 0x100; at >= 0x100 && found.length < 1024; ) {
      const header = this.read(at, 4);
      if (header === 0) break;
      found.push([at, header]);
      at = Math.floor(header / 0x10_0000) & 0xffc;
    }
    return found;
  }
}

/** Length of the run of bytes that a capability at `at` was given. */
export function runLength({ space }: TestSpace, at: number): number {
  let end = at;
  while (end < space.size && space.map[end] === space.map[at]) end++;
  return end - at;
}

export function u16(value: number): number[] {
  return [value & 0xff, value >>> 8];
}

export function u32(value: number): number[] {
  return [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
}
