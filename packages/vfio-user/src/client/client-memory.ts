import type { DmaMapRequest } from '@vfio/core';
import {
  decodeVfioUserDmaAccess,
  decodeVfioUserDmaData,
  ERRNO,
  type ErrnoName,
  encodeVfioUserDmaAccess,
  encodeVfioUserDmaData,
  errnoError,
  hex,
  VFIO_USER_DMA_READ,
  VFIO_USER_DMA_WRITE,
} from '@vfio/uapi';
import { LITTLE_ENDIAN } from '../byte-order.js';
import { commandName } from '../trace.js';

/** What a client answers a server's command with: a payload, or an errno. */
export type ServedReply = { readonly payload: Uint8Array } | { readonly errno: number };

/** A command of the server. */
export interface ServerCommand {
  readonly command: number;
  readonly payload: Uint8Array;
  /** Descriptors that came with it: there should be none. */
  readonly fdCount: number;
}

/** What a client can do for its server. */
export interface ServeLimits {
  /** Bytes of data in one message. */
  readonly maxData: number;
  /** Memory that is itself reached remotely can be waited for. */
  readonly canWait: boolean;
}

/** A mapping, told apart from another by the same request. */
export interface MappedRange {
  readonly request: DmaMapRequest;
}

/** The memory that a client has mapped, and the server's way to what it cannot map itself: DMA_READ and DMA_WRITE. */
export class MappedMemory {
  /** The oldest first. While an unmap or a refusal is on its way, two may overlap. */
  readonly #maps = new Set<MappedRange>();

  add(request: DmaMapRequest): MappedRange {
    const map = { request };
    this.#maps.add(map);
    return map;
  }

  /** The oldest mapping that is exactly this. */
  find(iova: bigint, size: bigint): MappedRange | undefined {
    for (const map of this.#maps) if (map.request.iova === iova && map.request.size === size) return map;
    return undefined;
  }

  /** Takes a mapping out and lets go of it, unless that was done already. */
  drop(map: MappedRange): void {
    if (this.#maps.delete(map)) map.request.release?.();
  }

  /** Lets go of everything. Idempotent. */
  dropAll(): void {
    for (const map of this.#maps) this.drop(map);
  }

  /** Carries out a command of the server. A promise only where it must be waited for. */
  serve({ command, payload, fdCount }: ServerCommand, limits: ServeLimits): ServedReply | Promise<ServedReply> {
    try {
      if (fdCount > 0) throw errnoError('EINVAL', `${commandName(command)} with ${fdCount} descriptors`);
      if (command === VFIO_USER_DMA_READ) return catchErrno(this.#read(payload, limits));
      if (command === VFIO_USER_DMA_WRITE) return catchErrno(this.#write(payload, limits));
      return { errno: ERRNO.ENOSYS };
    } catch (error) {
      return { errno: errnoOf(error) };
    }
  }

  #read(payload: Uint8Array, limits: ServeLimits): ServedReply | Promise<ServedReply> {
    const { iova, count } = decodeVfioUserDmaAccess(payload, LITTLE_ENDIAN);
    checkCount(count, limits.maxData);
    const data = new Uint8Array(count);
    const wait = this.#transfer(iova, data, false, limits.canWait);
    const reply = () => ({ payload: encodeVfioUserDmaData(iova, data, LITTLE_ENDIAN) });
    return wait === undefined ? reply() : wait.then(reply);
  }

  #write(payload: Uint8Array, limits: ServeLimits): ServedReply | Promise<ServedReply> {
    const { iova, count, data } = decodeVfioUserDmaData(payload, LITTLE_ENDIAN);
    checkCount(count, limits.maxData);
    const wait = this.#transfer(iova, data, true, limits.canWait);
    const reply = () => ({ payload: encodeVfioUserDmaAccess({ iova, count }, LITTLE_ENDIAN) });
    return wait === undefined ? reply() : wait.then(reply);
  }

  /** Moves data between a message and the mappings it touches; nothing moves where one of them cannot be had. */
  #transfer(iova: bigint, data: Uint8Array, isWrite: boolean, canWait: boolean): void | Promise<void> {
    const pieces: Move[] = [];
    for (let done = 0; done < data.length; ) {
      const address = iova + BigInt(done);
      const map = this.#at(address);
      if (map === undefined) throw errnoError('ENODEV', `nothing is mapped at ${hex(address)}`);
      if (!(isWrite ? map.writable : map.readable))
        throw errnoError('EPERM', `the mapping at ${hex(map.iova)} forbids it`);
      const at = Number(address - map.iova);
      const length = Math.min(data.length - done, Number(map.size) - at);
      const piece = { map, at, part: data.subarray(done, done + length) };
      const how = isWrite ? writer(piece, canWait) : reader(piece, canWait);
      if (how === undefined) throw errnoError('EFAULT', `the memory at ${hex(address)} cannot be reached`);
      pieces.push(how);
      done += length;
    }
    const waits: Promise<void>[] = [];
    for (const move of pieces) {
      const wait = move();
      if (wait !== undefined) waits.push(wait);
    }
    return waits.length === 0 ? undefined : Promise.all(waits).then(() => {});
  }

  /** The youngest mapping that holds an address: an older one is about to go. */
  #at(address: bigint): DmaMapRequest | undefined {
    let found: DmaMapRequest | undefined;
    for (const { request } of this.#maps) {
      if (address >= request.iova && address < request.iova + request.size) found = request;
    }
    return found;
  }
}

/** What a transfer moves in one mapping. */
interface Piece {
  readonly map: DmaMapRequest;
  readonly at: number;
  readonly part: Uint8Array;
}

/** Moves a piece. */
type Move = () => void | Promise<void>;

/** Undefined where the memory cannot be had: taken away from under its mapping, or only by waiting. */
function reader({ map: { memory, remote, iova }, at, part }: Piece, canWait: boolean): Move | undefined {
  const end = at + part.length;
  if (memory !== undefined) {
    return memory.bytes.length < end ? undefined : () => part.set(memory.bytes.subarray(at, end));
  }
  if (remote === undefined || !canWait) return undefined;
  const address = iova + BigInt(at);
  if (isExact(address, part)) return () => remote.read(Number(address), part);
  return remote.readBig && (() => remote.readBig?.(address, part));
}

function writer({ map: { memory, remote, iova }, at, part }: Piece, canWait: boolean): Move | undefined {
  if (memory !== undefined) {
    return memory.bytes.length < at + part.length ? undefined : () => memory.bytes.set(part, at);
  }
  if (remote === undefined || !canWait) return undefined;
  const address = iova + BigInt(at);
  if (isExact(address, part)) return () => remote.write(Number(address), part);
  return remote.writeBig && (() => remote.writeBig?.(address, part));
}

/** Whether the addresses of a piece are exact as numbers. */
function isExact(address: bigint, part: Uint8Array): boolean {
  return address + BigInt(part.length) <= Number.MAX_SAFE_INTEGER;
}

function checkCount(count: number, maxData: number): void {
  if (count > maxData) throw errnoError('E2BIG', `${count} bytes, at most ${maxData} go in one message`);
}

function catchErrno(reply: ServedReply | Promise<ServedReply>): ServedReply | Promise<ServedReply> {
  return reply instanceof Promise ? reply.catch((error: unknown) => ({ errno: errnoOf(error) })) : reply;
}

function errnoOf(error: unknown): number {
  const name = (error as { errno?: ErrnoName }).errno;
  return (name !== undefined && ERRNO[name]) || ERRNO.EFAULT;
}
