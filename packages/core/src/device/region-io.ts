import { VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ROM_REGION_INDEX, VFIO_PCI_VGA_REGION_INDEX } from '@vfio/uapi';
import type { RegisterSpace } from '../pci/raw-function.js';
import type { BarSlot } from './bar-slot.js';
import type { VirtualConfigSpace } from './config/virtual-config.js';
import type { VfioPciCoreDevice } from './core-device.js';
import { devRegionAt } from './dev-region.js';
import type { MaybePromise } from './maybe-promise.js';
import { whileAwake, whileAwakeSync } from './power.js';
import { romSize, withRom } from './rom.js';

/** Eight bytes through which the qword accessors of all devices pass: one thread, no calls in between. */
const qword = new DataView(new ArrayBuffer(8));
const qwordBytes = new Uint8Array(qword.buffer);

/** The CPU's widest store to device memory; an X710's ROM answers an 8-byte load with an AER error, so ROMs and VGA get 4. */
const MAX_WIDTH = 8;
const MAX_WIDTH_SLOW = 4;

/**
 * Loads `data.length` bytes from `offset`, in the widest aligned pieces. Bytes between `holeStart` and `holeEnd` read as
 * all ones.
 */
export function loadBytes(
  space: RegisterSpace,
  offset: number,
  data: Uint8Array,
  count: number,
  holeStart: number,
  holeEnd: number,
  maxWidth: number,
): void {
  let done = 0;
  while (done < count) {
    const at = offset + done;
    let room = count - done;
    if (at < holeStart) {
      if (room > holeStart - at) room = holeStart - at;
    } else if (at < holeEnd) {
      const skip = Math.min(room, holeEnd - at);
      data.fill(0xff, done, done + skip);
      done += skip;
      continue;
    }
    if (room >= 8 && maxWidth === 8 && (at & 7) === 0) {
      if (space.readQword !== undefined) {
        space.readQword(at, qword, 0);
        for (let i = 0; i < 8; i++) data[done + i] = qwordBytes[i]!;
      } else {
        storeDword(data, done, space.read(at, 4));
        storeDword(data, done + 4, space.read(at + 4, 4));
      }
      done += 8;
    } else if (room >= 4 && (at & 3) === 0) {
      storeDword(data, done, space.read(at, 4));
      done += 4;
    } else if (room >= 2 && (at & 1) === 0) {
      const value = space.read(at, 2);
      data[done] = value;
      data[done + 1] = value >> 8;
      done += 2;
    } else {
      data[done] = space.read(at, 1);
      done += 1;
    }
  }
}

/** Stores `count` bytes of `data` to `offset`, in the widest aligned pieces. What falls into the hole is dropped. */
export function storeBytes(
  space: RegisterSpace,
  offset: number,
  data: Uint8Array,
  count: number,
  holeStart: number,
  holeEnd: number,
  maxWidth: number,
): void {
  let done = 0;
  while (done < count) {
    const at = offset + done;
    let room = count - done;
    if (at < holeStart) {
      if (room > holeStart - at) room = holeStart - at;
    } else if (at < holeEnd) {
      done += Math.min(room, holeEnd - at);
      continue;
    }
    if (room >= 8 && maxWidth === 8 && (at & 7) === 0) {
      if (space.writeQword !== undefined) {
        for (let i = 0; i < 8; i++) qwordBytes[i] = data[done + i]!;
        space.writeQword(at, qword, 0);
      } else {
        space.write(at, 4, loadDword(data, done));
        space.write(at + 4, 4, loadDword(data, done + 4));
      }
      done += 8;
    } else if (room >= 4 && (at & 3) === 0) {
      space.write(at, 4, loadDword(data, done));
      done += 4;
    } else if (room >= 2 && (at & 1) === 0) {
      space.write(at, 2, data[done]! | (data[done + 1]! << 8));
      done += 2;
    } else {
      space.write(at, 1, data[done]!);
      done += 1;
    }
  }
}

function storeDword(data: Uint8Array, at: number, value: number): void {
  data[at] = value;
  data[at + 1] = value >> 8;
  data[at + 2] = value >> 16;
  data[at + 3] = value >> 24;
}

function loadDword(data: Uint8Array, at: number): number {
  return data[at]! | (data[at + 1]! << 8) | (data[at + 2]! << 16) | (data[at + 3]! << 24);
}

/** Checks an access to a BAR; returns the bytes that can be done. @throws EINVAL, EIO, EAGAIN, or the BAR's kept error. */
function checkBar(dev: VfioPciCoreDevice, bar: BarSlot, offset: number, length: number, op: string): number {
  if (bar.size === 0) throw dev.error('EINVAL', op, `region ${bar.index} ${op}: the function has no such BAR`);
  if (offset >= bar.size) throw pastEnd(dev, bar.index, offset, length, bar.size, op);
  if (bar.error !== undefined) {
    throw dev.error(bar.error, op, `region ${bar.index} ${op}: the BAR could not be mapped when the device was opened`);
  }
  if (!bar.isIo) checkMemory(dev, bar.index, op);
  return Math.min(length, bar.size - offset);
}

/** Config space of an open device. @throws ENODEV */
function openConfig(dev: VfioPciCoreDevice, op: string): VirtualConfigSpace {
  if (dev.config === undefined) throw dev.error('ENODEV', op, 'the device is not open');
  return dev.config;
}

function checkMemory(dev: VfioPciCoreDevice, region: number, op: string): void {
  if (dev.memoryLocks > 0) {
    throw dev.error('EAGAIN', op, `region ${region} ${op}: the function is being reset or changes its power state`);
  }
  if (dev.config?.memoryEnabled !== true) {
    throw dev.error('EIO', op, `region ${region} ${op}: memory decode is off (COMMAND or power state)`);
  }
}

