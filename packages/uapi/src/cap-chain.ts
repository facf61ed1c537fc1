/**
 * Capability chains of the info calls (`vfio_info_cap_header`): each capability says where the next one starts, counted
 * from the start of the info struct; 0 ends the chain.
 *
 * Newer kernels round the size of each capability up to 8 bytes, older ones and libvfio-user pack them. A reader therefore
 * follows `next` and never adds sizes up.
 */
import { VfioError } from './errors.js';
import { viewOf } from './struct.js';
import { vfioInfoCapHeader } from './vfio-structs.js';

/** A capability: its id, its version and the body after the 8-byte header, in the byte order of the chain. */
export interface InfoCap {
  readonly id: number;
  readonly version: number;
  readonly data: Uint8Array;
}

/** A capability as found in a chain. `data` reaches to the next capability, so it may end in padding. */
export interface FoundCap extends InfoCap {
  /** Where its header starts, from the start of the info struct. */
  readonly offset: number;
}

/** `aligned`: each size is rounded up to 8, as current kernels do. `packed`: as older ones and libvfio-user do. */
export type CapStyle = 'aligned' | 'packed';

const HEADER_SIZE = vfioInfoCapHeader.size;

function badChain(sentence: string): VfioError {
  return new VfioError('ERR_VFIO_INVALID_STRUCT', sentence, { errno: 'EINVAL' });
}

/**
 * The capabilities of a chain, in chain order.
 * @param view Starts at the info struct and ends where its bytes end.
 * @param first The struct's `cap_offset`; 0 is an empty chain.
 * @param fixedSize Size of the struct before the capabilities: none may start inside it.
 * @throws VfioError ERR_VFIO_INVALID_STRUCT, EINVAL: a header lies inside the struct or outside the bytes, two headers
 * overlap, or the chain runs in a circle.
 */
export function readCapChain(view: DataView, first: number, fixedSize: number, littleEndian: boolean): FoundCap[] {
  const headers: { id: number; version: number; offset: number }[] = [];
  const seen = new Set<number>();
  // Headers that do not overlap cannot be more than this: bounds the work on hostile bytes.
  const most = Math.floor(Math.max(0, view.byteLength - fixedSize) / HEADER_SIZE);
  for (let offset = first; offset !== 0; ) {
    if (offset < fixedSize || offset > view.byteLength - HEADER_SIZE) {
      throw badChain(
        `a capability starts at ${offset}, from ${fixedSize} to ${view.byteLength - HEADER_SIZE} is allowed`,
      );
    }
    if (seen.has(offset)) {
      throw badChain(`the chain of capabilities comes back to ${offset}`);
    }
    if (seen.size >= most) {
      throw badChain(`more than ${most} capabilities in ${view.byteLength} bytes: they overlap`);
    }
    seen.add(offset);
    const header = vfioInfoCapHeader.read(view, offset, littleEndian);
    headers.push({ id: header.id, version: header.version, offset });
    offset = header.next;
  }
  const starts = [...seen].sort((a, b) => a - b);
  const endOf = new Map<number, number>();
  for (const [index, start] of starts.entries()) {
    const end = starts[index + 1] ?? view.byteLength;
    if (end - start < HEADER_SIZE) {
      throw badChain(`the capabilities at ${start} and ${end} overlap`);
    }
    endOf.set(start, end);
  }
  return headers.map(({ id, version, offset }) => ({
    id,
    version,
    offset,
    // `endOf` has every offset of `seen`.
    data: bytesOf(view, offset + HEADER_SIZE, endOf.get(offset)!),
  }));
}

function bytesOf(view: DataView, from: number, to: number): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset + from, to - from).slice();
}

function placedSize(cap: InfoCap, style: CapStyle): number {
  const size = HEADER_SIZE + cap.data.length;
  return style === 'aligned' ? Math.ceil(size / 8) * 8 : size;
}

/** Bytes that the capabilities take after the info struct. */
export function capChainSize(caps: readonly InfoCap[], style: CapStyle): number {
  return caps.reduce((sum, cap) => sum + placedSize(cap, style), 0);
}

/**
 * The chain's bytes, for an info struct of `fixedSize` bytes that they follow.
 * @throws VfioError EINVAL: an id or a version does not fit 16 bits.
 */
export function encodeCapChain(
  caps: readonly InfoCap[],
  fixedSize: number,
  style: CapStyle,
  littleEndian: boolean,
): Uint8Array {
  const out = new Uint8Array(capChainSize(caps, style));
  const view = viewOf(out);
  let at = 0;
  for (const [index, cap] of caps.entries()) {
    const end = at + placedSize(cap, style);
    const next = index === caps.length - 1 ? 0 : fixedSize + end;
    vfioInfoCapHeader.write(view, at, { id: cap.id, version: cap.version, next }, littleEndian);
    out.set(cap.data, at + HEADER_SIZE);
    at = end;
  }
  return out;
}

/** What the argsz protocol makes of a struct with capabilities. */
export interface CapPlacement {
  /** Bytes of struct and capabilities together. */
  readonly needed: number;
  /** Whether the caller's `argsz` takes them all; an empty chain always fits. */
  readonly fits: boolean;
  /** The chain's bytes where it fits and is not empty. */
  readonly chain: Uint8Array | undefined;
}

/**
 * Decides whether capabilities go into the caller's buffer. Never an error: a caller whose buffer is too short is told the
 * size by `argsz` and calls again.
 */
export function placeCaps(
  caps: readonly InfoCap[],
  fixedSize: number,
  argsz: number,
  style: CapStyle,
  littleEndian: boolean,
): CapPlacement {
  const needed = fixedSize + capChainSize(caps, style);
  const fits = caps.length === 0 || argsz >= needed;
  return {
    needed,
    fits,
    chain: fits && caps.length > 0 ? encodeCapChain(caps, fixedSize, style, littleEndian) : undefined,
  };
}
