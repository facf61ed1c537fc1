import { endianness } from 'node:os';

/** Byte order of the messages: that of this machine, which a Unix socket does not leave. */
export const LITTLE_ENDIAN = endianness() === 'LE';

const HIGH = LITTLE_ENDIAN ? 4 : 0;
const LOW = LITTLE_ENDIAN ? 0 : 4;

/** Largest upper half of a 64-bit number that is exact as a number. */
export const MAX_HIGH = 0x1fffff;

/** Upper 32 bits of a 64-bit field. */
export function highWord(view: DataView, at: number): number {
  return view.getUint32(at + HIGH, LITTLE_ENDIAN);
}

/** Lower 32 bits of a 64-bit field. */
export function lowWord(view: DataView, at: number): number {
  return view.getUint32(at + LOW, LITTLE_ENDIAN);
}

/** A 64-bit field as a number without making a bigint; above 2^53 it is rounded (compare {@link highWord} first). */
export function getNumber64(view: DataView, at: number): number {
  return highWord(view, at) * 0x1_0000_0000 + lowWord(view, at);
}

/** Stores a number below 2^53 as 64 bits. */
export function setNumber64(view: DataView, at: number, value: number): void {
  view.setUint32(at + HIGH, Math.floor(value / 0x1_0000_0000), LITTLE_ENDIAN);
  view.setUint32(at + LOW, value >>> 0, LITTLE_ENDIAN);
}
