import type { RemoteDma } from '@vfio/core';
import { errnoError, hex, VFIO_USER_DMA_READ, VFIO_USER_DMA_WRITE, VfioError } from '@vfio/uapi';
import { getNumber64, LITTLE_ENDIAN } from './byte-order.js';
import { type Connection, closeAll, type ReceivedReply } from './connection.js';
import { MAX_DMA_READ_SIZE, MAX_DMA_REQUESTS } from './limits.js';

export interface MessageDmaOptions {
  /** The main socket, or the twin where that was agreed on. */
  readonly connection: Connection;
  /** Bytes of data in one message: what both sides take. */
  readonly maxData: number;
  /** The peer may be a QEMU whose messages are laid out differently: ask it before the first transfer. */
  readonly mayBeLegacyQemu: boolean;
  /** Whether a request may go out now. It may not while a command that the peer awaits is open: QEMU would not serve it
   * before the reply. */
  readonly mayUse: () => boolean;
  readonly timeoutMs: number;
}

/** Fixed part of DMA_READ and DMA_WRITE: u64 address, u64 count. */
const FIXED = 16;

/**
 * Client memory that is reached by DMA_READ and DMA_WRITE. Requests wait here until {@link MessageDmaOptions.mayUse}
 * allows them; {@link flush} is called when it might.
 */
export class MessageDma implements RemoteDma {
  readonly #options: MessageDmaOptions;
  readonly #queue: (() => void)[] = [];
  #open = 0;
  #closed = false;
  /** Whether the peer lays messages out as QEMU before 11 does; undefined: it was not asked yet. */
  #isLegacy: boolean | undefined;
  #asking: Promise<void> | undefined;

  constructor(options: MessageDmaOptions) {
    this.#options = options;
    if (!options.mayBeLegacyQemu) this.#isLegacy = false;
  }

  /** Undefined: the peer was not asked yet. It is known where another process has found it out. */
  get isLegacy(): boolean | undefined {
    return this.#isLegacy;
  }

  set isLegacy(isLegacy: boolean | undefined) {
    this.#isLegacy = isLegacy;
  }

  /** Requests that wait to be sent, or for their reply. */
  get outstanding(): number {
    return this.#queue.length + this.#open;
  }

  /** Requests that wait to be sent. */
  get waiting(): number {
    return this.#queue.length;
  }

  read(iova: number, into: Uint8Array): Promise<void> {
    return this.readBig(BigInt(iova), into);
  }

  write(iova: number, from: Uint8Array): Promise<void> {
    return this.writeBig(BigInt(iova), from);
  }

  readBig(iova: bigint, into: Uint8Array): Promise<void> {
    const size = Math.min(this.#options.maxData, MAX_DMA_READ_SIZE);
    return this.#transfer(iova, (isLegacy) => {
      const reads: Promise<void>[] = [];
      for (let done = 0; done < into.length; done += size) {
        reads.push(this.#readChunk(iova + BigInt(done), into.subarray(done, done + size), isLegacy));
      }
      return reads;
    });
  }

