import { hex } from '@vfio/core';
import { refused } from './errors.js';
import { decodeMinor0, encodeMinor0, MINOR_0_PORT_BYTES } from './minor-0.js';
import { PORT } from './window.js';

/**
 * The stream: a header that says what follows, then the ports. All numbers are little-endian.
 *
 * | bytes | header                       |
 * | ----- | ---------------------------- |
 * | 8     | magic                        |
 * | 4     | major version, 1             |
 * | 4     | minor version                |
 * | 4     | number of ports              |
 * | 4     | flags, none is defined       |
 *
 * Minor version 0 is what the kernel's mtty writes and reads: after the header each port as {@link decodeMinor0} has it.
 * Since 1 the length of a port (4 bytes) and 0 (4 bytes) come next, then each port as the state window shows it. A newer
 * minor version may append to a port what an older driver may leave out; what it may not is a new major version.
 */
const MAGIC = 0x7e9d09898c3e2c4en;
const MAJOR = 1;
export const HEADER_BYTES = 24;
/** The length of a port, and 0. */
const LENGTHS_BYTES = 8;
/** Room for what newer minor versions append. */
const MAX_PORT_BYTES = 256;

/** Versions that can be written. */
export type StreamMinor = 0 | 1;
/** The newest of them. */
export const MINOR: StreamMinor = 1;

export function encodeHeader(minor: StreamMinor, ports: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, MAGIC, true);
  view.setUint32(8, MAJOR, true);
  view.setUint32(12, minor, true);
  view.setUint32(16, ports, true);
  return bytes;
}

/** The ports, behind the header. @throws EBUSY where an old version has no place for something. */
export function encodePorts(minor: StreamMinor, image: Uint8Array): Uint8Array {
  if (minor === 0) return encodeMinor0(image);
  const bytes = new Uint8Array(LENGTHS_BYTES + image.length);
  new DataView(bytes.buffer).setUint32(0, PORT.BYTES, true);
  bytes.set(image, LENGTHS_BYTES);
  return bytes;
}

/** How long a stream of a card with so many ports is. */
export function streamBytes(minor: StreamMinor, ports: number): number {
  const lengths = minor === 0 ? 0 : LENGTHS_BYTES;
  return HEADER_BYTES + lengths + ports * (minor === 0 ? MINOR_0_PORT_BYTES : PORT.BYTES);
}

/** The longest stream of any version that can be read. */
export function maxStreamBytes(ports: number): number {
  return HEADER_BYTES + LENGTHS_BYTES + ports * MAX_PORT_BYTES;
}

/** Refuses a header that is not for a card with so many ports, as soon as it is there. @throws EINVAL */
export function checkHeader(bytes: Uint8Array, ports: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES);
  const magic = view.getBigUint64(0, true);
  if (magic !== MAGIC) throw refused(`it begins with ${hex(magic)}, which is not that of a serial card`);
  const major = view.getUint32(8, true);
  if (major !== MAJOR) throw refused(`its version is ${major}.${view.getUint32(12, true)}, ${MAJOR} is known`);
  const found = view.getUint32(16, true);
  if (found !== ports) throw refused(`it is of a card with ${found} ports, this one has ${ports}`);
  const flags = view.getUint32(20, true);
  if (flags !== 0) throw refused(`flags ${hex(flags)} are not known`);
}

/** The ports of a whole stream, as the state window takes them. @throws EINVAL */
export function decodeStream(bytes: Uint8Array, ports: number): Uint8Array {
  if (bytes.length < HEADER_BYTES) throw refused(`it was cut after ${bytes.length} bytes, within the header`);
  checkHeader(bytes, ports);
  const minor = new DataView(bytes.buffer, bytes.byteOffset).getUint32(12, true);
  const body = bytes.subarray(HEADER_BYTES);
  if (minor === 0) {
    checkLength(body.length, ports * MINOR_0_PORT_BYTES);
    return decodeMinor0(body);
  }
  if (body.length < LENGTHS_BYTES) throw refused(`it was cut after ${bytes.length} bytes`);
  const view = new DataView(body.buffer, body.byteOffset);
  const portBytes = view.getUint32(0, true);
  if (minor === MINOR ? portBytes !== PORT.BYTES : portBytes < PORT.BYTES || portBytes > MAX_PORT_BYTES)
    throw refused(`a port of ${portBytes} bytes in version ${MAJOR}.${minor}`);
  if (view.getUint32(4, true) !== 0) throw refused('a reserved field is not 0');
  checkLength(body.length, LENGTHS_BYTES + ports * portBytes);
  const image = new Uint8Array(ports * PORT.BYTES);
  for (let port = 0; port < ports; port++) {
    const at = LENGTHS_BYTES + port * portBytes;
    image.set(body.subarray(at, at + PORT.BYTES), port * PORT.BYTES);
  }
  return image;
}

function checkLength(found: number, wanted: number): void {
  if (found !== wanted) throw refused(`${found} bytes follow the header, ${wanted} must`);
}
