import {
  PCI_CAP_FLAGS,
  PCI_CAP_LIST_ID,
  PCI_CAP_LIST_NEXT,
  PCI_CAP_SIZEOF,
  PCI_CFG_SPACE_SIZE,
  PCI_STD_HEADER_SIZEOF,
} from '@vfio/uapi';
import type { AccessWidth } from '../../pci/raw-function.js';
import type { PermissionTable } from './permissions.js';
import type { ConfigState } from './state.js';

/**
 * How the bytes of one owner are read and written. `position` is naturally aligned to `width` and the piece lies within
 * one owner; `start` is where the owner's run of bytes begins. Values are int32 patterns, narrower ones zero-extended.
 */
export interface CapAccess {
  read(state: ConfigState, position: number, width: AccessWidth, start: number): number;
  /** A promise only where the host's reset or power change gave one. */
  write(
    state: ConfigState,
    position: number,
    width: AccessWidth,
    start: number,
    value: number,
  ): undefined | Promise<void>;
}

/** The bits of an access of `width` bytes. */
function widthMask(width: AccessWidth): number {
  return width === 4 ? -1 : width === 2 ? 0xffff : 0xff;
}

/** Little-endian bytes as an int32 pattern; bytes outside the array are 0. */
function gather(bytes: Uint8Array, at: number, width: AccessWidth): number {
  let value = bytes[at] ?? 0;
  if (width > 1) value |= (bytes[at + 1] ?? 0) << 8;
  if (width > 2) value |= ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24);
  return value;
}

export function readShadow(state: ConfigState, position: number, width: AccessWidth): number {
  return gather(state.vconfig, position, width);
}

export function writeShadow(state: ConfigState, position: number, width: AccessWidth, value: number): void {
  for (let i = 0; i < width; i++) state.vconfig[position + i] = value >> (8 * i);
}

/** Virtual bits from the shadow, the others from hardware, which is left alone where there are none. */
export function readByTable(
  state: ConfigState,
  table: PermissionTable,
  position: number,
  width: AccessWidth,
  start: number,
): number {
  const virt = gather(table.virt, position - start, width);
  const shadow = readShadow(state, position, width) & virt;
  if (virt === widthMask(width)) return shadow;
  return (state.hw.read(position, width) & ~virt) | shadow;
}

/** Virtual writable bits to the shadow, other writable bits to hardware by read-modify-write, the rest dropped. */
export function writeByTable(
  state: ConfigState,
  table: PermissionTable,
  position: number,
  width: AccessWidth,
  start: number,
  value: number,
): void {
  const write = gather(table.write, position - start, width);
  if (write === 0) return;
  const virt = gather(table.virt, position - start, width);
  const toShadow = write & virt;
  if (toShadow !== 0) {
    writeShadow(state, position, width, (readShadow(state, position, width) & ~toShadow) | (value & toShadow));
  }
  const toHardware = write & ~virt;
  if (toHardware !== 0) {
    const old = state.hw.read(position, width);
    state.hw.write(position, width, (old & ~toHardware) | (value & toHardware));
  }
}

/** Hardware, with the links that hiding rewrites taken from the shadow: what a visible capability without table is. */
export function readDirect(state: ConfigState, position: number, width: AccessWidth, start: number): number {
  const offset = position - start;
  if (position >= PCI_CFG_SPACE_SIZE) {
    if (offset < PCI_CAP_SIZEOF) return readShadow(state, position, width);
  } else if (position >= PCI_STD_HEADER_SIZEOF) {
    if (offset === PCI_CAP_LIST_NEXT) {
      const value = state.hw.read(position, width);
      return (value & ~0xff) | state.vconfig[position]!;
    }
    if (offset === PCI_CAP_LIST_ID && width > 1) {
      const value = state.hw.read(position, width);
      return (value & (-1 << (8 * PCI_CAP_FLAGS))) | readShadow(state, position, 2);
    }
  }
  return state.hw.read(position, width);
}

function writeDropped(): undefined {
  return undefined;
}

function readRaw(state: ConfigState, position: number, width: AccessWidth): number {
  return state.hw.read(position, width);
}

function writeRaw(state: ConfigState, position: number, width: AccessWidth, _start: number, value: number): undefined {
  state.hw.write(position, width, value);
}

/** A visible capability that has no table: reads hardware; a write succeeds and does nothing. */
export const READ_ONLY: CapAccess = { read: readDirect, write: writeDropped };

/** Vendor-defined registers: only their driver knows them, so all of it reaches hardware. The links are still ours. */
export const VENDOR: CapAccess = { read: readDirect, write: writeRaw };

/** Bytes of no visible capability. */
export const RAW: CapAccess = { read: readRaw, write: writeRaw };

/** Bytes that hardware never sees. */
export const VIRTUAL: CapAccess = {
  read: readShadow,
  write(state, position, width, _start, value) {
    writeShadow(state, position, width, value);
    return undefined;
  },
};

/** A capability that its table describes whole. */
export function byTable(table: PermissionTable): CapAccess {
  return {
    read: (state, position, width, start) => readByTable(state, table, position, width, start),
    write(state, position, width, start, value) {
      writeByTable(state, table, position, width, start, value);
      return undefined;
    },
  };
}