  writeBig(iova: bigint, from: Uint8Array): Promise<void> {
    const { maxData } = this.#options;
    // A copy: the caller's buffer may change while the request waits.
    const data = from.slice();
    return this.#transfer(iova, (isLegacy) => {
      const writes: Promise<void>[] = [];
      for (let done = 0; done < data.length; done += maxData) {
        writes.push(this.#writeChunk(iova + BigInt(done), data.subarray(done, done + maxData), isLegacy));
      }
      return writes;
    });
  }

  async #transfer(iova: bigint, start: (isLegacy: boolean) => readonly Promise<void>[]): Promise<void> {
    const { loop } = this.#options.connection;
    loop.addPending(1);
    try {
      if (this.#isLegacy === undefined) await this.#ask(iova);
      // All are waited for, so that no failure is left alone.
      const results = await Promise.allSettled(start(this.#isLegacy ?? false));
      for (const result of results) if (result.status === 'rejected') throw result.reason;
    } finally {
      loop.addPending(-1);
    }
  }

  /** Sends what may be sent now. */
  flush(): void {
    while (this.#queue.length > 0 && this.#open < MAX_DMA_REQUESTS && this.#options.mayUse()) {
      this.#open++;
      this.#queue.shift()!();
    }
  }

  /** Nothing is sent any more; what waits fails. */
  close(): void {
    this.#closed = true;
    // Each of them finds the connection closed.
    for (const send of this.#queue.splice(0)) {
      this.#open++;
      send();
    }
  }

  /** Asks for the rest where the peer answers short. */
  async #readChunk(iova: bigint, into: Uint8Array, isLegacy: boolean): Promise<void> {
    for (let done = 0; done < into.length; ) {
      const at = iova + BigInt(done);
      const asked = into.length - done;
      const { payload } = await this.#request(VFIO_USER_DMA_READ, [fixedPart(at, asked)], at);
      const came = isLegacy ? payload.length - FIXED : countOf(payload);
      const lost = came === undefined || came <= 0 || came > asked || payload.length < FIXED + came;
      if (lost)
        throw broken('DMA_READ', at, `${asked} bytes were asked for, ${Math.max(0, payload.length - FIXED)} came`);
      // QEMU before 11 puts the data 4 bytes too early, where its own struct has it, and pads the end.
      const from = isLegacy ? FIXED - 4 : FIXED;
      into.set(payload.subarray(from, from + came), done);
      done += came;
    }
  }

  /** Sends the rest again where the peer takes less. */
  async #writeChunk(iova: bigint, from: Uint8Array, isLegacy: boolean): Promise<void> {
    for (let done = 0; done < from.length; ) {
      const at = iova + BigInt(done);
      const data = from.subarray(done);
      const fixed = fixedPart(at, data.length);
      const pieces = isLegacy ? [fixed.subarray(0, FIXED - 4), data, new Uint8Array(4)] : [fixed, data];
      const { payload } = await this.#request(VFIO_USER_DMA_WRITE, pieces, at);
      // QEMU before 11 answers the header alone: all was taken.
      const taken = payload.length === 0 ? data.length : countOf(payload);
      if (taken === undefined || taken <= 0 || taken > data.length) {
        throw broken('DMA_WRITE', at, `${data.length} bytes were sent, ${taken ?? 0} were taken`);
      }
      done += taken;
    }
  }

  #request(command: number, pieces: readonly Uint8Array[], iova: bigint): Promise<ReceivedReply> {
    const { connection, timeoutMs } = this.#options;
    return new Promise<ReceivedReply>((resolve, reject) => {
      this.#queue.push(() => {
        connection.request(command, pieces, { timeoutMs }).then(
          (reply) => {
            this.#done();
            // It has no use for any.
            closeAll(reply.fds);
            resolve(reply);
          },
          (error: unknown) => {
            this.#done();
            reject(explain(error, iova));
          },
        );
      });
      if (this.#closed) this.close();
      else this.flush();
    });
  }

  #done(): void {
    this.#open--;
    this.flush();
  }

  /**
   * QEMU 10.1 to 10.2.2 answers a DMA_WRITE with the header alone, later ones with 16 bytes more, and a write of nothing
   * changes nothing: so it shows which of the two layouts it has. An error says nothing about that: the transfer fails
   * with it, and the next one asks again.
   */
  #ask(iova: bigint): Promise<void> {
    this.#asking ??= this.#request(VFIO_USER_DMA_WRITE, [fixedPart(iova, 0)], iova)
      .then(({ payload }) => {
        this.#isLegacy = payload.length === 0;
      })
      .finally(() => {
        this.#asking = undefined;
      });
    return this.#asking;
  }
}

function fixedPart(iova: bigint, count: number): Uint8Array {
  const bytes = new Uint8Array(FIXED);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, iova, LITTLE_ENDIAN);
  view.setBigUint64(8, BigInt(count), LITTLE_ENDIAN);
  return bytes;
}

/** The count in a reply; undefined where it has none. Rounded where it is absurd. */
function countOf(payload: Uint8Array): number | undefined {
  if (payload.length < FIXED) return undefined;
  return getNumber64(new DataView(payload.buffer, payload.byteOffset), 8);
}

function broken(op: string, iova: bigint, why: string): VfioError {
  return new VfioError('ERR_VFIO_PROTOCOL', `${op} at ${hex(iova)}: ${why}`, { errno: 'EPROTO', op });
}

/** QEMU's ENODEV has two causes, and the second is the one that people meet. */
function explain(error: unknown, iova: bigint): unknown {
  if (error instanceof VfioError && error.code === 'ERR_VFIO_REMOTE' && error.errno === 'ENODEV') {
    return errnoError('EFAULT', `DMA at ${hex(iova)}: the client has nothing there, or bus mastering is off`, {
      op: error.op,
      cause: error,
    });
  }
  return error;
}
