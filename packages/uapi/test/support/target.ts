import type { IoctlTarget, UserMemory } from '../../src/index.js';
import { errnoError } from '../../src/index.js';

/** Arguments of a call, as the target saw them. */
export interface Seen {
  readonly method: keyof IoctlTarget;
  readonly args: readonly unknown[];
}

/** A target with answers that a test can replace, and a record of what changed something. */
export interface FakeTarget extends Required<IoctlTarget> {
  readonly seen: Seen[];
}

/** Nine regions of 4 KiB at index << 40, one INTx, 4 MSI, 16 MSI-X, ERR and REQ, two functions in the reset. */
export function fakeTarget(replace: Partial<IoctlTarget> = {}): FakeTarget {
  const seen: Seen[] = [];
  const record =
    <T>(method: keyof IoctlTarget, answer: T) =>
    (...args: readonly unknown[]): T => {
      seen.push({ method, args });
      return answer;
    };
  return {
    seen,
    getInfo: () => ({ flags: 3, numRegions: 9, numIrqs: 5, caps: [] }),
    getRegionInfo: (index) => ({ index, flags: 3, size: 0x1000, offset: index * 2 ** 40, caps: [] }),
    getIrqInfo: (index) => ({ index, flags: index === 0 ? 7 : 9, count: [1, 4, 16, 1, 1][index] ?? 0 }),
    getHotResetInfo: () => ({
      flags: 0,
      devices: [
        { id: 7, segment: 0, bus: 0x3b, devfn: 0 },
        { id: 8, segment: 0, bus: 0x3b, devfn: 1 },
      ],
    }),
    setIrqs: record('setIrqs', 0),
    reset: record('reset', undefined),
    hotReset: record('hotReset', undefined),
    ioeventfd: record('ioeventfd', undefined),
    deviceFeature: (request) => {
      if ((request.flags & 0x40000) !== 0) return undefined;
      seen.push({ method: 'deviceFeature', args: [request] });
      return undefined;
    },
    bindIommufd: record('bindIommufd', 5),
    attachIommufdPt: record('attachIommufdPt', 9),
    detachIommufdPt: record('detachIommufdPt', undefined),
    ...replace,
  };
}

/** A caller's memory with the given pieces in it. */
export function userMemory(pieces: Record<string, Uint8Array>): UserMemory {
  const find = (address: bigint, length: number): Uint8Array => {
    for (const [start, bytes] of Object.entries(pieces)) {
      const at = address - BigInt(start);
      if (at >= 0n && at + BigInt(length) <= BigInt(bytes.length)) {
        return bytes.subarray(Number(at), Number(at) + length);
      }
    }
    throw errnoError('EFAULT', `${length} bytes at ${address} are not there`);
  };
  return {
    read: (address, length) => find(address, length).slice(),
    write: (address, data) => find(address, data.length).set(data),
  };
}

/** 32-bit words as little-endian bytes. */
export function words(...values: number[]): Uint8Array {
  const out = new Uint8Array(4 * values.length);
  const view = new DataView(out.buffer);
  for (const [at, value] of values.entries()) view.setUint32(4 * at, value >>> 0, true);
  return out;
}

/** Pieces of bytes one after the other. */
export function joined(...pieces: Uint8Array[]): Uint8Array {
  return Uint8Array.from(pieces.flatMap((piece) => [...piece]));
}

/** A 64-bit value as two little-endian words, to be spread into {@link words}. */
export function wide(value: bigint): [number, number] {
  return [Number(value & 0xffffffffn), Number((value >> 32n) & 0xffffffffn)];
}