function pastEnd(dev: VfioPciCoreDevice, region: number, offset: number, length: number, size: number, op: string) {
  return dev.error(
    'EINVAL',
    op,
    `region ${region} ${op} at 0x${offset.toString(16)}+${length}: past the end (size 0x${size.toString(16)})`,
  );
}

/** The legacy ranges in which a VGA access may lie; returns the end of the range, 0 for none. */
function vgaRangeEnd(offset: number): number {
  if (offset >= 0xa0000 && offset <= 0xbffff) return 0xc0000;
  if (offset >= 0x3b0 && offset <= 0x3bb) return 0x3bc;
  if (offset >= 0x3c0 && offset <= 0x3df) return 0x3e0;
  return 0;
}

function checkVga(dev: VfioPciCoreDevice, offset: number, length: number, op: string): number {
  const end = dev.vga === undefined ? 0 : vgaRangeEnd(offset);
  if (end === 0) throw dev.error('EINVAL', op, `VGA ${op} at 0x${offset.toString(16)}: outside the legacy ranges`);
  return Math.min(length, end - offset);
}

/**
 * Reads from a region: `vfio_pci_core_read`. Returns bytes done, fewer at the end of a BAR.
 *
 * @throws EINVAL (no such region or BAR, past the end), EIO (memory decode off, powered down), EFAULT (config space out of
 *   range), ENOMEM (invalid ROM), the BAR's kept error.
 */
export function vfioPciCoreRead(dev: VfioPciCoreDevice, region: number, offset: number, data: Uint8Array): number {
  const length = data.length;
  if (length === 0 && region < dev.baseRegions + dev.regions.length) return 0;
  if (dev.power.asleep) return readAsleep(dev, region, offset, data);
  if (region < VFIO_PCI_ROM_REGION_INDEX) {
    const bar = dev.bars[region]!;
    const count = checkBar(dev, bar, offset, length, 'read');
    loadBytes(bar.space!, offset, data, count, bar.holeStart, bar.holeEnd, MAX_WIDTH);
    return count;
  }
  switch (region) {
    case VFIO_PCI_CONFIG_REGION_INDEX:
      return openConfig(dev, 'read').read(offset, data);
    case VFIO_PCI_ROM_REGION_INDEX:
      return readRom(dev, offset, data);
    case VFIO_PCI_VGA_REGION_INDEX: {
      const count = checkVga(dev, offset, length, 'read');
      loadBytes(dev.vga!, offset, data, count, 0, 0, MAX_WIDTH_SLOW);
      return count;
    }
    default: {
      const found = devRegionAt(dev, region, 'read');
      return found.ops.read(dev, found, offset, data);
    }
  }
}

function readRom(dev: VfioPciCoreDevice, offset: number, data: Uint8Array): number {
  const size = romSize(dev);
  if (size === 0) throw dev.error('EINVAL', 'read', 'region 6 read: the function has no ROM');
  if (offset >= size) throw pastEnd(dev, VFIO_PCI_ROM_REGION_INDEX, offset, data.length, size, 'read');
  checkMemory(dev, VFIO_PCI_ROM_REGION_INDEX, 'read');
  const count = Math.min(data.length, size - offset);
  const done = withRom(dev, (space, length) => {
    loadBytes(space, offset, data, count, length, size, MAX_WIDTH_SLOW);
    return count;
  });
  if (done === undefined) throw dev.error('ENOMEM', 'read', 'region 6 read: the ROM holds no valid image');
  return done;
}

/**
 * Writes to a region: `vfio_pci_core_write`. A promise only where config space resets the function or moves it to another
 * power state.
 *
 * @throws as {@link vfioPciCoreRead}; EINVAL for the ROM.
 */
export function vfioPciCoreWrite(
  dev: VfioPciCoreDevice,
  region: number,
  offset: number,
  data: Uint8Array,
): MaybePromise<number> {
  const length = data.length;
  if (length === 0 && region < dev.baseRegions + dev.regions.length) return 0;
  if (dev.power.asleep) return writeAsleep(dev, region, offset, data);
  if (region < VFIO_PCI_ROM_REGION_INDEX) {
    const bar = dev.bars[region]!;
    const count = checkBar(dev, bar, offset, length, 'write');
    storeBytes(bar.space!, offset, data, count, bar.holeStart, bar.holeEnd, MAX_WIDTH);
    return count;
  }
  switch (region) {
    case VFIO_PCI_CONFIG_REGION_INDEX:
      return openConfig(dev, 'write').write(offset, data);
    case VFIO_PCI_ROM_REGION_INDEX:
      throw dev.error('EINVAL', 'write', 'region 6 write: the ROM can only be read');
    case VFIO_PCI_VGA_REGION_INDEX: {
      const count = checkVga(dev, offset, length, 'write');
      storeBytes(dev.vga!, offset, data, count, 0, 0, MAX_WIDTH_SLOW);
      return count;
    }
    default: {
      const found = devRegionAt(dev, region, 'write');
      return found.ops.write(dev, found, offset, data);
    }
  }
}

// Closures live apart from the data path: a function that holds one makes a context for it at each call.

function readAsleep(dev: VfioPciCoreDevice, region: number, offset: number, data: Uint8Array): number {
  return whileAwakeSync(dev, 'read', () => vfioPciCoreRead(dev, region, offset, data));
}

function writeAsleep(dev: VfioPciCoreDevice, region: number, offset: number, data: Uint8Array): MaybePromise<number> {
  return whileAwake(dev, 'write', () => vfioPciCoreWrite(dev, region, offset, data));
}
