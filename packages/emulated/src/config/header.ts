import type { PciResource } from '@vfio/core';
import {
  errnoError,
  hex,
  PCI_BASE_ADDRESS_0,
  PCI_BASE_ADDRESS_MEM_PREFETCH,
  PCI_BASE_ADDRESS_MEM_TYPE_64,
  PCI_BASE_ADDRESS_SPACE_IO,
  PCI_CACHE_LINE_SIZE,
  PCI_CLASS_REVISION,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_COMMAND_PARITY,
  PCI_COMMAND_SERR,
  PCI_DEVICE_ID,
  PCI_HEADER_TYPE,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_ROM_ADDRESS,
  PCI_ROM_ADDRESS_ENABLE,
  PCI_STATUS,
  PCI_STATUS_DETECTED_PARITY,
  PCI_STATUS_PARITY,
  PCI_STATUS_REC_MASTER_ABORT,
  PCI_STATUS_REC_TARGET_ABORT,
  PCI_STATUS_SIG_SYSTEM_ERROR,
  PCI_STATUS_SIG_TARGET_ABORT,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from '@vfio/uapi';
import type { ConfigSpace } from './config-space.js';

/** What a function says it is. */
export interface FunctionIdentity {
  readonly vendor: number;
  readonly device: number;
  /** 0 where not given. */
  readonly subvendor?: number;
  readonly subdevice?: number;
  /** 24 bits: base class, subclass, programming interface. */
  readonly class: number;
  readonly revision?: number;
}

/** STATUS bits that software clears by writing 1 (PCI Local Bus 3.0, 6.2.3). */
export const STATUS_W1C =
  PCI_STATUS_PARITY |
  PCI_STATUS_SIG_TARGET_ABORT |
  PCI_STATUS_REC_TARGET_ABORT |
  PCI_STATUS_REC_MASTER_ABORT |
  PCI_STATUS_SIG_SYSTEM_ERROR |
  PCI_STATUS_DETECTED_PARITY;

/** Ids, class and revision: hard-wired. */
export function defineIdentity(config: ConfigSpace, id: FunctionIdentity): void {
  config.define(PCI_VENDOR_ID, 2, check('vendor', id.vendor, 0xffff));
  config.define(PCI_DEVICE_ID, 2, check('device', id.device, 0xffff));
  config.define(
    PCI_CLASS_REVISION,
    4,
    (check('class', id.class, 0xffffff) << 8) | check('revision', id.revision ?? 0, 0xff),
  );
  config.define(PCI_SUBSYSTEM_VENDOR_ID, 2, check('subvendor', id.subvendor ?? 0, 0xffff));
  config.define(PCI_SUBSYSTEM_ID, 2, check('subdevice', id.subdevice ?? 0, 0xffff));
}

/**
 * COMMAND, STATUS, cache line and interrupt line of a layout-0 header. The space bits of COMMAND become writable with
 * the first BAR of their kind.
 * @param hasIntxDisable false makes the function one from before PCI 2.3: DisINTx and STATUS.INTERRUPT are not there.
 */
export function defineHeader(config: ConfigSpace, hasIntxDisable: boolean): void {
  config.define(PCI_COMMAND, 2, 0, {
    rw: PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR | (hasIntxDisable ? PCI_COMMAND_INTX_DISABLE : 0),
  });
  config.define(PCI_STATUS, 2, config.get(PCI_STATUS, 2), { w1c: STATUS_W1C });
  config.define(PCI_CACHE_LINE_SIZE, 1, 0, { rw: 0xff });
  config.define(PCI_HEADER_TYPE, 1, 0);
  config.define(PCI_INTERRUPT_LINE, 1, 0, { rw: 0xff });
  config.define(PCI_INTERRUPT_PIN, 1, 0);
}

/** The INTx pin, 1 (A) to 4 (D). */
export function definePin(config: ConfigSpace, pin: 1 | 2 | 3 | 4): void {
  config.define(PCI_INTERRUPT_PIN, 1, pin);
}

/** Size, kind and width of a BAR. */
export interface BarShape {
  /** Bytes: a power of two, at least 16 (memory) or 4 (I/O). */
  readonly size: number;
  readonly io?: boolean;
  readonly prefetchable?: boolean;
  readonly is64Bit?: boolean;
}

/** Declares BAR `index` and makes the space bit of COMMAND that decodes it writable. @throws EINVAL. */
export function defineBar(config: ConfigSpace, index: number, shape: BarShape): void {
  checkBar(index, shape);
  const register = PCI_BASE_ADDRESS_0 + 4 * index;
  defineBarRegister(config, register, shape);
  allowCommand(config, shape.io === true ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY);
}

/** The writable bits and type flags of one BAR register (pair), in the header or in the SR-IOV capability. */
export function defineBarRegister(config: ConfigSpace, register: number, shape: BarShape): void {
  const mask = shape.size > 0x80000000 ? 0 : -shape.size;
  if (shape.io === true) {
    config.define(register, 4, PCI_BASE_ADDRESS_SPACE_IO, { rw: mask & ~3 });
    return;
  }
  const flags =
    (shape.is64Bit === true ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0) |
    (shape.prefetchable === true ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0);
  config.define(register, 4, flags, { rw: mask & ~0xf });
  if (shape.is64Bit === true)
    config.define(register + 4, 4, 0, { rw: shape.size > 0x80000000 ? -Math.floor(shape.size / 0x100000000) : -1 });
}

/** Declares the expansion ROM BAR. */
export function defineRomBar(config: ConfigSpace, size: number): void {
  config.define(PCI_ROM_ADDRESS, 4, 0, { rw: (-size & 0xfffff800) | PCI_ROM_ADDRESS_ENABLE });
  allowCommand(config, PCI_COMMAND_MEMORY);
}

/** The address that a BAR register (pair) holds now. */
export function barAddress(
  config: ConfigSpace,
  register: number,
  resource: Pick<PciResource, 'io' | 'is64Bit'>,
): number {
  const low = config.get(register, 4);
  if (resource.io) return (low & ~3) >>> 0;
  const high = resource.is64Bit ? config.get(register + 4, 4) >>> 0 : 0;
  return high * 0x100000000 + ((low & ~0xf) >>> 0);
}

function allowCommand(config: ConfigSpace, bit: number): void {
  config.define(PCI_COMMAND, 2, config.initialValue(PCI_COMMAND, 2), {
    rw: config.writableBits(PCI_COMMAND, 2) | bit,
  });
}

function checkBar(index: number, shape: BarShape): void {
  const least = shape.io === true ? 4 : 16;
  // Powers of two up to 2^52 are exact doubles, so the logarithm tells.
  const isPower = Number.isSafeInteger(shape.size) && shape.size > 0 && Number.isInteger(Math.log2(shape.size));
  if (!Number.isInteger(index) || index < 0 || index > 5)
    throw errnoError('EINVAL', `BAR ${index}: indexes 0 to 5 are allowed`);
  if (!isPower || shape.size < least)
    throw errnoError('EINVAL', `BAR ${index} of ${shape.size} bytes: a power of two from ${least} is allowed`);
  if (shape.io === true && (shape.is64Bit === true || shape.prefetchable === true))
    throw errnoError('EINVAL', `BAR ${index}: an I/O BAR is neither 64-bit nor prefetchable`);
  if (shape.is64Bit === true && index === 5) throw errnoError('EINVAL', 'BAR 5: a 64-bit BAR needs the next register');
  if (shape.is64Bit !== true && shape.size > 0x80000000)
    throw errnoError('EINVAL', `BAR ${index} of ${hex(shape.size)} bytes: more than 2 GiB needs a 64-bit BAR`);
}

function check(what: string, value: number, max: number): number {
  if (!Number.isInteger(value) || value < 0 || value > max)
    throw errnoError('EINVAL', `${what} ${value}: 0 to ${hex(max)} is allowed`, {});
  return value;
}
