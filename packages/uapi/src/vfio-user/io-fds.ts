/** DEVICE_GET_REGION_IO_FDS: parts of a region that a client may turn into ioeventfds or ioregionfds. */
import { hex } from '../errors.js';
import { type StructOf, struct, u32, u64, u64n, viewOf } from '../struct.js';
import {
  VFIO_USER_IO_FD_ENTRY_SIZE,
  VFIO_USER_IO_FD_ENTRY_SIZE_SHADOW,
  VFIO_USER_IO_FD_TYPE_IOEVENTFD_SHADOW,
} from './constants.js';
import { badPayload, checkArgsz } from './payload.js';

const COMMAND = 'VFIO_USER_DEVICE_GET_REGION_IO_FDS';

export const vfioUserRegionIoFds = struct('vfio_user_region_io_fds', {
  argsz: u32,
  flags: u32,
  index: u32,
  count: u32,
});

/** An entry as in the specification. `data` is the datamatch of an ioeventfd or the user data of an ioregionfd. */
export const vfioUserIoFd = struct('vfio_user_sub_region', {
  offset: u64n,
  size: u64n,
  fdIndex: u32,
  type: u32,
  flags: u32,
  shadowFdIndex: u32,
  data: u64,
});

/** An entry as in libvfio-user, which writes to shadow memory too. */
export const vfioUserIoFdShadow = struct('vfio_user_sub_region_shadow', {
  offset: u64n,
  size: u64n,
  fdIndex: u32,
  type: u32,
  flags: u32,
  shadowFdIndex: u32,
  shadowOffset: u64,
  data: u64,
});

/** One part of a region. */
export interface VfioUserIoFd extends Omit<StructOf<typeof vfioUserIoFd>, 'shadowFdIndex'> {
  /** Where a write goes beside its eventfd; only in entries that have it. */
  readonly shadow?: { readonly fdIndex: number; readonly offset: bigint } | undefined;
}

/** The reply: entries, or the room that they take where the request had too little. */
export interface VfioUserIoFds {
  readonly index: number;
  /** Bytes of the whole payload. */
  readonly argsz: number;
  /** Number of entries, also where they did not fit. */
  readonly count: number;
  readonly entries: readonly VfioUserIoFd[];
}

/**
 * Reads a DEVICE_GET_REGION_IO_FDS.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: too short, no room for the reply, flags or count not 0.
 */
export function decodeVfioUserGetIoFds(
  payload: Uint8Array,
  littleEndian: boolean,
): { readonly argsz: number; readonly index: number } {
  const { argsz, flags, index, count } = vfioUserRegionIoFds.read(viewOf(payload), 0, littleEndian);
  checkArgsz(COMMAND, argsz, vfioUserRegionIoFds.size);
  if (flags !== 0 || count !== 0) {
    throw badPayload(COMMAND, `flags ${hex(flags)} and count ${count} of a request: 0 is wanted`);
  }
  return { argsz, index };
}

/** The bytes of a DEVICE_GET_REGION_IO_FDS with room for `argsz` bytes of reply. */
export function encodeVfioUserGetIoFds(index: number, argsz: number, littleEndian: boolean): Uint8Array {
  return vfioUserRegionIoFds.encode({ argsz, flags: 0, index, count: 0 }, littleEndian);
}

/**
 * The reply: the entries where the request has room for them, else their number and the room that they take. Entries are
 * those of the specification, unless one of them has shadow memory.
 * @throws VfioError EINVAL: a value does not fit its field.
 */
export function encodeVfioUserIoFds(
  index: number,
  entries: readonly VfioUserIoFd[],
  argsz: number,
  littleEndian: boolean,
): Uint8Array {
  const hasShadow = entries.some((entry) => entry.shadow !== undefined);
  const stride = hasShadow ? VFIO_USER_IO_FD_ENTRY_SIZE_SHADOW : VFIO_USER_IO_FD_ENTRY_SIZE;
  const needed = vfioUserRegionIoFds.size + entries.length * stride;
  const fits = argsz >= needed;
  const out = new Uint8Array(fits ? needed : vfioUserRegionIoFds.size);
  const view = viewOf(out);
  vfioUserRegionIoFds.write(view, 0, { argsz: needed, flags: 0, index, count: entries.length }, littleEndian);
  for (const [at, { shadow, ...entry }] of fits ? entries.entries() : []) {
    const place = vfioUserRegionIoFds.size + at * stride;
    const shadowFdIndex = shadow?.fdIndex ?? 0;
    if (hasShadow) {
      const value = { ...entry, shadowFdIndex, shadowOffset: shadow?.offset ?? 0n };
      vfioUserIoFdShadow.write(view, place, value, littleEndian);
    } else {
      vfioUserIoFd.write(view, place, { ...entry, shadowFdIndex }, littleEndian);
    }
  }
  return out;
}

/**
 * Reads the reply. The size of an entry is what `argsz` and `count` say, as entries have grown before.
 * @param fdCount Descriptors that came with the message.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT: EINVAL, too short, entries of no known size, a descriptor that did not come;
 * EOVERFLOW, an offset or size above 2^53-1.
 */
export function decodeVfioUserIoFds(payload: Uint8Array, fdCount: number, littleEndian: boolean): VfioUserIoFds {
  const view = viewOf(payload);
  const { argsz, index, count } = vfioUserRegionIoFds.read(view, 0, littleEndian);
  checkArgsz(COMMAND, argsz, vfioUserRegionIoFds.size);
  if (count === 0) return { index, argsz, count, entries: [] };
  const stride = (argsz - vfioUserRegionIoFds.size) / count;
  if (!Number.isInteger(stride) || stride < VFIO_USER_IO_FD_ENTRY_SIZE || stride % 8 !== 0) {
    throw badPayload(
      COMMAND,
      `${count} entries in ${argsz - vfioUserRegionIoFds.size} bytes: no known size of an entry`,
    );
  }
  if (payload.length === vfioUserRegionIoFds.size) return { index, argsz, count, entries: [] };
  if (payload.length < argsz) {
    throw badPayload(COMMAND, `argsz ${argsz}, and the payload has ${payload.length} bytes`);
  }
  const entries = Array.from({ length: count }, (_, at) => {
    const entry = readEntry(view, vfioUserRegionIoFds.size + at * stride, stride, littleEndian);
    for (const fdIndex of [entry.fdIndex, ...(entry.shadow === undefined ? [] : [entry.shadow.fdIndex])]) {
      if (fdIndex >= fdCount) {
        throw badPayload(COMMAND, `entry ${at} has descriptor ${fdIndex}, and ${fdCount} came with the message`);
      }
    }
    return entry;
  });
  return { index, argsz, count, entries };
}

function readEntry(view: DataView, at: number, stride: number, littleEndian: boolean): VfioUserIoFd {
  if (stride < VFIO_USER_IO_FD_ENTRY_SIZE_SHADOW) {
    const { shadowFdIndex: _padding, ...entry } = vfioUserIoFd.read(view, at, littleEndian);
    return entry;
  }
  const { shadowFdIndex, shadowOffset, ...entry } = vfioUserIoFdShadow.read(view, at, littleEndian);
  const hasShadow = entry.type === VFIO_USER_IO_FD_TYPE_IOEVENTFD_SHADOW;
  return hasShadow ? { ...entry, shadow: { fdIndex: shadowFdIndex, offset: shadowOffset } } : entry;
}
