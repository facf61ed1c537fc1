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

/** The memory that a client has mapped, and the server's way to what it cannot map itself: DMA_READ and DMA_WRITE. */
export class MappedMemory {
  readonly #maps = new Map<bigint, DmaMapRequest>();
  #released = false;

  add(request: DmaMapRequest): void {
    this.#maps.set(request.iova, request);
  }

  /** Takes the mapping that is exactly this out, without releasing it; undefined where there is none. */
  take(iova: bigint, size: bigint): DmaMapRequest | undefined {
    const request = this.#maps.get(iova);
    if (request === undefined || request.size !== size) return undefined;
    this.#maps.delete(iova);
    return request;
  }

  /** Lets go of everything. Idempotent. */
  releaseAll(): void {
    if (this.#released) return;
    this.#released = true;
    for (const request of this.#maps.values()) request.release?.();
    this.#maps.clear();
  }

  /**
   * Carries out a command of the server. A promise only where memory is itself reached remotely.
   * @param fdCount descriptors that came with it: there should be none
   */
  serve(command: number, payload: Uint8Array, fdCount: number, maxData: number): ServedReply | Promise<ServedReply> {
    try {
      if (fdCount > 0) throw errnoError('EINVAL', `${commandName(command)} with ${fdCount} descriptors`);
      if (command === VFIO_USER_DMA_READ) return fail(this.#read(payload, maxData));
      if (command === VFIO_USER_DMA_WRITE) return fail(this.#write(payload, maxData));
      return { errno: ERRNO.ENOSYS };
    } catch (error) {
      return { errno: errnoOf(error) };
    }
  }

  #read(payload: Uint8Array, maxData: number): ServedReply | Promise<ServedReply> {
    const { iova, count } = decodeVfioUserDmaAccess(payload, LITTLE_ENDIAN);
    checkCount(count, maxData);
    const data = new Uint8Array(count);
    const wait = this.#transfer(iova, data, false);
    const reply = () => ({ payload: encodeVfioUserDmaData(iova, data, LITTLE_ENDIAN) });
    return wait === undefined ? reply() : wait.then(reply);
  }

  #write(payload: Uint8Array, maxData: number): ServedReply | Promise<ServedReply> {
    const { iova, count, data } = decodeVfioUserDmaData(payload, LITTLE_ENDIAN);
    checkCount(count, maxData);
    const wait = this.#transfer(iova, data, true);
    const reply = () => ({ payload: encodeVfioUserDmaAccess({ iova, count }, LITTLE_ENDIAN) });
    return wait === undefined ? reply() : wait.then(reply);
  }

  /** Moves data between a message and the mappings it touches; nothing moves where one of them is missing. */
  #transfer(iova: number, data: Uint8Array, isWrite: boolean): void | Promise<void> {
    const pieces: { map: DmaMapRequest; at: number; part: Uint8Array }[] = [];
    for (let done = 0; done < data.length; ) {
      const map = this.#at(BigInt(iova + done));
      if (map === undefined) throw errnoError('ENODEV', `nothing is mapped at ${hex(iova + done)}`);
      if (!(isWrite ? map.writable : map.readable))
        throw errnoError('EPERM', `the mapping at ${hex(map.iova)} forbids it`);
      const at = Number(BigInt(iova + done) - map.iova);
      const length = Math.min(data.length - done, Number(map.size) - at);
      pieces.push({ map, at, part: data.subarray(done, done + length) });
      done += length;
    }
    const waits: Promise<void>[] = [];
    for (const { map, at, part } of pieces) {
      if (map.memory !== undefined) {
        if (isWrite) map.memory.bytes.set(part, at);
        else part.set(map.memory.bytes.subarray(at, at + part.length));
      } else if (map.remote !== undefined) {
        const address = Number(map.iova) + at;
        waits.push(isWrite ? map.remote.write(address, part.slice()) : map.remote.read(address, part));
      } else throw errnoError('EFAULT', `the memory at ${hex(map.iova)} cannot be reached`);
    }
    return waits.length === 0 ? undefined : Promise.all(waits).then(() => {});
  }

  #at(address: bigint): DmaMapRequest | undefined {
    for (const map of this.#maps.values()) {
      if (address >= map.iova && address < map.iova + map.size) return map;
    }
    return undefined;
  }
}

function checkCount(count: number, maxData: number): void {
  if (count > maxData) throw errnoError('E2BIG', `${count} bytes, at most ${maxData} go in one message`);
}

function fail(reply: ServedReply | Promise<ServedReply>): ServedReply | Promise<ServedReply> {
  return reply instanceof Promise ? reply.catch((error: unknown) => ({ errno: errnoOf(error) })) : reply;
}

function errnoOf(error: unknown): number {
  const name = (error as { errno?: ErrnoName }).errno;
  return (name !== undefined && ERRNO[name]) || ERRNO.EFAULT;
}
