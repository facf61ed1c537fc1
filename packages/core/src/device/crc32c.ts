// Device models have another (emulated's ConnectX): each finds the other's mistakes.

/** Eight tables: byte n of eight at a time. */
const TABLES: readonly Uint32Array[] = Array.from({ length: 8 }, () => new Uint32Array(256));
for (let n = 0; n < 256; n++) {
  let value = n;
  for (let bit = 0; bit < 8; bit++) value = (value & 1) === 0 ? value >>> 1 : (value >>> 1) ^ 0x82f63b78;
  at(0)[n] = value;
}
for (let n = 0; n < 256; n++)
  for (let table = 1; table < 8; table++) {
    const before = at(table - 1)[n] ?? 0;
    at(table)[n] = (at(0)[before & 0xff] ?? 0) ^ (before >>> 8);
  }

function at(table: number): Uint32Array {
  return TABLES[table] as Uint32Array; // 0 to 7
}

const [T0, T1, T2, T3, T4, T5, T6, T7] = [at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)];

/** The state of a sum over nothing. The sum itself is the complement of the state. */
export function newCrc32c(): number {
  return ~0;
}

/** Goes on with a CRC-32C (Castagnoli, RFC 3720, B.4) over more bytes. */
export function crc32c(bytes: Uint8Array, state: number): number {
  let crc = state;
  const { length } = bytes;
  let i = 0;
  for (; i + 8 <= length; i += 8) {
    const low = crc ^ (bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24));
    crc =
      T7[low & 0xff]! ^
      T6[(low >>> 8) & 0xff]! ^
      T5[(low >>> 16) & 0xff]! ^
      T4[low >>> 24]! ^
      T3[bytes[i + 4]!]! ^
      T2[bytes[i + 5]!]! ^
      T1[bytes[i + 6]!]! ^
      T0[bytes[i + 7]!]!;
  }
  for (; i < length; i++) crc = T0[(crc ^ bytes[i]!) & 0xff]! ^ (crc >>> 8);
  return crc;
}
