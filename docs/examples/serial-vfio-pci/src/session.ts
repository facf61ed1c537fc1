import type { MigrationData, PrecopyInfo } from '@vfio/core';
import { errnoError } from '@vfio/core';
import {
  checkHeader,
  decodeStream,
  encodeHeader,
  encodePorts,
  HEADER_BYTES,
  maxStreamBytes,
  type StreamMinor,
} from './stream.js';

/**
 * The state on its way out. The header can be read at once, so a destination that could not load the ports says so while
 * the source still runs; the ports are there when the card has stopped.
 */
export class SaveSession implements MigrationData {
  readonly #minor: StreamMinor;
  #bytes: Uint8Array;
  #at = 0;
  #isWhole = false;

  constructor(minor: StreamMinor, ports: number) {
    this.#minor = minor;
    this.#bytes = encodeHeader(minor, ports);
  }

  /** The card has stopped. @throws EBUSY where the version has no place for something; nothing is changed. */
  finish(image: Uint8Array): void {
    const ports = encodePorts(this.#minor, image);
    const bytes = new Uint8Array(this.#bytes.length + ports.length);
    bytes.set(this.#bytes);
    bytes.set(ports, this.#bytes.length);
    this.#bytes = bytes;
    this.#isWhole = true;
  }

  read(into: Uint8Array): number {
    const part = this.#bytes.subarray(this.#at, this.#at + into.length);
    if (part.length === 0 && into.length > 0 && !this.#isWhole)
      throw errnoError('ENOMSG', 'nothing more before the card is stopped', { op: 'read' });
    into.set(part);
    this.#at += part.length;
    return part.length;
  }

  write(): number {
    throw errnoError('EINVAL', 'the stream of a card that is being saved can only be read', { op: 'write' });
  }

  /** A port changes with every character: none of them is sent before the card has stopped. */
  precopyInfo(): PrecopyInfo {
    return { flags: 0, initialBytes: BigInt(this.#bytes.length - this.#at), dirtyBytes: 0n };
  }

  close(): void {}
}

/** The state on its way in. */
export class ResumeSession implements MigrationData {
  readonly #ports: number;
  readonly #bytes: Uint8Array;
  #length = 0;

  constructor(ports: number) {
    this.#ports = ports;
    this.#bytes = new Uint8Array(maxStreamBytes(ports));
  }

  /** @throws ENOMEM: more than any stream has; EINVAL: not a stream for this card. Nothing is taken then. */
  write(from: Uint8Array): number {
    const length = this.#length + from.length;
    if (length > this.#bytes.length)
      throw errnoError('ENOMEM', `a stream of ${length} bytes: ${this.#bytes.length} is the most`, { op: 'write' });
    this.#bytes.set(from, this.#length);
    if (length >= HEADER_BYTES) checkHeader(this.#bytes, this.#ports);
    this.#length = length;
    return from.length;
  }

  /** All was written. Gives the ports. @throws EINVAL */
  finish(): Uint8Array {
    return decodeStream(this.#bytes.subarray(0, this.#length), this.#ports);
  }

  read(): number {
    throw errnoError('EINVAL', 'the stream of a card that is being resumed can only be written', { op: 'read' });
  }

  precopyInfo(): PrecopyInfo {
    throw errnoError('EINVAL', 'a card that is being resumed has no precopy info', { op: 'MIG_GET_PRECOPY_INFO' });
  }

  close(): void {}
}
