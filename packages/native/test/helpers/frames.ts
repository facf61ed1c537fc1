import { endianness } from 'node:os';

const LITTLE = endianness() === 'LE';

/** A message with the vfio-user header and `body` bytes, each of them `fill`. */
export function frame(id: number, command: number, body: number | Uint8Array = 0, fill = id & 0xff): Uint8Array {
  const payload = typeof body === 'number' ? new Uint8Array(body).fill(fill) : body;
  const bytes = new Uint8Array(16 + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, id, LITTLE);
  view.setUint16(2, command, LITTLE);
  view.setUint32(4, bytes.length, LITTLE);
  bytes.set(payload, 16);
  return bytes;
}

/** Sets the size that a message's header announces. */
export function announce(bytes: Uint8Array, size: number): Uint8Array {
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(4, size, LITTLE);
  return bytes;
}

/** Parts one after the other. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
